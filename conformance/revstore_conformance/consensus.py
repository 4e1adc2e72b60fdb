"""Checks of the consensus contract, clause by clause (C-01 to C-09).

Use::

    @pytest.mark.parametrize("check", CHECKS, ids=name_of)
    def test_contract(check):
        run(check, plugin)

A check that needs several members is skipped for a plugin that can have only one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from revstore.errors import InvariantViolation
from revstore.hookspecs import ConsensusPlugin
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    Message,
    MessageType,
    ProposalDropped,
    Ready,
    Role,
)
from revstore_conformance.consensus_cluster import Cluster, Member

Check = Callable[[ConsensusPlugin], None]

TICKS_MAX = 200
"""How long a check waits for what must happen with the passing of time."""


def needs_members(check: Check) -> Check:
    """Mark a check that needs several members."""
    check.needs_members = True  # type: ignore[attr-defined] # a mark on a function
    return check


def run(check: Check, plugin: ConsensusPlugin) -> None:
    """Run a check, or skip it where the plugin cannot have several members."""
    if getattr(check, "needs_members", False) and not plugin.capabilities.multi_member:
        pytest.skip(f"{plugin.name} has one member only")
    check(plugin)


def vote_request(plugin_term: int, sender: int, to: int) -> Message:
    """A candidate's request, with a log that nothing surpasses."""
    return Message(
        MessageType.VOTE,
        to=to,
        sender=sender,
        term=plugin_term,
        log_term=plugin_term - 1,
        index=1 << 20,
    )


def is_grant(message: Message) -> bool:
    """Whether a message gives a vote."""
    return message.type is MessageType.VOTE_RESP and not message.reject


def readies(member: Member) -> list[Ready]:
    """What a member hands out until it stops, with nothing made durable."""
    out: list[Ready] = []
    while (ready := member.work()) is not None:
        out.append(ready)
    return out


def lead_alone(plugin: ConsensusPlugin) -> Cluster:
    """A cluster of one whose member leads and has committed in its term."""
    cluster = Cluster(plugin, 1)
    cluster.elect(1)
    return cluster


@needs_members
def check_c01_votes_once(plugin: ConsensusPlugin) -> None:
    """C-01: in one term the second candidate is refused."""
    cluster = Cluster(plugin, 3)
    member = cluster.members[3]
    member.step(vote_request(7, 1, 3))
    member.step(vote_request(7, 2, 3))
    member.settle()
    assert [message.to for message in member.outbox if is_grant(message)] == [1]


@needs_members
def check_c01_vote_is_remembered(plugin: ConsensusPlugin) -> None:
    """C-01: a vote that left is there after a crash."""
    cluster = Cluster(plugin, 3)
    member = cluster.members[3]
    member.step(vote_request(7, 1, 3))
    member.settle()
    assert any(is_grant(message) for message in member.outbox)
    member.crash()
    member.start()
    member.step(vote_request(7, 2, 3))
    member.settle()
    assert not any(is_grant(message) for message in member.outbox)


@needs_members
def check_c01_vote_waits_for_disk(plugin: ConsensusPlugin) -> None:
    """C-01: a vote leaves with a batch that carries it, after that is durable."""
    cluster = Cluster(plugin, 3)
    member = cluster.members[3]
    member.step(vote_request(7, 1, 3))
    handed_out = readies(member)
    assert not any(is_grant(message) for message in member.outbox)
    carriers = [r for r in handed_out if any(map(is_grant, r.messages_after_persist))]
    assert len(carriers) == 1
    persist = carriers[0].persist
    assert persist is not None
    assert persist.hard_state is not None
    assert (persist.hard_state.term, persist.hard_state.vote) == (7, 1)
    assert persist.must_sync


@needs_members
def check_c01_own_vote_waits_for_disk(plugin: ConsensusPlugin) -> None:
    """C-01: a candidate's requests, which reveal its own vote, wait for the disk too."""
    cluster = Cluster(plugin, 1)
    for id in (2, 3):
        cluster.add(id)
    cluster.elect(1)
    for id in (2, 3):
        change = ConfChange((ConfChangeSingle(ConfChangeType.ADD_NODE, id),))
        assert cluster.propose_change(change)
        cluster.settle()
    member = cluster.members[2]
    for other in (1, 3):
        cluster.members[other].crash()
    for _ in range(TICKS_MAX):
        member.machine.tick()
        for ready in readies(member):
            assert all(m.type is not MessageType.VOTE for m in ready.messages)
        member.sync()
        cluster.collect()
        # Preliminary requests are granted by hand, so that the real ones follow.
        for message in cluster.wire:
            if message.type is MessageType.PRE_VOTE:
                member.step(
                    Message(
                        MessageType.PRE_VOTE_RESP,
                        to=2,
                        sender=message.to,
                        term=message.term,
                    )
                )
        if any(message.type is MessageType.VOTE for message in cluster.wire):
            assert member.disk.durable.hard_state.vote == 2
            return
        cluster.wire.clear()
    raise AssertionError(f"no campaign within {TICKS_MAX} ticks")


@needs_members
def check_c02_acknowledged_is_durable(plugin: ConsensusPlugin) -> None:
    """C-02: a follower acknowledges entries when they are durable, never before."""
    cluster = Cluster(plugin, 3)
    cluster.elect(1)
    leader, follower = cluster.members[1], cluster.members[2]
    for number in range(5):
        leader.machine.propose([b"%d" % number])
        leader.settle()
        cluster.collect()
        for message in [m for m in cluster.wire if m.to == 2]:
            cluster.deliver(message)
        cluster.wire.clear()
        readies(follower)
        assert acknowledged(follower) <= follower.disk.durable.last_index()
    behind = follower.disk.durable.last_index()
    assert behind < follower.disk.seen.last_index()
    while follower.sync() or follower.work() is not None:
        assert acknowledged(follower) <= follower.disk.durable.last_index()
    assert acknowledged(follower) == follower.disk.seen.last_index()


def acknowledged(member: Member) -> int:
    """The highest index that messages of a member acknowledge."""
    return max(
        (
            message.index
            for message in member.outbox
            if message.type is MessageType.APP_RESP and not message.reject
        ),
        default=0,
    )


def check_c03_batches_overtake_the_disk(plugin: ConsensusPlugin) -> None:
    """C-03: batches are numbered in order and handed out before earlier ones are done."""
    cluster = lead_alone(plugin)
    machine = cluster.members[1].machine
    sequences: list[int] = []
    for number in range(3):
        machine.propose([b"%d" % number])
        persist = machine.ready().persist
        assert persist is not None
        cluster.members[1].disk.write(persist)
        sequences.append(persist.sequence)
    assert sequences == list(range(sequences[0], sequences[0] + 3))
    machine.persisted(sequences[1])
    with pytest.raises(InvariantViolation):
        machine.persisted(sequences[0])
    with pytest.raises(InvariantViolation):
        machine.persisted(sequences[2] + 1)
    machine.persisted(sequences[2])


def check_c04_committed_is_durable(plugin: ConsensusPlugin) -> None:
    """C-04: an only member hands out what is durable, once, in order."""
    cluster = lead_alone(plugin)
    member = cluster.members[1]
    before = member.state.index
    for number in range(3):
        member.machine.propose([b"%d" % number, b"more"])
        assert all(not ready.committed for ready in readies(member))
    for done in range(3):
        member.sync()
        handed_out = [e for ready in readies(member) for e in ready.committed]
        first = before + 1 + 2 * done
        assert [entry.index for entry in handed_out] == [first, first + 1]
    assert readies(member) == []


@needs_members
def check_c04_committed_is_on_a_quorum(plugin: ConsensusPlugin) -> None:
    """C-04: a leader hands out nothing that only its own disk has."""
    cluster = Cluster(plugin, 3)
    leader = cluster.elect(1)
    before = leader.state.index
    cluster.isolate(1)
    leader.machine.propose([b"lonely"])
    cluster.settle()
    assert leader.state.index == before
    assert leader.disk.durable.last_index() == before + 1


def check_c04_replayed_after_restart(plugin: ConsensusPlugin) -> None:
    """C-04: entries behind ``applied`` are handed out again after a restart."""
    cluster = lead_alone(plugin)
    member = cluster.members[1]
    member.flush()
    kept = member.state
    member.machine.propose([b"a", b"b"])
    member.settle()
    newest = member.state
    member.crash()
    member.start()
    assert member.state == kept
    cluster.elect(1)
    assert cluster.history.states[newest.index] == newest
    assert member.state.index > newest.index


def check_c05_reads_wait_for_the_term(plugin: ConsensusPlugin) -> None:
    """C-05: a new leader confirms no read before an entry of its term is committed."""
    cluster = lead_alone(plugin)
    member = cluster.members[1]
    member.machine.propose([b"a"])
    member.settle()
    member.crash()
    member.start()
    for _ in range(TICKS_MAX):
        if member.machine.status().role is Role.LEADER:
            break
        member.machine.tick()
        readies(member)
        if member.machine.status().role is not Role.LEADER:
            member.sync()
    assert member.ask_read(b"early")
    # The empty entry of the term may be handed out, but it is not durable.
    assert all(not ready.read_states for ready in readies(member))
    assert member.machine.read_index_now() is None
    member.settle()
    assert member.reads_served == 1


@needs_members
def check_c05_deposed_leader_confirms_nothing(plugin: ConsensusPlugin) -> None:
    """C-05: a leader that is cut off confirms no read, and drops it in the end."""
    cluster = Cluster(plugin, 3)
    old = cluster.elect(1)
    cluster.isolate(1)
    assert old.ask_read(b"stale")
    for _ in range(TICKS_MAX):
        for member in cluster.members.values():
            member.machine.tick()
        cluster.settle()
    newer = cluster.leader()
    assert newer is not None
    assert newer.id != 1
    newer.machine.propose([b"newer"])
    cluster.settle()
    assert old.reads_served == 0
    cluster.heal()
    for _ in range(TICKS_MAX):
        for member in cluster.members.values():
            member.machine.tick()
        cluster.settle()
    assert old.reads_served == 0
    assert old.reads_dropped == 1


@needs_members
def check_c05_followers_read(plugin: ConsensusPlugin) -> None:
    """C-05: a follower gets an index that covers what was committed before."""
    cluster = Cluster(plugin, 3)
    leader = cluster.elect(1)
    leader.machine.propose([b"a"])
    cluster.settle()
    assert cluster.members[2].ask_read(b"same context")
    assert leader.ask_read(b"same context")
    cluster.settle()
    assert cluster.members[2].reads_served == leader.reads_served == 1


def check_c06_tells_the_place(plugin: ConsensusPlugin) -> None:
    """C-06: what a leader accepts is found at the place it named."""
    cluster = lead_alone(plugin)
    member = cluster.members[1]
    places: dict[tuple[int, int], bytes] = {}
    for number in range(3):
        place = member.machine.propose([b"%d" % number, b"more"])
        assert place is not None
        places[place] = b"%d" % number
    found: dict[tuple[int, int], bytes] = {}
    while (ready := member.work()) is not None or member.sync():
        if ready is not None:
            found |= {
                (entry.term, entry.index): entry.data for entry in ready.committed
            }
    assert places.items() <= found.items()


@needs_members
def check_c06_forwards(plugin: ConsensusPlugin) -> None:
    """C-06: a follower answers None and sends the proposal to its leader."""
    cluster = Cluster(plugin, 3)
    leader = cluster.elect(1)
    before = leader.state.index
    assert cluster.members[2].machine.propose([b"a", b"b"]) is None
    cluster.settle()
    assert leader.state.index == before + 2


@needs_members
def check_c07_dropped_changes_nothing(plugin: ConsensusPlugin) -> None:
    """C-07: without a leader a proposal is dropped and leaves no trace."""
    cluster = Cluster(plugin, 3)
    member = cluster.members[2]
    before = member.machine.status()
    with pytest.raises(ProposalDropped):
        member.machine.propose([b"a"])
    with pytest.raises(ProposalDropped):
        member.machine.read_index(b"r")
    change = ConfChange((ConfChangeSingle(ConfChangeType.ADD_NODE, 4),))
    with pytest.raises(ProposalDropped):
        member.machine.propose_conf_change(change)
    assert member.machine.status() == before
    assert not member.machine.has_ready()


@needs_members
def check_c07_one_change_at_a_time(plugin: ConsensusPlugin) -> None:
    """C-07: a second membership change is dropped until the first one is applied."""
    cluster = Cluster(plugin, 3)
    leader = cluster.elect(1)
    first = ConfChange((ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 4),))
    second = ConfChange((ConfChangeSingle(ConfChangeType.ADD_LEARNER_NODE, 5),))
    place = leader.machine.propose_conf_change(first)
    assert place is not None
    with pytest.raises(ProposalDropped):
        leader.machine.propose_conf_change(second)
    cluster.settle()
    assert leader.machine.status().conf_state.learners == (4,)
    leader.machine.propose_conf_change(second)
    cluster.settle()
    assert leader.machine.status().conf_state.learners == (4, 5)


def check_c08_same_inputs_same_outputs(plugin: ConsensusPlugin) -> None:
    """C-08: a run is repeated by repeating its inputs."""
    assert transcript(plugin) == transcript(plugin)


def transcript(plugin: ConsensusPlugin) -> list[Ready]:
    """Everything that the members of a cluster hand out in some ticks."""
    cluster = Cluster(plugin, 3 if plugin.capabilities.multi_member else 1, seed=8)
    out: list[Ready] = []
    for number in range(60):
        for member in cluster.members.values():
            member.machine.tick()
        leader = cluster.leader()
        if leader is not None and number % 3 == 0:
            try:
                leader.machine.propose([b"%d" % number])
            except ProposalDropped:
                pass
        for member in cluster.members.values():
            out += readies(member)
            member.sync()
            out += readies(member)
        cluster.collect()
        wire, cluster.wire = cluster.wire, []
        for message in wire:
            cluster.deliver(message)
    assert any(ready.committed for ready in out)
    return out


def check_c09_applied_is_checked(plugin: ConsensusPlugin) -> None:
    """C-09: ``applied`` neither goes back nor beyond what was handed out."""
    cluster = lead_alone(plugin)
    member = cluster.members[1]
    applied = member.state.index
    assert member.machine.status().applied == applied
    with pytest.raises(InvariantViolation):
        member.machine.applied(applied - 1)
    with pytest.raises(InvariantViolation):
        member.machine.applied(applied + 1)
    member.machine.applied(applied)


CHECKS: tuple[Check, ...] = (
    check_c01_votes_once,
    check_c01_vote_is_remembered,
    check_c01_vote_waits_for_disk,
    check_c01_own_vote_waits_for_disk,
    check_c02_acknowledged_is_durable,
    check_c03_batches_overtake_the_disk,
    check_c04_committed_is_durable,
    check_c04_committed_is_on_a_quorum,
    check_c04_replayed_after_restart,
    check_c05_reads_wait_for_the_term,
    check_c05_deposed_leader_confirms_nothing,
    check_c05_followers_read,
    check_c06_tells_the_place,
    check_c06_forwards,
    check_c07_dropped_changes_nothing,
    check_c07_one_change_at_a_time,
    check_c08_same_inputs_same_outputs,
    check_c09_applied_is_checked,
)
"""Every check of the contract."""


def name_of(check: Check) -> str:
    """A check's name for a test id."""
    return getattr(check, "__name__", repr(check)).removeprefix("check_")
