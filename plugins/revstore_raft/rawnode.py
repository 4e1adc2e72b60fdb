"""A member in the shape of etcd's library: one Ready with one list of messages.

Scenario transcripts and the tests of the core use it; a server uses ``machine.py``.

Rules of this file:

1. Synchronously, a Ready is: write, apply, send, then ``advance``; messages that wait
   for the disk are the last of its messages.
2. With asynchronous storage writes the work for storage and state machine are messages
   too, to ``LOCAL_APPEND`` and ``LOCAL_APPLY``, and their ``responses`` are to be
   delivered when the work is done, in order. ``advance`` is not used.
3. Messages of storage are taken from storage only, and answers only from members.
"""

from __future__ import annotations

import msgspec

from revstore.errors import InvariantViolation, RevstoreError
from revstore.interfaces.consensus import (
    ConfChange,
    Message,
    MessageType,
    ReadState,
    Snapshot,
)
from revstore.types import ConfState, Entry, EntryType, HardState
from revstore_raft import changes, step
from revstore_raft.output import Outlet, Output
from revstore_raft.state import LOCAL_APPEND, LOCAL_APPLY, Raft, SoftState

LOCAL_TYPES = frozenset(
    {
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAP_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY,
        MessageType.STORAGE_APPLY_RESP,
    }
)
"""Never taken from the network."""

ANSWER_TYPES = frozenset(
    {
        MessageType.APP_RESP,
        MessageType.VOTE_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.UNREACHABLE,
        MessageType.READ_INDEX_RESP,
        MessageType.PRE_VOTE_RESP,
        MessageType.STORAGE_APPEND_RESP,
        MessageType.STORAGE_APPLY_RESP,
    }
)
"""Taken from members only."""

LOCAL_TARGETS = frozenset({LOCAL_APPEND, LOCAL_APPLY})


class StepRefused(RevstoreError):  # noqa: N818 - it is what happened
    """The message may not come from where it came from."""


class RawReady(msgspec.Struct, frozen=True):
    """What to do now."""

    soft_state: SoftState | None
    hard_state: HardState | None
    read_states: tuple[ReadState, ...]
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None
    committed: tuple[Entry, ...]
    messages: tuple[Message, ...]
    must_sync: bool


class RawNode:
    """One member; see the rules of the file."""

    __slots__ = ("_outlet", "_steps", "asynchronous", "raft")

    def __init__(self, raft: Raft, *, asynchronous: bool = False) -> None:
        self.raft = raft
        self.asynchronous = asynchronous
        self._outlet = Outlet(raft, allow_unstable=not asynchronous)
        self._steps: list[Message] = []

    # ---- input ----

    def tick(self) -> None:
        """One unit of time has passed."""
        step.tick(self.raft)

    def step(self, message: Message) -> None:
        """Take a message.

        Raises:
            StepRefused: rule 3.
            ProposalDropped: it is a proposal that cannot be taken.
        """
        from_storage = message.sender in LOCAL_TARGETS
        if message.type in LOCAL_TYPES and not from_storage:
            raise StepRefused("raft: cannot step raft local message")
        answer = message.type in ANSWER_TYPES and not from_storage
        if answer and self.raft.tracker.get(message.sender) is None:
            raise StepRefused("raft: cannot step as peer not found")
        step.step(self.raft, message)

    def campaign(self) -> None:
        """Start an election."""
        step.step(self.raft, Message(MessageType.HUP))

    def propose(self, data: bytes) -> None:
        """Propose one entry. Raises: ProposalDropped."""
        self._propose(Entry(0, 0, data))

    def propose_change(self, kind: EntryType, data: bytes) -> None:
        """Propose a membership change in its encoded form. Raises: ProposalDropped."""
        self._propose(Entry(0, 0, data, kind))

    def _propose(self, entry: Entry) -> None:
        message = Message(MessageType.PROP, sender=self.raft.id, entries=(entry,))
        step.step(self.raft, message)

    def apply_change(self, change: ConfChange) -> ConfState:
        """A committed change takes effect. Raises: InvalidChangeError."""
        return changes.apply(self.raft, change)

    def transfer_leader(self, target: int) -> None:
        """Ask that ``target`` become leader."""
        step.step(self.raft, Message(MessageType.TRANSFER_LEADER, sender=target))

    def forget_leader(self) -> None:
        """Become a follower of nobody, in the same term."""
        step.step(self.raft, Message(MessageType.FORGET_LEADER))

    def report_unreachable(self, member: int) -> None:
        """The last message to ``member`` was not delivered."""
        step.step(self.raft, Message(MessageType.UNREACHABLE, sender=member))

    def report_snapshot(self, member: int, ok: bool) -> None:
        """A snapshot was delivered, or was not."""
        step.step(
            self.raft, Message(MessageType.SNAP_STATUS, sender=member, reject=not ok)
        )

    def read_index(self, context: bytes) -> None:
        """Ask for a confirmed read."""
        entry = Entry(0, 0, context)
        step.step(self.raft, Message(MessageType.READ_INDEX, entries=(entry,)))

    # ---- output ----

    def has_ready(self) -> bool:
        """Whether ``ready`` would give anything to do."""
        return self._outlet.pending()

    def ready(self) -> RawReady:
        """What to do now; it is on its way from here on.

        Raises:
            InvariantViolation: the last one was not advanced (synchronously).
        """
        if self._steps:
            raise InvariantViolation("two Readys without an advance between them")
        output = self._outlet.take()
        messages = list(output.messages)
        if self.asynchronous:
            messages += self._storage_messages(output)
        else:
            own = self.raft.id
            messages += [m for m in output.after_append if m.to != own]
            self._steps = [m for m in output.after_append if m.to == own]
            if output.append_done is not None:
                self._steps.append(output.append_done)
            if output.committed:
                self._steps.append(self._apply_done(output.committed))
        return RawReady(
            output.soft_state,
            output.hard_state,
            tuple(output.read_states),
            output.entries,
            output.snapshot,
            output.committed,
            tuple(messages),
            output.must_sync,
        )

    def advance(self) -> None:
        """The last Ready is done. Raises: InvariantViolation if asynchronous."""
        if self.asynchronous:
            raise InvariantViolation("advance is not for asynchronous storage writes")
        steps, self._steps = self._steps, []
        for message in steps:
            step.step(self.raft, message)

    def _storage_messages(self, output: Output) -> list[Message]:
        messages: list[Message] = []
        hard_state = output.hard_state
        if hard_state or output.entries or output.snapshot or output.after_append:
            responses = list(output.after_append)
            if output.append_done is not None:
                responses.append(output.append_done)
            state = hard_state or HardState()
            messages.append(
                Message(
                    MessageType.STORAGE_APPEND,
                    to=LOCAL_APPEND,
                    sender=self.raft.id,
                    term=state.term,
                    vote=state.vote,
                    commit=state.commit,
                    entries=output.entries,
                    snapshot=output.snapshot,
                    responses=tuple(responses),
                )
            )
        if output.committed:
            messages.append(
                Message(
                    MessageType.STORAGE_APPLY,
                    to=LOCAL_APPLY,
                    sender=self.raft.id,
                    entries=output.committed,
                    responses=(self._apply_done(output.committed),),
                )
            )
        return messages

    def _apply_done(self, committed: tuple[Entry, ...]) -> Message:
        return Message(
            MessageType.STORAGE_APPLY_RESP,
            to=self.raft.id,
            sender=LOCAL_APPLY,
            entries=committed,
        )
