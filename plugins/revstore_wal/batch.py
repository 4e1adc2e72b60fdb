"""From the queue to the disk: batches, samples, callbacks.

Rules of this file:

1. Items reach the disk in the order of the queue. What lies between two cuts is one
   batch: one write and at most one sync.
2. A callback is taken out of its item when it runs, so that after a failure those that
   are left are the ones to be told of it.
3. Callbacks run without the lock.
"""

from __future__ import annotations

import threading

from revstore.interfaces.wal import OnDurable
from revstore_wal.encode import Encoded
from revstore_wal.index import LogIndex, Sample
from revstore_wal.segments import Segment
from revstore_wal.writer import SegmentWriter


class Item:
    """Something that waits to be written: records, a cut, or only a callback."""

    __slots__ = (
        "crc",
        "cut",
        "encoded",
        "first",
        "must_sync",
        "on_durable",
        "replaces",
        "restarts",
    )

    def __init__(self, encoded: Encoded | None, crc: int, must_sync: bool) -> None:
        self.encoded = encoded
        self.crc = crc
        """The sum before the records."""
        self.must_sync = must_sync
        self.first = 0
        """Index of the first entry, 0 if there is none."""
        self.replaces = False
        """Whether the first entry takes the place of another."""
        self.restarts = False
        """Whether the log starts anew behind this snapshot marker."""
        self.on_durable: OnDurable | None = None
        self.cut: tuple[Segment, bytes] | None = None
        """The next file and its head."""


class BatchWriter:
    """Writes queued items; one thread at a time."""

    def __init__(
        self,
        writer: SegmentWriter,
        index: LogIndex,
        lock: threading.Lock,
        sample_bytes: int,
    ) -> None:
        self._writer = writer
        self._index = index
        self._lock = lock
        self._sample_bytes = sample_bytes
        self._sampled_at: int | None = None

    def write(self, items: list[Item]) -> None:
        """Write ``items`` and run their callbacks.

        Raises:
            OSError: a write or a sync failed; callbacks that are left did not run.
            StorageError: a batch is too large.
            Exception: a callback raised.
        """
        begin = 0
        for position, item in enumerate(items):
            if item.cut is not None:
                self._write_batch(items[begin:position])
                begin = position
                self._writer.cut(*item.cut)
                self._sampled_at = None
        self._write_batch(items[begin:] if begin else items)

    def _write_batch(self, items: list[Item]) -> None:
        """Write one batch into the newest file, then run its callbacks."""
        pieces: list[bytes] = []
        size = 0
        must_sync = False
        crc = None
        for item in items:
            encoded = item.encoded
            if encoded is not None:
                if crc is None:
                    crc = item.crc
                pieces += encoded.pieces
                size += encoded.size
                must_sync = must_sync or item.must_sync
        if crc is not None:
            offset = self._writer.write(pieces, size, crc, must_sync)
            with self._lock:
                for item in items:
                    if item.encoded is not None:
                        self._sample(item, item.encoded, offset)
                        offset += item.encoded.size
        for item in items:
            on_durable = item.on_durable
            if on_durable is not None:
                item.on_durable = None
                on_durable(None)

    def _sample(self, item: Item, encoded: Encoded, offset: int) -> None:
        """Remember where the entries of an item are."""
        index = self._index
        segment = self._writer.segment.sequence
        if item.restarts:
            index.clear_samples()
            self._sampled_at = None
        if not item.first:
            return
        if (
            item.replaces
            or self._sampled_at is None
            or offset - self._sampled_at >= self._sample_bytes
        ):
            index.add_sample(Sample(item.first, segment, offset, item.crc))
            self._sampled_at = offset
        for entry_index, within, crc in encoded.samples:
            index.add_sample(Sample(entry_index, segment, offset + within, crc))
            self._sampled_at = offset + within
