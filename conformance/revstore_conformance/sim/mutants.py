"""Faulty variants of the Raft core and of the member, each of which must be caught.

A mutant is a few functions replaced while a run lasts. It changes the code only as far
as its sentence says; the simulator and its checkers are the same as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import msgspec

from revstore.api.replica import Tag
from revstore.apply.cluster import CONF
from revstore.interfaces.backend import Backend, Durability, WriteBatch
from revstore.interfaces.consensus import Message, MessageType, Persist, Ready, Role
from revstore.interfaces.wal import Wal
from revstore.lease.lessor import Lessor
from revstore.mvcc.flush import FlushJob
from revstore.mvcc.state import STATE_KEY, decode_state, encode_state
from revstore.mvcc.store import Store
from revstore.mvcc.tables import CLUSTER, KEYSPACES, META
from revstore.node import bootstrap
from revstore.node.appends import Appends
from revstore.node.housekeeping import Housekeeping
from revstore.node.proposals import Proposal, Proposals
from revstore.node.reads import Finished, Reads
from revstore.node.replica import Replica
from revstore.proto import rpc_pb2
from revstore.snapshot import install
from revstore.snapshot.inbox import Inbox
from revstore.snapshot.install import Installation
from revstore.types import Entry, HardState
from revstore.watch.hub import WatchHub
from revstore.watch.watcher import Watcher
from revstore_conformance.sim.link_mutants import LINK_MUTANTS
from revstore_conformance.sim.mutant import Mutant, Patch
from revstore_raft import election, quorum, reads, replication, step, tracker, transfer
from revstore_raft.limits import NO_LIMIT
from revstore_raft.log import RaftLog
from revstore_raft.quorum import VoteResult
from revstore_raft.state import Raft
from revstore_wal.writer import SegmentWriter

# ----- elections and votes


def _vote_not_persisted() -> Sequence[Patch]:
    original = Replica._append

    def append(self: Replica, persist: Persist) -> None:
        state = persist.hard_state
        if state is not None:
            forgetful = HardState(state.term, 0, state.commit)
            persist = msgspec.structs.replace(persist, hard_state=forgetful)
        original(self, persist)

    return [(Replica, "_append", append)]


def _any_log_may_lead() -> Sequence[Patch]:
    return [(RaftLog, "up_to_date", lambda self, term, index: True)]


def _half_is_enough() -> Sequence[Patch]:
    def committed(acknowledged: Sequence[int]) -> int:
        count = len(acknowledged)
        return sorted(acknowledged)[count // 2] if count else NO_LIMIT

    def vote(voters: Sequence[int], votes: dict[int, bool]) -> VoteResult:
        if not voters:
            return VoteResult.WON
        granted = sum(1 for one in voters if votes.get(one))
        missing = sum(1 for one in voters if one not in votes)
        needed = (len(voters) + 1) // 2
        if granted >= needed:
            return VoteResult.WON
        return VoteResult.PENDING if granted + missing >= needed else VoteResult.LOST

    return [
        (quorum, "majority_committed", committed),
        (tracker, "majority_committed", committed),
        (quorum, "majority_vote", vote),
    ]


def _joint_needs_one_half() -> Sequence[Patch]:
    def vote(
        incoming: Sequence[int], outgoing: Sequence[int], votes: dict[int, bool]
    ) -> VoteResult:
        return quorum.majority_vote(incoming, votes)

    def committed(self: tracker.Tracker) -> int:
        rows = self.progress_map()
        return quorum.majority_committed(
            [rows[voter].match for voter in self.membership.incoming]
        )

    return [
        (tracker, "joint_vote", vote),
        (tracker.Tracker, "committed", committed),
    ]


def _transfer_drops_entries() -> Sequence[Patch]:
    original = election.handle_vote_request

    def handle_transfer(raft: Raft, message: Message) -> None:
        if raft.tracker.get(message.sender) is not None and message.sender != raft.id:
            raft.transfer_target = message.sender
            transfer.send_timeout_now(raft, message.sender)

    def handle_vote_request(raft: Raft, message: Message) -> None:
        if message.context == election.CAMPAIGN_TRANSFER:
            if raft.vote in (0, message.sender):
                raft.vote = message.sender
                kind = MessageType.VOTE_RESP
                raft.send(kind, message.sender, term=message.term)
            return
        original(raft, message)

    handlers = dict(step._LEADER)
    handlers[MessageType.TRANSFER_LEADER] = handle_transfer
    any_role = dict(step._ANY_ROLE)
    any_role[MessageType.VOTE] = handle_vote_request
    roles = dict(step._BY_ROLE)
    roles[Role.LEADER] = handlers
    return [(step, "_BY_ROLE", roles), (step, "_ANY_ROLE", any_role)]


# ----- the log


def _commits_older_terms() -> Sequence[Patch]:
    def maybe_commit(self: RaftLog, term: int, index: int) -> bool:
        if index > self.committed and index <= self.last_index:
            self.commit_to(index)
            return True
        return False

    return [(RaftLog, "maybe_commit", maybe_commit)]


def _conflicts_stay() -> Sequence[Patch]:
    def find_conflict(self: RaftLog, entries: Sequence[Entry]) -> int:
        if entries and entries[-1].index > self.last_index:
            return max(entries[0].index, self.last_index + 1)
        return 0

    return [(RaftLog, "_find_conflict", find_conflict)]


def _acknowledges_before_sync() -> Sequence[Patch]:
    def add(self: Appends, persist: Persist, *, nobody_else_waits: bool) -> None:
        self._wal.append(persist.hard_state, persist.entries)
        self._on_durable(persist.sequence)(None)

    return [(Appends, "add", add)]


def _follower_answers_early() -> Sequence[Patch]:
    original = Replica._handle

    def handle(self: Replica, ready: Ready) -> None:
        early = ready.messages + ready.messages_after_persist
        changed = msgspec.structs.replace(
            ready, messages=early, messages_after_persist=()
        )
        original(self, changed)

    return [(Replica, "_handle", handle)]


def _log_forgets_to_sync() -> Sequence[Patch]:
    original = SegmentWriter.write

    def write(
        self: SegmentWriter, pieces: list[bytes], size: int, crc: int, must_sync: bool
    ) -> int:
        return original(self, pieces, size, crc, False)

    return [(SegmentWriter, "write", write)]


def _purges_too_much() -> Sequence[Patch]:
    begin, original = Store.begin_flush, Store.end_flush

    def begin_flush(self: Store, sync: bool = False) -> FlushJob | None:
        return begin(self, False)

    def end_flush(self: Store, job: FlushJob) -> None:
        original(self, job)
        self.durable_index = job.state.applied_index

    return [(Store, "begin_flush", begin_flush), (Store, "end_flush", end_flush)]


# ----- reads


def _reads_before_first_commit() -> Sequence[Patch]:
    return [(reads, "committed_in_term", lambda raft: True)]


def _stale_leader_reads() -> Sequence[Patch]:
    def index_now(raft: Raft) -> int | None:
        return raft.log.committed if raft.leader == raft.id else None

    return [(reads, "index_now", index_now)]


def _one_answer_confirms() -> Sequence[Patch]:
    def handle_confirmation(raft: Raft, message: Message) -> None:
        queue = raft.reads
        queue.acknowledge(message.sender, message.context)
        while queue.waiting:
            for read in queue.take(queue.waiting[0].round):
                reads._answer(raft, read.request, read.index)

    return [(reads, "handle_confirmation", handle_confirmation)]


def _dropped_reads_answered() -> Sequence[Patch]:
    def dropped(self: Reads, context: bytes) -> None:
        batch, _ = self._unconfirmed.pop(context, ((), 0.0))
        for done in batch:
            done(None)

    return [(Reads, "dropped", dropped)]


def _reads_before_applied() -> Sequence[Patch]:
    def wait_applied(self: Reads, index: int, done: Finished) -> None:
        done(None)

    def serve(self: Reads, applied: int) -> None:
        waiting = self._unapplied
        while waiting:
            waiting.popleft()[1](None)

    return [(Reads, "serve", serve), (Reads, "wait_applied", wait_applied)]


# ----- applying, snapshots, flushes


def _waiters_by_index_alone() -> Sequence[Patch]:
    def take(self: Proposals, index: int, term: int) -> Proposal | None:
        waiting = self._by_index.pop(index, None)
        return None if waiting is None else waiting.proposal

    return [(Proposals, "take", take)]


def _applied_index_apart() -> Sequence[Patch]:
    def run(self: FlushJob) -> None:
        try:
            rest = self._batch()
            state = type(rest)()
            state.keyspaces[META] = rest.keyspaces.pop(META)
            self._backend.write(state, Durability.ORDERED)
            self._backend.write(rest, self.durability)
        except BaseException as exc:
            self.error = exc

    return [(FlushJob, "run", run)]


def _install(change: Callable[[Backend], None]) -> Sequence[Patch]:
    step = Installation.step

    def changed(self: Installation) -> bool:
        over = step(self)
        if over:
            change(self._backend)
        return over

    return [(Installation, "step", changed)]


def _snapshot_forgets_members() -> Sequence[Patch]:
    def change(backend: Backend) -> None:
        batch = WriteBatch()
        batch.delete(CLUSTER, CONF)
        backend.write(batch, Durability.SYNC)

    return _install(change)


def _snapshot_forgets_compaction() -> Sequence[Patch]:
    def change(backend: Backend) -> None:
        with backend.snapshot() as reader:
            row = reader.get(META, STATE_KEY)
        if row is not None:
            state = msgspec.structs.replace(decode_state(row), compact_revision=-1)
            batch = WriteBatch()
            batch.put(META, STATE_KEY, encode_state(state))
            backend.write(batch, Durability.SYNC)

    return _install(change)


def _snapshot_keeps_old_rows() -> Sequence[Patch]:
    return [(install, "KEYSPACES", (META,))]


def _half_installed_is_kept() -> Sequence[Patch]:
    def finish(backend: Backend, wal: Wal, inbox: Inbox) -> None:
        inbox.clear()

    return [(bootstrap, "finish_install", finish)]


def _state_row_first() -> Sequence[Patch]:
    def run(self: Installation) -> Generator[bool, None, None]:
        batch = WriteBatch()
        for keyspace in KEYSPACES:
            batch.delete_range(keyspace, b"", None)
        for keyspace, pairs in reversed(list(self._reader.batches())):
            batch.keyspace(keyspace).puts.extend(pairs)
            self._backend.write(batch, Durability.ORDERED)
            yield False
            batch = WriteBatch()

    return [(Installation, "_run", run)]


# ----- leases and watches


def _deposed_leader_revokes() -> Sequence[Patch]:
    tick = Housekeeping.tick

    def demote(self: Lessor) -> None:
        if not hasattr(self, "_leases") or not self._leases:
            self.is_primary = False

    def mutant_tick(self: Housekeeping, now: float) -> None:
        tick(self, now)
        replica = self._replica
        if replica.lessor.is_primary:
            for lease in replica.lessor.expired():
                request = rpc_pb2.LeaseRevokeRequest(ID=lease)
                replica.propose_internal(
                    Tag.LEASE_REVOKE, request, self._revoked(lease)
                )

    return [(Lessor, "demote", demote), (Housekeeping, "tick", mutant_tick)]


def _new_leader_counts_on() -> Sequence[Patch]:
    promote = Lessor.promote

    def mutant(self: Lessor, extend_s: float) -> None:
        promote(self, extend_s)
        for lease in self._leases.values():
            lease.deadline -= extend_s + 0.7 * lease.ttl
            self._arm(lease, self._clock.now())

    return [(Lessor, "promote", mutant)]


def _resumed_watch_skips() -> Sequence[Patch]:
    original = WatchHub.start

    def start(self: WatchHub, watcher: Watcher, start_revision: int) -> None:
        original(self, watcher, start_revision and start_revision + 1)

    return [(WatchHub, "start", start)]


def _progress_too_early() -> Sequence[Patch]:
    def report(self: WatchHub) -> None:
        for stream in list(self._progress):
            del self._progress[stream]
            stream.progress_asked = False
            stream.send_progress(-1, self._store.revision)

    return [(WatchHub, "_report_progress", report)]


def _old_heartbeats_commit() -> Sequence[Patch]:
    def broadcast_heartbeat(raft: Raft) -> None:
        context = raft.reads.next_round(raft.ticks)
        committed = raft.log.committed
        for member, row in raft.tracker.members:
            if member != raft.id:
                kind = MessageType.HEARTBEAT
                raft.send(kind, member, commit=committed, context=context)
                row.sent_commit = committed

    return [(replication, "broadcast_heartbeat", broadcast_heartbeat)]


MUTANTS: tuple[Mutant, ...] = (
    Mutant("vote-not-persisted", "A vote is not on disk.", _vote_not_persisted),
    Mutant(
        "any-log-may-lead", "Voters do not compare logs.", _any_log_may_lead, seeds=(1,)
    ),
    Mutant("half-is-enough", "Half of the voters are a quorum.", _half_is_enough),
    Mutant(
        "joint-one-half",
        "In a joint phase only the new members decide.",
        _joint_needs_one_half,
    ),
    Mutant(
        "transfer-drops-entries",
        "Whoever leadership is handed to is elected whatever its log.",
        _transfer_drops_entries,
        seeds=(12,),
    ),
    Mutant(
        "commits-older-terms",
        "Entries of an older term are committed by counting.",
        _commits_older_terms,
    ),
    Mutant(
        "conflicts-stay",
        "A follower keeps entries that conflict with its leader's.",
        _conflicts_stay,
    ),
    Mutant(
        "acknowledged-before-sync",
        "A batch counts as durable when it is handed to the log.",
        _acknowledges_before_sync,
    ),
    Mutant(
        "answers-before-persist",
        "Messages that wait for the disk leave at once.",
        _follower_answers_early,
    ),
    Mutant("log-without-sync", "The log does not sync.", _log_forgets_to_sync),
    Mutant(
        "purges-too-much",
        "Every flush counts as durable, so the log behind it is purged.",
        _purges_too_much,
    ),
    Mutant(
        "reads-before-first-commit",
        "A leader serves reads before it has committed in its term.",
        _reads_before_first_commit,
        seeds=(30,),
    ),
    Mutant(
        "stale-leader-reads",
        "A leader serves reads without asking whether it still leads.",
        _stale_leader_reads,
        "harsh",
    ),
    Mutant(
        "one-answer-confirms",
        "Any one heartbeat answer, however old, confirms all reads.",
        _one_answer_confirms,
        seeds=(161,),
    ),
    Mutant(
        "dropped-reads-answered",
        "Reads that consensus dropped are served.",
        _dropped_reads_answered,
        seeds=(1,),
    ),
    Mutant(
        "reads-before-applied",
        "Confirmed reads do not wait until their index is applied.",
        _reads_before_applied,
    ),
    Mutant(
        "waiters-by-index",
        "Whoever waits at an index gets its entry, whatever the term.",
        _waiters_by_index_alone,
        seeds=(3,),
    ),
    Mutant(
        "applied-index-apart",
        "A flush writes the applied index in a batch before its data.",
        _applied_index_apart,
    ),
    Mutant(
        "snapshot-forgets-members",
        "A snapshot taken over has no membership.",
        _snapshot_forgets_members,
    ),
    Mutant(
        "snapshot-forgets-compaction",
        "A snapshot taken over was never compacted.",
        _snapshot_forgets_compaction,
        seeds=(1,),
    ),
    Mutant(
        "snapshot-keeps-old-rows",
        "A snapshot is put over the old rows, which stay.",
        _snapshot_keeps_old_rows,
    ),
    Mutant(
        "half-installed-is-kept",
        "A snapshot that a crash interrupted is not installed again.",
        _half_installed_is_kept,
    ),
    Mutant(
        "state-row-first",
        "A snapshot's state row is installed before the rows that it speaks of.",
        _state_row_first,
        seeds=(2,),
    ),
    Mutant(
        "deposed-leader-revokes",
        "Who led once goes on counting leases, and revokes them.",
        _deposed_leader_revokes,
        seeds=(1,),
    ),
    Mutant(
        "new-leader-counts-on",
        "A new leader gives leases less than their full time.",
        _new_leader_counts_on,
    ),
    Mutant(
        "resumed-watch-skips",
        "A watch begins one revision late.",
        _resumed_watch_skips,
    ),
    Mutant(
        "progress-too-early",
        "Progress is reported while events are missing.",
        _progress_too_early,
    ),
    Mutant(
        "heartbeats-commit-blindly",
        "A heartbeat commits what the follower may not share.",
        _old_heartbeats_commit,
    ),
    *LINK_MUTANTS,
)


def mutant(name: str) -> Mutant:
    """One by its name. Raises: KeyError."""
    return {one.name: one for one in MUTANTS}[name]
