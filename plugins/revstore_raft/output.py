"""What comes out: everything there is to do, taken at one moment.

Rules of this file:

1. What was taken is not given again: entries and a snapshot are on their way to
   storage, committed entries on their way to the state machine.
2. ``must_sync`` is False only if nothing but the commit index changed, which a crash
   may lose.
3. ``append_done`` is what to step when the batch is durable; it names the last entry of
   the log if any entry waits for storage, in this batch or an earlier one.
"""

from __future__ import annotations

import msgspec

from revstore.errors import InvariantViolation
from revstore.interfaces.consensus import Message, MessageType, ReadState, Snapshot
from revstore.types import Entry, HardState
from revstore_raft.limits import NO_LIMIT
from revstore_raft.sizes import entries_size
from revstore_raft.state import LOCAL_APPEND, Raft, SoftState


class Output(msgspec.Struct, frozen=True):
    """One batch of work."""

    soft_state: SoftState | None
    """Set if it changed."""
    hard_state: HardState | None
    """Set if it changed."""
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None
    committed: tuple[Entry, ...]
    committed_bytes: int
    messages: list[Message]
    """May leave at once."""
    after_append: list[Message]
    """May leave when this batch is durable; those to the member itself included."""
    append_done: Message | None
    read_states: list[ReadState]
    must_sync: bool


class Outlet:
    """Takes output from a member, remembering what was taken before."""

    __slots__ = ("_allow_unstable", "_raft", "_soft_state", "hard_state")

    def __init__(self, raft: Raft, allow_unstable: bool) -> None:
        self._raft = raft
        self._allow_unstable = allow_unstable
        self._soft_state = raft.soft_state()
        self.hard_state = raft.hard_state()
        """As it was taken last."""

    def pending(self) -> bool:
        """Whether there is anything to take."""
        raft = self._raft
        log = raft.log
        unstable = log.unstable
        soft, hard = self._soft_state, self.hard_state
        return bool(
            raft.messages
            or raft.after_append
            or raft.read_states
            or unstable.in_progress <= log.last_index
            or (unstable.snapshot is not None and not unstable.snapshot_in_progress)
            or (
                log.applying < log.committed
                and log.has_next_committed(self._allow_unstable)
            )
            or soft.leader != raft.leader
            or soft.role is not raft.role
            or hard.commit != log.committed
            or hard.term != raft.term
            or hard.vote != raft.vote
        )

    def take(self) -> Output:
        """Take everything."""
        raft = self._raft
        log = raft.log
        unstable = log.unstable
        old = self.hard_state
        promised = old.term != raft.term or old.vote != raft.vote
        soft = hard = done = snapshot = None
        if self._soft_state.leader != raft.leader or (
            self._soft_state.role is not raft.role
        ):
            soft = self._soft_state = raft.soft_state()
        if promised or old.commit != log.committed:
            hard = self.hard_state = raft.hard_state()
            _must_not_regress(old, hard)
        entries: tuple[Entry, ...] = ()
        if unstable.entries or unstable.snapshot is not None:
            entries = unstable.next_entries()
            snapshot = unstable.next_snapshot()
            done = self._append_done(snapshot)
            unstable.accept()
        committed = log.next_committed(self._allow_unstable)
        bounded = committed and log.applying_bytes_max < NO_LIMIT
        output = Output(
            soft,
            hard,
            entries,
            snapshot,
            committed,
            entries_size(committed) if bounded else 0,
            raft.messages,
            raft.after_append,
            done,
            raft.read_states,
            promised or bool(entries),
        )
        raft.messages = []
        raft.after_append = []
        if output.read_states:
            raft.read_states = []
        if committed:
            log.accept_applying(
                committed[-1].index, output.committed_bytes, self._allow_unstable
            )
        return output

    def _append_done(self, snapshot: Snapshot | None) -> Message | None:
        raft = self._raft
        entries = raft.log.unstable.entries
        if not entries and snapshot is None:
            return None
        return Message(
            MessageType.STORAGE_APPEND_RESP,
            to=raft.id,
            sender=LOCAL_APPEND,
            term=raft.term,
            log_term=entries[-1].term if entries else 0,
            index=raft.log.last_index if entries else 0,
            snapshot=snapshot,
        )


def _must_not_regress(old: HardState, new: HardState) -> None:
    if new.term < old.term or new.commit < old.commit:
        raise InvariantViolation(f"{new} after {old}")
    if new.term == old.term and old.vote not in (0, new.vote):
        raise InvariantViolation(f"a second vote in term {new.term}: {old}, {new}")
