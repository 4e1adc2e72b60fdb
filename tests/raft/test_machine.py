"""What the Raft plugin promises beyond the contract, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from revstore.errors import ConfigError, InvariantViolation, UsageError
from revstore.hookspecs import ConsensusPlugin
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeType,
    ConsensusStart,
    Message,
    MessageType,
    Persist,
    ProposalDropped,
    Ready,
    Role,
    Snapshot,
)
from revstore.types import ConfState, Entry, EntryType, HardState, SnapshotMeta
from revstore_conformance.consensus_cluster import Cluster
from revstore_conformance.scenarios.storage import StubStorage
from revstore_raft.config import RaftConfig, RaftOptions
from revstore_raft.limits import READS_MAX
from revstore_raft.machine import CAPABILITIES, RaftConsensus
from revstore_raft.plugin import revstore_register_consensus
from revstore_raft.roles import TRANSITIONS
from tests.raft.support import change_of

T = MessageType


def registered() -> ConsensusPlugin:
    """What the plugin registers."""
    found: list[ConsensusPlugin] = []
    revstore_register_consensus(found.append)
    (plugin,) = found
    return plugin


PLUGIN = registered()
DOCS = Path(__file__).parents[2] / "docs" / "design"


def machine_of(
    *entries: Entry,
    voters: Sequence[int] = (1, 2, 3),
    hard_state: HardState = HardState(1, 0, 0),  # noqa: B008 - a frozen value
    applied: int = 0,
    options: RaftOptions | None = None,
) -> tuple[RaftConsensus, StubStorage]:
    """Member 1 and its log."""
    storage = StubStorage()
    storage.append(entries)
    start = ConsensusStart(
        id=1,
        hard_state=hard_state,
        conf_state=ConfState(tuple(voters)),
        applied=applied,
        log=storage,
        random=Random(1),
    )
    return RaftConsensus(start, options), storage


def append(
    machine: RaftConsensus, term: int, after: tuple[int, int], *terms: int
) -> None:
    """An append from member 2 behind (term, index)."""
    entries = tuple(Entry(t, after[1] + 1 + n) for n, t in enumerate(terms))
    machine.step(
        Message(
            T.APP,
            to=1,
            sender=2,
            term=term,
            log_term=after[0],
            index=after[1],
            entries=entries,
        )
    )


def persist_of(ready: Ready) -> Persist:
    """The batch of a Ready that must have one."""
    assert ready.persist is not None
    return ready.persist


def acknowledged(messages: Sequence[Message]) -> list[int]:
    """Indexes that messages acknowledge."""
    return [m.index for m in messages if m.type is T.APP_RESP and not m.reject]


def test_dependent_messages_are_held_back() -> None:
    """An answer with nothing of its own to persist waits for the batches before it."""
    machine, _ = machine_of()
    append(machine, 1, (0, 0), 1)
    first = machine.ready()
    append(machine, 1, (0, 0), 1)
    second = machine.ready()
    assert second.persist is None
    assert second.messages == second.messages_after_persist == ()
    assert not machine.has_ready()
    machine.persisted(persist_of(first).sequence)
    assert acknowledged(machine.ready().messages) == [1]


def test_answers_about_durable_entries_leave_at_once() -> None:
    """With nothing on its way to the disk, an answer needs no batch."""
    machine, _ = machine_of(Entry(1, 1))
    append(machine, 1, (0, 0), 1)
    ready = machine.ready()
    assert ready.persist is None
    assert acknowledged(ready.messages_after_persist) == [1]


def test_reports_of_replaced_entries_are_ignored() -> None:
    """The ABA race: an entry that came, was replaced and came back is not durable.

    The report about the first copy is still on its way when the second copy, of the
    same term and index, has been taken; the disk will next replace the first copy.
    """
    machine, storage = machine_of(Entry(1, 1), hard_state=HardState(1, 0, 1), applied=1)
    batches = []
    for term, previous, terms in (
        (1, (1, 1), (1,)),
        (2, (1, 1), (2,)),
        (3, (1, 1), (1, 3)),
    ):
        append(machine, term, previous, *terms)
        batches.append(machine.ready())
    commit = Message(T.HEARTBEAT, to=1, sender=2, term=3, commit=3)
    machine.step(commit)
    for ready in batches[:2]:
        persist = persist_of(ready)
        storage.append(persist.entries)
        machine.persisted(persist.sequence)
        assert machine.ready().committed == ()
    storage.append(persist_of(batches[2]).entries)
    machine.persisted(persist_of(batches[2]).sequence)
    assert [entry.term for entry in machine.ready().committed] == [1, 3]


def test_commit_alone_is_not_persisted() -> None:
    """A commit index goes to disk with the next batch, not in one of its own."""
    machine, storage = machine_of(Entry(1, 1))
    machine.step(Message(T.HEARTBEAT, to=1, sender=2, term=1, commit=1))
    ready = machine.ready()
    assert [entry.index for entry in ready.committed] == [1]
    assert ready.persist is None
    append(machine, 1, (1, 1), 1)
    assert persist_of(machine.ready()).hard_state == HardState(1, 0, 1)
    assert storage.last_index() == 1


def test_applied_counts_as_committed() -> None:
    """After a restart at least what is applied is committed, whatever the disk says."""
    entries = [Entry(1, index) for index in (1, 2, 3)]
    machine, _ = machine_of(*entries, hard_state=HardState(1, 0, 1), applied=2)
    status = machine.status()
    assert (status.commit, status.applied, status.last_index) == (2, 2, 3)
    assert not machine.has_ready()


@pytest.mark.parametrize(
    ("hard_state", "applied"), [(HardState(1, 0, 2), 0), (HardState(1, 0, 0), 2)]
)
def test_a_log_that_forgot_is_refused(hard_state: HardState, applied: int) -> None:
    """A log that ends before what is committed or applied stops the member."""
    with pytest.raises(InvariantViolation, match="truncated, corrupted or lost"):
        machine_of(Entry(1, 1), hard_state=hard_state, applied=applied)


def test_the_term_is_at_least_that_of_the_log() -> None:
    """A term that the log shows was entered, even if the hard state does not say so."""
    machine, _ = machine_of(Entry(5, 1), hard_state=HardState(3, 2, 0))
    assert (machine.status().term, machine.status().vote) == (5, 0)


def test_a_log_with_a_hole_is_refused() -> None:
    """A log that begins behind what is applied stops the member."""
    storage = StubStorage()
    storage.apply_snapshot(SnapshotMeta(5, 1))
    start = ConsensusStart(1, HardState(1), ConfState((1,)), 3, storage, Random(1))
    with pytest.raises(InvariantViolation, match="entries are missing"):
        RaftConsensus(start)


def test_what_waits_to_be_applied_is_bounded() -> None:
    """No more is handed out than the bound allows until something is applied."""
    cluster = Cluster(PLUGIN, 1, options=RaftOptions(committed_bytes_max=1000))
    member = cluster.elect(1)
    machine, disk = member.machine, member.disk
    for _ in range(10):
        machine.propose([bytes(300)])
    while machine.has_ready():
        ready = machine.ready()
        if ready.persist is not None:
            disk.write(ready.persist)
            sequence = disk.sync_one()
            assert sequence is not None
            machine.persisted(sequence)
        if ready.committed:
            break
    handed = list(ready.committed)
    assert len(handed) == 3
    assert not machine.has_ready()
    machine.applied(handed[-1].index)
    assert [e.index for e in machine.ready().committed] == [
        handed[-1].index + n for n in (1, 2, 3)
    ]


def test_too_much_is_refused() -> None:
    """A leader drops what goes beyond the bound of uncommitted payload."""
    cluster = Cluster(PLUGIN, 3, options=RaftOptions(uncommitted_bytes_max=1000))
    leader = cluster.elect(1)
    leader.machine.propose([bytes(900)])
    with pytest.raises(ProposalDropped):
        leader.machine.propose([bytes(200)])
    cluster.settle()
    assert leader.machine.propose([bytes(200)]) is not None


def test_a_change_that_is_dropped_leaves_no_trace() -> None:
    """A change that the bound refused does not stand in the way of the next one."""
    cluster = Cluster(PLUGIN, 3, options=RaftOptions(uncommitted_bytes_max=10))
    leader = cluster.elect(1)
    leader.machine.propose([bytes(10)])
    change = change_of((ConfChangeType.ADD_LEARNER_NODE, 4))
    with pytest.raises(ProposalDropped, match="raft proposal dropped"):
        leader.machine.propose_conf_change(change)
    with pytest.raises(ProposalDropped, match="raft proposal dropped"):
        leader.machine.propose_conf_change(change)
    cluster.settle()
    assert leader.machine.propose_conf_change(change) is not None


def test_nothing_cannot_be_proposed() -> None:
    """An empty batch of proposals is an error of the caller."""
    with pytest.raises(UsageError):
        machine_of()[0].propose([])


@pytest.mark.parametrize(
    "change",
    [
        change_of((ConfChangeType.REMOVE_NODE, 1)),
        ConfChange(),
    ],
)
def test_changes_that_do_not_fit_are_refused(change: ConfChange) -> None:
    """A leader refuses a change that no member could apply."""
    cluster = Cluster(PLUGIN, 1)
    leader = cluster.elect(1)
    with pytest.raises(UsageError):
        leader.machine.propose_conf_change(change)


@pytest.mark.parametrize(
    ("kind", "data"),
    [(EntryType.CONF_CHANGE_V2, b""), (EntryType.CONF_CHANGE, b"\xff\xff")],
)
def test_forwarded_nonsense_becomes_an_empty_entry(
    kind: EntryType, data: bytes
) -> None:
    """What another member forwards cannot make applying fail."""
    cluster = Cluster(PLUGIN, 3)
    leader = cluster.elect(1)
    entries = (Entry(0, 0, data, kind),)
    leader.step(Message(T.PROP, to=1, sender=2, entries=entries))
    cluster.settle()
    last = leader.disk.seen.entries[-1]
    assert (last.type, last.data) == (EntryType.NORMAL, b"")


def test_changes_of_member_zero_do_nothing() -> None:
    """A shell refuses a committed change by applying it to member 0."""
    machine, _ = machine_of()
    before = machine.status().conf_state
    change = change_of((ConfChangeType.REMOVE_NODE, 0))
    assert machine.apply_conf_change(change) == before
    with pytest.raises(InvariantViolation):
        machine.apply_conf_change(ConfChange())


def test_foreign_messages_are_ignored() -> None:
    """Local messages, answers of strangers and what is for others change nothing."""
    machine, _ = machine_of()
    before = machine.status()
    for message in (
        Message(T.HUP, to=1, sender=2),
        Message(T.CHECK_QUORUM, to=1, sender=2, term=9),
        Message(T.STORAGE_APPEND_RESP, to=1, sender=2, term=9, index=9),
        Message(T.APP_RESP, to=1, sender=8, term=9),
        Message(T.APP, to=3, sender=2, term=9),
        Message(T.PROP, to=1, sender=2),
    ):
        machine.step(message)
    assert machine.status() == before
    assert not machine.has_ready()


def test_only_voters_can_lead() -> None:
    """Leadership is not handed to a stranger."""
    with pytest.raises(UsageError):
        machine_of()[0].transfer_leader(9)


def test_reads_are_confirmed_together() -> None:
    """A confirmation serves all reads that were asked before."""
    cluster = Cluster(PLUGIN, 3)
    cluster.elect(1)
    member = cluster.members[2]
    for number in range(3):
        assert member.ask_read(b"%d" % number)
    member.settle()
    last = [m for m in member.outbox if m.type is T.READ_INDEX][-1]
    member.outbox.clear()
    cluster.deliver(last)
    cluster.settle()
    assert member.reads_served == 3


def test_lost_questions_are_asked_again() -> None:
    """A follower whose question to the leader was lost asks again."""
    cluster = Cluster(PLUGIN, 3)
    cluster.elect(1)
    member = cluster.members[2]
    assert member.ask_read(b"r")
    member.settle()
    member.outbox.clear()
    for _ in range(5):
        member.machine.tick()
    cluster.settle()
    assert member.reads_served == 1


def test_reads_of_another_epoch_are_dropped() -> None:
    """When leader or term change, reads that wait are given up, later ones are not."""
    machine, _ = machine_of()
    machine.step(Message(T.HEARTBEAT, to=1, sender=2, term=1))
    machine.ready()
    machine.read_index(b"old")
    machine.step(Message(T.HEARTBEAT, to=1, sender=3, term=2))
    machine.read_index(b"new")
    assert machine.ready().dropped_reads == (b"old",)
    answer = Message(
        T.READ_INDEX_RESP,
        to=1,
        sender=3,
        term=2,
        index=0,
        entries=(Entry(0, 0, b"new"),),
    )
    machine.step(answer)
    assert [state.context for state in machine.ready().read_states] == [b"new"]


def test_waiting_reads_are_bounded() -> None:
    """Beyond the bound the oldest read is dropped, and said so."""
    machine, _ = machine_of()
    machine.step(Message(T.HEARTBEAT, to=1, sender=2, term=1))
    for number in range(READS_MAX + 1):
        machine.read_index(b"%d" % number)
    assert machine.ready().dropped_reads == (b"0",)


def test_snapshots_are_installed() -> None:
    """A snapshot to persist counts as applied once it is durable."""
    machine, storage = machine_of(Entry(1, 1), hard_state=HardState(1, 0, 1))
    early = machine.ready()
    assert [entry.index for entry in early.committed] == [1]
    conf_state = ConfState((1, 2))
    snapshot = Snapshot(SnapshotMeta(9, 2, conf_state), b"state")
    machine.step(Message(T.SNAP, to=1, sender=2, term=2, snapshot=snapshot))
    ready = machine.ready()
    persist = persist_of(ready)
    assert persist.snapshot == snapshot
    assert persist.hard_state == HardState(2, 0, 9)
    assert acknowledged(ready.messages_after_persist) == [9]
    assert machine.status().applied == 0
    storage.apply_snapshot(snapshot.meta)
    machine.persisted(persist.sequence)
    status = machine.status()
    assert (status.applied, status.conf_state) == (9, conf_state)
    with pytest.raises(InvariantViolation):
        machine.applied(1)


def test_a_snapshot_frees_what_it_replaces() -> None:
    """What was handed out before a snapshot does not count against the bound for ever."""
    entries = [Entry(1, index, bytes(90)) for index in (1, 2, 3)]
    machine, storage = machine_of(
        *entries,
        hard_state=HardState(1, 0, 3),
        options=RaftOptions(committed_bytes_max=90),
    )
    assert len(machine.ready().committed) == 1
    snapshot = Snapshot(SnapshotMeta(9, 1, ConfState((1, 2))), b"state")
    machine.step(Message(T.SNAP, to=1, sender=2, term=1, snapshot=snapshot))
    storage.apply_snapshot(snapshot.meta)
    machine.persisted(persist_of(machine.ready()).sequence)
    append(machine, 1, (1, 9), 1)
    storage.append((Entry(1, 10),))
    machine.persisted(persist_of(machine.ready()).sequence)
    machine.step(Message(T.HEARTBEAT, to=1, sender=2, term=1, commit=10))
    assert [entry.index for entry in machine.ready().committed] == [10]


def test_snapshots_stand_at_what_is_applied() -> None:
    """A lagging member is sent a snapshot with the membership at what is applied."""
    cluster = Cluster(PLUGIN, 3)
    leader = cluster.elect(1)
    cluster.isolate(3)
    for number in range(5):
        leader.machine.propose([b"%d" % number])
        cluster.settle()
    leader.flush()
    leader.compact()
    cluster.heal()
    leader.machine.tick()
    cluster.settle()
    assert cluster.members[3].state == leader.state
    assert cluster.members[3].disk.seen.base.index == leader.flushed.index


def test_forgetting_a_leader() -> None:
    """A follower can be told to forget its leader, but not while it owes it silence."""
    for lease in (False, True):
        machine, _ = machine_of(options=RaftOptions(lease_reads=lease))
        machine.step(Message(T.HEARTBEAT, to=1, sender=2, term=1))
        machine.forget_leader()
        machine.campaign()
        assert machine.status().leader == (2 if lease else 0)
        assert (machine.status().role is Role.FOLLOWER) is lease


@pytest.mark.parametrize(
    "settings",
    [
        {"id": 0},
        {"heartbeat_ticks": 0},
        {"election_ticks": 1},
        {"inflight_messages_max": 0},
        {"inflight_bytes_max": 5, "message_bytes_max": 6},
        {"committed_bytes_max": 0},
        {"lease_reads": True},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, int]) -> None:
    """Settings that contradict one another are refused with a reason."""
    with pytest.raises(ConfigError):
        RaftConfig(**{"id": 1, "election_ticks": 10, "heartbeat_ticks": 1, **settings})  # type: ignore[arg-type] # on purpose


def test_the_documented_transitions_are_the_real_ones() -> None:
    """The table of role changes in the docs is the one in the code."""
    text = (DOCS / "raft-roles.md").read_text()
    for (old, new), reason in TRANSITIONS.items():
        assert f"| {old} | {new} | {reason} |" in text
    assert text.count("\n| ") == len(TRANSITIONS) + 1


def test_the_plugin_is_registered() -> None:
    """The plugin registers itself with what it can do."""
    assert PLUGIN.capabilities == CAPABILITIES
    assert PLUGIN.options is RaftOptions
