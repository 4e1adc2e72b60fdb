"""The log: what is stored, what is on its way to storage, how far it is decided.

Rules of this file:

1. applied <= applying <= committed <= last, and none of the first three goes back.
2. Nothing at or below ``committed`` is ever replaced; trying to is a bug, or the end
   of the assumption that disks do not forget, and raises.
3. Entries come from storage or from ``unstable``; the one with the higher index wins.
4. Committed entries are handed out once, in order. Unless ``allow_unstable``, an entry
   is handed out only when it is durable here: the state machine must not get ahead of
   the log of its own member.
5. What was handed out and is not applied is bounded by ``applying_bytes_max``.
6. Entries that became stable and are about to be applied are kept in ``_recent``, so
   that the way of a write reads no file. It is a cache: storage has the same entries.

Raft paper, section 5.3 and figure 3 (log matching).
"""

from __future__ import annotations

from collections.abc import Sequence

from revstore.errors import InvariantViolation
from revstore.interfaces.consensus import LogReader, Snapshot
from revstore.types import Entry, EntryType
from revstore_raft.limits import NO_LIMIT, RECENT_ENTRIES_MAX
from revstore_raft.sizes import limit_size
from revstore_raft.unstable import Unstable


class RaftLog:
    """One member's log; see the rules of the file."""

    __slots__ = (
        "_recent",
        "_recent_first",
        "applied",
        "applying",
        "applying_bytes",
        "applying_bytes_max",
        "applying_paused",
        "committed",
        "last_index",
        "storage",
        "unstable",
    )

    def __init__(self, storage: LogReader, applying_bytes_max: int = NO_LIMIT) -> None:
        self.storage = storage
        first = storage.first_index()
        self.last_index = max(storage.last_index(), first - 1)
        """Index of the last entry, durable or not."""
        self.unstable = Unstable(self.last_index + 1)
        self.committed = first - 1
        """Highest index known to be on a quorum."""
        self.applying = first - 1
        """Highest index handed out to be applied."""
        self.applied = first - 1
        """Highest index told to be applied."""
        self.applying_bytes_max = applying_bytes_max
        self.applying_bytes = 0
        self.applying_paused = False
        self._recent: list[Entry] = []
        self._recent_first = 0

    # ---- looking ----

    def first_index(self) -> int:
        """Index of the first entry that can be read."""
        snapshot = self.unstable.snapshot
        if snapshot is not None:
            return snapshot.meta.index + 1
        return self.storage.first_index()

    def term(self, index: int) -> int | None:
        """The term at an index; None if it is compacted away or not there yet."""
        unstable = self.unstable
        position = index - unstable.offset
        if 0 <= position < len(unstable.entries):
            return unstable.entries[position].term
        if index > self.last_index:
            return None
        snapshot = unstable.snapshot
        if snapshot is not None:
            return snapshot.meta.term if snapshot.meta.index == index else None
        if self._recent:
            position = index - self._recent_first
            if 0 <= position < len(self._recent):
                return self._recent[position].term
        first = self.storage.first_index()
        if index + 1 < first:
            return None
        if index == 0:
            return 0
        return self.storage.term(index)

    def last_term(self) -> int:
        """The term of the last entry.

        Raises:
            InvariantViolation: storage does not know it.
        """
        term = self.term(self.last_index)
        if term is None:
            raise InvariantViolation(f"the last entry, {self.last_index}, has no term")
        return term

    def matches(self, term: int, index: int) -> bool:
        """Whether the log has an entry of this term at this index."""
        return self.term(index) == term

    def up_to_date(self, term: int, index: int) -> bool:
        """Whether a log that ends at (term, index) is at least as complete as this.

        Paper, section 5.4.1: the later term wins, then the longer log.
        """
        return (term, index) >= (self.last_term(), self.last_index)

    def conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The highest (index, term) at or below ``index`` of at most ``term``.

        Used on both sides to skip what cannot agree. A term that is compacted away
        may agree: it is answered as 0.
        """
        while index > 0:
            own = self.term(index)
            if own is None:
                return index, 0
            if own <= term:
                return index, own
            index -= 1
        return 0, 0

    def entries(self, lo: int, bytes_max: int) -> Sequence[Entry] | None:
        """Entries from ``lo`` on, bounded; None if ``lo`` is compacted away."""
        if lo > self.last_index:
            return ()
        return self.slice(lo, self.last_index + 1, bytes_max)

    def slice(
        self, lo: int, hi: int, bytes_max: int = NO_LIMIT
    ) -> Sequence[Entry] | None:
        """Entries lo <= index < hi, bounded but at least one; None if compacted."""
        if hi > self.last_index + 1:
            raise InvariantViolation(f"entries up to {hi} of {self.last_index}")
        offset = self.unstable.offset
        if lo >= offset:
            return limit_size(self.unstable.slice(lo, hi), bytes_max)
        if self._recent and self._recent_first <= lo and hi <= offset:
            start = self._recent_first
            return limit_size(self._recent[lo - start : hi - start], bytes_max)
        if lo < self.first_index():
            return None
        cut = min(hi, offset)
        recent_first = self._recent_first if self._recent else cut
        out: list[Entry] = []
        if lo < min(cut, recent_first):
            upper = min(cut, recent_first)
            bound = 0 if bytes_max >= NO_LIMIT else bytes_max
            out = self.storage.read(lo, upper, bound)
            if len(out) < upper - lo:
                return limit_size(out, bytes_max)
        if recent_first < cut:
            start = max(lo, recent_first) - recent_first
            out += self._recent[start : cut - recent_first]
        if hi > offset:
            out += self.unstable.slice(max(lo, offset), hi)
        return limit_size(out, bytes_max)

    # ---- growing ----

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end, dropping what they replace (rule 2).

        Raises:
            InvariantViolation: they would replace a committed entry.
        """
        first = entries[0].index
        if first <= self.committed:
            raise InvariantViolation(
                f"entry {first} would replace one that is committed ({self.committed})"
            )
        self.unstable.replace_from(entries)
        self.last_index = entries[-1].index
        if self._recent:
            del self._recent[max(first - self._recent_first, 0) :]

    def maybe_append(
        self, term: int, index: int, entries: Sequence[Entry], committed: int
    ) -> int | None:
        """Append what a leader sent behind (term, index).

        Returns the index of the last entry sent, or None if the log does not have
        that predecessor. Entries that are here already stay as they are, so that an
        old message cannot truncate what a newer one brought.
        """
        if not self.matches(term, index):
            return None
        last_new = index + len(entries)
        conflict = self._find_conflict(entries)
        if conflict:
            self.append(entries[conflict - index - 1 :])
        self.commit_to(min(committed, last_new))
        return last_new

    def _find_conflict(self, entries: Sequence[Entry]) -> int:
        """Index of the first entry that is not in the log, 0 if all are."""
        if entries and entries[0].index > self.last_index:
            return entries[0].index
        for entry in entries:
            if self.term(entry.index) != entry.term:
                return entry.index
        return 0

    def commit_to(self, index: int) -> None:
        """Everything up to ``index`` is committed.

        Raises:
            InvariantViolation: the log does not reach that far.
        """
        if index <= self.committed:
            return
        if index > self.last_index:
            raise InvariantViolation(
                f"commit index {index} is beyond the last entry, {self.last_index}: "
                "the log was truncated, corrupted or lost"
            )
        self.committed = index

    def maybe_commit(self, term: int, index: int) -> bool:
        """Commit up to an entry of the leader's own term; whether that is news.

        Paper, section 5.4.2: an entry of an older term is never committed by counting
        replicas; it becomes committed with the first entry of the leader's term.
        """
        if index <= self.committed or term == 0 or self.term(index) != term:
            return False
        self.committed = index
        return True

    def restore(self, snapshot: Snapshot) -> None:
        """A snapshot replaces the log."""
        self.committed = snapshot.meta.index
        self.last_index = snapshot.meta.index
        self.unstable.restore(snapshot)
        self._recent.clear()

    # ---- becoming stable ----

    def stable_to(self, term: int, index: int) -> None:
        """Entries up to (term, index) are durable."""
        gone = self.unstable.stable_to(term, index)
        if not gone:
            return
        skip = self.applying + 1 - gone[0].index
        if skip > 0:
            gone = gone[skip:]
        if not gone:
            return
        recent = self._recent
        if recent and self._recent_first + len(recent) != gone[0].index:
            recent.clear()
        if len(recent) + len(gone) > RECENT_ENTRIES_MAX:
            recent.clear()
            gone = gone[-RECENT_ENTRIES_MAX:]
        if not recent:
            self._recent_first = gone[0].index
        recent.extend(gone)

    # ---- being applied ----

    def appliable_index(self, allow_unstable: bool) -> int:
        """How far committed entries may be handed out (rule 4)."""
        if allow_unstable:
            return self.committed
        return min(self.committed, self.unstable.offset - 1)

    def has_next_committed(self, allow_unstable: bool) -> bool:
        """Whether there is anything to apply."""
        if self.applying_paused or self.unstable.snapshot is not None:
            # A snapshot has to be installed before what comes behind it.
            return False
        return self.applying < self.appliable_index(allow_unstable)

    def next_committed(self, allow_unstable: bool) -> tuple[Entry, ...]:
        """Entries to be applied now; handed out by ``accept_applying``."""
        if self.applying >= self.committed or self.applying_paused:
            return ()
        upper = self.appliable_index(allow_unstable)
        if self.applying >= upper or self.unstable.snapshot is not None:
            return ()
        room = self.applying_bytes_max
        if room < NO_LIMIT:
            room -= self.applying_bytes
        out = self.slice(self.applying + 1, upper + 1, room)
        if out is None:
            raise InvariantViolation(
                f"entry {self.applying + 1} was compacted before it was applied"
            )
        return tuple(out)

    def accept_applying(self, index: int, size: int, allow_unstable: bool) -> None:
        """Entries up to ``index``, of ``size`` bytes, were handed out."""
        self.applying = index
        self.applying_bytes += size
        # If the room did not suffice for the next entry, it will not until something
        # is applied.
        self.applying_paused = (
            self.applying_bytes >= self.applying_bytes_max
            or index < self.appliable_index(allow_unstable)
        )
        if self._recent and index >= self._recent_first:
            del self._recent[: index + 1 - self._recent_first]
            self._recent_first = index + 1

    def applied_to(self, index: int, size: int) -> None:
        """Entries up to ``index`` are applied.

        Raises:
            InvariantViolation: rule 1 would not hold.
        """
        if not self.applied <= index <= self.committed:
            raise InvariantViolation(
                f"applied {index} after {self.applied}, committed {self.committed}"
            )
        self.applied = index
        if index > self.applying:
            self.applying = index
        left = self.applying_bytes - size
        self.applying_bytes = left if left > 0 else 0
        self.applying_paused = left >= self.applying_bytes_max

    def has_unapplied_change(self, page_bytes: int) -> bool:
        """Whether a membership change is committed and not applied."""
        lo = self.applied + 1
        while lo <= self.committed:
            page = self.slice(lo, self.committed + 1, page_bytes)
            if not page:
                # Compacted means installed by a snapshot, changes and all.
                return False
            if any(entry.type is not EntryType.NORMAL for entry in page):
                return True
            lo = page[-1].index + 1
        return False
