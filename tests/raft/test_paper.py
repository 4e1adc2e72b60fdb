"""One test a rule of the Raft paper (extended version) and of Ongaro's thesis.

Each test names the section of the rule. Most have three parts: a state, an input, and
what must or must not be among the outputs.
"""

from __future__ import annotations

import struct

import pytest

from revstore.errors import InvariantViolation
from revstore.interfaces.consensus import (
    ConfChangeType,
    Message,
    MessageType,
    ProposalDropped,
    Role,
    Snapshot,
)
from revstore.types import ConfState, Entry, EntryType, SnapshotMeta
from revstore_conformance.scenarios.storage import StubStorage
from revstore_raft import changes, reads, roles, step
from revstore_raft.confcodec import encode_change
from revstore_raft.election import CAMPAIGN_TRANSFER
from revstore_raft.state import Raft
from tests.raft.support import (
    ELECTION_TICKS,
    answer,
    append,
    campaign,
    change_of,
    lead,
    make,
    of,
    persist,
    propose,
    sent,
    terms_of,
)

T = MessageType

# ---- Section 5.1: terms ----


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_a_higher_term_is_adopted(role: Role) -> None:
    """5.1: a server that sees a larger term updates its own and becomes follower."""
    raft = make(term=1)
    if role is Role.CANDIDATE:
        campaign(raft)
    elif role is Role.LEADER:
        lead(raft)
    answer(raft, T.APP, 2, term=9)
    assert (raft.term, raft.role, raft.leader) == (9, Role.FOLLOWER, 2)


def test_a_lower_term_is_ignored() -> None:
    """5.1: a request with a stale term is not obeyed."""
    raft = make(term=5)
    step.step(
        raft, Message(T.APP, to=1, sender=2, term=4, entries=(Entry(4, 1),), commit=1)
    )
    assert (raft.term, raft.leader, raft.log.last_index) == (5, 0, 0)
    assert sent(raft) == []


def test_a_candidate_of_a_lower_term_is_told() -> None:
    """5.1: a server that gets a stale request rejects it, and the sender steps down."""
    raft = make(term=5, answer_old_candidates=True)
    answer(raft, T.VOTE, 2, term=4, log_term=9, index=9)
    (refusal,) = of(sent(raft), T.VOTE_RESP)
    assert (refusal.reject, refusal.term) == (True, 5)
    candidate = make(id=2, term=3)
    campaign(candidate)
    step.step(candidate, refusal)
    assert (candidate.role, candidate.term) == (Role.FOLLOWER, 5)


# ---- Section 5.2: elections ----


def test_servers_start_as_followers() -> None:
    """5.2: when servers start up, they begin as followers."""
    assert make().role is Role.FOLLOWER


def test_a_leader_sends_heartbeats() -> None:
    """5.2: leaders send periodic heartbeats to all followers."""
    raft = lead(make())
    step.tick(raft)
    assert [m.to for m in of(sent(raft), T.HEARTBEAT)] == [2, 3]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_silence_starts_an_election(role: Role) -> None:
    """5.2: without a leader for a timeout: a new term, a vote for itself, requests."""
    raft = make(term=1)
    if role is Role.CANDIDATE:
        campaign(raft)
        sent(raft)
    before = raft.term
    for _ in range(2 * ELECTION_TICKS):
        step.tick(raft)
        if raft.term > before:
            break
    messages = sent(raft)
    assert (raft.term, raft.vote, raft.role) == (before + 1, 1, Role.CANDIDATE)
    assert [(m.to, m.term) for m in of(messages, T.VOTE)] == [
        (2, before + 1),
        (3, before + 1),
    ]


@pytest.mark.parametrize(
    ("grants", "refusals", "role"),
    [
        ((), (), Role.CANDIDATE),
        ((2, 3), (), Role.LEADER),
        ((2, 3), (4, 5), Role.LEADER),
        ((2,), (3, 4), Role.CANDIDATE),
        ((2,), (3, 4, 5), Role.FOLLOWER),
        ((2, 2, 2), (), Role.CANDIDATE),
    ],
)
def test_a_majority_elects(
    grants: tuple[int, ...], refusals: tuple[int, ...], role: Role
) -> None:
    """5.2: a candidate wins with the votes of a majority, each server counted once."""
    raft = make(voters=(1, 2, 3, 4, 5))
    campaign(raft)
    persist(raft)
    for sender in grants:
        answer(raft, T.VOTE_RESP, sender)
    for sender in refusals:
        answer(raft, T.VOTE_RESP, sender, reject=True)
    assert raft.role is role


@pytest.mark.parametrize(
    ("vote", "candidate", "granted"), [(0, 2, True), (2, 2, True), (3, 2, False)]
)
def test_one_vote_a_term(vote: int, candidate: int, granted: bool) -> None:
    """5.2: each server votes for at most one candidate a term, first come first served."""
    raft = make(term=1, vote=vote)
    answer(raft, T.VOTE, candidate)
    (response,) = of(sent(raft), T.VOTE_RESP)
    assert response.reject is not granted


def test_a_candidate_gives_way_to_a_leader() -> None:
    """5.2: a candidate that hears the leader of its term becomes follower."""
    raft = make()
    campaign(raft)
    answer(raft, T.HEARTBEAT, 2)
    assert (raft.role, raft.leader, raft.term) == (Role.FOLLOWER, 2, 1)


def test_timeouts_are_random() -> None:
    """5.2: election timeouts are chosen randomly from a fixed interval."""
    raft = make()
    seen = set()
    for _ in range(500):
        roles.randomize_election_timeout(raft)
        seen.add(raft.randomized_election_ticks)
    assert seen == set(range(ELECTION_TICKS, 2 * ELECTION_TICKS))


# ---- Section 5.3: log replication ----


def test_a_leader_appends_and_replicates() -> None:
    """5.3: the leader appends a command to its log and sends it to all others."""
    raft = lead(make())
    propose(raft, b"x")
    assert raft.log.last_index == 2
    assert raft.tracker.get(2) is not None
    answer(raft, T.APP_RESP, 2, index=1)
    sends = [m for m in of(sent(raft), T.APP) if m.entries]
    assert [entry.data for m in sends for entry in m.entries if m.to == 2] == [b"x"]


def test_a_majority_commits() -> None:
    """5.3: an entry is committed once the leader has replicated it on a majority."""
    raft = lead(make(voters=(1, 2, 3, 4, 5)))
    propose(raft, b"x")
    persist(raft)
    answer(raft, T.APP_RESP, 2, index=2)
    assert raft.log.committed == 0
    answer(raft, T.APP_RESP, 3, index=2)
    assert raft.log.committed == 2


def test_commit_takes_all_before_along() -> None:
    """5.3: committing commits all preceding entries, of previous leaders too."""
    raft = lead(make(1, 2, term=2))
    answer(raft, T.APP_RESP, 2, index=3)
    assert raft.log.committed == 3
    assert [e.index for e in raft.log.next_committed(False)] == [1, 2, 3]


def test_followers_learn_what_is_committed() -> None:
    """5.3: a follower applies entries once it learns that they are committed."""
    raft = make(term=1)
    append(raft, 1, (0, 0), 1, 1, commit=1)
    assert raft.log.committed == 1


def test_a_follower_needs_the_previous_entry() -> None:
    """5.3: an append is refused if the log has no such previous entry."""
    raft = make(1, 2, term=2)
    assert append(raft, 3, (3, 3)).reject
    assert append(raft, 3, (1, 2)).reject
    assert not append(raft, 3, (2, 2)).reject
    assert not append(raft, 3, (0, 0)).reject


@pytest.mark.parametrize(
    ("previous", "terms", "result"),
    [
        ((2, 2), (3,), [1, 2, 3]),
        ((1, 1), (3, 4), [1, 3, 4]),
        ((0, 0), (1,), [1, 2]),
        ((0, 0), (3,), [3]),
    ],
)
def test_conflicts_are_overwritten(
    previous: tuple[int, int], terms: tuple[int, ...], result: list[int]
) -> None:
    """5.3: a conflicting entry and all behind it go; what agrees stays."""
    raft = make(1, 2, term=2)
    append(raft, 4, previous, *terms)
    assert terms_of(raft) == result


def test_refusals_skip_terms() -> None:
    """5.3, end: a refusal's hints skip all conflicting entries of a term at once."""
    raft = make(1, 2, 2, 2, 2, term=2)
    refusal = append(raft, 5, (4, 6))
    assert (refusal.reject, refusal.reject_hint, refusal.log_term) == (True, 5, 2)
    leader = lead(make(1, 1, 1, 4, 4, term=4))
    row = leader.tracker.get(2)
    assert row is not None
    assert row.next == 6
    answer(leader, T.APP_RESP, 2, index=5, reject=True, reject_hint=5, log_term=2)
    (probe,) = [m for m in of(sent(leader), T.APP) if m.to == 2]
    assert (probe.log_term, probe.index) == (1, 3)


def test_a_leader_never_rewrites_its_log() -> None:
    """5.3: a leader never overwrites or deletes entries in its log."""
    raft = lead(make(1, 2, term=2))
    before = terms_of(raft)
    step.step(
        raft,
        Message(T.APP, to=1, sender=2, term=raft.term, entries=(Entry(raft.term, 1),)),
    )
    assert terms_of(raft) == before


# ---- Section 5.4: safety ----


@pytest.mark.parametrize(
    ("log_term", "index", "granted"),
    [(2, 2, True), (3, 1, True), (2, 3, True), (2, 1, False), (1, 9, False)],
)
def test_votes_need_an_up_to_date_log(log_term: int, index: int, granted: bool) -> None:
    """5.4.1: the voter denies its vote if its own log is more up-to-date."""
    raft = make(1, 2, term=2)
    answer(raft, T.VOTE, 3, term=3, log_term=log_term, index=index)
    (response,) = of(sent(raft), T.VOTE_RESP)
    assert response.reject is not granted


def test_old_terms_are_not_committed_by_counting() -> None:
    """5.4.2: only entries of the leader's own term are committed by counting replicas."""
    raft = lead(make(1, 2, term=2))
    answer(raft, T.APP_RESP, 2, index=2)
    answer(raft, T.APP_RESP, 3, index=2)
    assert raft.log.committed == 0
    answer(raft, T.APP_RESP, 2, index=3)
    assert raft.log.committed == 3


def test_committed_entries_are_never_replaced() -> None:
    """5.4.3: an attempt to replace a committed entry is refused loudly."""
    raft = make(1, 1, term=1, commit=2)
    with pytest.raises(InvariantViolation, match="committed"):
        raft.log.append((Entry(2, 2),))
    assert append(raft, 2, (0, 0), 2).index == 2
    assert terms_of(raft) == [1, 1]


# ---- Section 7, thesis chapter 5: compaction ----


def snapshot_at(index: int, term: int, voters: tuple[int, ...] = (1, 2, 3)) -> Snapshot:
    """A snapshot."""
    return Snapshot(SnapshotMeta(index, term, ConfState(voters)))


def test_a_lagging_follower_gets_a_snapshot() -> None:
    """7: a leader sends a snapshot when it has discarded the next entry to send."""
    raft = lead(make(1, 1, 1, term=1, commit=3, snapshot=snapshot_at(3, 1)))
    storage = raft.log.storage
    assert isinstance(storage, StubStorage)
    storage.compact(3)
    answer(raft, T.APP_RESP, 2, index=3, reject=True, reject_hint=0)
    (message,) = of(sent(raft), T.SNAP)
    assert message.snapshot is not None
    assert (message.to, message.snapshot.meta.index) == (2, 3)
    propose(raft, b"x")
    assert [m.to for m in of(sent(raft), T.APP)] == []


def test_a_snapshot_replaces_the_log() -> None:
    """7: a follower discards its log where the snapshot goes beyond it."""
    raft = make(1, 1, term=1)
    step.step(
        raft,
        Message(T.SNAP, to=1, sender=2, term=2, snapshot=snapshot_at(9, 2, (1, 2))),
    )
    assert (raft.log.last_index, raft.log.committed) == (9, 9)
    assert raft.tracker.membership.voters() == [1, 2]
    assert of(sent(raft), T.APP_RESP)[0].index == 9


def test_entries_behind_a_snapshot_stay() -> None:
    """7: where the log has the snapshot's last entry, what follows it is retained."""
    raft = make(1, 1, 1, term=1)
    step.step(raft, Message(T.SNAP, to=1, sender=2, term=1, snapshot=snapshot_at(2, 1)))
    assert (raft.log.last_index, raft.log.committed) == (3, 2)


# ---- Section 8, thesis 6.4: reads ----


def test_reads_wait_for_an_entry_of_the_term() -> None:
    """8: a leader must have committed an entry in its term before it serves a read."""
    raft = lead(make(1, term=1, commit=1))
    step.step(raft, Message(T.READ_INDEX, entries=(Entry(0, 0, b"r"),)))
    assert of(sent(raft), T.HEARTBEAT) == []
    answer(raft, T.APP_RESP, 2, index=2)
    assert of(sent(raft), T.HEARTBEAT) != []


def test_reads_ask_a_majority() -> None:
    """8: a leader exchanges heartbeats with a majority before it responds to a read."""
    raft = lead(make(voters=(1, 2, 3, 4, 5)))
    answer(raft, T.APP_RESP, 2, index=1)
    answer(raft, T.APP_RESP, 3, index=1)
    sent(raft)
    step.tick(raft)
    old = of(sent(raft), T.HEARTBEAT)[0].context
    step.step(raft, Message(T.READ_INDEX, entries=(Entry(0, 0, b"r"),)))
    context = of(sent(raft), T.HEARTBEAT)[0].context

    def confirm(sender: int, round: bytes) -> None:
        step.step(
            raft,
            Message(
                T.HEARTBEAT_RESP, to=1, sender=sender, term=raft.term, context=round
            ),
        )

    for sender in (2, 3, 4, 5):
        confirm(sender, old)
    confirm(2, context)
    confirm(2, context)
    assert raft.read_states == []
    confirm(3, context)
    assert [(s.index, s.context) for s in raft.read_states] == [(1, b"r")]


def test_a_lease_ends() -> None:
    """6.4.1: a lease lasts less than an election timeout from when it was asked for."""
    raft = lead(make(check_quorum=True, lease_reads=True))
    answer(raft, T.APP_RESP, 2, index=1)
    step.tick(raft)
    context = of(sent(raft), T.HEARTBEAT)[0].context
    assert reads.index_now(raft) is None
    step.step(
        raft, Message(T.HEARTBEAT_RESP, to=1, sender=2, term=raft.term, context=context)
    )
    lasted = 0
    while reads.index_now(raft) is not None:
        step.tick(raft)
        lasted += 1
    assert 0 < lasted < ELECTION_TICKS - 1


def test_a_promise_outlives_the_term() -> None:
    """6.4.1: whoever backed a lease votes for nobody until it is over, come what may."""
    raft = make(term=1, check_quorum=True, lease_reads=True)
    for _ in range(ELECTION_TICKS):
        raft.ticks += 1
    answer(raft, T.HEARTBEAT, 2, term=1)
    answer(raft, T.VOTE_RESP, 3, term=5, reject=True)
    assert (raft.term, raft.leader) == (5, 0)
    sent(raft)
    for term in (5, 6):
        answer(raft, T.VOTE, 3, term=term, log_term=9, index=9)
    assert sent(raft) == []
    raft.ticks += ELECTION_TICKS
    answer(raft, T.VOTE, 3, term=6, log_term=9, index=9)
    assert [m.reject for m in of(sent(raft), T.VOTE_RESP)] == [False]


def test_a_restart_keeps_silent() -> None:
    """6.4.1: a member that restarts may have made a promise, and keeps it."""
    raft = make(term=1, check_quorum=True, lease_reads=True)
    for _ in range(ELECTION_TICKS):
        answer(raft, T.VOTE, 3, term=2, log_term=9, index=9)
        assert sent(raft) == []
        raft.ticks += 1
    answer(raft, T.VOTE, 3, term=2, log_term=9, index=9)
    assert [m.reject for m in of(sent(raft), T.VOTE_RESP)] == [False]


def test_reads_end_with_the_leadership() -> None:
    """8: reads of a leadership that is over are not answered in a later one."""
    raft = lead(make())
    answer(raft, T.APP_RESP, 2, index=1)
    step.step(raft, Message(T.READ_INDEX, entries=(Entry(0, 0, b"r"),)))
    assert raft.reads.size() == 1
    answer(raft, T.HEARTBEAT, 2, term=raft.term + 1)
    lead(raft)
    assert raft.reads.size() == 0


# ---- Thesis chapter 3 and 4: transfer and membership ----


def test_a_transfer_asks_the_target_to_campaign() -> None:
    """3.10: the leader stops taking requests and sends TimeoutNow once caught up."""
    raft = lead(make())
    step.step(raft, Message(T.TRANSFER_LEADER, sender=2))
    assert of(sent(raft), T.TIMEOUT_NOW) == []
    with pytest.raises(ProposalDropped):
        propose(raft, b"x")
    answer(raft, T.APP_RESP, 2, index=1)
    assert [m.to for m in of(sent(raft), T.TIMEOUT_NOW)] == [2]


def test_a_transfer_is_given_up() -> None:
    """3.10: after about an election timeout the leader takes requests again."""
    raft = lead(make())
    step.step(raft, Message(T.TRANSFER_LEADER, sender=2))
    for _ in range(ELECTION_TICKS):
        step.tick(raft)
    propose(raft, b"x")
    assert raft.log.last_index == 2


def test_the_target_skips_pre_vote_and_lease() -> None:
    """3.10, 4.2.3: a candidate that was told to campaign is heard at once."""
    raft = make(pre_vote=True, check_quorum=True)
    answer(raft, T.HEARTBEAT, 2, term=1)
    sent(raft)
    answer(raft, T.TIMEOUT_NOW, 2)
    requests = of(sent(raft), T.VOTE)
    assert [m.context for m in requests] == [CAMPAIGN_TRANSFER] * 2
    voter = make(id=3, pre_vote=True, check_quorum=True)
    answer(voter, T.HEARTBEAT, 2, term=1)
    step.step(voter, requests[-1])
    assert [m.reject for m in of(sent(voter), T.VOTE_RESP)] == [False]


def test_members_that_hear_a_leader_ignore_candidates() -> None:
    """4.2.3: a vote request within the minimum election timeout changes nothing."""
    raft = make(check_quorum=True)
    answer(raft, T.HEARTBEAT, 2, term=1)
    sent(raft)
    answer(raft, T.VOTE, 3, term=2, log_term=9, index=9)
    assert (raft.term, sent(raft)) == (1, [])


def test_learners_do_not_count() -> None:
    """4.2.1: non-voting members get the log and are not counted for majorities."""
    raft = lead(make(voters=(1, 2, 3), learners=(4, 5)))
    assert 4 in {m.to for m in _appends(raft)}
    answer(raft, T.APP_RESP, 4, index=1)
    answer(raft, T.APP_RESP, 5, index=1)
    assert raft.log.committed == 0
    answer(raft, T.APP_RESP, 2, index=1)
    assert raft.log.committed == 1


def _appends(raft: Raft) -> list[Message]:
    for _, row in raft.tracker.members:
        row.flow_paused = False
    propose(raft, b"x")
    return of(sent(raft), T.APP)


def test_one_change_at_a_time() -> None:
    """4.1: a leader takes no second change before the first one is applied."""
    raft = lead(make())
    answer(raft, T.APP_RESP, 2, index=1)
    raft.log.accept_applying(1, 0, True)
    raft.log.applied_to(1, 0)
    for member in (4, 5):
        kind, data = encode_change(change_of((ConfChangeType.ADD_NODE, member)))
        entry = Entry(0, 0, data, kind)
        step.step(raft, Message(T.PROP, sender=1, entries=(entry,)))
    entries = raft.log.unstable.next_entries()
    assert [e.type for e in entries] == [EntryType.CONF_CHANGE, EntryType.NORMAL]


def test_joint_decisions_need_both_halves() -> None:
    """4.3: in joint consensus agreement needs majorities of both configurations."""
    raft = lead(make(voters=(1, 2, 3)))
    answer(raft, T.APP_RESP, 2, index=1)
    changes.apply(
        raft,
        change_of(
            (ConfChangeType.ADD_NODE, 4),
            (ConfChangeType.ADD_NODE, 5),
            (ConfChangeType.REMOVE_NODE, 2),
            (ConfChangeType.REMOVE_NODE, 3),
            explicit=True,
        ),
    )
    propose(raft, b"x")
    persist(raft)
    answer(raft, T.APP_RESP, 4, index=2)
    answer(raft, T.APP_RESP, 5, index=2)
    assert raft.log.committed == 1
    answer(raft, T.APP_RESP, 3, index=2)
    assert raft.log.committed == 2


def test_a_removed_leader_steps_down() -> None:
    """4.2.2: a leader that is not in the new configuration steps down when it applies."""
    raft = lead(make(step_down_on_removal=True))
    changes.apply(raft, change_of((ConfChangeType.REMOVE_NODE, 1)))
    assert raft.role is Role.FOLLOWER
    campaign(raft)
    assert raft.role is Role.FOLLOWER


def test_nobody_campaigns_with_an_unapplied_change() -> None:
    """4.1, as changes count when applied: a committed one is applied before campaigning."""
    raft = make(term=1)
    kind, data = encode_change(change_of((ConfChangeType.ADD_NODE, 4)))
    entries = (Entry(1, 1, data, kind), Entry(1, 2))
    step.step(raft, Message(T.APP, to=1, sender=2, term=1, entries=entries, commit=1))
    campaign(raft)
    assert (raft.role, raft.term) == (Role.FOLLOWER, 1)
    raft.log.accept_applying(1, 0, True)
    raft.log.applied_to(1, 0)
    campaign(raft)
    assert raft.role is Role.CANDIDATE


# ---- Thesis 6.2, 9.6, 10.2.1 ----


@pytest.mark.parametrize("pre_vote", [True, False])
def test_who_learns_of_a_change_while_it_campaigns_gives_up(pre_vote: bool) -> None:
    """4.1: a refusal can teach a candidate that its membership is gone; it counts no
    vote of it any more (seed 782 of the simulator)."""
    raft = make(1, 1, 1, term=1, commit=1, pre_vote=pre_vote)
    kind, data = encode_change(change_of((ConfChangeType.REMOVE_NODE, 1)))
    storage = raft.log.storage
    assert isinstance(storage, StubStorage)
    storage.append([Entry(1, 2, data, kind), Entry(1, 3)])
    raft.log.applied_to(1, 0)
    campaign(raft)
    assert raft.role is (Role.PRE_CANDIDATE if pre_vote else Role.CANDIDATE)
    answer_kind = T.PRE_VOTE_RESP if pre_vote else T.VOTE_RESP
    known = Message(
        answer_kind,
        to=1,
        sender=2,
        term=raft.term,
        reject=True,
        context=struct.pack(">QQ", 2, 1),
    )
    step.step(raft, known)
    assert (raft.log.committed, raft.role) == (2, Role.FOLLOWER)
    for voter in (1, 3):
        answer(raft, answer_kind, voter, term=raft.term + pre_vote)
    campaign(raft)
    assert (raft.log.committed, raft.role) == (2, Role.FOLLOWER)


def test_a_leader_without_quorum_steps_down() -> None:
    """6.2: a leader steps down if a timeout passes without a round to a majority."""
    raft = lead(make(check_quorum=True))
    for _ in range(2 * ELECTION_TICKS):
        step.tick(raft)
    assert (raft.role, raft.leader) == (Role.FOLLOWER, 0)


def test_a_pre_vote_changes_nothing() -> None:
    """9.6: a pre-candidate does not increase its term, and who answers does not either."""
    raft = make(term=3, pre_vote=True)
    campaign(raft)
    assert (raft.term, raft.vote, raft.role) == (3, 0, Role.PRE_CANDIDATE)
    (request, _) = of(sent(raft), T.PRE_VOTE)
    assert request.term == 4
    voter = make(id=2, term=3, pre_vote=True)
    step.step(voter, request)
    assert (voter.term, voter.vote) == (3, 0)
    assert [(m.term, m.reject) for m in sent(voter)] == [(4, False)]


def test_a_leader_writes_in_parallel() -> None:
    """10.2.1: appends leave before the leader wrote them; it does not count itself yet."""
    raft = lead(make())
    answer(raft, T.APP_RESP, 2, index=1)
    propose(raft, b"x")
    assert [m.entries[0].data for m in raft.messages if m.to == 2 and m.entries] == [
        b"x"
    ]
    row = raft.tracker.get(1)
    assert row is not None
    assert row.match == 1
    persist(raft)
    assert row.match == 2


def test_answers_wait_for_the_disk() -> None:
    """Figure 2: state is updated on stable storage before responding to RPCs."""
    raft = make(term=1)
    answer(raft, T.APP, 2, term=1)
    answer(raft, T.VOTE, 3, term=2, log_term=9, index=9)
    assert [m.type for m in raft.messages] == []
    assert [m.type for m in raft.after_append] == [T.APP_RESP, T.VOTE_RESP]


@pytest.mark.parametrize(("old", "new"), [(Role.LEADER, Role.CANDIDATE)])
def test_impossible_roles_are_refused(old: Role, new: Role) -> None:
    """Figure 4: there are no other transitions between the roles."""
    raft = lead(make())
    assert (old, new) not in roles.TRANSITIONS
    with pytest.raises(InvariantViolation, match="cannot become"):
        roles.become_candidate(raft)
    with pytest.raises(InvariantViolation, match="cannot become"):
        roles.become_pre_candidate(raft)
    roles.become_follower(raft, raft.term, 0)
    with pytest.raises(InvariantViolation, match="cannot become"):
        roles.become_leader(raft)
