"""The write-ahead log "segment".

Rules of this file:

1. ``append`` checks and encodes in the caller's thread and queues the bytes; whoever
   drains the queue (the log's own thread, or ``sync``) writes them in that order. One
   drain is one batch for each file: one write, one sync, then the callbacks.
2. ``_lock`` guards what readers see and the queue, and is held for memory work only;
   ``_read_lock`` guards the files that readers use. Of a log without a thread,
   ``_drain_lock`` is held by whoever drains: several callers of ``sync`` take turns.
3. A batch that only moves the commit index is not worth a sync: its callbacks run
   after the write, and it is durable with the next batch that is. Losing it loses no
   promise, since consensus finds the commit index again.
4. The first failure poisons the log: it is kept, every waiting callback gets it, and
   nothing is written any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from revstore.errors import (
    InvariantViolation,
    PoisonedError,
    StorageError,
    UsageError,
)
from revstore.interfaces.wal import OnDurable, Wal, WalCapabilities, WalRecovery
from revstore.types import Entry, HardState, SnapshotMeta
from revstore_wal.batch import BatchWriter, Item
from revstore_wal.encode import (
    MARK_BYTES_MAX,
    SNAPSHOT,
    STATE,
    Encoded,
    encode_entries,
    encode_head,
    encode_snapshot,
    encode_state,
)
from revstore_wal.files import Files, OsFiles, UnsyncedFiles
from revstore_wal.index import LogIndex, Sample
from revstore_wal.options import SegmentOptions
from revstore_wal.reader import Reader
from revstore_wal.scan import Scanned, Scanner
from revstore_wal.segments import LOCK_NAME, PREPARED_NAME, Segment, list_segments
from revstore_wal.writer import SegmentWriter, create_log, make_durable_dir

CAPABILITIES = WalCapabilities(persistent=True)


class SegmentWal(Wal):
    """A log in etcd's file format; see docs/design/wal-format.md.

    Raises from the constructor:
        LockedError: the directory is open elsewhere.
        CorruptionError: there is damage before the tail.
        ConfigError: an option is out of its range.
        StorageError: the disk failed.
    """

    capabilities = CAPABILITIES

    def __init__(
        self,
        directory: Path,
        metadata: bytes,
        threaded: bool,
        options: SegmentOptions | None = None,
        files: Files | None = None,
    ) -> None:
        self._options = options or SegmentOptions()
        self._options.check()
        unsafe = self._options.unsafe_no_fsync
        self._files = files or (UnsyncedFiles() if unsafe else OsFiles())
        self._directory = directory
        self._lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._drain_lock = threading.Lock()
        self._index = LogIndex(self._options.tail_bytes_max)
        self._reader = Reader(self._files, directory)
        self._queue: list[Item] = []
        self._poison: BaseException | None = None
        self._closed = False
        with self._storage_errors("open"):
            self._open(metadata)
        self._thread: threading.Thread | None = None
        self._wake = threading.Lock()
        self._wake.acquire()
        self._closing = False
        self._busy = False
        if threaded:
            self._thread = threading.Thread(
                target=self._run, name=f"wal-{directory.name}", daemon=True
            )
            self._thread.start()

    # Opening.

    def _open(self, metadata: bytes) -> None:
        files = self._files
        make_durable_dir(files, self._directory)
        self._lock_handle = files.lock(self._directory / LOCK_NAME)
        try:
            self._recover(metadata)
        except BaseException:
            files.close(self._lock_handle)
            raise

    def _recover(self, metadata: bytes) -> None:
        files = self._files
        directory = self._directory
        if PREPARED_NAME in files.listdir(directory):
            files.remove(directory / PREPARED_NAME)
        self._segments = list_segments(files, directory)
        if not self._segments:
            size = self._options.segment_bytes
            self._segments = [create_log(files, directory, metadata, size)]
        scanner = Scanner(files, directory, self._index, self._options.sample_bytes)
        found = scanner.run(self._segments)
        self._writer = SegmentWriter(
            files,
            directory,
            self._segments[-1],
            found.offset,
            self._options.segment_bytes,
        )
        try:
            self._writer.repair(found.synced)
        except BaseException:
            self._writer.close()
            raise
        self._take_over(found)

    def _take_over(self, found: Scanned) -> None:
        self._batches = BatchWriter(
            self._writer, self._index, self._lock, self._options.sample_bytes
        )
        self._metadata = found.metadata
        self._hard_state = found.hard_state
        self._crc = found.crc
        self._used = found.offset
        """How full the newest file will be when the queue is written, at most."""
        self._head_bytes = found.offset
        """How full it is at least: without more in it there is no cut."""
        index = self._index
        self._recovery = WalRecovery(
            metadata=found.metadata,
            hard_state=found.hard_state,
            snapshot=index.snapshot,
            first_index=index.first,
            last_index=index.last,
            truncated_bytes=max(found.content_end - found.offset, 0),
        )

    def recovery(self) -> WalRecovery:
        return self._recovery

    # Appending.

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: OnDurable | None = None,
    ) -> None:
        self._enqueue(hard_state, entries, on_durable)
        if self._thread is not None:
            self._wake_thread()

    def append_here(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: OnDurable | None = None,
    ) -> None:
        self._enqueue(hard_state, entries, on_durable)
        if self._thread is None:
            return
        if not self._drain_lock.acquire(blocking=False):
            # The thread writes, or prepares a file; it will look once more.
            self._wake_thread()
            return
        try:
            with self._lock:
                items, self._queue = self._queue, []
                self._busy = True
            self._drain(items)
            self._busy = False
        finally:
            self._drain_lock.release()
        if self._writer.wants_ahead():
            self._wake_thread()

    def _enqueue(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: OnDurable | None,
    ) -> None:
        self._check_usable()
        index = self._index
        replaces = False
        if entries:
            start = entries[0].index
            replaces = start <= index.last
            if start > index.last + 1 or start < index.first:
                raise InvariantViolation(
                    f"an append at {start} does not fit a log of {index.first} to "
                    f"{index.last}"
                )
        state = None
        must_sync = bool(entries)
        if hard_state is not None and hard_state != self._hard_state:
            state = hard_state
            must_sync = must_sync or self._is_promise(hard_state)
        item = self._encode(entries, state, must_sync)
        encoded = item.encoded
        item.on_durable = on_durable
        if state is not None:
            self._hard_state = state
        if encoded is not None:
            self._crc = encoded.crc
            self._used += encoded.size + MARK_BYTES_MAX
        if entries and encoded is not None:
            item.first = entries[0].index
            item.replaces = replaces
            with self._lock:
                index.append(entries, encoded.terms, encoded.data_bytes)
                self._queue.append(item)
        else:
            with self._lock:
                self._queue.append(item)

    def _is_promise(self, state: HardState) -> bool:
        """Whether a hard state says more than a new commit index.

        Raises:
            InvariantViolation: it goes back, which a hard state never does.
        """
        before = self._hard_state
        if state.term < before.term or state.commit < before.commit:
            raise InvariantViolation(f"the hard state goes back: {before} to {state}")
        return state.term != before.term or state.vote != before.vote

    def _encode(
        self, entries: Sequence[Entry], state: HardState | None, must_sync: bool
    ) -> Item:
        """Records for the newest file, or for the next one if they do not fit."""
        if not entries and state is None:
            return Item(None, self._crc, must_sync)
        encoded = self._encode_records(entries, state)
        if self._make_room(encoded.size + MARK_BYTES_MAX):
            encoded = self._encode_records(entries, state)
        return Item(encoded, self._crc, must_sync)

    def _encode_records(
        self, entries: Sequence[Entry], state: HardState | None
    ) -> Encoded:
        encoded = encode_entries(entries, self._crc, self._options.sample_bytes)
        if state is not None:
            encoded.add(STATE, encode_state(state))
        return encoded

    def _make_room(self, size: int) -> bool:
        """Cut if ``size`` bytes do not fit the newest file; returns whether."""
        fits = self._used + size <= self._options.segment_bytes
        if fits or self._used <= self._head_bytes:
            return False
        self._cut()
        return True

    def _cut(self) -> None:
        """Let the next records go to a new file."""
        segment = Segment(self._segments[-1].sequence + 1, self._index.last + 1)
        head, crc = encode_head(
            self._crc, self._metadata, self._hard_state, self._index.snapshot
        )
        item = Item(None, self._crc, must_sync=True)
        item.cut = (segment, head)
        self._crc = crc
        self._used = self._head_bytes = len(head)
        with self._lock:
            self._segments.append(segment)
            self._queue.append(item)

    # Writing: the log's thread, or the caller of sync.

    def _run(self) -> None:
        while True:
            with self._drain_lock:
                with self._lock:
                    items, self._queue = self._queue, []
                    self._busy = bool(items)
                    closing = self._closing
                if items:
                    self._drain(items)
                if not closing:
                    self._writer.prepare_ahead()
            if items:
                continue
            if closing:
                return
            self._wake.acquire()

    def _drain(self, items: list[Item]) -> None:
        """Write ``items`` in their order and run their callbacks; never raises."""
        try:
            if self._poison is not None:
                raise PoisonedError(self._poison_text()) from self._poison
            self._batches.write(items)
        except Exception as error:
            self._fail(error, items)
            return
        if self._index.trim_due():
            with self._lock:
                waiting = [item.first for item in self._queue if item.first]
                self._index.trim(min(waiting, default=self._index.last + 1))

    def _fail(self, error: Exception, items: list[Item]) -> None:
        """Poison the log and tell everybody who waits."""
        with self._lock:
            if self._poison is None:
                self._poison = error
            items = items + self._queue
            self._queue = []
        if not isinstance(error, StorageError):
            cause = error
            error = StorageError(f"writing the log in {self._directory}: {error}")
            error.__cause__ = cause
        for item in items:
            on_durable, item.on_durable = item.on_durable, None
            if on_durable is not None:
                on_durable(error)

    def sync(self) -> None:
        self._check_usable()
        if self._thread is None:
            self._drain_here()
            if self._poison is not None:
                raise self._first_error()
            return
        with self._lock:
            if not self._queue and not self._busy:
                return
            item = Item(None, 0, must_sync=False)
            done = threading.Event()
            item.on_durable = lambda _error: done.set()
            self._queue.append(item)
        self._wake_thread()
        done.wait()
        if self._poison is not None:
            raise self._first_error()

    def _drain_here(self) -> None:
        """Write what is queued in the caller's thread; never raises."""
        with self._drain_lock:
            with self._lock:
                items, self._queue = self._queue, []
            if items:
                self._drain(items)

    def _wake_thread(self) -> None:
        if self._wake.locked():
            self._wake.release()

    # Snapshots and purging.

    def save_snapshot(self, meta: SnapshotMeta) -> None:
        self._check_usable()
        index = self._index
        if meta.index < index.snapshot.index:
            self.sync()
            return
        item = self._encode_marker(meta)
        with self._lock:
            item.restarts = index.mark_snapshot(meta)
            self._queue.append(item)
        if self._thread is not None:
            self._wake_thread()
        self.sync()

    def _encode_marker(self, meta: SnapshotMeta) -> Item:
        data = encode_snapshot(meta)
        self._make_room(len(data) + 2 * MARK_BYTES_MAX)
        encoded = Encoded(self._crc)
        encoded.add(SNAPSHOT, data)
        item = Item(encoded, self._crc, must_sync=True)
        self._crc = encoded.crc
        self._used += encoded.size + MARK_BYTES_MAX
        return item

    def purge_to(self, index: int) -> None:
        self._check_usable()
        if index > self._index.snapshot.index:
            raise InvariantViolation(
                f"purge to {index} is beyond the snapshot marker at "
                f"{self._index.snapshot.index}"
            )
        self.sync()
        with self._read_lock, self._storage_errors("purge"):
            while len(self._segments) > 1:
                oldest = self._segments[0]
                if self._segments[1].first > index + 1:
                    return
                with self._lock:
                    self._segments.pop(0)
                    self._index.free_segments(oldest.sequence)
                self._reader.close()
                try:
                    self._files.remove(self._directory / oldest.name)
                    self._files.fsync_dir(self._directory)
                except OSError as error:
                    self._poison = error
                    raise

    # Reading.

    def first_index(self) -> int:
        return self._index.first

    def last_index(self) -> int:
        return self._index.last

    def term(self, index: int) -> int | None:
        with self._lock:
            snapshot = self._index.snapshot
            if index == snapshot.index:
                return snapshot.term
            return self._index.entry_term(index)

    def read(self, lo: int, hi: int, bytes_max: int = 0) -> list[Entry]:
        with self._read_lock:
            while True:
                with self._lock:
                    epoch = self._index.epoch
                    self._check_range(lo, hi)
                entries = self._read(lo, hi, bytes_max, epoch)
                if epoch == self._index.epoch:
                    return entries

    def _check_range(self, lo: int, hi: int) -> None:
        index = self._index
        if not index.first <= lo <= hi <= index.last + 1:
            raise UsageError(
                f"entries {lo} to {hi - 1} are not within {index.first} to {index.last}"
            )

    def _read(self, lo: int, hi: int, bytes_max: int, epoch: int) -> list[Entry]:
        """Entries from disk and from memory, of a log that stays as it is."""
        entries: list[Entry] = []
        room = bytes_max
        while lo < hi:
            with self._lock:
                if self._index.epoch != epoch:
                    break
                tail_first = self._index.tail_first
                if lo >= tail_first:
                    part = self._index.tail[lo - tail_first : hi - tail_first]
                    found = None
                else:
                    found = self._index.find_sample(lo)
            if found is not None:
                part = self._read_disk(lo, min(hi, tail_first), epoch, *found, room)
            if not part:
                break
            for entry in part if bytes_max else ():
                room -= len(entry.data)
                if room < 0 and (entries or entry is not part[0]):
                    return entries + part[: entry.index - part[0].index]
            entries += part
            lo += len(part)
            if bytes_max and room <= 0:
                break
        return entries

    def _read_disk(
        self, lo: int, hi: int, epoch: int, sample: Sample, stop: int, room: int
    ) -> list[Entry]:
        name = self._segments[sample.segment - self._segments[0].sequence].name
        with self._storage_errors("read"):
            return self._reader.read(name, sample, epoch, lo, min(hi, stop), room)

    # Closing and errors.

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            with self._lock:
                self._closing = True
            self._wake_thread()
            self._thread.join()
        else:
            self._drain_here()
        with self._storage_errors("close"):
            try:
                if self._poison is None:
                    self._writer.sync()
            finally:
                with self._read_lock:
                    self._reader.close()
                self._writer.close()
                self._files.close(self._lock_handle)
        if self._poison is not None:
            raise self._first_error()

    def _check_usable(self) -> None:
        if self._poison is not None:
            raise PoisonedError(self._poison_text()) from self._poison
        if self._closed:
            raise UsageError(f"the log in {self._directory} is closed")

    def _poison_text(self) -> str:
        return (
            f"the log in {self._directory} refuses work because an earlier write "
            f"failed ({self._poison}); repair the disk and restart"
        )

    def _first_error(self) -> StorageError:
        error = self._poison
        if isinstance(error, StorageError):
            return error
        wrapped = StorageError(f"writing the log in {self._directory}: {error}")
        wrapped.__cause__ = error
        return wrapped

    @contextmanager
    def _storage_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"{what} of the log in {self._directory}: {error}")


def open_wal(
    directory: Path, metadata: bytes, threaded: bool, options: SegmentOptions
) -> SegmentWal:
    """The factory of the plugin, on the files of the operating system.

    Raises: what ``SegmentWal`` raises.
    """
    return SegmentWal(directory, metadata, threaded, options)
