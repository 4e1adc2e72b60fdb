"""The tail of the log that is not known to be durable.

Rules of this file:

1. Entries from ``offset`` on are here, without a hole; those before it are in storage.
2. Entries before ``in_progress`` were handed out to be persisted. They leave when
   told durable under the (term, index) that they still have: if they were replaced
   meanwhile, the report is about entries that exist no more, and is ignored.
3. A snapshot that was received and not installed yet stands right before ``offset``.
"""

from __future__ import annotations

from collections.abc import Sequence

from revstore.errors import InvariantViolation
from revstore.interfaces.consensus import Snapshot
from revstore.types import Entry


class Unstable:
    """Entries and snapshot that wait for the disk."""

    __slots__ = ("entries", "in_progress", "offset", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int) -> None:
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False
        self.entries: list[Entry] = []
        self.offset = offset
        self.in_progress = offset
        """Invariant: offset <= in_progress <= offset + len(entries)."""

    def term(self, index: int) -> int | None:
        """The term at an index, if that is here."""
        position = index - self.offset
        if position < 0:
            snapshot = self.snapshot
            if snapshot is not None and snapshot.meta.index == index:
                return snapshot.meta.term
            return None
        if position < len(self.entries):
            return self.entries[position].term
        return None

    def next_entries(self) -> tuple[Entry, ...]:
        """Entries that were not handed out yet."""
        start = self.in_progress - self.offset
        return tuple(self.entries[start:]) if start < len(self.entries) else ()

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot, if it was not handed out yet."""
        return None if self.snapshot_in_progress else self.snapshot

    def accept(self) -> None:
        """Everything is handed out."""
        if self.entries:
            self.in_progress = self.offset + len(self.entries)
        if self.snapshot is not None:
            self.snapshot_in_progress = True

    def stable_to(self, term: int, index: int) -> list[Entry]:
        """Entries up to (term, index) are durable; returns those that leave (rule 2)."""
        position = index - self.offset
        if not 0 <= position < len(self.entries):
            return []
        if self.entries[position].term != term:
            return []
        gone = self.entries[: position + 1]
        del self.entries[: position + 1]
        self.offset = index + 1
        self.in_progress = max(self.in_progress, self.offset)
        return gone

    def stable_snapshot_to(self, index: int) -> None:
        """The snapshot at ``index`` is installed."""
        if self.snapshot is not None and self.snapshot.meta.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """A snapshot replaces the log."""
        self.offset = self.in_progress = snapshot.meta.index + 1
        self.entries = []
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def replace_from(self, entries: Sequence[Entry]) -> None:
        """Append entries; what is at their indexes, or behind, is dropped."""
        first = entries[0].index
        if first <= self.offset:
            self.entries = list(entries)
            self.offset = self.in_progress = first
            return
        position = first - self.offset
        if position > len(self.entries):
            raise InvariantViolation(f"entry {first} leaves a hole in the log")
        if position < len(self.entries):
            del self.entries[position:]
            self.in_progress = min(self.in_progress, first)
        self.entries.extend(entries)

    def slice(self, lo: int, hi: int) -> list[Entry]:
        """Entries lo <= index < hi, which are here."""
        return self.entries[lo - self.offset : hi - self.offset]
