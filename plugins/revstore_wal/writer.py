"""The end of the log on disk: writing batches, cutting files, what is durable.

Rules of this file:

1. One thread at a time uses a ``SegmentWriter``.
2. A batch that must be durable is one write and one ``fdatasync``; it opens with a
   mark. One that need not be is written without mark and sync.
3. A file gets its name only when its head is durable, and the log goes on in it only
   when the name is.
4. Nothing is retried: after an ``OSError`` the owner never calls again.
"""

from __future__ import annotations

from pathlib import Path

from revstore.errors import StorageError
from revstore.types import HardState, SnapshotMeta
from revstore_wal.encode import OFFSET_MAX, encode_head, encode_mark
from revstore_wal.files import Files
from revstore_wal.segments import PREPARED_NAME, Segment

REPAIR_CHUNK_BYTES = 1 << 20


class SegmentWriter:
    """Writes behind the end of the newest file."""

    def __init__(
        self,
        files: Files,
        directory: Path,
        segment: Segment,
        offset: int,
        segment_bytes: int,
    ) -> None:
        self.segment = segment
        self.offset = offset
        self.synced = offset
        """How far the file is durable."""
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._prepared: int | None = None
        self._prepare_from = segment_bytes // 2
        self._handle = files.open(directory / segment.name)

    def repair(self, synced: int) -> None:
        """Make the file end, durably, where the log goes on; what is behind is zero.

        What lies behind ``synced`` may be in the page cache only, and the process before
        may have ended because its sync failed. Then the pages count as clean, and no
        further sync writes them; so they are written again.

        Raises: OSError.
        """
        files = self._files
        for start in range(synced, self.offset, REPAIR_CHUNK_BYTES):
            size = min(REPAIR_CHUNK_BYTES, self.offset - start)
            files.pwrite(self._handle, files.read(self._handle, size, start), start)
        if files.size(self._handle) != self.offset:
            files.truncate(self._handle, self.offset)
        files.fallocate(self._handle, max(self._segment_bytes, self.offset))
        files.fdatasync(self._handle)
        files.fsync_dir(self._directory)

    def write(self, pieces: list[bytes], size: int, crc: int, must_sync: bool) -> int:
        """Write records; ``crc`` is the sum before them.

        Returns the offset of the first record.

        Raises:
            OSError: the write or the sync failed.
            StorageError: the batch is too large for a file.
        """
        if must_sync:
            mark = encode_mark(self.synced, self.offset, size, crc)
            pieces.insert(0, mark)
        else:
            mark = b""
        start = self.offset + len(mark)
        if start + size > OFFSET_MAX:
            raise StorageError(f"a batch of {size} bytes is too large for the log")
        self._files.pwrite(self._handle, b"".join(pieces), self.offset)
        self.offset = start + size
        if must_sync:
            self._files.fdatasync(self._handle)
            self.synced = self.offset
        return start

    def sync(self) -> None:
        """Make durable what was written without sync. Raises: OSError."""
        if self.synced != self.offset:
            self._files.fdatasync(self._handle)
            self.synced = self.offset

    def cut(self, segment: Segment, head: bytes) -> None:
        """Go on in a new file that opens with ``head``. Raises: OSError."""
        self._files.truncate(self._handle, self.offset)
        self._files.fdatasync(self._handle)
        self.prepare()
        assert self._prepared is not None
        handle, self._prepared = self._prepared, None
        old, self._handle = self._handle, handle
        self._files.close(old)
        publish(self._files, self._directory, handle, segment, head)
        self.segment = segment
        self.offset = self.synced = len(head)

    def wants_ahead(self) -> bool:
        """Whether ``prepare_ahead`` would do something. Raises: nothing."""
        return self._prepared is None and self.offset > self._prepare_from

    def prepare_ahead(self) -> None:
        """Prepare the next file once this one is half full; never raises.

        If that fails the cut, which needs it, tries and reports.
        """
        if self.wants_ahead():
            try:
                self.prepare()
            except OSError:
                self._prepare_from = OFFSET_MAX

    def prepare(self) -> None:
        """Make the next file in advance, so that a cut need not wait. Raises: OSError."""
        if self._prepared is None:
            self._prepared = create_prepared(
                self._files, self._directory, self._segment_bytes
            )

    def close(self) -> None:
        """Release the files without writing anything. Raises: OSError."""
        if self._prepared is not None:
            handle, self._prepared = self._prepared, None
            self._files.close(handle)
            self._files.remove(self._directory / PREPARED_NAME)
        self._files.close(self._handle)


def create_prepared(files: Files, directory: Path, segment_bytes: int) -> int:
    """An empty preallocated file under a passing name. Raises: OSError."""
    path = directory / PREPARED_NAME
    handle = files.open(path, create=True)
    try:
        files.fallocate(handle, segment_bytes)
    except OSError:
        files.close(handle)
        files.remove(path)
        raise
    return handle


def publish(
    files: Files, directory: Path, handle: int, segment: Segment, head: bytes
) -> None:
    """Give a prepared file its head and then its name. Raises: OSError."""
    files.pwrite(handle, head, 0)
    files.fdatasync(handle)
    files.rename(directory / PREPARED_NAME, directory / segment.name)
    files.fsync_dir(directory)


def make_durable_dir(files: Files, directory: Path) -> None:
    """Make a directory and its parents; their names are durable. Raises: OSError."""
    try:
        files.make_dir(directory)
    except FileNotFoundError:
        make_durable_dir(files, directory.parent)
        files.make_dir(directory)
    files.fsync_dir(directory.parent)


def create_log(
    files: Files, directory: Path, metadata: bytes, segment_bytes: int
) -> Segment:
    """Make the first file of a log. Raises: OSError."""
    segment = Segment(0, 0)
    handle = create_prepared(files, directory, segment_bytes)
    try:
        head, _ = encode_head(0, metadata, HardState(), SnapshotMeta())
        publish(files, directory, handle, segment, head)
    finally:
        files.close(handle)
    return segment
