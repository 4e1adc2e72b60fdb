"""The RocksDB backend: one column family, one prefix byte a keyspace.

Rules of this file:
1. All keyspaces share one column family: the engine gives a batch one place in its log
   and a snapshot one sequence number only within a column family (B-01, B-05).
2. Prefix 0 is this file's own: the format and the name of each other prefix. A prefix
   once given to a keyspace is never given to another.
3. A write is not synced by the engine's write call but by ``flush_wal`` after it, and
   never waits inside the engine: both would stop every thread of the process.
4. The engine's batch and the pinned iterators are made under ``_gate``, so no write
   comes between the two halves of a snapshot.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rocksdict

from revstore.errors import FormatError, PoisonedError, StorageError, UsageError
from revstore.interfaces.backend import (
    Backend,
    BackendStats,
    Durability,
    KeyspaceBatch,
    Snapshot,
    WriteBatch,
)
from revstore.interfaces.backend_tools import FORKED, check_batch, guard_forks
from revstore_rocksdb.engine import (
    is_stall,
    make_immortal,
    open_database,
    storage_error,
)
from revstore_rocksdb.plugin import CAPABILITIES, RocksdbOptions
from revstore_rocksdb.snapshot import RocksdbSnapshot

FORMAT = b"1"
"""Version of the layout described in docs/design/backends.md."""

OWN_PREFIX = b"\x00"
FORMAT_ROW = OWN_PREFIX + b"format"
NAME_ROWS = OWN_PREFIX + b"name:"
PREFIX_MAX = 0xFE
RANGE_ROWS_FEW = 100
"""A range of at most so many rows is deleted row by row: a range tombstone costs every
later read of its neighbourhood."""
STALL_WAIT_MIN_S = 0.0005
STALL_WAIT_MAX_S = 0.05
CLOSED = "the rocksdb backend is closed"
FIGURES = (
    "block-cache-usage",
    "cur-size-all-mem-tables",
    "estimate-num-keys",
    "estimate-pending-compaction-bytes",
    "estimate-table-readers-mem",
    "is-write-stopped",
    "num-running-compactions",
)


class RocksdbBackend(Backend):
    """An open RocksDB database."""

    capabilities = CAPABILITIES

    def __init__(
        self, directory: Path, keyspaces: Sequence[str], options: RocksdbOptions
    ) -> None:
        self._directory = directory
        self._options = options
        self._closed_reason = ""
        self._poison = ""
        self._snapshots: weakref.WeakSet[RocksdbSnapshot] = weakref.WeakSet()
        self._writing = threading.RLock()
        self._gate = threading.RLock()
        self._stalls = 0
        self._writes = 0
        """Batches handed to the engine; guarded by ``_gate``."""
        self._unstalled = rocksdict.WriteOptions()
        self._unstalled.no_slowdown = True
        self._db = open_database(directory, options)
        try:
            self._prefixes = self._load_prefixes(keyspaces)
        except BaseException:
            self._db.close()
            raise
        guard_forks(self)

    def _load_prefixes(self, keyspaces: Sequence[str]) -> dict[str, bytes]:
        try:
            stored = self._db.get(FORMAT_ROW)
            if stored not in (None, FORMAT):
                raise FormatError(
                    f"{self._directory} has rocksdb layout {stored!r}, this version "
                    f"reads {FORMAT!r}; use a newer revstore"
                )
            names = {
                row[len(NAME_ROWS) :].decode(): prefix
                for row, prefix in _rows_under(self._db, NAME_ROWS)
            }
            batch = rocksdict.WriteBatch(raw_mode=True)
            batch.put(FORMAT_ROW, FORMAT)
            used = {prefix[0] for prefix in names.values()}
            free = (one for one in range(1, PREFIX_MAX + 1) if one not in used)
            for name in keyspaces:
                if name not in names:
                    names[name] = bytes((next(free),))
                    batch.put(NAME_ROWS + name.encode(), names[name])
            self._db.write(batch)
            self._db.flush_wal(True)
        except (StorageError, StopIteration):
            raise
        except Exception as exc:
            raise storage_error(f"{self._directory} cannot be opened", exc) from exc
        return {name: names[name] for name in keyspaces}

    # -- writing ---------------------------------------------------------------------

    def write(self, batch: WriteBatch, durability: Durability) -> None:
        """See ``Backend.write``."""
        with self._writing:
            self._check_usable()
            check_batch(batch, durability, self._prefixes, self.capabilities)
            waited = 0.0
            while not self._try_write(batch):
                if waited > self._options.stall_seconds_max:
                    raise self._poisoned(
                        "a write", f"the engine stalled for {waited:.0f} s"
                    )
                waited += self._wait_out_stall()
            if durability >= Durability.SYNC:
                self._sync("a write")

    def _try_write(self, batch: WriteBatch) -> bool:
        """Hand a batch to the engine; False if it stalls and took nothing."""
        try:
            # A batch object is used up by a write, a refused one too.
            prepared = rocksdict.WriteBatch(raw_mode=True)
            for name, changes in batch.keyspaces.items():
                self._add(prepared, self._prefixes[name], changes)
        except (TypeError, KeyError):
            raise
        except Exception as exc:
            raise self._poisoned("a read before a write", exc) from exc
        try:
            with self._gate:
                # Counted before: also a write that fails may have changed something.
                self._writes += 1
                self._db.write(prepared, self._unstalled)
        except Exception as exc:
            if is_stall(exc):
                return False
            raise self._poisoned("a write", exc) from exc
        return True

    def _add(
        self, prepared: rocksdict.WriteBatch, prefix: bytes, changes: KeyspaceBatch
    ) -> None:
        """Add a keyspace's changes; the engine applies them in order (B-02)."""
        for lo, hi in changes.delete_ranges:
            if hi is None:
                self._add_range(prepared, prefix + lo, bytes((prefix[0] + 1,)))
            elif lo < hi:
                self._add_range(prepared, prefix + lo, prefix + hi)
        delete, put = prepared.delete, prepared.put
        for key in changes.deletes:
            delete(prefix + key)
        for key, value in changes.puts:
            put(prefix + key, value)

    def _add_range(
        self, prepared: rocksdict.WriteBatch, first: bytes, beyond: bytes
    ) -> None:
        cursor = self._db.iter()
        cursor.seek(first)
        rows: list[bytes] = []
        row = cursor.key()
        while row is not None and row < beyond:
            if len(rows) == RANGE_ROWS_FEW:
                prepared.delete_range(first, beyond)
                return
            rows.append(row)
            cursor.next()
            row = cursor.key()
        if row is None:
            cursor.status()
        for row in rows:
            prepared.delete(row)

    def _wait_out_stall(self) -> float:
        """Sleep, without the interpreter lock, until the engine takes writes again."""
        self._stalls += 1
        pause = STALL_WAIT_MIN_S
        waited = 0.0
        while True:
            time.sleep(pause)
            waited += pause
            if not self._db.property_int_value("rocksdb.is-write-stopped"):
                return waited
            if waited > self._options.stall_seconds_max:
                return waited
            self._check_background()
            pause = min(pause * 2, STALL_WAIT_MAX_S)

    def _check_background(self) -> None:
        """A stall after a failed flush or compaction has no end but reopening."""
        if self._db.property_int_value("rocksdb.background-errors"):
            raise self._poisoned(
                "a write", "a flush or compaction failed in the background"
            )

    def sync(self) -> None:
        """See ``Backend.sync``."""
        with self._writing:
            self._check_usable()
            self._sync("a sync")

    def _sync(self, what: str) -> None:
        try:
            self._db.flush_wal(True)
        except Exception as exc:
            raise self._poisoned(what, exc) from exc

    def _poisoned(self, what: str, cause: object) -> StorageError:
        self._poison = (
            f"{what} to {self._directory} failed ({cause}); close and open the backend "
            "after mending the cause"
        )
        return StorageError(self._poison)

    # -- reading ---------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """See ``Backend.snapshot``."""
        with self._gate:
            self._check_usable()
            try:
                reader, cursor = self._db.snapshot(), self._db.iter()
            except Exception as exc:
                raise storage_error("rocksdb", exc) from exc
            snapshot = RocksdbSnapshot(
                self, reader, cursor, self._prefixes, self._writes
            )
            self._snapshots.add(snapshot)
            return snapshot

    def get_newest(self, rows: list[Any], writes: int) -> list[bytes | None] | None:
        """The values of rows if no batch was written after the first ``writes``.

        None if one was, or if the engine reports an error: a read of each row by
        itself will say more. Raises: nothing.
        """
        with self._gate:
            if self._writes != writes or self._closed_reason or self._poison:
                return None
            try:
                found: Any = self._db.get(rows)
            except Exception:
                return None
        return list(found)

    def release(self, snapshot: RocksdbSnapshot) -> None:
        """Called by a snapshot that is being closed. Raises: nothing."""
        self._snapshots.discard(snapshot)

    def stats(self) -> BackendStats:
        """See ``Backend.stats``."""
        with self._gate:
            self._check_open()
            size = 0
            try:
                engine: dict[str, int | float | str] = {
                    name: self._db.property_int_value("rocksdb." + name) or 0
                    for name in FIGURES
                }
                live = self._db.property_int_value("rocksdb.estimate-live-data-size")
                with os.scandir(self._directory) as entries:
                    for entry in entries:
                        size += _size_of(entry)
            except Exception as exc:
                raise storage_error("rocksdb", exc) from exc
        engine["stalls"] = self._stalls
        engine["snapshots"] = len(self._snapshots)
        in_use = (live or 0) + int(engine["cur-size-all-mem-tables"])
        return BackendStats(
            size_bytes=size, size_in_use_bytes=min(size, in_use), engine=engine
        )

    # -- the rest --------------------------------------------------------------------

    def checkpoint(self, path: Path) -> None:
        """See ``Backend.checkpoint``; files are linked where the file system can."""
        with self._writing:
            self._check_usable()
            if path.exists():
                raise UsageError(f"{path} exists; give the checkpoint a new path")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                rocksdict.Checkpoint(self._db).create_checkpoint(str(path))
            except Exception as exc:
                shutil.rmtree(path, ignore_errors=True)
                raise storage_error(f"the checkpoint to {path} failed", exc) from exc

    def compact(self) -> None:
        """See ``Backend.compact``."""
        self._check_usable()
        how = rocksdict.CompactOptions()
        how.set_bottommost_level_compaction(
            rocksdict.BottommostLevelCompaction.force_optimized()
        )
        try:
            self._db.compact_range(None, None, how)
        except Exception as exc:
            raise storage_error("the compaction failed", exc) from exc

    def verify(self) -> list[str]:
        """See ``Backend.verify``; reads every row, the engine checks the checksums."""
        self._check_usable()
        try:
            return _faults(self._db)
        except Exception as exc:
            raise storage_error("the check could not run", exc) from exc

    def close(self) -> None:
        """See ``Backend.close``."""
        if self._closed_reason:
            return
        with self._writing, self._gate:
            self._closed_reason = CLOSED
            for snapshot in list(self._snapshots):
                snapshot.end(CLOSED)
            try:
                if not self._poison:
                    self._db.flush_wal(True)
                    # Else the next opening would read the engine's log again.
                    self._db.flush()
            except Exception as exc:
                raise storage_error("the last sync failed", exc) from exc
            finally:
                self._close_engine()

    def _close_engine(self) -> None:
        try:
            self._db.close()
        except Exception as exc:
            # The engine repeats an earlier background error here; that one was
            # reported by the call that met it.
            if not self._poison:
                raise storage_error("the close failed", exc) from exc

    def after_fork_in_child(self) -> None:
        """Refuse use in a forked child (B-13)."""
        make_immortal(self._db)
        if not self._closed_reason:
            self._closed_reason = FORKED
        self._writing = threading.RLock()
        self._gate = threading.RLock()
        for snapshot in list(self._snapshots):
            snapshot.disown(FORKED)

    def _check_open(self) -> None:
        if self._closed_reason:
            raise StorageError(self._closed_reason)

    def _check_usable(self) -> None:
        self._check_open()
        if self._poison:
            raise PoisonedError(self._poison)


def _rows_under(db: rocksdict.Rdict, prefix: bytes) -> list[tuple[bytes, bytes]]:
    cursor = db.iter()
    cursor.seek(prefix)
    rows = []
    row = cursor.key()
    while row is not None and row.startswith(prefix):
        rows.append((row, cursor.value()))
        cursor.next()
        row = cursor.key()
    if row is None:
        cursor.status()
    return rows


def _faults(db: rocksdict.Rdict) -> list[str]:
    known = {OWN_PREFIX[0]} | {one[0] for _, one in _rows_under(db, NAME_ROWS)}
    faults = []
    cursor = db.iter()
    cursor.seek_to_first()
    before = b""
    row = cursor.key()
    while row is not None:
        if row <= before or row[0] not in known:
            faults.append(f"unexpected row {row[:40]!r} after {before[:40]!r}")
        cursor.value()
        before = row
        cursor.next()
        row = cursor.key()
    try:
        cursor.status()
    except Exception as exc:
        faults.append(f"after {before[:40]!r}: {exc}")
    return faults


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0
