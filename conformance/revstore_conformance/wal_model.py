"""A model of a write-ahead log, to compare a real one with.

The model keeps the state after every call that changed the log, from the newest one
that must be durable on. After a crash the log must be in exactly one of these states:
nothing that was reported durable is lost, and of the rest a prefix is kept, whole
appends only (W-01, W-02, W-06).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec

from revstore.errors import StorageError
from revstore.interfaces.wal import OnDurable, Wal
from revstore.types import ConfState, Entry, HardState, SnapshotMeta


class LogState(msgspec.Struct, frozen=True):
    """What a log says: ``entries`` from ``first`` on, hard state, newest marker."""

    first: int = 1
    entries: tuple[Entry, ...] = ()
    hard_state: HardState = HardState()
    snapshot: SnapshotMeta = SnapshotMeta()

    @property
    def last(self) -> int:
        """Index of the last entry."""
        return self.first + len(self.entries) - 1

    def entry(self, index: int) -> Entry:
        """An entry that is kept."""
        return self.entries[index - self.first]

    def appended(self, state: HardState | None, new: Sequence[Entry]) -> LogState:
        """The state after an append."""
        entries = self.entries
        if new:
            entries = entries[: new[0].index - self.first] + tuple(new)
        return msgspec.structs.replace(
            self, entries=entries, hard_state=state or self.hard_state
        )

    def marked(self, meta: SnapshotMeta) -> LogState:
        """The state after a snapshot marker."""
        if meta.index < self.snapshot.index:
            return self
        kept = self.first <= meta.index <= self.last
        if meta.index > self.last or (
            kept and self.entry(meta.index).term != meta.term
        ):
            return LogState(meta.index + 1, (), self.hard_state, meta)
        return msgspec.structs.replace(self, snapshot=meta)


class ModelledWal:
    """Makes each call on the model and, if it is there, on the log under test."""

    def __init__(self) -> None:
        self.wal: Wal | None = None
        self.states = [LogState()]
        """From the newest that must be durable to the newest of all."""
        self.floor = 0
        """The highest index that ``purge_to`` was called with."""
        self._offset = 0
        """How many states were dropped in front."""
        self._made = 0
        self.reported: list[int] = []
        """Numbers of the appends whose callbacks ran, in that order."""

    @property
    def state(self) -> LogState:
        """The state after the newest call."""
        return self.states[-1]

    def must_wal(self) -> Wal:
        """The open log."""
        assert self.wal is not None, "the log is closed"
        return self.wal

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Append; the state counts as durable when the callback says so."""
        before = self.state
        self.states.append(before.appended(hard_state, entries))
        promise = bool(entries) or (
            hard_state is not None
            and (hard_state.term, hard_state.vote)
            != (before.hard_state.term, before.hard_state.vote)
        )
        self._made += 1
        on_durable = self._callback(
            self._made, self._offset + len(self.states) - 1 if promise else 0
        )
        self.must_wal().append(hard_state, entries, on_durable)

    def _callback(self, number: int, position: int) -> OnDurable:
        def on_durable(error: StorageError | None) -> None:
            assert number not in self.reported, f"callback {number} ran twice"
            self.reported.append(number)
            if error is None:
                self._must_keep(position)

        return on_durable

    def _must_keep(self, position: int) -> None:
        drop = position - self._offset
        if drop > 0:
            del self.states[:drop]
            self._offset += drop

    def save_snapshot(self, meta: SnapshotMeta) -> None:
        """Save a marker; it is durable when the call returns.

        One that is older than the newest says nothing new, so nothing need be durable.
        """
        before = self.state
        self.states.append(before.marked(meta))
        position = self._offset + len(self.states) - 1
        self.must_wal().save_snapshot(meta)
        if self.state is before:
            return
        self._must_keep(position)

    def purge_to(self, index: int) -> None:
        """Free entries."""
        self.floor = max(self.floor, index)
        self.must_wal().purge_to(index)

    def sync(self) -> None:
        """Sync; after it every callback has run, in order."""
        self.must_wal().sync()
        assert self.reported == list(range(1, self._made + 1)), "callbacks lack (W-02)"

    def close(self) -> None:
        """Close; everything is durable after it."""
        wal, self.wal = self.must_wal(), None
        wal.close()
        self._must_keep(self._offset + len(self.states) - 1)

    def crash(self) -> None:
        """The log is gone without a word."""
        self.wal = None
        self._made = 0
        self.reported = []

    def check_recovered(self, wal: Wal) -> LogState:
        """Check a log that was just opened; returns the state that it is in.

        Raises: AssertionError.
        """
        for state in reversed(self.states):
            if self._difference(wal, state) is None:
                return state
        wanted = "; or ".join(
            str(self._difference(wal, state)) for state in self.states
        )
        raise AssertionError(f"the log is in no state that it may be in: {wanted}")

    def take_over(self, wal: Wal) -> None:
        """Go on with a log that was just opened."""
        self.states = [self.check_recovered(wal)]
        self._offset = self._made = 0
        self.reported = []
        self.wal = wal

    def check(self) -> None:
        """Check what the open log says. Raises: AssertionError."""
        difference = self._difference(self.must_wal(), self.state, recovered=False)
        assert difference is None, difference

    def _difference(
        self, wal: Wal, state: LogState, recovered: bool = True
    ) -> str | None:
        """What a log says otherwise than ``state``, None if nothing."""
        first, last = wal.first_index(), wal.last_index()
        if recovered:
            found = wal.recovery()
            if found.hard_state != state.hard_state:
                return f"{found.hard_state} for {state.hard_state}"
            if found.snapshot != state.snapshot:
                return f"{found.snapshot} for {state.snapshot}"
            if (found.first_index, found.last_index) != (first, last):
                return "recovery() and the log name different ranges"
        if last != state.last:
            return f"the last entry is {last} for {state.last}"
        if not state.first <= first <= max(state.first, self.floor + 1):
            return f"the first entry is {first}: kept from {state.first}, {self.floor}"
        entries = wal.read(first, last + 1)
        if tuple(entries) != state.entries[first - state.first :]:
            return f"other entries in {first} to {last}"
        for entry in entries:
            term = wal.term(entry.index)
            if term != entry.term and entry.index != state.snapshot.index:
                return f"term {term} of entry {entry.index} for {entry.term}"
        return None


class RandomCalls:
    """Draws calls that the contract allows, from a seeded source."""

    def __init__(self, log: ModelledWal, random: Random, data_bytes_max: int) -> None:
        self._log = log
        self._random = random
        self._data_bytes_max = data_bytes_max

    def step(self) -> None:
        """Make one call."""
        random = self._random
        chance = random.random()
        if chance < 0.55:
            self.append()
        elif chance < 0.65:
            self.move_commit()
        elif chance < 0.9:
            self._log.sync()
        elif chance < 0.96:
            self.save_snapshot()
        else:
            self._log.purge_to(random.randint(0, self._log.state.snapshot.index))

    def append(self) -> None:
        """Append entries, sometimes in place of others, sometimes with a new term."""
        random = self._random
        state = self._log.state
        hard_state = state.hard_state
        if random.random() < 0.3:
            term = hard_state.term + random.randint(1, 3)
            hard_state = HardState(term, random.getrandbits(64), hard_state.commit)
        start = state.last + 1
        if random.random() < 0.25:
            lowest = max(self._log.must_wal().first_index(), state.snapshot.index + 1)
            start = random.randint(min(lowest, start), start)
        entries = [
            Entry(hard_state.term, start + position, self._data())
            for position in range(random.choice((1, 1, 1, 2, 3, 8)))
        ]
        if random.random() < 0.1:
            entries = []
        changed = None if hard_state is state.hard_state else hard_state
        self._log.append(changed, entries)

    def _data(self) -> bytes:
        random = self._random
        size = random.randint(0, self._data_bytes_max)
        return bytes(size) if random.random() < 0.2 else random.randbytes(size)

    def move_commit(self) -> None:
        """Append nothing but a higher commit index."""
        before = self._log.state.hard_state
        self._log.append(HardState(before.term, before.vote, before.commit + 1), ())

    def save_snapshot(self) -> None:
        """Save a marker within the log, seldom beyond it."""
        random = self._random
        state = self._log.state
        conf = ConfState(voters=(1, 2, 1 << 63), learners=(5,), auto_leave=True)
        if random.random() < 0.15:
            meta = SnapshotMeta(
                state.last + random.randint(1, 9), state.hard_state.term, conf
            )
        else:
            low = max(state.snapshot.index, state.first)
            if low > state.last:
                return
            index = random.randint(low, state.last)
            meta = SnapshotMeta(index, state.entry(index).term, conf)
        self._log.save_snapshot(meta)
