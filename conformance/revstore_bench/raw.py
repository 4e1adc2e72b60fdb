"""The engines without revstore, doing the part of the work that is theirs alone.

Rules of this file:

1. An engine gets one key space and the pairs as they are: no revisions, no history.
   That is less than a store has to do, so it is a bound and not a competitor.
2. "Durable" means here what it means for the store: a write that returned survives a
   power cut. Each engine is set to that and nothing else about it is tuned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from revstore_bench.workload import Pair

CHUNK = 1000


class RawEngine(ABC):
    """An engine by itself."""

    durability = "SYNC"
    settings: Mapping[str, object] = {}

    @abstractmethod
    def put_batch(self, pairs: Sequence[Pair]) -> None:
        """One transaction, durable when this returns."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """A point read."""

    @abstractmethod
    def scan(self, rows: int) -> list[Pair]:
        """The first rows in key order."""

    @abstractmethod
    def close(self) -> None:
        """Release the files."""


class RawMemory(RawEngine):
    """A dictionary, sorted for each scan."""

    durability = "VOLATILE"

    def __init__(self, directory: Path) -> None:
        self._rows: dict[bytes, bytes] = {}

    def put_batch(self, pairs: Sequence[Pair]) -> None:
        self._rows.update(pairs)

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def scan(self, rows: int) -> list[Pair]:
        return sorted(self._rows.items())[:rows]

    def close(self) -> None:
        self._rows.clear()


class RawLmdb(RawEngine):
    """py-lmdb with its defaults, which sync every commit."""

    def __init__(self, directory: Path) -> None:
        import lmdb

        self.settings = {"map_size": 1 << 34, "sync": True, "metasync": True}
        self._env = lmdb.open(str(directory), map_size=1 << 34)
        self._reader = self._env.begin()

    def put_batch(self, pairs: Sequence[Pair]) -> None:
        with self._env.begin(write=True) as txn, txn.cursor() as cursor:
            cursor.putmulti(pairs)
        self._reader.abort()
        self._reader = self._env.begin()

    def get(self, key: bytes) -> bytes | None:
        return self._reader.get(key)

    def scan(self, rows: int) -> list[Pair]:
        with self._reader.cursor() as cursor:
            return list(islice(cursor.iternext(), rows))

    def close(self) -> None:
        self._reader.abort()
        self._env.close()


class RawRocksdb(RawEngine):
    """rocksdict with its defaults, the log synced after each batch."""

    def __init__(self, directory: Path) -> None:
        import rocksdict

        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        self.settings = {"options": "defaults", "flush_wal": "synced, each batch"}
        self._batch: Any = rocksdict.WriteBatch
        self._db = rocksdict.Rdict(str(directory), options)

    def put_batch(self, pairs: Sequence[Pair]) -> None:
        batch = self._batch(raw_mode=True)
        for key, value in pairs:
            batch.put(key, value)
        self._db.write(batch)
        self._db.flush_wal(True)

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self._db.get(key)
        return found

    def scan(self, rows: int) -> list[Pair]:
        items: Any = self._db.items(from_key=b"\0")
        return list(islice(items, rows))

    def close(self) -> None:
        self._db.close()


ENGINES: Mapping[str, type[RawEngine]] = {
    "memory": RawMemory,
    "lmdb": RawLmdb,
    "rocksdb": RawRocksdb,
}
"""Raw engines by the name of the backend that uses them."""


def open_raw(backend: str, directory: Path) -> RawEngine:
    """A raw engine in a directory of its own."""
    directory.mkdir(parents=True)
    return ENGINES[backend](directory)  # type: ignore[call-arg]  # each takes a path
