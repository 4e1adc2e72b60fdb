"""Members of a consensus plugin in one process, on disks that can lose what is unsynced.

Rules of this file:

1. Nothing happens by itself: a driver says which member ticks, works, syncs, crashes,
   and which message is delivered, lost or doubled. So a run follows from its seed.
2. A member's shell does what the contract says and no more: messages that wait for a
   batch leave when the batch is durable.
3. Everybody's state is a chain of digests over what was applied. ``History`` knows the
   digest at each index; a member that has another one at that index has gone astray.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from hashlib import blake2b
from random import Random

import msgspec

from revstore.apply.cluster import decode_conf_change
from revstore.errors import UsageError
from revstore.hookspecs import ConsensusPlugin
from revstore.interfaces.consensus import (
    ConfChange,
    Consensus,
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

NOBODY = ConfState()


class Violation(AssertionError):  # noqa: N818 - it is what happened
    """A member did what no member may do."""


class Image(msgspec.Struct):
    """What is on a disk: hard state, and entries behind a base."""

    hard_state: HardState = HardState()
    base: SnapshotMeta = SnapshotMeta()
    entries: list[Entry] = []

    def write(self, persist: Persist) -> None:
        """Put a batch onto it."""
        if persist.hard_state is not None:
            self.hard_state = persist.hard_state
        if persist.snapshot is not None:
            self.base = persist.snapshot.meta
            self.entries = []
        if persist.entries:
            position = persist.entries[0].index - self.base.index - 1
            if not 0 <= position <= len(self.entries):
                raise Violation(f"entry {persist.entries[0].index} leaves a hole")
            self.entries[position:] = persist.entries

    def copy(self) -> Image:
        """An image that changes on its own."""
        return Image(self.hard_state, self.base, list(self.entries))

    def term(self, index: int) -> int | None:
        """Term at an index, None if it is not there."""
        if index == self.base.index:
            return self.base.term
        position = index - self.base.index - 1
        inside = 0 <= position < len(self.entries)
        return self.entries[position].term if inside else None

    def last_index(self) -> int:
        """Index of the last entry."""
        return self.base.index + len(self.entries)


class Disk:
    """A log whose unsynced batches a crash loses; satisfies ``LogReader``."""

    def __init__(self) -> None:
        self.seen = Image()
        """What reads see."""
        self.durable = Image()
        """What a crash leaves."""
        self._unsynced: deque[Persist] = deque()

    def first_index(self) -> int:
        """See ``LogReader``."""
        return self.seen.base.index + 1

    def last_index(self) -> int:
        """See ``LogReader``."""
        return self.seen.last_index()

    def term(self, index: int) -> int | None:
        """See ``LogReader``."""
        return self.seen.term(index)

    def read(self, lo: int, hi: int, bytes_max: int = 0) -> list[Entry]:
        """See ``LogReader``."""
        if not self.first_index() <= lo <= hi <= self.last_index() + 1:
            raise UsageError(f"[{lo}, {hi}) is not within the log")
        first = self.first_index()
        return self.seen.entries[lo - first : hi - first]

    def write(self, persist: Persist) -> None:
        """Write a batch; it is not durable."""
        self.seen.write(persist)
        self._unsynced.append(persist)

    def sync_one(self) -> int | None:
        """Make the oldest batch durable; its sequence."""
        if not self._unsynced:
            return None
        persist = self._unsynced.popleft()
        self.durable.write(persist)
        return persist.sequence

    def crash(self) -> None:
        """Lose what is not durable."""
        self._unsynced.clear()
        self.seen = self.durable.copy()

    def restart_behind(self, meta: SnapshotMeta) -> None:
        """Drop all entries; the log goes on behind ``meta``."""
        for image in (self.seen, self.durable):
            image.base, image.entries = meta, []

    def compact(self, meta: SnapshotMeta) -> None:
        """Forget entries up to ``meta``, which is applied and durable elsewhere."""
        for image in (self.seen, self.durable):
            count = meta.index - image.base.index
            if count > 0:
                image.entries = image.entries[count:]
                image.base = meta


class State(msgspec.Struct, frozen=True):
    """A state machine's state."""

    index: int = 0
    term: int = 0
    digest: bytes = b""
    conf_state: ConfState = ConfState()

    def meta(self) -> SnapshotMeta:
        """Where a snapshot of this state stands."""
        return SnapshotMeta(self.index, self.term, self.conf_state)

    def then(self, entry: Entry, conf_state: ConfState) -> State:
        """The state behind one more entry."""
        text = b"%d %d %d %s" % (entry.index, entry.term, entry.type, entry.data)
        digest = blake2b(self.digest + text, digest_size=16).digest()
        return State(entry.index, entry.term, digest, conf_state)


class History:
    """What was ever applied anywhere, and who ever led."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {}
        self.leaders: dict[int, int] = {}
        self.committed = 0

    def note_applied(self, member: int, state: State) -> None:
        """State-machine safety: all members agree (paper, figure 3)."""
        known = self.states.setdefault(state.index, state)
        self.committed = max(self.committed, state.index)
        if known.digest != state.digest:
            raise Violation(f"member {member} applied another entry {state.index}")

    def note_leader(self, member: int, term: int, image: Image) -> None:
        """Election safety and leader completeness (paper, figure 3)."""
        if self.leaders.setdefault(term, member) != member:
            raise Violation(f"{member} and {self.leaders[term]} lead term {term}")
        newest = self.states.get(self.committed)
        if newest is None or newest.term >= term:
            return
        if image.base.index < newest.index and image.term(newest.index) != newest.term:
            raise Violation(f"leader {member} lacks entry {newest.index}")


class Member:
    """A machine, its disk, its state machine and its shell."""

    def __init__(
        self,
        id: int,
        plugin: ConsensusPlugin,
        history: History,
        seed: int,
        options: msgspec.Struct | None = None,
        election_ticks: int = 10,
    ) -> None:
        self.id = id
        self.history = history
        self.disk = Disk()
        self.state = State()
        self.flushed = State()
        """The state that a crash leaves; never ahead of what is applied."""
        self.outbox: list[Message] = []
        self.reads: dict[bytes, int] = {}
        """Open reads and what was committed when they were asked."""
        self.reads_served = 0
        self.reads_dropped = 0
        self._plugin = plugin
        self._options = options if options is not None else plugin.options()
        self._seed = seed
        self._election_ticks = election_ticks
        self._starts = 0
        self._waiting: deque[tuple[int, tuple[Message, ...]]] = deque()
        self.role = Role.FOLLOWER
        self.machine: Consensus
        self.up = False

    def start(self, conf_state: ConfState | None = None) -> None:
        """Make the machine from what is on disk."""
        if conf_state is not None and conf_state != NOBODY:
            # The first membership stands in a snapshot, so that who joins later gets
            # it with one.
            self.flushed = State(1, 1, b"", conf_state)
            image = Image(HardState(1, 0, 1), SnapshotMeta(1, 1, conf_state))
            self.disk.seen, self.disk.durable = image, image.copy()
        self._starts += 1
        self.state = self.flushed
        if self.state.index > self.disk.seen.last_index():
            # A crash between installing a snapshot and noting it in the log.
            self.disk.restart_behind(self.state.meta())
        self.role = Role.FOLLOWER
        self.machine = self._plugin.factory(
            ConsensusStart(
                id=self.id,
                hard_state=self.disk.durable.hard_state,
                conf_state=self.state.conf_state,
                applied=self.state.index,
                log=self.disk,
                random=Random(f"{self._seed}/{self.id}/{self._starts}"),
                election_ticks=self._election_ticks,
            ),
            self._options,
        )
        self.up = True

    def crash(self) -> None:
        """Lose memory, and what is not durable."""
        self.up = False
        self.disk.crash()
        self._waiting.clear()
        self.outbox.clear()
        self.reads.clear()

    def flush(self) -> None:
        """Make the state durable."""
        self.flushed = self.state

    def compact(self) -> None:
        """Forget the log up to the durable state."""
        state = self.flushed
        if state.index > self.disk.seen.base.index:
            self.disk.compact(state.meta())

    def ask_read(self, context: bytes) -> bool:
        """Ask for a read; whether a leader is known."""
        try:
            self.machine.read_index(context)
        except ProposalDropped:
            return False
        self.reads[context] = self.history.committed
        return True

    def step(self, message: Message) -> None:
        """Take a message; a refused proposal is no error here."""
        try:
            self.machine.step(message)
        except ProposalDropped:
            pass

    def work(self) -> Ready | None:
        """Do what one Ready says; None if there is nothing."""
        if not self.machine.has_ready():
            return None
        ready = self.machine.ready()
        if ready.persist is not None:
            self._write(ready.persist)
            self._waiting.append((ready.persist.sequence, ready.messages_after_persist))
        else:
            self.outbox += self._filled(ready.messages_after_persist)
        self.outbox += self._filled(ready.messages)
        if ready.role is not None:
            self.role = ready.role
            if ready.role is Role.LEADER:
                term = self.machine.status().term
                self.history.note_leader(self.id, term, self.disk.seen)
        for entry in ready.committed:
            self._apply(entry)
        if ready.committed:
            self.machine.applied(self.state.index)
        self._note_reads(ready)
        return ready

    def sync(self) -> bool:
        """Make one batch durable; whether there was one."""
        sequence = self.disk.sync_one()
        if sequence is None:
            return False
        self.machine.persisted(sequence)
        while self._waiting and self._waiting[0][0] <= sequence:
            self.outbox += self._filled(self._waiting.popleft()[1])
        return True

    def settle(self) -> None:
        """Work and sync until there is nothing left."""
        while self.work() is not None or self.sync():
            pass

    def _write(self, persist: Persist) -> None:
        state, before = persist.hard_state, self.disk.seen.hard_state
        if state is not None and state.term < before.term:
            raise Violation(f"member {self.id} went back from {before} to {state}")
        same_term = state is not None and state.term == before.term
        if state is not None and same_term and before.vote not in (0, state.vote):
            raise Violation(f"member {self.id} voted twice in term {state.term}")
        self.disk.write(persist)
        if persist.snapshot is not None:
            # The state machine is replaced with the log, and durable before it.
            self.state = msgspec.msgpack.decode(persist.snapshot.data, type=State)
            self.flushed = self.state
            self.history.note_applied(self.id, self.state)

    def _apply(self, entry: Entry) -> None:
        if entry.index != self.state.index + 1:
            raise Violation(f"{entry.index} handed out after {self.state.index}")
        if self.disk.durable.last_index() < entry.index:
            raise Violation(f"{entry.index} is handed out before it is durable here")
        conf_state = self.state.conf_state
        if entry.type is not EntryType.NORMAL:
            conf_state = self.machine.apply_conf_change(decode_conf_change(entry))
        self.state = self.state.then(entry, conf_state)
        self.history.note_applied(self.id, self.state)

    def _note_reads(self, ready: Ready) -> None:
        for read in ready.read_states:
            committed = self.reads.pop(read.context, None)
            if committed is not None and read.index < committed:
                raise Violation(
                    f"member {self.id} read at {read.index}; {committed} was committed"
                )
            self.reads_served += committed is not None
        for context in ready.dropped_reads:
            self.reads_dropped += self.reads.pop(context, None) is not None

    def _filled(self, messages: Iterable[Message]) -> list[Message]:
        """Messages as they leave: a snapshot gets its data now."""
        out: list[Message] = []
        for message in messages:
            if message.type is MessageType.SNAP:
                state = self.state
                data = Snapshot(state.meta(), msgspec.msgpack.encode(state))
                message = msgspec.structs.replace(message, snapshot=data)
            out.append(message)
        return out


class Cluster:
    """Members and the network between them."""

    def __init__(
        self,
        plugin: ConsensusPlugin,
        size: int,
        seed: int = 0,
        options: msgspec.Struct | None = None,
        election_ticks: int = 10,
    ) -> None:
        self.plugin = plugin
        self.seed = seed
        self.options = options
        self.election_ticks = election_ticks
        self.history = History()
        self.members: dict[int, Member] = {}
        self.wire: list[Message] = []
        self.cut: set[tuple[int, int]] = set()
        """Pairs (sender, target) between which everything is lost."""
        conf_state = ConfState(voters=tuple(range(1, size + 1)))
        for id in range(1, size + 1):
            self.add(id, conf_state)

    def add(self, id: int, conf_state: ConfState = NOBODY) -> Member:
        """A new member, which knows ``conf_state`` and nothing else."""
        member = Member(
            id,
            self.plugin,
            self.history,
            self.seed,
            self.options,
            self.election_ticks,
        )
        member.start(conf_state)
        self.members[id] = member
        return member

    def collect(self) -> None:
        """Put on the wire what the members sent."""
        for member in self.members.values():
            self.wire += member.outbox
            member.outbox.clear()

    def deliver(self, message: Message) -> None:
        """Hand one message over, if its target is there to take it."""
        target = self.members.get(message.to)
        lost = (message.sender, message.to) in self.cut
        if target is not None and target.up and not lost:
            target.step(message)

    def settle(self, rounds_max: int = 1000) -> None:
        """Deliver everything, in order, until nobody has anything to do."""
        for _ in range(rounds_max):
            for member in self.members.values():
                if member.up:
                    member.settle()
            self.collect()
            if not self.wire:
                return
            wire, self.wire = self.wire, []
            for message in wire:
                self.deliver(message)
        raise Violation(f"the cluster is still busy after {rounds_max} rounds")

    def isolate(self, id: int) -> None:
        """Cut a member off."""
        self.split({id})

    def split(self, group: set[int]) -> None:
        """Cut a group off from the others."""
        for one in group:
            for other in set(self.members) - group:
                self.cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        """Let everything through again."""
        self.cut.clear()

    def elect(self, id: int) -> Member:
        """Make a member leader."""
        member = self.members[id]
        if member.machine.status().role is not Role.LEADER:
            member.machine.campaign()
        self.settle()
        if member.machine.status().role is not Role.LEADER:
            raise Violation(f"member {id} was not elected")
        return member

    def leader(self) -> Member | None:
        """Who leads the highest term."""
        up = [m for m in self.members.values() if m.up and m.role is Role.LEADER]
        return max(up, key=lambda m: m.machine.status().term, default=None)

    def check_logs(self) -> None:
        """Log matching (paper, figure 3): same term at an index, same entries before."""
        images = [(m.id, m.disk.seen) for m in self.members.values()]
        for position, (one, image) in enumerate(images):
            for other, twin in images[:position]:
                check_matching(one, image, other, twin)

    def propose_change(self, change: ConfChange) -> bool:
        """Ask the leader for a membership change; whether it took it."""
        leader = self.leader()
        if leader is None:
            return False
        try:
            leader.machine.propose_conf_change(change)
        except (ProposalDropped, UsageError):
            return False
        return True


def check_matching(one: int, image: Image, other: int, twin: Image) -> None:
    """Log matching of two logs.

    Raises:
        Violation: they have an entry in common and differ before it.
    """
    lo = max(image.base.index, twin.base.index) + 1
    hi = min(image.last_index(), twin.last_index())
    matched = False
    for index in range(hi, lo - 1, -1):
        left = image.entries[index - image.base.index - 1]
        right = twin.entries[index - twin.base.index - 1]
        if left.term == right.term:
            matched = True
        if matched and left != right:
            raise Violation(f"members {one} and {other} differ at {index}")
