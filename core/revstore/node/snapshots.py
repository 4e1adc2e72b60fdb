"""Snapshots between members: what a lagging one gets, and how it takes it over.

The data is a dump (``revstore.api.dump``) of all keyspaces at one applied index, so the
two members may have different backends.

Rules of this file:

1. A received snapshot is durable in the inbox before the log forgets what it replaces,
   and it leaves the inbox only after the backend has it. A crash in between is finished
   at the next start.
2. The backend takes a snapshot over in one atomic batch: it has all of it or none.
3. What the dump says of itself (applied index, membership) is what the snapshot's
   place in the log is, whatever the message said.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import google_crc32c
import msgspec

from revstore import logs
from revstore.api.dump import (
    DumpHeader,
    DumpReader,
    DumpSize,
    header_bytes,
    rows_frames,
)
from revstore.apply.cluster import CONF, decode_conf_state
from revstore.errors import ApiError, CorruptionError
from revstore.interfaces.backend import Backend, Durability, WriteBatch
from revstore.interfaces.backend import Snapshot as Reader
from revstore.interfaces.consensus import Message, Snapshot
from revstore.interfaces.wal import Wal
from revstore.mvcc.state import STATE_KEY, StoreState, decode_state
from revstore.mvcc.tables import CLUSTER, KEYSPACES, META
from revstore.node.datadir import sync_directory
from revstore.types import ConfState, SnapshotMeta
from revstore.version import ETCD_API_VERSION

if TYPE_CHECKING:
    from revstore.node.replica import Replica

LOG = logs.get(__name__)

SCAN_ROWS = 1000
CRC_BYTES = 4


class Inbox(Protocol):
    """Where a received snapshot waits, durably, until the backend has it."""

    def save(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; durable on return. Raises: StorageError."""
        ...

    def load(self) -> Snapshot | None:
        """The snapshot that waits, if one does. Raises: CorruptionError."""
        ...

    def clear(self) -> None:
        """Forget it. Raises: StorageError."""
        ...


class FileInbox:
    """An inbox that is one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, snapshot: Snapshot) -> None:
        """Write beside, sync, rename."""
        data = msgspec.msgpack.encode(snapshot)
        data += google_crc32c.value(data).to_bytes(CRC_BYTES, "big")
        temporary = self._path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(self._path)
        sync_directory(self._path.parent)

    def load(self) -> Snapshot | None:
        """Read and check."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        body, crc = data[:-CRC_BYTES], data[-CRC_BYTES:]
        if google_crc32c.value(body).to_bytes(CRC_BYTES, "big") != crc:
            raise CorruptionError(
                f"{self._path}: the snapshot received is damaged; remove the file, the "
                "leader will send another one"
            )
        return msgspec.msgpack.decode(body, type=Snapshot)

    def clear(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


def make_snapshot(reader: Reader, cluster_id: int, member_id: int) -> Snapshot:
    """The whole content of a backend at its applied index.

    Raises:
        StorageError: the engine failed.
    """
    row = reader.get(META, STATE_KEY)
    state = StoreState() if row is None else decode_state(row)
    conf_row = reader.get(CLUSTER, CONF)
    conf = ConfState() if conf_row is None else decode_conf_state(conf_row)
    header = DumpHeader(
        version=ETCD_API_VERSION,
        revision=state.revision,
        compact_revision=state.compact_revision,
        cluster_id=cluster_id,
        member_id=member_id,
        keyspaces=KEYSPACES,
    )
    size = DumpSize(header)
    for keyspace in KEYSPACES:
        for _ in size.add_keyspace(reader.scan(keyspace, b"", None, chunk=SCAN_ROWS)):
            pass
    parts: list[bytes] = [header_bytes(header), *_frames(reader), size.tail()]
    meta = SnapshotMeta(state.applied_index, state.applied_term, conf)
    return Snapshot(meta, b"".join(parts))


def _frames(reader: Reader) -> Iterator[bytes]:
    for number, keyspace in enumerate(KEYSPACES):
        yield from rows_frames(
            number, reader.scan(keyspace, b"", None, chunk=SCAN_ROWS)
        )


def check(data: bytes) -> None:
    """See that a dump is whole. Raises: CorruptionError."""
    dump = DumpReader()
    dump.feed(data)
    dump.finish()


def install(backend: Backend, data: bytes) -> None:
    """Replace everything in a backend by a dump, atomically (rule 2).

    Raises:
        CorruptionError: the dump is damaged; nothing was changed.
        StorageError: the engine failed.
    """
    dump = DumpReader()
    batch = WriteBatch()
    for keyspace in KEYSPACES:
        batch.delete_range(keyspace, b"", None)
    for keyspace, rows in dump.feed(data):
        batch.keyspace(keyspace).puts.extend(rows)
    dump.finish()
    backend.write(batch, min(Durability.SYNC, backend.capabilities.durability_max))


def finish_install(backend: Backend, wal: Wal, inbox: Inbox) -> None:
    """What a crash left half done (rule 1); to be called before the store is opened.

    Raises:
        CorruptionError: the snapshot that waits is damaged.
        StorageError: the engine failed.
    """
    waiting = inbox.load()
    if waiting is None:
        return
    with backend.snapshot() as reader:
        row = reader.get(META, STATE_KEY)
    applied = 0 if row is None else decode_state(row).applied_index
    if applied < waiting.meta.index <= wal.recovery().snapshot.index:
        LOG.info("finishing the snapshot that was received", index=waiting.meta.index)
        install(backend, waiting.data)
    inbox.clear()


class Snapshots:
    """Sending and taking over, for one replica."""

    def __init__(self, replica: Replica, inbox: Inbox) -> None:
        self._replica = replica
        self._inbox = inbox

    def fill(self, message: Message, send: Callable[[Message], None]) -> None:
        """Add the data to a snapshot message, then send it."""
        replica = self._replica

        def opened(reader: Reader | ApiError) -> None:
            if isinstance(reader, ApiError):
                replica.consensus.report_snapshot(message.to, False)
                return
            with reader:
                snapshot = make_snapshot(reader, replica.cluster_id, replica.member_id)
            LOG.info(
                "sending a snapshot",
                to=f"{message.to:x}",
                index=snapshot.meta.index,
                bytes=len(snapshot.data),
            )
            send(msgspec.structs.replace(message, snapshot=snapshot))

        replica.open_snapshot(opened)

    def write(self, snapshot: Snapshot) -> None:
        """Replace the log and the backend (rules 1 to 3); runs on the worker thread.

        Raises:
            CorruptionError: the dump is damaged; nothing was changed.
            StorageError: a write failed.
        """
        check(snapshot.data)
        self._inbox.save(snapshot)
        self._replica.wal.save_snapshot(snapshot.meta)
        install(self._replica.backend, snapshot.data)
        self._inbox.clear()

    def adopt(self, snapshot: Snapshot) -> None:
        """Rebuild what is derived from the backend; runs on the loop.

        Raises:
            StorageError: the engine failed.
        """
        replica = self._replica
        replica.store.reload()
        replica.hub.resync()
        replica.lessor.reload()
        replica.auth.reload()
        replica.alarms.reload()
        LOG.info("took over a snapshot", index=snapshot.meta.index)
