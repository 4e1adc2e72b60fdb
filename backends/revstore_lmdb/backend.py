"""The LMDB backend: one environment, two databases a keyspace.

Rules of this file:
1. Data is never written with ``sync=False``: LMDB would reuse pages that the last
   durable meta page still needs, and a power cut would leave neither tree whole. The
   environment is opened with ``metasync=False``: a commit syncs the pages and then
   writes the meta page, so what is on disk is always a whole older commit (ORDERED);
   SYNC adds one sync for the meta page.
2. A write transaction begins and ends in one call on one thread.
3. A failed write is not tried again; the backend is poisoned (B-11). A full map is not
   a failure: nothing has been written then, the map grows and the batch starts afresh.
4. Nobody else has the directory open (``DirectoryLock``), so while ``_growing`` is held
   and no write runs, what readers see cannot change.
"""

from __future__ import annotations

import errno
import shutil
import threading
import time
import weakref
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import lmdb

from revstore.errors import (
    CorruptionError,
    FormatError,
    PoisonedError,
    StorageError,
    UsageError,
)
from revstore.interfaces.backend import (
    Backend,
    BackendStats,
    Durability,
    Snapshot,
    WriteBatch,
)
from revstore.interfaces.backend_tools import FORKED, check_batch, guard_forks
from revstore_lmdb.directory import (
    DATA_FILE,
    DirectoryLock,
    check_format,
    sync_path,
    write_format,
)
from revstore_lmdb.layers import Keyspace
from revstore_lmdb.plugin import CAPABILITIES, LmdbOptions
from revstore_lmdb.snapshot import LmdbSnapshot
from revstore_lmdb.writes import apply_changes

COPY_PREFIX = "copy-"
"""Directories of copies made for old readers while the map grew."""
MAP_BYTES_MIN = 1 << 20
ENGINES = {"0.9": 0, "1.0": 1}
BUSY_POLL_S = 0.0002
CLOSED = "the lmdb backend is closed"


class LmdbBackend(Backend):
    """An open LMDB environment."""

    capabilities = CAPABILITIES

    def __init__(
        self, directory: Path, keyspaces: Sequence[str], options: LmdbOptions
    ) -> None:
        self._directory = directory
        self._names = tuple(keyspaces)
        self._options = options
        self._closed_reason = ""
        self._poison = ""
        self._copy_numbers = count(1)
        self._copies: dict[Path, lmdb.Environment] = {}
        self._snapshots: weakref.WeakSet[LmdbSnapshot] = weakref.WeakSet()
        self._writing = threading.RLock()
        self._growing = threading.RLock()
        self._lock = DirectoryLock(directory)
        try:
            for stale in directory.glob(COPY_PREFIX + "*"):
                shutil.rmtree(stale, ignore_errors=True)
            check_format(directory, options.engine)
            self._map_bytes = max(options.map_bytes, MAP_BYTES_MIN)
            self._env = self._open_environment()
            try:
                self._spaces = self._open_keyspaces()
            except BaseException:
                self._env.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        guard_forks(self)

    # -- opening ---------------------------------------------------------------------

    def _open_environment(self) -> lmdb.Environment:
        while True:
            try:
                env = _open(
                    self._directory, self._map_bytes, self._options, self._names
                )
                env.reader_check()
                return env
            except (lmdb.MemoryError, lmdb.Error) as exc:
                if _is_out_of_memory(exc) and self._map_bytes > MAP_BYTES_MIN:
                    self._map_bytes = max(self._map_bytes // 4, MAP_BYTES_MIN)
                    continue
                raise _open_error(self._directory, exc) from exc

    def _open_keyspaces(self) -> dict[str, Keyspace]:
        while True:
            try:
                return self._open_databases()
            except lmdb.MapFullError:
                self._env.set_mapsize(self._grown_map())
            except lmdb.Error as exc:
                raise _open_error(self._directory, exc) from exc

    def _open_databases(self) -> dict[str, Keyspace]:
        env = self._env
        with env.begin(write=True) as txn:
            spaces = {
                name: Keyspace(
                    env.open_db(b"r:" + name.encode(), txn),
                    env.open_db(b"l:" + name.encode(), txn),
                )
                for name in self._names
            }
        env.sync(True)
        # The engine does not: without this a power cut may lose the file's name.
        sync_path(self._directory)
        return spaces

    # -- writing ---------------------------------------------------------------------

    def write(self, batch: WriteBatch, durability: Durability) -> None:
        """See ``Backend.write``."""
        with self._writing:
            self._check_usable()
            check_batch(batch, durability, self._spaces, self.capabilities)
            try:
                while not self._try_write(batch):
                    self._grow()
                if durability >= Durability.SYNC:
                    self._env.sync(True)
            except (lmdb.Error, OSError) as exc:
                raise self._poisoned("a write", exc) from exc

    def _try_write(self, batch: WriteBatch) -> bool:
        """Commit a batch; False if the map is full and nothing was written."""
        txn = self._env.begin(write=True)
        try:
            for name, changes in batch.keyspaces.items():
                apply_changes(txn, self._spaces[name], changes)
            txn.commit()
        except lmdb.MapFullError:
            txn.abort()
            return False
        except BaseException:
            txn.abort()
            raise
        return True

    def sync(self) -> None:
        """See ``Backend.sync``."""
        with self._writing:
            self._check_usable()
            try:
                self._env.sync(True)
            except lmdb.Error as exc:
                raise self._poisoned("a sync", exc) from exc

    def _poisoned(self, what: str, exc: Exception) -> StorageError:
        self._poison = (
            f"{what} to {self._directory} failed ({exc}); close and open the backend "
            "after mending the cause"
        )
        return StorageError(self._poison)

    # -- growth ----------------------------------------------------------------------

    def _grown_map(self) -> int:
        self._map_bytes *= 2
        return self._map_bytes

    def _grow(self) -> None:
        """Enlarge the map; every open snapshot keeps its point in time.

        No read transaction may be alive or in use meanwhile. Those that read the newest commit
        are begun again: no write can come between. Older ones get a copy of the data
        as they saw it, made before.
        """
        with self._growing:
            newest = self._env.info()["last_txnid"]
            open_here = [one for one in self._open_snapshots() if not one.on_release]
            _freeze_all(open_here)
            old: dict[int, list[LmdbSnapshot]] = {}
            for one in open_here:
                if one.txn.id() != newest:
                    old.setdefault(one.txn.id(), []).append(one)
            for sharers in old.values():
                self._move_to_copy(sharers)
            recent = [one for one in open_here if not one.on_release]
            for one in recent:
                one.txn.abort()
            self._env.set_mapsize(self._grown_map())
            for one in recent:
                one.bind(self._env.begin(), self._spaces)

    def _open_snapshots(self) -> list[LmdbSnapshot]:
        return [one for one in list(self._snapshots) if not one.closed_reason]

    def _move_to_copy(self, sharers: list[LmdbSnapshot]) -> None:
        path = self._directory / f"{COPY_PREFIX}{next(self._copy_numbers)}"
        path.mkdir()
        self._env.copy(str(path), compact=True, txn=sharers[0].txn)
        copy = _open(
            path, path.joinpath(DATA_FILE).stat().st_size, self._options, self._names
        )
        spaces = {
            name: Keyspace(
                copy.open_db(b"r:" + name.encode(), create=False),
                copy.open_db(b"l:" + name.encode(), create=False),
            )
            for name in self._names
        }
        self._copies[path] = copy
        waiting = len(sharers)

        def release() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                self._drop_copy(path)

        for one in sharers:
            txn_before = one.txn
            one.on_release = release
            one.bind(copy.begin(), spaces)
            txn_before.abort()

    def _drop_copy(self, path: Path) -> None:
        copy = self._copies.pop(path, None)
        if copy is not None:
            copy.close()
            shutil.rmtree(path, ignore_errors=True)

    def wait_for_growth(self) -> None:
        """Return once no growth is under way. Raises: nothing."""
        with self._growing:
            pass

    # -- reading ---------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """See ``Backend.snapshot``."""
        with self._growing:
            self._check_usable()
            try:
                snapshot = LmdbSnapshot(self, self._env.begin(), self._spaces)
            except lmdb.ReadersFullError as exc:
                raise StorageError(
                    f"more than {self._options.readers_max} snapshots are open; close "
                    "some or raise the option readers_max"
                ) from exc
            except lmdb.Error as exc:
                raise StorageError(f"lmdb: {exc}") from exc
            self._snapshots.add(snapshot)
            return snapshot

    def release(self, snapshot: LmdbSnapshot, reason: str) -> None:
        """End a snapshot, never in the middle of a growth. Raises: nothing."""
        with self._growing:
            self._snapshots.discard(snapshot)
            snapshot.end(reason)

    def stats(self) -> BackendStats:
        """See ``Backend.stats``."""
        with self._growing:
            self._check_open()
            try:
                with self._env.begin() as txn:
                    info = self._env.info()
                    pages = 2
                    entries = 0
                    databases = [None] + [
                        database
                        for space in self._spaces.values()
                        for database in (space.rows, space.layers)
                    ]
                    for database in databases:
                        stat = txn.stat(database)
                        pages += stat["branch_pages"] + stat["leaf_pages"]
                        pages += stat["overflow_pages"]
                        entries += stat["entries"]
                    page_bytes = self._env.stat()["psize"]
            except lmdb.Error as exc:
                raise StorageError(f"lmdb: {exc}") from exc
        size = (info["last_pgno"] + 1) * page_bytes
        return BackendStats(
            size_bytes=size,
            size_in_use_bytes=min(size, pages * page_bytes),
            engine={
                "rows": entries,
                "map_bytes": info["map_size"],
                "transaction": info["last_txnid"],
                "snapshots": len(self._snapshots),
                "version": ".".join(map(str, self._env.lib_version())),
            },
        )

    # -- the rest --------------------------------------------------------------------

    def checkpoint(self, path: Path) -> None:
        """See ``Backend.checkpoint``; the copy is compacted."""
        self._check_usable()
        if path.exists():
            raise UsageError(f"{path} exists; give the checkpoint a new path")
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            self._env.copy(str(partial), compact=True)
            write_format(partial, self._options.engine)
            sync_path(partial / DATA_FILE)
            sync_path(partial)
            partial.rename(path)
            sync_path(path.parent)
        except (lmdb.Error, OSError) as exc:
            shutil.rmtree(partial, ignore_errors=True)
            raise StorageError(f"the checkpoint to {path} failed: {exc}") from exc

    def compact(self) -> None:
        """See ``Backend.compact``; LMDB reuses pages and never shrinks its file."""
        self._check_usable()

    def verify(self) -> list[str]:
        """See ``Backend.verify``; writes wait meanwhile."""
        from revstore_lmdb.verify import find_faults

        with self._writing:
            self._check_usable()
            try:
                self._env.sync(True)
                with self._env.begin() as txn:
                    return find_faults(self._directory, txn, self._spaces)
            except (lmdb.Error, OSError) as exc:
                raise StorageError(f"the check could not run: {exc}") from exc

    def close(self) -> None:
        """See ``Backend.close``."""
        if self._closed_reason:
            return
        with self._writing, self._growing:
            self._closed_reason = CLOSED
            ending = self._open_snapshots()
            _freeze_all(ending)
            for snapshot in ending:
                snapshot.end(CLOSED)
            for path in list(self._copies):
                self._drop_copy(path)
            try:
                if not self._poison:
                    self._env.sync(True)
            except lmdb.Error as exc:
                raise StorageError(f"the last sync failed: {exc}") from exc
            finally:
                self._env.close()
                self._lock.release()

    def after_fork_in_child(self) -> None:
        """Refuse use in a forked child (B-13); the parent's readers stay as they are."""
        if not self._closed_reason:
            self._closed_reason = FORKED
            self._lock.forget()
        self._writing = threading.RLock()
        self._growing = threading.RLock()
        for snapshot in list(self._snapshots):
            snapshot.disown(FORKED)

    def _check_open(self) -> None:
        if self._closed_reason:
            raise StorageError(self._closed_reason)

    def _check_usable(self) -> None:
        self._check_open()
        if self._poison:
            raise PoisonedError(self._poison)


def _freeze_all(snapshots: list[LmdbSnapshot]) -> None:
    """Let no read be inside any of these snapshots, nor begin."""
    for one in snapshots:
        one.freeze()
    for one in snapshots:
        while one.busy:
            time.sleep(BUSY_POLL_S)


def _open(
    directory: Path, map_bytes: int, options: LmdbOptions, names: Sequence[str]
) -> lmdb.Environment:
    return lmdb.open(
        str(directory),
        map_size=map_bytes,
        max_dbs=2 * len(names),
        max_readers=options.readers_max,
        metasync=False,
        lib_version=ENGINES[options.engine],
    )


def _is_out_of_memory(exc: lmdb.Error) -> bool:
    return isinstance(exc, lmdb.MemoryError) or exc.code in (
        errno.ENOMEM,
        errno.EINVAL,
        errno.EOVERFLOW,
    )


def _open_error(directory: Path, exc: lmdb.Error) -> StorageError:
    if isinstance(exc, lmdb.VersionMismatchError):
        return FormatError(f"{directory} was written by another version of LMDB: {exc}")
    if isinstance(exc, lmdb.InvalidError | lmdb.CorruptedError):
        return CorruptionError(f"{directory}: LMDB does not accept the file: {exc}")
    return StorageError(f"{directory} cannot be opened: {exc}")
