"""What members do around a snapshot: on one virtual clock, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest

from revstore.api import errors
from revstore.apply.kv import apply_range
from revstore.errors import ApiError
from revstore.interfaces.backend import Backend
from revstore.interfaces.consensus import Message, MessageType, Snapshot
from revstore.mvcc.query import RangeQuery
from revstore.node import snapshots
from revstore.node.settings import PluginChoice
from revstore.node.snapshots import LOG_KEPT_S, Incoming, Offer, Outgoing, Refused
from revstore.proto import rpc_pb2
from revstore.snapshot.format import decode_header, encode_header
from revstore.snapshot.install import Installation
from revstore.types import SnapshotMeta
from tests.node.cluster import QUICK_LOG, VirtualCluster
from tests.snapshot.support import content

KEYS = 24


class Stage:
    """Three members, one of which has missed more than the others' logs go back."""

    def __init__(self, path: Path) -> None:
        self.cluster = VirtualCluster(
            path,
            3,
            snapshot_count=5,
            catchup_entries=5,
            backend="lmdb",
            wal=PluginChoice("segment", {**QUICK_LOG, "segment_bytes": 512}),
        )
        self.leader = self.cluster.lead("a")
        self.lagging = self.cluster["c"]
        self.carried: list[Outgoing] = []
        self.whole = self.cluster.carry
        self.cluster.carry = lambda sender, outgoing: self.carried.append(outgoing)

    def lag(self) -> None:
        """Have the third member miss everything from here on."""
        self.put(b"before")
        self.cluster.advance(0.5)
        self.cluster.cut("c")
        for number in range(KEYS):
            self.put(b"key%d" % number)
            self.cluster.advance(0.2)

    def put(self, key: bytes) -> None:
        """One acknowledged write."""
        answers = self.leader.put(key, b"value")
        self.cluster.until(lambda: answers)
        assert not isinstance(answers[0], ApiError)

    def offered(self) -> Outgoing:
        """The snapshot that the leader sends once the link is mended."""
        self.cluster.heal()
        self.cluster.until(lambda: self.carried)
        return self.carried.pop()

    def spools(self) -> list[Path]:
        """Files of snapshots in the lagging member's directory."""
        return sorted((self.lagging.path / "member").glob("snapshot.*"))

    def received(self, outgoing: Outgoing) -> Incoming:
        """Bring it to the lagging member, all but the last call."""
        receiver = self.lagging.replica.snapshots
        incoming = receiver.receive(self.leader.replica.member_id, outgoing.offer)
        while (piece := outgoing.read()) is not None:
            incoming.write(piece)
        incoming.finish()
        return incoming

    def caught_up(self) -> bool:
        """Whether the lagging member has applied what the leader has."""
        return self.lagging.replica.applied == self.leader.replica.applied


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage whose third member lags."""
    found = Stage(tmp_path)
    found.lag()
    yield found
    for outgoing in found.carried:
        outgoing.close()
    found.cluster.close()


def sent(stage: Stage, outgoing: Outgoing, failure: str = "") -> None:
    """Tell the leader how it went."""
    stage.leader.replica.snapshots.sent(outgoing, failure)


def test_a_member_that_missed_too_much_gets_a_snapshot(stage: Stage) -> None:
    """Afterwards it holds what the leader holds, and goes on from the log."""
    stage.cluster.carry = stage.whole
    stage.cluster.heal()
    stage.cluster.until(stage.caught_up)
    stage.put(b"after")
    stage.cluster.until(stage.caught_up)
    for member in (stage.leader, stage.lagging):
        member.replica.store.flush()
    theirs = content(stage.lagging.replica.backend)
    ours = content(stage.leader.replica.backend)
    assert {**theirs, "meta": []} == {**ours, "meta": []}
    assert stage.spools() == []


def test_reads_are_refused_while_a_snapshot_is_taken_over(stage: Stage) -> None:
    """Nobody sees half a state; membership stays readable, and then all is."""
    outgoing = stage.offered()
    incoming = stage.received(outgoing)
    replica = stage.lagging.replica
    everything = rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00", serializable=True)
    assert apply_range(replica.store, everything).body
    assert replica.snapshots.received(incoming)
    sent(stage, outgoing)
    assert replica.installing
    works = 0
    while replica.installing:
        call = stage.lagging.call("KV/Range", everything)
        with pytest.raises(ApiError, match="taking over a snapshot"):
            call.result()
        with pytest.raises(ApiError, match="taking over a snapshot"):
            replica.store.get(b"before")
        assert len(replica.cluster.members()) == 3
        stage.lagging.works.popleft()()
        works += 1
    assert works > 9
    stage.cluster.until(stage.caught_up)
    found = stage.lagging.call("KV/Range", everything).result()
    assert rpc_pb2.RangeResponse.FromString(found).count == KEYS + 1


def test_a_range_that_spans_the_installation_ends(stage: Stage) -> None:
    """Its first rows are of another state than the rest would be."""
    outgoing = stage.offered()
    incoming = stage.received(outgoing)
    store = stage.lagging.replica.store
    chunks = store.range_chunks(RangeQuery(b"\x00", b"\x00"), rows=1)
    first = next(chunks)
    assert first.kvs
    stage.lagging.replica.snapshots.received(incoming)
    sent(stage, outgoing)
    stage.cluster.until(stage.caught_up)
    with pytest.raises(ApiError) as refused:
        list(chunks)
    assert refused.value == errors.INSTALLING


def test_the_member_is_heard_while_it_installs(stage: Stage) -> None:
    """The leader must not take a long installation for the end of the member."""
    outgoing = stage.offered()
    incoming = stage.received(outgoing)
    stage.lagging.replica.snapshots.received(incoming)
    sent(stage, outgoing)
    kept, stage.lagging.works = stage.lagging.works, type(stage.lagging.works)()
    before = stage.leader.replica.term
    stage.cluster.cut("b")
    stage.cluster.cut_links = {
        link
        for link in stage.cluster.cut_links
        if stage.cluster["b"].replica.member_id in link
    }
    log = stage.lagging.replica.wal
    end = log.last_index()
    answers = stage.leader.put(b"meanwhile", b"1")
    stage.cluster.advance(5.0)
    assert stage.lagging.replica.installing
    assert log.last_index() == end, "what follows was appended in front of it"
    assert answers == []
    assert stage.leader.replica.is_leader
    assert stage.leader.replica.term == before
    stage.lagging.works = kept
    stage.cluster.until(lambda: answers)
    assert not isinstance(answers[0], ApiError)
    stage.cluster.heal()
    stage.cluster.until(stage.caught_up)


def test_a_kill_at_any_step_is_finished_by_the_next_start(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends between any two steps; started again, the member catches up."""
    begun: list[Installation] = []

    def begin(backend: Backend, file: BinaryIO) -> Installation:
        begun.append(Installation(backend, file))
        return begun[-1]

    monkeypatch.setattr(snapshots, "Installation", begin)
    monkeypatch.setattr(snapshots, "LOG_KEPT_S", 0.0)
    steps = 0
    while True:
        outgoing = stage.offered()
        incoming = stage.received(outgoing)
        stage.lagging.replica.snapshots.received(incoming)
        sent(stage, outgoing)
        for _ in range(steps):
            stage.lagging.works.popleft()()
        over = not stage.lagging.replica.installing
        stage.lagging.crash()
        for installation in begun:
            installation.close()
        stage.lagging.start()
        assert stage.spools() == []
        applied = stage.lagging.replica.applied
        if steps:
            # Only the first step of all leaves the member what it was.
            assert applied == incoming.header.index, f"after {steps} steps"
        if over:
            break
        steps += 3
        stage.lag()
    stage.cluster.carry = stage.whole
    stage.cluster.until(stage.caught_up)


def test_inbox_then_log_then_backend(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is touched only when what it relies on is durable; the inbox ends last."""
    outgoing = stage.offered()
    incoming = stage.received(outgoing)
    replica = stage.lagging.replica
    done: list[str] = []

    def note(owner: object, method: str) -> None:
        original = getattr(owner, method)

        def noted(*arguments: object) -> object:
            if not done or done[-1] != method:
                done.append(method)
            return original(*arguments)

        monkeypatch.setattr(owner, method, noted)

    note(incoming.spool, "commit")
    note(replica.wal, "save_snapshot")
    note(replica.backend, "write")
    note(replica.snapshots._inbox, "clear")
    replica.snapshots.received(incoming)
    sent(stage, outgoing)
    while replica.installing:
        stage.lagging.works.popleft()()
    assert done == ["commit", "save_snapshot", "write", "clear"]
    stage.cluster.until(stage.caught_up)


def test_a_damaged_piece_is_refused_and_another_one_sent(stage: Stage) -> None:
    """Nothing of it stays, and the leader begins anew."""
    outgoing = stage.offered()
    receiver = stage.lagging.replica.snapshots
    incoming = receiver.receive(stage.leader.replica.member_id, outgoing.offer)
    pieces = list(iter(outgoing.read, None))
    damaged = bytearray(pieces[0])
    damaged[len(damaged) // 2] ^= 1
    incoming.write(bytes(damaged))
    for piece in pieces[1:]:
        incoming.write(piece)
    with pytest.raises(Exception, match="damaged"):
        incoming.finish()
    assert stage.spools() != []
    receiver.broken(incoming)
    assert stage.spools() == []
    stage.cluster.carry = stage.whole
    sent(stage, outgoing, "damaged")
    stage.cluster.until(stage.caught_up)


def test_a_stream_that_is_cut_leaves_nothing(stage: Stage) -> None:
    """The receiver forgets it, and takes the next one."""
    outgoing = stage.offered()
    receiver = stage.lagging.replica.snapshots
    incoming = receiver.receive(stage.leader.replica.member_id, outgoing.offer)
    piece = outgoing.read()
    assert piece
    incoming.write(piece)
    receiver.broken(incoming)
    assert stage.spools() == []
    stage.cluster.carry = stage.whole
    sent(stage, outgoing, "cut")
    stage.cluster.until(stage.caught_up)


def refusal(stage: Stage, sender: int, offer: bytes) -> str:
    """Why the lagging member does not take what is offered."""
    with pytest.raises(Refused) as refused:
        stage.lagging.replica.snapshots.receive(sender, offer)
    return f"{refused.value}"


def test_what_is_not_for_this_member_is_refused(stage: Stage) -> None:
    """Of another cluster, to another member, from somebody else, or unreadable."""
    outgoing = stage.offered()
    leader = stage.leader.replica.member_id
    good = msgspec.msgpack.decode(outgoing.offer, type=Offer)
    header = msgspec.structs.replace(decode_header(good.header), cluster_id=0xBAD)
    strange = msgspec.msgpack.encode(Offer(good.message, encode_header(header)))
    assert "it is of cluster bad" in refusal(stage, leader, strange)
    assert "no snapshot for this member" in refusal(stage, leader + 1, outgoing.offer)
    assert "cannot be read" in refusal(stage, leader, b"what is this")
    moved = msgspec.structs.replace(decode_header(good.header), index=10_000)
    other = msgspec.msgpack.encode(Offer(good.message, encode_header(moved)))
    assert "no snapshot for this member" in refusal(stage, leader, other)
    assert stage.spools() == []
    sent(stage, outgoing, "refused")


def test_no_second_one_is_taken_while_one_is_installed(stage: Stage) -> None:
    """The leader hears it and tries again later."""
    outgoing = stage.offered()
    incoming = stage.received(outgoing)
    stage.lagging.replica.snapshots.received(incoming)
    leader = stage.leader.replica.member_id
    assert "another snapshot" in refusal(stage, leader, outgoing.offer)
    sent(stage, outgoing)
    stage.cluster.until(stage.caught_up)


def test_a_newer_one_takes_the_place_of_what_comes_in(stage: Stage) -> None:
    """The sender has begun anew: what it gave up must not be waited for."""
    outgoing = stage.offered()
    receiver = stage.lagging.replica.snapshots
    leader = stage.leader.replica.member_id
    first = receiver.receive(leader, outgoing.offer)
    second = receiver.receive(leader, outgoing.offer)
    assert first.over
    assert not second.over
    receiver.broken(first)
    while (piece := outgoing.read()) is not None:
        second.write(piece)
    second.finish()
    assert receiver.received(second)
    sent(stage, outgoing)
    stage.cluster.until(stage.caught_up)


def test_what_this_member_has_already_is_refused_and_told(stage: Stage) -> None:
    """Consensus answers where the member is, so that the leader need not send it."""
    outgoing = stage.offered()
    incoming = stage.received(outgoing)
    stage.lagging.replica.snapshots.received(incoming)
    sent(stage, outgoing)
    stage.cluster.until(stage.caught_up)
    leader = stage.leader.replica.member_id
    before = len(stage.cluster.wire)
    assert "entries already" in refusal(stage, leader, outgoing.offer)
    stage.lagging.settle()
    assert len(stage.cluster.wire) > before


def test_one_of_an_older_term_is_refused(stage: Stage) -> None:
    """A leader that was replaced has nothing to say."""
    outgoing = stage.offered()
    leader = stage.leader.replica.member_id
    own = stage.lagging.replica.member_id
    stage.lagging.replica.consensus.step(
        Message(MessageType.HEARTBEAT, to=own, sender=leader, term=99)
    )
    assert "this is term 99" in refusal(stage, leader, outgoing.offer)
    sent(stage, outgoing, "refused")


def test_a_snapshot_as_a_plain_message_is_ignored(stage: Stage) -> None:
    """Its data would be nowhere; whoever sends it makes a mistake, and no more."""
    replica = stage.lagging.replica
    meta = SnapshotMeta(10_000, 1, stage.leader.replica.consensus.status().conf_state)
    for data in (b"", b"1", b"whole"):
        replica.receive(
            (
                Message(
                    MessageType.SNAP,
                    to=replica.member_id,
                    sender=stage.leader.replica.member_id,
                    term=replica.term,
                    snapshot=Snapshot(meta, data),
                ),
            )
        )
    replica.pump()
    assert not replica.installing
    assert not replica.stopped


def test_the_log_stays_for_who_gets_a_snapshot(stage: Stage) -> None:
    """Else the receiver would need another one as soon as it has this one."""
    outgoing = stage.offered()
    needed = outgoing.log_needed
    wal = stage.leader.replica.wal
    for number in range(40):
        stage.put(b"more%d" % number)
        stage.cluster.advance(0.2)
    # Also the entry itself: what follows it is sent with its term.
    assert wal.first_index() <= needed
    kept = stage.leader.replica.snapshots
    assert kept.purgeable(10_000) == needed - 1
    incoming = stage.received(outgoing)
    stage.lagging.replica.snapshots.received(incoming)
    sent(stage, outgoing)
    assert kept.purgeable(10_000) == needed - 1
    stage.cluster.until(stage.caught_up)
    assert stage.carried == []
    stage.cluster.advance(LOG_KEPT_S + 1)
    assert kept.purgeable(10_000) == 10_000


def test_a_sender_that_leads_no_more_gives_up(stage: Stage) -> None:
    """Its term is over, so nobody takes what it sends."""
    outgoing = stage.offered()
    assert stage.leader.replica.snapshots.wanted(outgoing)
    heir = stage.cluster["b"].replica
    stage.leader.replica.transfer_leader(heir.member_id, lambda error: None)
    stage.cluster.until(lambda: heir.is_leader)
    assert not stage.leader.replica.snapshots.wanted(outgoing)
    sent(stage, outgoing, "given up")


def test_a_second_one_for_a_member_ends_the_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One goes to each member, and only the last one is reported."""
    reports: list[tuple[int, bool]] = []
    leader = stage.leader.replica
    first = stage.offered()
    leader.snapshots.open(first.message, stage.carried.append)
    stage.cluster.settle()
    second = stage.carried.pop()
    report = leader.consensus.report_snapshot
    monkeypatch.setattr(
        leader.consensus, "report_snapshot", lambda to, ok: reports.append((to, ok))
    )
    assert first.over
    assert not leader.snapshots.wanted(first)
    leader.snapshots.sent(first, "given up")
    assert reports == []
    leader.snapshots.sent(second)
    assert reports == [(first.message.to, True)]
    report(first.message.to, True)


def test_closing_in_the_middle_leaves_it_to_the_next_start(stage: Stage) -> None:
    """A clean end does not wait for a long installation, nor does it mark half a one."""
    outgoing = stage.offered()
    incoming = stage.received(outgoing)
    stage.lagging.replica.snapshots.received(incoming)
    sent(stage, outgoing)
    for _ in range(4):
        stage.lagging.works.popleft()()
    stage.lagging.replica.stop()
    stage.lagging.close()
    stage.lagging.start()
    assert stage.lagging.replica.applied == incoming.header.index
    stage.cluster.until(stage.caught_up)
    assert stage.carried == []
