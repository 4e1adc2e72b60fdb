"""The memory backend: one immutable table a keyspace, replaced by each batch.

Rules of this file:
1. ``_tables`` is replaced as a whole and never changed, so a batch is atomic (B-01)
   and a snapshot is one reference (B-05).
2. A closed backend or snapshot has no tables; every way in asks for them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from revstore.errors import StorageError, UsageError
from revstore.interfaces.backend import (
    Backend,
    BackendStats,
    Durability,
    Pair,
    Snapshot,
    WriteBatch,
)
from revstore.interfaces.backend_tools import FORKED, check_batch, guard_forks
from revstore_memory.plugin import CAPABILITIES
from revstore_memory.table import Table

Tables = dict[str, Table]

CLOSED = "the memory backend or its snapshot is closed"


class MemorySnapshot(Snapshot):
    """The tables as they were."""

    def __init__(self, tables: Tables) -> None:
        self._tables: Tables | None = tables
        self._reason = CLOSED

    def get(self, keyspace: str, key: bytes) -> bytes | None:
        """See ``Snapshot.get``."""
        return self._table(keyspace).get(key)

    def get_many(self, keyspace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Snapshot.get_many``."""
        return list(map(self._table(keyspace).get, keys))

    def scan(
        self,
        keyspace: str,
        lo: bytes,
        hi: bytes | None,
        *,
        reverse: bool = False,
        limit: int = 0,
        chunk: int = 1000,
    ) -> Iterator[list[Pair]]:
        """See ``Snapshot.scan``."""
        runs = self._table(keyspace).runs(lo, hi, reverse)
        return self._scan(runs, limit, chunk)

    def count(self, keyspace: str, lo: bytes, hi: bytes | None) -> int:
        """See ``Snapshot.count``."""
        return self._table(keyspace).count(lo, hi)

    def _scan(
        self, runs: Iterator[list[Pair]], limit: int, chunk: int
    ) -> Iterator[list[Pair]]:
        left = limit
        for run in runs:
            for at in range(0, len(run), chunk):
                if self._tables is None:
                    raise StorageError(self._reason)
                piece = run[at : at + chunk]
                if limit and len(piece) >= left:
                    yield piece[:left]
                    return
                left -= len(piece)
                yield piece
        if self._tables is None:
            raise StorageError(self._reason)

    def close(self) -> None:
        """See ``Snapshot.close``."""
        self._tables = None

    def end(self, reason: str) -> None:
        """Close the snapshot because its backend is going away."""
        if self._tables is not None:
            self._tables = None
            self._reason = reason

    def _table(self, keyspace: str) -> Table:
        if self._tables is None:
            raise StorageError(self._reason)
        table = self._tables.get(keyspace)
        if table is None:
            raise UsageError(
                f"keyspace {keyspace!r} was not named when the backend was opened"
            )
        return table


class MemoryBackend(Backend):
    """Sorted tables in memory."""

    capabilities = CAPABILITIES

    def __init__(self, keyspaces: Sequence[str]) -> None:
        self._tables: Tables | None = {name: Table([]) for name in keyspaces}
        self._reason = CLOSED
        self._snapshots: weakref.WeakSet[MemorySnapshot] = weakref.WeakSet()
        guard_forks(self)

    def write(self, batch: WriteBatch, durability: Durability) -> None:
        """See ``Backend.write``."""
        tables = self._open_tables()
        check_batch(batch, durability, tables, self.capabilities)
        changed = {
            name: tables[name].changed(changes)
            for name, changes in batch.keyspaces.items()
        }
        self._tables = {**tables, **changed}

    def sync(self) -> None:
        """See ``Backend.sync``."""
        self._open_tables()

    def snapshot(self) -> Snapshot:
        """See ``Backend.snapshot``."""
        snapshot = MemorySnapshot(self._open_tables())
        self._snapshots.add(snapshot)
        return snapshot

    def stats(self) -> BackendStats:
        """See ``Backend.stats``; the size is estimated from one chunk in 64."""
        size = 0
        rows = 0
        for table in self._open_tables().values():
            counted = sum(len(keys) for keys, _ in table.chunks)
            sample = table.chunks[::64]
            sampled = sum(len(keys) for keys, _ in sample)
            sampled_bytes = sum(
                sum(map(len, keys)) + sum(map(len, values)) for keys, values in sample
            )
            if sampled:
                size += sampled_bytes * counted // sampled
            rows += counted
        return BackendStats(
            size_bytes=size, size_in_use_bytes=size, engine={"rows": rows}
        )

    def checkpoint(self, path: Path) -> None:
        """See ``Backend.checkpoint``; not supported."""
        self._open_tables()
        raise UsageError("the memory backend cannot write a checkpoint")

    def compact(self) -> None:
        """See ``Backend.compact``; there is nothing to give back."""
        self._open_tables()

    def verify(self) -> list[str]:
        """See ``Backend.verify``."""
        return [
            f"keyspace {name}: {fault}"
            for name, table in self._open_tables().items()
            for fault in table.faults()
        ]

    def close(self) -> None:
        """See ``Backend.close``."""
        self._end(CLOSED)

    def after_fork_in_child(self) -> None:
        """Refuse use in a forked child (B-13)."""
        self._end(FORKED)

    def _end(self, reason: str) -> None:
        if self._tables is not None:
            self._tables = None
            self._reason = reason
        for snapshot in list(self._snapshots):
            snapshot.end(reason)

    def _open_tables(self) -> Tables:
        if self._tables is None:
            raise StorageError(self._reason)
        return self._tables
