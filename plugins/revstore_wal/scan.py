"""How a log is read when it is opened, and what is cut from its end.

Rules of this file:

1. Only the last file may be cut, and only what cannot have been durable: a batch of
   records is applied whole or not at all.
2. Files are written in batches; each begins with a mark that says how long it is, and
   is written only when the batch before it is durable. So what is bad has been durable
   if anything was written behind its batch, or if a mark further on says so. That is
   damage: CorruptionError, and nothing is cut.
3. What may be torn must look torn: a sector of 512 bytes that was not written is zero,
   because the file was zero before. A bad record without such a sector is damage.
4. Records outside batches (file heads, hard states that were not worth a sync, and
   all that etcd itself wrote) stand for themselves; for them etcd's rule holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from revstore.types import Entry, HardState
from revstore_wal.decode import (
    BadFrame,
    Frame,
    Malformed,
    read_entry,
    read_frame,
    read_mark,
    read_snapshot,
    read_state,
    read_usual_entry,
)
from revstore_wal.encode import CRC, ENTRY, METADATA, SNAPSHOT, STATE
from revstore_wal.files import Files
from revstore_wal.index import LogIndex, Sample
from revstore_wal.segments import Segment, corrupt

SECTOR_BYTES = 512
_ZERO_BLOCK_BYTES = 1 << 16
_MARK_START = b"\x08\x04\x10"


class Scanned(NamedTuple):
    """Where the log ends and what it says besides entries."""

    metadata: bytes
    hard_state: HardState
    offset: int
    """Where the last file goes on."""
    synced: int
    """How far the last file is known to be durable; what is behind may be in the page
    cache only."""
    content_end: int
    """Where the last non-zero byte of the last file was."""
    crc: int


class Scanner:
    """Reads the files of one log in order into a ``LogIndex``."""

    def __init__(
        self, files: Files, directory: Path, index: LogIndex, sample_bytes: int
    ) -> None:
        self._files = files
        self._directory = directory
        self._index = index
        self._sample_bytes = sample_bytes
        self._metadata: bytes | None = None
        self._hard_state = HardState()
        self._crc: int | None = None
        self._segment = Segment(0, 0)
        self._sampled_at: int | None = None
        self._data = b""
        self._content_end = 0
        self._batch_end: int | None = None
        self._batch_crc = 0
        self._has_marks = False
        self._synced = 0

    def run(self, segments: list[Segment]) -> Scanned:
        """Read all files.

        Raises:
            CorruptionError: there is damage.
            OSError: a file cannot be read.
        """
        offset = 0
        self._index.restart(max(segments[0].first, 1))
        for segment in segments:
            offset = self._read_segment(segment, segment is segments[-1])
        self._settle_snapshot()
        if self._metadata is None or self._crc is None:
            raise corrupt(self._path(), 0, "the file has no metadata")
        return Scanned(
            self._metadata,
            self._hard_state,
            offset,
            self._synced,
            self._content_end,
            self._crc,
        )

    def _path(self) -> Path:
        return self._directory / self._segment.name

    def _read_segment(self, segment: Segment, is_last: bool) -> int:
        """Read one file; returns where its good part ends."""
        self._segment = segment
        self._sampled_at = None
        self._has_marks = False
        self._synced = 0
        handle = self._files.open(self._path())
        try:
            size = self._files.size(handle)
            self._data = data = self._files.read(handle, size, 0)
        finally:
            self._files.close(handle)
        self._content_end = content_end(data)
        offset = self._read_first()
        while offset < self._content_end:
            try:
                offset = self._read_next(offset)
            except BadFrame as bad:
                if is_last and self._is_torn(bad, offset):
                    return offset
                raise corrupt(self._path(), bad.offset, bad.reason) from None
        return offset

    def _read_first(self) -> int:
        """Check the records that open a file: the sum so far, then metadata.

        A file gets its name when its head is durable, so a bad one is damage.
        """
        try:
            frame = read_frame(self._data, 0, len(self._data), 0)
            if frame.kind != CRC:
                raise BadFrame(0, frame.end, "the file does not open with a checksum")
            # No sum covers a record's type, and metadata could be read as a marker.
            second = read_frame(self._data, frame.end, len(self._data), frame.crc)
            if second.kind != METADATA:
                raise BadFrame(frame.end, 0, "no metadata behind the first checksum")
        except BadFrame as bad:
            raise corrupt(self._path(), bad.offset, bad.reason) from None
        if self._crc is not None and frame.crc != self._crc:
            raise corrupt(self._path(), 0, "the file does not continue the one before")
        self._crc = frame.crc
        return frame.end

    def _read_next(self, offset: int) -> int:
        """Apply the record or the batch at ``offset``; returns where the next begins.

        Raises:
            BadFrame: it is not whole; nothing of it was applied.
        """
        crc = self._crc or 0
        self._batch_end = None
        frame = read_frame(self._data, offset, len(self._data), crc)
        if frame.kind != CRC:
            self._apply(frame, crc, in_batch=False)
            self._crc = frame.crc
            return frame.end
        if frame.crc != crc:
            size = frame.end - offset
            raise BadFrame(offset, size, "the checksum so far is wrong")
        mark = read_mark(frame)
        if mark is None:
            return frame.end
        self._has_marks = True
        end = self._batch_end = frame.end + mark.length
        for position, before, record in self._read_batch(frame.end, end, crc):
            if isinstance(record, Entry):
                self._apply_entry(record, position, before)
            else:
                self._apply(record, before, in_batch=True)
        self._crc = self._batch_crc
        self._synced = mark.synced
        return end

    def _read_batch(
        self, position: int, end: int, crc: int
    ) -> list[tuple[int, int, Entry | Frame]]:
        """The records of a batch, each with its offset and the sum before it.

        Raises:
            BadFrame: one is not valid.
        """
        data = self._data
        if end > len(data):
            raise BadFrame(position, end - position, "the batch is cut off")
        records: list[tuple[int, int, Entry | Frame]] = []
        while position < end:
            usual = read_usual_entry(data, position, end, crc)
            if usual is not None:
                records.append((position, crc, usual[2]))
                position, crc, _ = usual
                continue
            frame = read_frame(data, position, end, crc)
            if frame.kind == CRC:
                raise BadFrame(position, 0, "a batch holds another one")
            records.append((position, crc, frame))
            position, crc = frame.end, frame.crc
        self._batch_crc = crc
        return records

    def _apply(self, frame: Frame, crc: int, in_batch: bool) -> None:
        try:
            if frame.kind == ENTRY:
                self._apply_entry(read_entry(frame.data), frame.offset, crc)
            elif frame.kind == STATE:
                self._apply_state(frame)
            elif frame.kind == SNAPSHOT:
                self._apply_snapshot(frame, in_batch)
            elif frame.kind == METADATA:
                if self._metadata not in (None, frame.data):
                    raise Malformed("the metadata is not that of the file before")
                self._metadata = frame.data
            else:
                raise Malformed(f"a record has the unknown type {frame.kind}")
        except Malformed as error:
            raise corrupt(self._path(), frame.offset, str(error)) from None

    def _apply_entry(self, entry: Entry, offset: int, crc: int) -> None:
        index = self._index
        follows = entry.index == index.last + 1
        if not follows:
            self._place(entry.index, offset)
        if (
            not follows
            or self._sampled_at is None
            or offset - self._sampled_at >= self._sample_bytes
        ):
            index.add_sample(Sample(entry.index, self._segment.sequence, offset, crc))
            self._sampled_at = offset
        if follows:
            index.append_one(entry)
        else:
            index.append((entry,), ((entry.index, entry.term),), len(entry.data))
        if index.trim_due():
            index.trim(entry.index + 1)

    def _place(self, entry_index: int, offset: int) -> None:
        """Make room for an entry that does not just follow the last one."""
        index = self._index
        if entry_index == index.snapshot.index + 1 > index.last:
            index.clear_samples()
            index.restart(entry_index)
        elif not 0 < entry_index <= index.last + 1:
            reason = f"entry {entry_index} leaves a hole behind {index.last}"
            raise corrupt(self._path(), offset, reason)

    def _apply_state(self, frame: Frame) -> None:
        state = read_state(frame.data)
        before = self._hard_state
        if state.term < before.term or state.commit < before.commit:
            raise Malformed("the hard state goes back")
        self._hard_state = state

    def _apply_snapshot(self, frame: Frame, in_batch: bool) -> None:
        """Take over a marker.

        One outside a batch repeats an older one (file head) or is etcd's: then the log
        restarts behind it only if an entry, or the end of the log, shows that it did.
        """
        meta = read_snapshot(frame.data)
        if in_batch:
            if self._index.mark_snapshot(meta):
                self._index.clear_samples()
                self._sampled_at = None
        elif meta.index >= self._index.snapshot.index:
            self._index.snapshot = meta

    def _settle_snapshot(self) -> None:
        """Let the log end at the snapshot marker, or begin at most one behind it."""
        index = self._index
        marker = index.snapshot.index
        if marker > index.last:
            index.clear_samples()
            index.restart(marker + 1)
        elif index.first > marker + 1:
            raise corrupt(
                self._path(), 0, f"the entries {marker + 1} to {index.first - 1} lack"
            )

    def _is_torn(self, bad: BadFrame, start: int) -> bool:
        """Whether what is bad can have been lost before it was durable."""
        size = len(self._data)
        if self._batch_end is not None:
            end = self._batch_end
            if self._content_end > end:
                return False
        elif self._was_durable(start):
            return False
        else:
            end = size
        if bad.size == 0 and bad.offset + 8 <= size:
            return self._is_zero(bad.offset, _sector_end(bad.offset))
        stop = bad.offset + bad.size
        if bad.offset + 8 > size:
            return True
        if stop > size:
            return self._is_short(end)
        if stop > end:
            return False
        position = bad.offset + 8
        while position < stop:
            if self._is_zero(position, min(_sector_end(position), stop)):
                return True
            position = _sector_end(position)
        return False

    def _is_short(self, end: int) -> bool:
        """Whether a record that reaches beyond the file may do so because of a crash.

        In a file with marks a record outside a batch is a few bytes long. One that etcd
        wrote may be long, and was begun before the file grew.
        """
        if self._batch_end is not None:
            return end > len(self._data)
        in_content = len(self._data) - self._content_end < SECTOR_BYTES
        return in_content or not self._has_marks

    def _is_zero(self, start: int, stop: int) -> bool:
        part = self._data[start:stop]
        return part.count(0) == len(part)

    def _was_durable(self, offset: int) -> bool:
        """Whether a mark behind ``offset`` says that the file was durable there."""
        hit = self._data.find(_MARK_START, offset + 8, self._content_end)
        while hit >= 0:
            start = hit - 8
            if start % 8 == 0 and start > offset:
                try:
                    frame = read_frame(self._data, start, len(self._data), 0)
                    mark = read_mark(frame)
                except BadFrame:
                    mark = None
                if mark is not None and mark.synced > offset:
                    return True
            hit = self._data.find(_MARK_START, hit + 1, self._content_end)
        return False


def content_end(data: bytes) -> int:
    """Where the last byte that is not zero ends."""
    end = len(data)
    zeros = bytes(_ZERO_BLOCK_BYTES)
    while end >= len(zeros) and data[end - len(zeros) : end] == zeros:
        end -= len(zeros)
    return len(data[:end].rstrip(b"\0"))


def _sector_end(offset: int) -> int:
    return offset - offset % SECTOR_BYTES + SECTOR_BYTES
