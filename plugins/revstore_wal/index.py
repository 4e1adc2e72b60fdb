"""What the log keeps in memory: its range, the terms, the newest entries, samples.

Rules of this file:

1. Memory does not grow with the length of the log: the newest entries are bounded by
   ``tail_bytes_max``, terms are kept once for each change of the term, and where older
   entries are on disk once for about every ``sample_bytes``.
2. A sample (index, segment, offset, sum) says: the entries from ``index`` to the next
   sample's index lie behind one another in that segment from ``offset`` on, with no
   replaced entry among them. So the first entry of a segment, and one that replaces
   another, always gets a sample.
3. Every entry that is not yet written is in the tail.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from revstore.types import Entry, SnapshotMeta

ENTRY_OVERHEAD_BYTES = 100
"""What an entry weighs in memory besides its data."""


class Sample(NamedTuple):
    """Where an entry is on disk."""

    entry: int
    segment: int
    offset: int
    crc: int


class LogIndex:
    """The state of a log as its readers see it. The caller holds a lock."""

    def __init__(self, tail_bytes_max: int) -> None:
        self.first = 1
        self.last = 0
        self.snapshot = SnapshotMeta()
        self.epoch = 0
        """Changes whenever an entry that was readable is replaced."""
        self.tail: list[Entry] = []
        self.tail_first = 1
        self._tail_bytes = 0
        self._tail_bytes_max = tail_bytes_max
        self._term_starts = array("Q")
        self._terms = array("Q")
        self._sample_index = array("Q")
        self._sample_segment = array("Q")
        self._sample_offset = array("Q")
        self._sample_crc = array("L")

    def append(
        self,
        entries: Sequence[Entry],
        terms: Sequence[tuple[int, int]],
        data_bytes: int,
    ) -> None:
        """Take over entries that follow the log or replace its end.

        ``terms`` are (index, term) of the first entry and where the term changes,
        ``data_bytes`` is the length of all their data.
        """
        start = entries[0].index
        if start <= self.last:
            self._cut(start)
        for index, term in terms:
            if not self._terms or term != self._terms[-1]:
                self._term_starts.append(index)
                self._terms.append(term)
        if not self.tail:
            self.tail_first = start
        self.tail.extend(entries)
        self._tail_bytes += data_bytes + ENTRY_OVERHEAD_BYTES * len(entries)
        self.last = entries[-1].index

    def append_one(self, entry: Entry) -> None:
        """Take over one entry that follows the log."""
        if not self._terms or entry.term != self._terms[-1]:
            self._term_starts.append(entry.index)
            self._terms.append(entry.term)
        if not self.tail:
            self.tail_first = entry.index
        self.tail.append(entry)
        self._tail_bytes += len(entry.data) + ENTRY_OVERHEAD_BYTES
        self.last = entry.index

    def _cut(self, start: int) -> None:
        """Forget the entries from ``start`` on."""
        self.epoch += 1
        keep = bisect_left(self._term_starts, start)
        del self._term_starts[keep:]
        del self._terms[keep:]
        if start <= self.tail_first:
            self.tail.clear()
            self._tail_bytes = 0
        else:
            removed = self.tail[start - self.tail_first :]
            self._tail_bytes -= _weight(removed)
            del self.tail[start - self.tail_first :]
        self.last = start - 1
        self.first = min(self.first, start)

    def restart(self, first: int) -> None:
        """Forget all entries; the next one is ``first``."""
        self.epoch += 1
        self.first = first
        self.last = first - 1
        self.tail.clear()
        self.tail_first = first
        self._tail_bytes = 0
        del self._term_starts[:]
        del self._terms[:]

    def mark_snapshot(self, meta: SnapshotMeta) -> bool:
        """Take over a newer snapshot marker; returns whether the log restarts behind it.

        It does if the marker is beyond the last entry, or names another term than the
        entry there: then what is in the log was never part of the snapshot's history.
        """
        if meta.index < self.snapshot.index:
            return False
        here = self.entry_term(meta.index)
        self.snapshot = meta
        if meta.index > self.last or (here is not None and here != meta.term):
            self.restart(meta.index + 1)
            return True
        return False

    def entry_term(self, index: int) -> int | None:
        """Term of an entry that is kept."""
        if not self.first <= index <= self.last:
            return None
        return self._terms[bisect_right(self._term_starts, index) - 1]

    def trim_due(self) -> bool:
        """Whether the tail is well over its bound."""
        return self._tail_bytes > self._tail_bytes_max * 5 // 4

    def trim(self, keep_from: int) -> None:
        """Shrink the tail to its bound, but keep the entries from ``keep_from`` on."""
        count = 0
        weight = self._tail_bytes
        limit = min(keep_from - self.tail_first, len(self.tail))
        while weight > self._tail_bytes_max and count < limit:
            weight -= ENTRY_OVERHEAD_BYTES + len(self.tail[count].data)
            count += 1
        del self.tail[:count]
        self.tail_first += count
        self._tail_bytes = weight

    def add_sample(self, sample: Sample) -> None:
        """Remember where an entry was written; later samples are replaced by it."""
        keep = bisect_left(self._sample_index, sample.entry)
        if keep < len(self._sample_index):
            self._keep_samples(0, keep)
        self._sample_index.append(sample.entry)
        self._sample_segment.append(sample.segment)
        self._sample_offset.append(sample.offset)
        self._sample_crc.append(sample.crc)

    def clear_samples(self) -> None:
        """Forget where entries are, because the log restarted."""
        self._keep_samples(0, 0)

    def _keep_samples(self, start: int, stop: int) -> None:
        for column in (
            self._sample_index,
            self._sample_segment,
            self._sample_offset,
            self._sample_crc,
        ):
            del column[stop:]
            del column[:start]

    def sample_at(self, position: int) -> Sample:
        """The sample at a position in the table."""
        return Sample(
            self._sample_index[position],
            self._sample_segment[position],
            self._sample_offset[position],
            self._sample_crc[position],
        )

    def find_sample(self, index: int) -> tuple[Sample, int] | None:
        """The sample to start from to read ``index``, and where its reach ends."""
        position = bisect_right(self._sample_index, index) - 1
        if position < 0:
            return None
        following = position + 1
        stop = (
            self._sample_index[following]
            if following < len(self._sample_index)
            else self.last + 1
        )
        return self.sample_at(position), stop

    def first_behind(self, segment: int) -> int:
        """The first entry that lies in a later segment than ``segment``."""
        position = bisect_right(self._sample_segment, segment)
        if position < len(self._sample_index):
            return self._sample_index[position]
        return self.last + 1

    def free_segments(self, segment: int) -> None:
        """Forget what lies in the segments up to ``segment``."""
        first = self.first_behind(segment)
        self._keep_samples(
            bisect_right(self._sample_segment, segment), len(self._sample_index)
        )
        if first <= self.first:
            return
        self.first = first
        drop = bisect_right(self._term_starts, first) - 1
        if drop > 0:
            del self._term_starts[:drop]
            del self._terms[:drop]
        count = min(max(first - self.tail_first, 0), len(self.tail))
        self._tail_bytes -= _weight(self.tail[:count])
        del self.tail[:count]
        if self.tail_first < first:
            self.tail_first = first

    def sample_count(self) -> int:
        """How many samples there are."""
        return len(self._sample_index)


def _weight(entries: Sequence[Entry]) -> int:
    return sum(ENTRY_OVERHEAD_BYTES + len(entry.data) for entry in entries)
