"""A log in memory that keeps every snapshot, as the transcripts assume it."""

from __future__ import annotations

from collections.abc import Sequence

from revstore.errors import InvariantViolation, RevstoreError
from revstore.interfaces.consensus import Snapshot
from revstore.types import Entry, HardState, SnapshotMeta


class StorageRefused(RevstoreError):  # noqa: N818 - it is what happened
    """The request is out of the log's range; the text is etcd's."""


class StubStorage:
    """Entries behind a compaction point, which has a term as well."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self._base = Entry(0, 0)
        self._entries: list[Entry] = []

    def first_index(self) -> int:
        """See ``LogReader``."""
        return self._base.index + 1

    def last_index(self) -> int:
        """See ``LogReader``."""
        return self._base.index + len(self._entries)

    def term(self, index: int) -> int | None:
        """See ``LogReader``."""
        if index == self._base.index:
            return self._base.term
        position = index - self._base.index - 1
        if 0 <= position < len(self._entries):
            return self._entries[position].term
        return None

    def read(self, lo: int, hi: int, bytes_max: int = 0) -> list[Entry]:
        """See ``LogReader``; the bound is the caller's own business."""
        if not self.first_index() <= lo <= hi <= self.last_index() + 1:
            raise InvariantViolation(f"read [{lo}, {hi}) of a log that has not got it")
        return self._entries[lo - self.first_index() : hi - self.first_index()]

    def all_entries(self) -> list[Entry]:
        """Everything that is not compacted."""
        return list(self._entries)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries, replacing what is at their indexes and behind."""
        entries = [e for e in entries if e.index >= self.first_index()]
        if not entries:
            return
        position = entries[0].index - self.first_index()
        if position > len(self._entries):
            raise InvariantViolation(f"entry {entries[0].index} leaves a hole")
        self._entries[position:] = entries

    def apply_snapshot(self, meta: SnapshotMeta) -> None:
        """Restart behind a snapshot."""
        self._base = Entry(meta.term, meta.index)
        self._entries = []

    def compact(self, index: int) -> None:
        """Drop entries up to ``index``.

        Raises:
            StorageRefused: they are gone already.
        """
        if index <= self._base.index:
            raise StorageRefused("requested index is unavailable due to compaction")
        term = self.term(index)
        if term is None:
            raise InvariantViolation(
                f"compact {index} is out of bound lastindex({self.last_index()})"
            )
        self._entries = self._entries[index - self._base.index :]
        self._base = Entry(term, index)


class History:
    """The state machine: it appends what it applies, and remembers every state."""

    def __init__(self, first: Snapshot) -> None:
        self._snapshots = [first]

    def newest(self) -> Snapshot:
        """The latest state."""
        return self._snapshots[-1]

    def add(self, snapshot: Snapshot) -> None:
        """A new state."""
        self._snapshots.append(snapshot)
