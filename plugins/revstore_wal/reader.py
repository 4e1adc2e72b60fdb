"""Reading entries that are no longer in memory.

Rules of this file:

1. Every record on the way is checked again, sum and structure; entries come out with
   exactly the indexes asked for, or CorruptionError.
2. A read starts at a sample, or where the read before it ended, so that reading the
   log in order decodes each record once.
3. One reader at a time (the caller holds a lock); one file is kept open.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from revstore.types import Entry
from revstore_wal.decode import BadFrame, Frame, Malformed, read_entry, read_frame
from revstore_wal.encode import CRC, ENTRY
from revstore_wal.files import Files
from revstore_wal.index import Sample
from revstore_wal.segments import corrupt

_CHUNK_BYTES = 256 * 1024


class _Cursor(NamedTuple):
    """Where the entry ``index`` is to be looked for, if ``epoch`` is still the log's."""

    epoch: int
    at: Sample


class _Window:
    """A growing piece of one file."""

    def __init__(self, files: Files, handle: int, path: Path, offset: int) -> None:
        self._files = files
        self._handle = handle
        self._path = path
        self._start = offset
        self._data = b""
        self._at = 0

    def next(self, crc: int) -> Frame:
        """The next record; its offsets are those in the file.

        Raises:
            CorruptionError: it is not one.
            OSError: the file cannot be read.
        """
        while True:
            try:
                frame = read_frame(self._data, self._at, len(self._data), crc)
            except BadFrame as bad:
                there = len(self._data) - self._at
                lacks = max(bad.size, 8) > there
                if lacks and self._grow(bad.size - there):
                    continue
                offset = self._start + self._at
                raise corrupt(self._path, offset, bad.reason) from None
            self._at = frame.end
            return frame._replace(
                offset=frame.offset + self._start, end=frame.end + self._start
            )

    def _grow(self, size: int) -> bool:
        """Read on by ``size`` bytes or more; returns False if the file is shorter."""
        rest = self._data[self._at :]
        self._start += self._at
        self._at = 0
        offset = self._start + len(rest)
        available = self._files.size(self._handle) - offset
        if size > available or available <= 0:
            return False
        more = self._files.read(self._handle, max(_CHUNK_BYTES, size), offset)
        self._data = rest + more
        return bool(more)


class Reader:
    """Reads entries of a log from its files."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files = files
        self._directory = directory
        self._handle: int | None = None
        self._name = ""
        self._cursor: _Cursor | None = None

    def read(
        self, name: str, sample: Sample, epoch: int, lo: int, hi: int, bytes_max: int
    ) -> list[Entry]:
        """Entries lo <= index < hi of the file ``name``, all within the sample's reach.

        Unless ``bytes_max`` is 0 the last one may be that which passes it.

        Raises:
            CorruptionError: what is there is not what was written.
            OSError: the file cannot be read.
        """
        path = self._directory / name
        at = self._start_at(sample, epoch, lo)
        window = _Window(self._files, self._open(name), path, at.offset)
        crc = at.crc
        index = at.entry
        end = at.offset
        taken = 0
        entries: list[Entry] = []
        while index < hi:
            frame = window.next(crc)
            if frame.kind == CRC and frame.crc != crc:
                raise corrupt(path, frame.offset, "the checksum so far is wrong")
            if frame.kind == ENTRY:
                if index >= lo:
                    entries.append(self._entry(path, frame, index))
                    taken += len(entries[-1].data)
                index += 1
            crc = frame.crc
            end = frame.end
            if bytes_max and taken > bytes_max:
                break
        self._cursor = _Cursor(epoch, Sample(index, sample.segment, end, crc))
        return entries

    def _entry(self, path: Path, frame: Frame, index: int) -> Entry:
        try:
            entry = read_entry(frame.data)
        except Malformed as error:
            raise corrupt(path, frame.offset, str(error)) from None
        if entry.index != index:
            raise corrupt(path, frame.offset, f"entry {index} is not where it was")
        return entry

    def _start_at(self, sample: Sample, epoch: int, lo: int) -> Sample:
        cursor = self._cursor
        if (
            cursor is not None
            and cursor.epoch == epoch
            and cursor.at.segment == sample.segment
            and sample.entry < cursor.at.entry <= lo
            and sample.offset < cursor.at.offset
        ):
            return cursor.at
        return sample

    def _open(self, name: str) -> int:
        if self._handle is not None and self._name == name:
            return self._handle
        self.close()
        self._handle = self._files.open(self._directory / name)
        self._name = name
        return self._handle

    def close(self) -> None:
        """Release the file. Raises: OSError."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._cursor = None
            self._files.close(handle)
