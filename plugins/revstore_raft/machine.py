"""Raft behind the contract of consensus plugins: ``revstore.interfaces.consensus``.

Rules of this file:

1. A batch that is handed out to be persisted has the next sequence number. What waits
   for it, messages to others and the member's answers to itself, waits beside it.
2. Requests for votes wait as well: they reveal the candidate's vote for itself (C-01).
3. A message that depends on batches handed out earlier, while there is nothing new to
   persist, is held back here and handed out once they are durable (C-02).
4. A commit index alone is not worth a write: it goes along with the next batch. After
   a restart at least what is applied counts as committed.
5. A read is confirmed together with all that were asked before it. It is dropped when
   leader or term change, for then its answer may never come; a follower asks again
   from time to time, since its question may be lost.
6. The snapshot that a lagging follower is sent stands at what is applied; the shell
   adds the data when the message leaves. If the data is newer than ``meta``, it
   puts the newer ``meta`` into the message.
7. A snapshot in ``persist`` replaces log and state machine; once it is reported
   durable it counts as applied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from revstore.errors import InvariantViolation, UsageError
from revstore.interfaces.consensus import (
    ConfChange,
    Consensus,
    ConsensusCapabilities,
    ConsensusStart,
    MemberProgress,
    Message,
    MessageType,
    Persist,
    ProposalDropped,
    ReadState,
    Ready,
    Role,
    Snapshot,
    Status,
)
from revstore.types import ConfState, Entry, EntryType, SnapshotMeta
from revstore_raft import changes, durability, reads, replication, step
from revstore_raft.confcodec import encode_change
from revstore_raft.config import RaftOptions
from revstore_raft.limits import READS_MAX, REMOTE_READS_MAX
from revstore_raft.membership import InvalidChangeError
from revstore_raft.output import Outlet, Output
from revstore_raft.rawnode import ANSWER_TYPES, LOCAL_TYPES
from revstore_raft.sizes import payload_size
from revstore_raft.start import make_raft
from revstore_raft.state import NONE

CAPABILITIES = ConsensusCapabilities(
    multi_member=True,
    learner=True,
    transfer_leader=True,
    pre_vote=True,
    joint=True,
    check_quorum=True,
    lease_read=True,
)

_NOT_FROM_PEERS = LOCAL_TYPES | {MessageType.FORGET_LEADER}

_Epoch = tuple[int, int, Role]
"""Term, leader and role: a read belongs to one."""


class _InFlight(msgspec.Struct):
    """A batch that is on its way to the disk, and what waits for it."""

    sequence: int
    own: list[Message]
    done: Message | None
    held: list[Message]


class RaftConsensus(Consensus):
    """One member; see the rules of the file."""

    capabilities = CAPABILITIES

    def __init__(
        self, start: ConsensusStart, options: RaftOptions | None = None
    ) -> None:
        """Make a follower of nobody.

        Raises:
            ConfigError: the options contradict one another.
            InvariantViolation: the log does not reach what is committed or applied.
        """
        config = (options or RaftOptions()).config(
            start.id, start.election_ticks, start.heartbeat_ticks
        )
        self._raft = make_raft(
            config,
            start.log,
            start.hard_state,
            start.conf_state,
            start.applied,
            start.random,
            self._marker,
        )
        self._outlet = Outlet(self._raft, allow_unstable=False)
        self._saved = start.hard_state
        """The hard state that storage has, or will have with what is in flight."""
        self._conf_state = start.conf_state
        """The membership at what is applied."""
        self._newest_conf_state = start.conf_state
        self._sequence = 0
        self._persisted = 0
        self._in_flight: deque[_InFlight] = deque()
        self._released: list[Message] = []
        self._to_apply: deque[tuple[int, int, int]] = deque()
        """(last index, encoded bytes, payload bytes) of what was handed out."""
        self._reads: dict[bytes, _Epoch] = {}
        """Reads of this member that are not confirmed, oldest first."""
        self._dropped: list[bytes] = []
        self._epoch = self._current_epoch()
        self._last_asked = 0

    # ---- input ----

    def tick(self) -> None:
        """See ``Consensus.tick``."""
        raft = self._raft
        step.tick(raft)
        if self._reads and raft.role is Role.FOLLOWER and raft.leader != NONE:
            due = self._last_asked + max(1, raft.config.election_ticks // 2)
            if raft.ticks >= due:
                self._ask(next(reversed(self._reads)))

    def step(self, message: Message) -> None:
        """See ``Consensus.step``."""
        kind = message.type
        raft = self._raft
        if kind in _NOT_FROM_PEERS or message.to != raft.id:
            return
        if kind in ANSWER_TYPES and raft.tracker.get(message.sender) is None:
            return
        if kind is MessageType.PROP and not message.entries:
            return
        step.step(raft, message)

    def propose(self, data: Sequence[bytes]) -> tuple[int, int] | None:
        """See ``Consensus.propose``."""
        if not data:
            raise UsageError("there is nothing to propose; give at least one entry")
        raft = self._raft
        if raft.role is not Role.LEADER:
            entries = tuple([Entry(0, 0, item) for item in data])
            step.step(raft, Message(MessageType.PROP, sender=raft.id, entries=entries))
            return None
        if raft.tracker.get(raft.id) is None or raft.transfer_target != NONE:
            raise ProposalDropped("leadership is being handed over")
        term, first = raft.term, raft.log.last_index + 1
        new = tuple(
            [Entry(term, index, item) for index, item in enumerate(data, first)]
        )
        if not replication.append_own(raft, new):
            raise ProposalDropped("too much is proposed and not applied yet")
        replication.broadcast_append(raft)
        return term, first

    def propose_conf_change(self, change: ConfChange) -> tuple[int, int] | None:
        """See ``Consensus.propose_conf_change``.

        Raises:
            UsageError: also if the change does not fit the membership.
        """
        raft = self._raft
        leads = raft.role is Role.LEADER
        if leads:
            changes.check(raft, change)
        kind, data = encode_change(change)
        place = (raft.term, raft.log.last_index + 1)
        entry = Entry(0, 0, data, kind)
        step.step(raft, Message(MessageType.PROP, sender=raft.id, entries=(entry,)))
        return place if leads else None

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """See ``Consensus.apply_conf_change``.

        Steps for member 0 change nothing; so a shell applies a change that it refuses.
        """
        try:
            self._newest_conf_state = changes.apply(self._raft, change)
        except InvalidChangeError as exc:
            raise InvariantViolation(f"{change} cannot be applied: {exc}") from exc
        return self._newest_conf_state

    def read_index(self, context: bytes) -> None:
        """See ``Consensus.read_index``."""
        raft = self._raft
        if raft.leader == NONE:
            raise ProposalDropped("no leader is known")
        if raft.role is Role.LEADER and raft.reads.size() >= REMOTE_READS_MAX:
            raise ProposalDropped("too many reads wait for confirmation")
        self._reads.pop(context, None)
        if len(self._reads) >= READS_MAX:
            oldest = next(iter(self._reads))
            del self._reads[oldest]
            self._dropped.append(oldest)
        self._reads[context] = self._current_epoch()
        self._ask(context)

    def read_index_now(self) -> int | None:
        """See ``Consensus.read_index_now``."""
        return reads.index_now(self._raft)

    def transfer_leader(self, target: int) -> None:
        """See ``Consensus.transfer_leader``."""
        if target not in self._raft.tracker.membership.voters():
            raise UsageError(f"member {target:x} is no voter and cannot lead")
        step.step(self._raft, Message(MessageType.TRANSFER_LEADER, sender=target))

    def campaign(self) -> None:
        """See ``Consensus.campaign``; ignored while a promise to a leader holds."""
        if not reads.keeps_silent(self._raft):
            step.step(self._raft, Message(MessageType.HUP))

    def forget_leader(self) -> None:
        """Follow nobody until a leader is heard again; ignored with lease reads."""
        step.step(self._raft, Message(MessageType.FORGET_LEADER))

    def report_unreachable(self, member: int) -> None:
        """See ``Consensus.report_unreachable``."""
        step.step(self._raft, Message(MessageType.UNREACHABLE, sender=member))

    def report_snapshot(self, member: int, ok: bool) -> None:
        """See ``Consensus.report_snapshot``."""
        kind = MessageType.SNAP_STATUS
        step.step(self._raft, Message(kind, sender=member, reject=not ok))

    # ---- output ----

    def has_ready(self) -> bool:
        """See ``Consensus.has_ready``."""
        return bool(
            self._released
            or self._dropped
            or self._outlet.pending()
            or (self._reads and self._epoch != self._current_epoch())
        )

    def ready(self) -> Ready:
        """See ``Consensus.ready``."""
        output = self._outlet.take()
        read_states: tuple[ReadState, ...] = ()
        dropped: tuple[bytes, ...] = ()
        if (
            output.read_states
            or self._dropped
            or output.soft_state is not None
            or self._epoch[0] != self._raft.term
        ):
            read_states, dropped = self._take_reads(output.read_states)
        if output.committed:
            self._to_apply.append(
                (
                    output.committed[-1].index,
                    output.committed_bytes,
                    payload_size(output.committed),
                )
            )
        messages = output.messages
        after: list[Message] = []
        if output.hard_state is not None and messages:
            # Only a new term makes a campaign, so this is looked for rarely.
            after = [m for m in messages if m.type is MessageType.VOTE]
            if after:
                messages = [m for m in messages if m.type is not MessageType.VOTE]
        released, self._released = self._released, []
        persist, waiting = self._take_persist(output, after)
        soft = output.soft_state
        return Ready(
            persist,
            tuple(released + messages) if released else tuple(messages),
            waiting,
            output.committed,
            read_states,
            dropped,
            None if soft is None else soft.role,
            None if soft is None else soft.leader,
        )

    def _take_persist(
        self, output: Output, after: list[Message]
    ) -> tuple[Persist | None, tuple[Message, ...]]:
        """The batch to persist, and the messages that wait for it (rules 1 to 4)."""
        changes_storage = output.must_sync or output.snapshot is not None
        if not changes_storage and not output.after_append and not after:
            return None, ()
        id = self._raft.id
        own: list[Message] = []
        for message in output.after_append:
            (own if message.to == id else after).append(message)
        if changes_storage:
            self._sequence += 1
            state = self._outlet.hard_state
            changed = None if state == self._saved else state
            self._saved = state
            self._in_flight.append(
                _InFlight(self._sequence, own, output.append_done, [])
            )
            persist = Persist(self._sequence, changed, output.entries, output.snapshot)
            return persist, tuple(after)
        if not self._in_flight:
            # Everything that these messages reveal is durable.
            if own:
                self._step_all(own)
            return None, tuple(after)
        newest = self._in_flight[-1]
        newest.own += own
        newest.held += after
        return None, ()

    def persisted(self, sequence: int) -> None:
        """See ``Consensus.persisted``."""
        if not self._persisted <= sequence <= self._sequence:
            raise InvariantViolation(
                f"persisted({sequence}) after {self._persisted} of {self._sequence}"
            )
        self._persisted = sequence
        in_flight = self._in_flight
        while in_flight and in_flight[0].sequence <= sequence:
            batch = in_flight.popleft()
            self._released += batch.held
            self._step_all(batch.own)
            if batch.done is not None:
                self._finish(batch.done)

    def _finish(self, done: Message) -> None:
        step.step(self._raft, done)
        if done.snapshot is not None:
            # What was handed out before is part of the snapshot.
            log = self._raft.log
            log.applied_to(log.applied, sum(size for _, size, _ in self._to_apply))
            self._to_apply.clear()
            self._conf_state = done.snapshot.meta.conf_state
            self._newest_conf_state = self._conf_state

    def _step_all(self, messages: list[Message]) -> None:
        for message in messages:
            step.step(self._raft, message)

    def applied(self, index: int) -> None:
        """See ``Consensus.applied``."""
        raft = self._raft
        if not raft.log.applied <= index <= raft.log.applying:
            raise InvariantViolation(
                f"applied({index}) after {raft.log.applied}, handed out are entries up "
                f"to {raft.log.applying}"
            )
        self._conf_state = self._newest_conf_state
        size = payload = 0
        while self._to_apply and self._to_apply[0][0] <= index:
            _, batch_size, batch_payload = self._to_apply.popleft()
            size += batch_size
            payload += batch_payload
        durability.applied_to(raft, index, size)
        durability.release_uncommitted(raft, payload)

    def status(self) -> Status:
        """See ``Consensus.status``."""
        raft = self._raft
        rows: tuple[MemberProgress, ...] = ()
        if raft.role is Role.LEADER:
            rows = tuple(
                MemberProgress(
                    member,
                    row.match,
                    row.next,
                    row.state.value,
                    row.learner,
                    row.recent_active,
                )
                for member, row in raft.tracker.members
            )
        return Status(
            raft.id,
            raft.role,
            raft.leader,
            raft.term,
            raft.vote,
            raft.log.committed,
            raft.log.applied,
            raft.log.last_index,
            raft.tracker.membership.conf_state(),
            raft.transfer_target,
            rows,
        )

    # ---- helpers ----

    def _current_epoch(self) -> _Epoch:
        raft = self._raft
        return raft.term, raft.leader, raft.role

    def _ask(self, context: bytes) -> None:
        self._last_asked = self._raft.ticks
        entry = Entry(0, 0, context, EntryType.NORMAL)
        step.step(self._raft, Message(MessageType.READ_INDEX, entries=(entry,)))

    def _take_reads(
        self, confirmed: list[ReadState]
    ) -> tuple[tuple[ReadState, ...], tuple[bytes, ...]]:
        """Reads to serve and reads to fail (rule 5)."""
        waiting = self._reads
        states: list[ReadState] = []
        for state in confirmed:
            if state.context not in waiting:
                continue
            while waiting:
                oldest = next(iter(waiting))
                del waiting[oldest]
                states.append(ReadState(state.index, oldest))
                if oldest == state.context:
                    break
        epoch = self._current_epoch()
        if epoch != self._epoch:
            self._epoch = epoch
            late = [context for context, asked in waiting.items() if asked != epoch]
            for context in late:
                del waiting[context]
            self._dropped += late
        dropped, self._dropped = tuple(self._dropped), []
        return tuple(states), dropped

    def _marker(self) -> Snapshot | None:
        """Where a snapshot made now stands (rule 6)."""
        index = self._raft.log.applied
        term = self._raft.log.term(index)
        if term is None or index == 0:
            return None
        return Snapshot(SnapshotMeta(index, term, self._conf_state))
