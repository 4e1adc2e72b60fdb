"""Members on stub storage, and the messages between them.

Nothing happens by itself: each command of a transcript moves it one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random

import msgspec

from revstore.errors import RevstoreError
from revstore.interfaces.consensus import (
    Message,
    MessageType,
    ProposalDropped,
    Snapshot,
)
from revstore.types import Entry, EntryType, HardState, SnapshotMeta
from revstore_conformance.scenarios import describe
from revstore_conformance.scenarios.storage import History, StubStorage
from revstore_raft.confcodec import decode_change
from revstore_raft.config import RaftConfig
from revstore_raft.rawnode import LOCAL_TARGETS, RawNode, StepRefused
from revstore_raft.start import make_raft

ROUNDS_MAX = 10_000
"""A cluster that is busy for longer never comes to rest."""


class Refused(RevstoreError):  # noqa: N818 - it is what happened
    """A command was refused; the text is part of the transcript."""


class Output:
    """Collects text; silent at log level "none"."""

    def __init__(self) -> None:
        self.quiet = False
        self._parts: list[str] = []

    def write(self, text: str) -> None:
        """Add text."""
        if not self.quiet:
            self._parts.append(text)

    def indented(self, action: Callable[[], None]) -> None:
        """Run ``action`` with each line that it writes set in by two."""
        outer, self._parts = self._parts, []
        try:
            action()
        finally:
            inner, self._parts = "".join(self._parts), outer
            self._parts += [f"  {line}\n" for line in inner.splitlines()]

    def take(self) -> str:
        """Everything written so far."""
        text, self._parts = "".join(self._parts), []
        return text


class Member:
    """A machine, its storage, its state machine and its two threads."""

    def __init__(
        self, config: RaftConfig, first: Snapshot, *, asynchronous: bool
    ) -> None:
        self.id = config.id
        self.config = config
        self.storage = StubStorage()
        self.history = History(first)
        self.append_work: deque[Message] = deque()
        self.apply_work: deque[Message] = deque()
        if first.meta.index:
            self.storage.apply_snapshot(first.meta)
        self.node = RawNode(
            make_raft(
                config,
                self.storage,
                HardState(),
                first.meta.conf_state,
                first.meta.index,
                Random(config.id),
                self.history.newest,
            ),
            asynchronous=asynchronous,
        )

    def append(
        self,
        state: HardState | None,
        entries: Sequence[Entry],
        snapshot: Snapshot | None,
    ) -> None:
        """Write to storage."""
        if state is not None and state != HardState():
            self.storage.hard_state = state
        if snapshot is None:
            self.storage.append(entries)
            return
        if entries:
            raise Refused("can't apply snapshot and entries at the same time")
        self.storage.apply_snapshot(snapshot.meta)
        self.history.add(snapshot)

    def apply(self, entries: Iterable[Entry]) -> None:
        """Apply to the state machine, which keeps what it got."""
        for entry in entries:
            newest = self.history.newest()
            conf_state, data = newest.meta.conf_state, entry.data
            if entry.type is not EntryType.NORMAL:
                change = decode_change(entry.type, entry.data)
                conf_state, data = self.node.apply_change(change), change.context
            meta = SnapshotMeta(entry.index, entry.term, conf_state)
            self.history.add(Snapshot(meta, newest.data + data))


class Recipient(msgspec.Struct, frozen=True):
    """Whose messages to deliver, or to drop."""

    id: int
    drop: bool = False


class Cluster:
    """All members by id, from 1 on, and what is on the way."""

    def __init__(self) -> None:
        self.output = Output()
        self.members: list[Member] = []
        self.messages: list[Message] = []

    def member(self, id: int) -> Member:
        """A member.

        Raises:
            Refused: there is none with this id.
        """
        if not 1 <= id <= len(self.members):
            raise Refused(f"there is no member {id}")
        return self.members[id - 1]

    def process_ready(self, id: int) -> None:
        """Do what one Ready says."""
        member = self.member(id)
        ready = member.node.ready()
        self.output.write(describe.ready_text(ready))
        synchronous = not member.node.asynchronous
        if synchronous:
            member.append(ready.hard_state, ready.entries, ready.snapshot)
            member.apply(ready.committed)
        for message in ready.messages:
            if message.to not in LOCAL_TARGETS:
                self.messages.append(message)
            elif message.type is MessageType.STORAGE_APPEND:
                member.append_work.append(message)
            else:
                member.apply_work.append(message)
        if synchronous:
            member.node.advance()

    def process_append_thread(self, id: int) -> None:
        """Do one piece of work of the thread that writes."""
        member = self.member(id)
        if not member.append_work:
            self.output.write("no append work to perform")
            return
        work = member.append_work.popleft()
        self._show_work(work)
        state = HardState(work.term, work.vote, work.commit)
        member.append(state, work.entries, work.snapshot)
        self._show_responses(work)

    def process_apply_thread(self, id: int) -> None:
        """Do one piece of work of the thread that applies."""
        member = self.member(id)
        if not member.apply_work:
            self.output.write("no apply work to perform")
            return
        work = member.apply_work.popleft()
        self._show_work(work)
        member.apply(work.entries)
        self._show_responses(work)

    def _show_work(self, work: Message) -> None:
        bare = msgspec.structs.replace(work, responses=())
        self.output.write(f"Processing:\n{describe.message_text(bare)}\n")

    def _show_responses(self, work: Message) -> None:
        self.output.write("Responses:\n")
        for response in work.responses:
            self.output.write(f"{describe.message_text(response)}\n")
        self.messages += work.responses

    def waiting(
        self, recipient: Recipient, kind: MessageType | None
    ) -> tuple[list[Message], list[Message]]:
        """Messages for a recipient, and the others; what is local is never dropped."""
        chosen: list[Message] = []
        others: list[Message] = []
        for message in self.messages:
            local = message.sender == message.to or message.sender in LOCAL_TARGETS
            take = (
                message.to == recipient.id
                and not (recipient.drop and local)
                and kind in (None, message.type)
            )
            (chosen if take else others).append(message)
        return chosen, others

    def deliver(
        self, recipients: Iterable[Recipient], kind: MessageType | None = None
    ) -> int:
        """Deliver or drop messages; how many."""
        count = 0
        for recipient in recipients:
            chosen, self.messages = self.waiting(recipient, kind)
            count += len(chosen)
            for message in chosen:
                text = describe.message_text(message)
                if recipient.drop:
                    self.output.write(f"dropped: {text}\n")
                    continue
                self.output.write(f"{text}\n")
                try:
                    self.member(message.to).node.step(message)
                except (ProposalDropped, StepRefused) as exc:
                    self.output.write(f"{exc}\n")
        return count

    def stabilize(self, ids: Sequence[int]) -> None:
        """Let members work until none has anything to do.

        Raises:
            Refused: they never stop.
        """
        for _ in range(ROUNDS_MAX):
            if not self._stabilize_once(ids):
                return
        raise Refused(f"still busy after {ROUNDS_MAX} rounds")

    def _stabilize_once(self, ids: Sequence[int]) -> bool:
        write, indented = self.output.write, self.output.indented
        busy = False
        for id in ids:
            if self.member(id).node.has_ready():
                write(f"> {id} handling Ready\n")
                indented(partial(self.process_ready, id))
                busy = True
        for id in ids:
            recipient = Recipient(id)
            if self.waiting(recipient, None)[0]:
                write(f"> {id} receiving messages\n")
                indented(partial(self._deliver_one, recipient))
                busy = True
        for id in ids:
            member = self.member(id)
            if member.append_work:
                write(f"> {id} processing append thread\n")
                while member.append_work:
                    indented(partial(self.process_append_thread, id))
                busy = True
        for id in ids:
            member = self.member(id)
            if member.apply_work:
                write(f"> {id} processing apply thread\n")
                while member.apply_work:
                    indented(partial(self.process_apply_thread, id))
                busy = True
        return busy

    def _deliver_one(self, recipient: Recipient) -> None:
        self.deliver([recipient])
