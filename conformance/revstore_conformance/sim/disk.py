"""The disks of a member: log, backend and inbox, and what a power cut leaves of them.

Rules of this file:

1. What is synced survives a power cut. Of the backend's batches since its last sync a
   cut keeps the first so many, each whole (contract of backends, B-01 and B-07); of the
   log's files whatever ``SimulatedFiles`` says.
2. The end of the process alone loses nothing that was handed to the disk.
3. Every operation that changes a disk passes ``Disk.before``, where faults are. Once
   the power is cut, nothing more gets through.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, BinaryIO

from revstore.errors import StorageError
from revstore.interfaces.backend import (
    Backend,
    BackendCapabilities,
    BackendStats,
    Durability,
    WriteBatch,
)
from revstore.interfaces.consensus import Consensus, ConsensusStart
from revstore.interfaces.wal import OnDurable
from revstore.types import Entry, HardState
from revstore_conformance.files import Operation, PowerCut, SimulatedFiles
from revstore_memory.backend import MemoryBackend, Tables
from revstore_memory.table import Table
from revstore_raft.config import RaftOptions
from revstore_raft.plugin import make as make_raft
from revstore_solo.machine import SoloConsensus
from revstore_wal.log import SegmentWal
from revstore_wal.options import SegmentOptions

WAL_DIRECTORY = Path("/wal")
"""On the simulated files; each member has its own."""


class Disk:
    """Everything of a member that outlives its process."""

    def __init__(self, segment_bytes: int, on_cut: Callable[[], None]) -> None:
        """``on_cut`` hears of a power cut that was armed with ``cut_in``."""
        self.files = SimulatedFiles()
        self.files.before = self._before_file
        self.segment_bytes = segment_bytes
        self.tables: list[Tables] = []
        """The backend as of its last sync, and after each batch since."""
        self.inbox: bytes | None = None
        """The snapshot that waits to be installed."""
        self.operations = 0
        self.cut_in = 0
        """The power is cut before so many operations more; 0: it is not."""
        self.fail_sync = False
        """Let the next sync of the log fail."""
        self.fail_write = False
        """Let the next write of the backend fail."""
        self.failed = False
        """Whether a fault has been met since the member was started."""
        self.dead = False
        self._on_cut = on_cut
        self._synced_from: dict[str, int] = {}
        self._unsynced_from: dict[str, int] = {}

    def before(self) -> None:
        """An operation is about to change the disk. Raises: PowerCut."""
        self.operations += 1
        if self.cut_in:
            self.cut_in -= 1
            if not self.cut_in:
                self.dead = True
                self._on_cut()
        if self.dead:
            raise PowerCut

    def _before_file(self, operation: Operation) -> None:
        self.before()
        if self.fail_sync and operation.kind == "fdatasync":
            self.fail_sync = False
            self.failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if operation.kind == "pwrite":
            self._unsynced_from.setdefault(operation.path, operation.offset)
        elif operation.kind == "fdatasync":
            start = self._unsynced_from.pop(operation.path, None)
            if start is not None:
                self._synced_from[operation.path] = start

    def in_tail(self, path: str, place: int) -> bool:
        """Whether a byte belongs to the last batch of a file that was synced, or is
        behind it: there damage cannot be told from a torn write."""
        return place >= self._synced_from.get(path, 0)

    def before_write(self) -> None:
        """A batch is about to be written. Raises: PowerCut, StorageError."""
        self.before()
        if self.fail_write:
            self.fail_write = False
            self.failed = True
            raise StorageError("simulated: the backend's device failed")

    def _restart(self) -> None:
        self.dead = False
        self.cut_in = 0
        self.fail_sync = self.fail_write = self.failed = False

    def cut_power(self, random: Random) -> None:
        """Keep what a power cut leaves."""
        self._restart()
        self.files.crash(random)
        self.files.before = self._before_file
        if self.tables:
            kept = self.tables[random.randrange(len(self.tables))]
            self.tables = [kept]

    def end_process(self) -> None:
        """Keep everything that was handed over."""
        self._restart()
        self.files.kill()


class SimulatedBackend(MemoryBackend):
    """The memory backend on a disk."""

    capabilities = BackendCapabilities(
        durability_max=Durability.SYNC, persistent=True, verify=True
    )

    def __init__(self, keyspaces: Sequence[str], disk: Disk) -> None:
        super().__init__(keyspaces)
        self._disk = disk
        if disk.tables:
            self._tables = disk.tables[-1]
        else:
            disk.tables.append({name: Table([]) for name in keyspaces})

    def write(self, batch: WriteBatch, durability: Durability) -> None:
        """See ``Backend.write``."""
        self._disk.before_write()
        super().write(batch, durability)
        self._disk.tables.append(self._open_tables())
        if durability is Durability.SYNC:
            self.sync()

    def sync(self) -> None:
        """See ``Backend.sync``."""
        self._disk.before()
        del self._disk.tables[:-1]

    def stats(self) -> BackendStats:
        """Sizes play no part here, and asking for them costs."""
        return BackendStats(0, 0)


class SimulatedSpool:
    """A snapshot that is being received; no end of the process leaves it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._data = bytearray()
        self._finished = False

    def write(self, piece: bytes) -> None:
        """See ``Spool``."""
        self._disk.before()
        self._data += piece

    def finish(self) -> None:
        """See ``Spool``."""
        self._disk.before()
        self._finished = True

    def open(self) -> BinaryIO:
        """See ``Spool``."""
        return BytesIO(self._data)

    def commit(self) -> None:
        """See ``Spool``."""
        assert self._finished, "a snapshot is committed that was not made durable"
        self._disk.before()
        self._disk.inbox = bytes(self._data)

    def discard(self) -> None:
        """See ``Spool``."""


class SimulatedInbox:
    """Where a received snapshot waits."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def spool(self) -> SimulatedSpool:
        """See ``Inbox``."""
        return SimulatedSpool(self._disk)

    def open(self) -> BinaryIO | None:
        """See ``Inbox``."""
        waiting = self._disk.inbox
        return None if waiting is None else BytesIO(waiting)

    def clear(self) -> None:
        """See ``Inbox``."""
        self._disk.before()
        self._disk.inbox = None


class SimulatedWal(SegmentWal):
    """The log ``segment`` on simulated files; its syncs happen when the shell says."""

    def __init__(self, metadata: bytes, disk: Disk, drain: Callable[[], None]) -> None:
        """``drain`` is called when there is something to sync."""
        self._drain_later = drain
        options = SegmentOptions(segment_bytes=disk.segment_bytes)
        super().__init__(WAL_DIRECTORY, metadata, False, options, disk.files)
        self.newest_state = self.recovery().hard_state
        """As of the last append."""
        self.durable_state = self.newest_state
        """Term and vote that a power cut leaves."""
        self.durable_index = self.last_index()
        """The last entry that a power cut leaves."""

    def append(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        on_durable: OnDurable | None = None,
    ) -> None:
        """See ``Wal.append``."""
        super().append(hard_state, entries, on_durable)
        if hard_state is not None:
            self.newest_state = hard_state
        if entries:
            # What these entries replace is gone, whether or not they are durable yet.
            self.durable_index = min(self.durable_index, entries[0].index - 1)
        self._drain_later()

    def sync(self) -> None:
        """See ``Wal.sync``."""
        super().sync()
        self.durable_state = self.newest_state
        self.durable_index = self.last_index()

    def drain(self) -> None:
        """Write and sync what was appended; a failure is told to the callbacks."""
        try:
            self.sync()
        except StorageError:
            pass  # Those who wait have heard it.


class Makers:
    """Makes the plugins of one member on its disk."""

    def __init__(self, disk: Disk, drain: Callable[[], None]) -> None:
        self._disk = disk
        self._drain = drain

    def make_backend(
        self,
        name: str,
        directory: Path,
        keyspaces: Sequence[str],
        options: Mapping[str, Any] | None = None,
    ) -> Backend:
        """See ``PluginManager``."""
        return SimulatedBackend(keyspaces, self._disk)

    def make_wal(
        self,
        name: str,
        directory: Path,
        metadata: bytes,
        threaded: bool,
        options: Mapping[str, Any] | None = None,
    ) -> SimulatedWal:
        """See ``PluginManager``."""
        return SimulatedWal(metadata, self._disk, self._drain)

    def make_consensus(
        self,
        name: str,
        start: ConsensusStart,
        options: Mapping[str, Any] | None = None,
    ) -> Consensus:
        """See ``PluginManager``."""
        if name == "solo":
            return SoloConsensus(start)
        return make_raft(start, RaftOptions(**(options or {})))
