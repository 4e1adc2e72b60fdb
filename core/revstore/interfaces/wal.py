"""The contract of a write-ahead log.

The log keeps consensus' hard state and entries. It is the durability point of the
whole store: what it reported durable is never lost.

W-01  The hard state and the entries of one ``append`` become durable together.
W-02  Appends become durable in the order they were made; their callbacks run in that
      order, each exactly once.
W-03  An entry is readable when ``append`` returns; it is durable when its callback
      runs with None.
W-04  Appending at an index that exists replaces that entry and all behind it.
W-05  Indexes have no holes: an append starts at most one behind the last index.
W-06  A crash keeps a prefix of the appends that were not durable yet; a torn tail is
      cut when the log is opened.
W-07  Damage before the tail raises CorruptionError with file and offset; nothing is cut.
W-08  After a failed write or sync all later calls raise PoisonedError and all waiting
      callbacks get the error; a failed fsync is never retried.
W-09  ``purge_to(i)`` may free entries <= i, never one above; it keeps what recovery
      needs.
W-10  ``metadata`` given at creation is returned unchanged at each open.
W-11  Opening a log that is open elsewhere raises LockedError.
W-12  Memory does not grow with the length of the log.
W-13  ``append_here`` is ``append``; it may make the batch durable in the calling thread
      and run the callback there before it returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import msgspec

from revstore.errors import StorageError
from revstore.types import Entry, HardState, SnapshotMeta

OnDurable = Callable[[StorageError | None], None]
"""Called with None when durable, or with the error that prevented it.

It runs on whatever thread made the log durable: the log's own one, or that of the
caller of ``sync``. It must not block and must not call the log.
"""


class WalCapabilities(msgspec.Struct, frozen=True):
    """What a write-ahead log promises."""

    persistent: bool
    """Whether entries are there after close and open."""


class WalRecovery(msgspec.Struct, frozen=True):
    """What was found when the log was opened."""

    metadata: bytes
    hard_state: HardState
    snapshot: SnapshotMeta
    """The newest snapshot marker; index 0 if there is none."""
    first_index: int
    """Index of the first entry kept; ``last_index + 1`` if there is none."""
    last_index: int
    truncated_bytes: int = 0
    """How much of a torn tail was cut."""


class Wal(ABC):
    """An open log.

    Threads: ``append``, ``save_snapshot``, ``purge_to`` and ``close`` are called by one
    thread at a time (the shell's); ``sync`` by any number beside them, but for
    ``close``; ``read``, ``term``, ``first_index`` and ``last_index`` by any.
    A log made with ``threaded=True`` runs its own thread, which syncs what was
    appended; one made with ``threaded=False`` becomes durable in ``sync`` alone.
    """

    capabilities: WalCapabilities

    @abstractmethod
    def recovery(self) -> WalRecovery:
        """What was found at open. Raises: nothing."""

    @abstractmethod
    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: OnDurable | None = None,
    ) -> None:
        """Add a hard state and entries (W-01 to W-05).

        Raises:
            PoisonedError: an earlier write failed (W-08).
            InvariantViolation: the entries would leave a hole (W-05).
        """

    def append_here(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: OnDurable | None = None,
    ) -> None:
        """Append, and write here rather than wake another thread for it (W-13).

        For a caller that has nothing else to do meanwhile. Raises: as ``append``.
        """
        self.append(hard_state, entries, on_durable)

    @abstractmethod
    def sync(self) -> None:
        """Make everything appended so far durable before returning.

        Callbacks of what became durable run in this thread (unthreaded log) or have
        run (threaded log).

        Raises:
            StorageError: the write or sync failed (W-08).
        """

    @abstractmethod
    def save_snapshot(self, meta: SnapshotMeta) -> None:
        """Record, durably, that the state up to ``meta.index`` is safe elsewhere.

        If ``meta.index`` is beyond the last entry the log restarts behind it.

        Raises:
            StorageError: the write or sync failed (W-08).
        """

    @abstractmethod
    def purge_to(self, index: int) -> None:
        """Free entries up to ``index`` where that frees whole files (W-09).

        Raises:
            InvariantViolation: ``index`` is beyond the newest snapshot marker.
            StorageError: a file could not be removed.
        """

    @abstractmethod
    def first_index(self) -> int:
        """Index of the first entry kept. Raises: nothing."""

    @abstractmethod
    def last_index(self) -> int:
        """Index of the last entry, durable or not. Raises: nothing."""

    @abstractmethod
    def term(self, index: int) -> int | None:
        """Term of an entry or of the snapshot marker, None if it is not kept.

        Raises:
            StorageError: the entry could not be read.
        """

    @abstractmethod
    def read(self, lo: int, hi: int, bytes_max: int = 0) -> list[Entry]:
        """Entries lo <= index < hi, cut once ``bytes_max`` is passed (0: no bound).

        At least one entry is returned if there is one.

        Raises:
            UsageError: the range is not within first and last index.
            CorruptionError: what is on disk fails its checksum.
        """

    @abstractmethod
    def close(self) -> None:
        """Make what was appended durable and release the files; twice is allowed.

        Raises:
            StorageError: the last sync failed.
        """
