"""The contract of an MVCC backend: an ordered key-value engine.

The clauses are numbered; the conformance suite's checks carry the numbers.

B-01  A write batch is atomic over all keyspaces: after a crash all of it is there
      or none of it.
B-02  Within one keyspace of a batch, range deletes act first, then deletes, then
      puts in order; the last put of a key wins.
B-03  Keys sort as unsigned bytes; a key is 0 to 2 MiB long and a value 0 to
      ``capabilities.value_bytes_max`` (at least 64 MiB). A limit of the engine below
      that never shows through. The empty key is a key.
B-04  ``scan`` yields the keys with lo <= key < hi in order, or the reverse order,
      hi None meaning "to the end"; lo >= hi yields nothing.
B-05  A snapshot is one point in time over all keyspaces: no later write shows in it.
B-06  Durability SYNC: what ``write`` or ``sync`` returned from survives power loss.
B-07  Durability ORDERED: a crash keeps a prefix of the batches; it never keeps a
      later batch without an earlier one and never corrupts.
B-08  Values handed out are ``bytes`` of their own; they stay valid after the
      snapshot, the batch and the backend are gone.
B-09  After ``close`` every method raises StorageError; ``close`` twice is allowed and
      ends open snapshots.
B-10  Opening what another process or another instance has open raises LockedError.
B-11  After a failed write the backend raises PoisonedError until it is reopened.
B-12  A put flagged ``ascending`` gives the same result as one that is not, whatever
      is really in the keyspace.
B-13  Using a backend in a forked child raises StorageError.
B-14  The engine grows by itself; no size has to be configured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path

import msgspec

from revstore.closing import Closing

Pair = tuple[bytes, bytes]


class Durability(IntEnum):
    """What a write survives, weakest first."""

    VOLATILE = 0
    """Nothing is promised (benchmarks and the memory backend)."""
    ORDERED = 1
    """A crash loses at most the newest batches, in order (B-07)."""
    SYNC = 2
    """The write survives power loss (B-06)."""


class BackendCapabilities(msgspec.Struct, frozen=True):
    """What a backend promises; read by core and by the conformance suite alike."""

    durability_max: Durability
    """The strongest level that the engine honours."""
    persistent: bool
    """Whether data is there after close and open."""
    value_bytes_max: int = 64 * 1024 * 1024
    flush_bytes: int = 8 << 20
    """How many bytes of rows the engine takes best at once: more of them cost less each
    and more memory together."""
    checkpoint: bool = False
    """Whether ``checkpoint`` is supported."""
    verify: bool = False
    """Whether ``verify`` is supported."""
    compact: bool = False
    """Whether ``compact`` gives space back to the file system."""


class BackendStats(msgspec.Struct, frozen=True):
    """Sizes in bytes, and engine figures by name."""

    size_bytes: int
    """Bytes that the engine occupies on disk (in memory for a volatile one)."""
    size_in_use_bytes: int
    """The part of ``size_bytes`` that holds live data."""
    engine: dict[str, int | float | str] = {}


class KeyspaceBatch:
    """The changes of one keyspace within a batch; see B-02 for their order."""

    __slots__ = ("ascending", "delete_ranges", "deletes", "puts")

    def __init__(self) -> None:
        self.puts: list[Pair] = []
        self.deletes: list[bytes] = []
        self.delete_ranges: list[tuple[bytes, bytes | None]] = []
        self.ascending = False
        """Hint: ``puts`` ascend and all lie beyond the last key of the keyspace."""


class WriteBatch:
    """Changes to several keyspaces that take effect together."""

    __slots__ = ("keyspaces",)

    def __init__(self) -> None:
        self.keyspaces: dict[str, KeyspaceBatch] = {}

    def keyspace(self, name: str) -> KeyspaceBatch:
        """The changes of one keyspace, made empty at the first call."""
        found = self.keyspaces.get(name)
        if found is None:
            found = self.keyspaces[name] = KeyspaceBatch()
        return found

    def put(self, keyspace: str, key: bytes, value: bytes) -> None:
        """Set a key."""
        self.keyspace(keyspace).puts.append((key, value))

    def delete(self, keyspace: str, key: bytes) -> None:
        """Remove a key; removing an absent key does nothing."""
        self.keyspace(keyspace).deletes.append(key)

    def delete_range(self, keyspace: str, lo: bytes, hi: bytes | None) -> None:
        """Remove all keys with lo <= key < hi (hi None: to the end)."""
        self.keyspace(keyspace).delete_ranges.append((lo, hi))


class Snapshot(Closing):
    """A consistent view of all keyspaces.

    May move between threads but is used by one at a time. Must be closed; it is a
    context manager. Keeping one open for long makes most engines grow.
    """

    @abstractmethod
    def get(self, keyspace: str, key: bytes) -> bytes | None:
        """The value of a key, or None.

        Raises:
            StorageError: the snapshot or the backend is closed, or the engine failed.
        """

    @abstractmethod
    def get_many(self, keyspace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of several keys, in the order asked for, None where absent.

        Raises:
            StorageError: as for ``get``.
        """

    @abstractmethod
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
        """The pairs with lo <= key < hi, in lists of at most ``chunk`` (B-04).

        ``limit`` bounds the number of pairs in total, 0 meaning "all". No yielded
        list is empty. The engine's cursor is released when the iterator ends or is
        closed.

        Raises:
            StorageError: as for ``get``.
        """

    def scan_values(
        self,
        keyspace: str,
        lo: bytes,
        hi: bytes | None,
        *,
        limit: int = 0,
        chunk: int = 1000,
    ) -> Iterator[tuple[bytes, list[bytes]]]:
        """What ``scan`` gives, without the keys: each list's last key, and its values.

        An engine that makes a key and a pair for each row should override this.

        Raises:
            StorageError: as for ``get``.
        """
        for pairs in self.scan(keyspace, lo, hi, limit=limit, chunk=chunk):
            yield pairs[-1][0], [value for _, value in pairs]

    def count(self, keyspace: str, lo: bytes, hi: bytes | None) -> int:
        """The number of keys with lo <= key < hi.

        An engine that can count without reading values should override this.

        Raises:
            StorageError: as for ``get``.
        """
        return sum(map(len, self.scan(keyspace, lo, hi)))

    @abstractmethod
    def close(self) -> None:
        """Release the view; calling it again does nothing. Raises: nothing."""


class Backend(ABC):
    """An open engine with a fixed set of keyspaces.

    Threads: ``write``, ``sync``, ``compact``, ``checkpoint`` and ``close`` are called by one
    thread at a time; ``snapshot``, ``stats`` and reads may run beside them on others.
    """

    capabilities: BackendCapabilities

    @abstractmethod
    def write(self, batch: WriteBatch, durability: Durability) -> None:
        """Apply a batch atomically (B-01, B-02) at the given durability.

        A level above ``capabilities.durability_max`` is refused.

        Raises:
            UsageError: unknown keyspace, key or value over the limit, or a level that the
                engine does not honour; nothing was changed.
            StorageError: the engine failed; the backend is poisoned (B-11).
        """

    @abstractmethod
    def sync(self) -> None:
        """Make every earlier write durable (B-06); a no-op on a volatile engine.

        Raises:
            StorageError: the engine failed; the backend is poisoned (B-11).
        """

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """A consistent view of what has been written so far (B-05).

        Raises:
            StorageError: closed, poisoned by corruption, or the engine failed.
        """

    @abstractmethod
    def stats(self) -> BackendStats:
        """Sizes and figures; cheap enough to be asked every second.

        Raises:
            StorageError: closed, or the engine failed.
        """

    @abstractmethod
    def checkpoint(self, path: Path) -> None:
        """Write a copy of the current data that can be opened as a backend.

        Raises:
            UsageError: ``capabilities.checkpoint`` is False, or ``path`` exists.
            StorageError: the copy failed; nothing is left at ``path``.
        """

    @abstractmethod
    def compact(self) -> None:
        """Give space back where the engine can, without blocking readers.

        Raises:
            StorageError: the engine failed.
        """

    @abstractmethod
    def verify(self) -> list[str]:
        """Check the engine's own structure; one line a fault, empty if sound.

        Raises:
            UsageError: ``capabilities.verify`` is False.
            StorageError: the check itself could not run.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the engine after making earlier writes durable (B-09).

        Raises:
            StorageError: the last sync failed.
        """
