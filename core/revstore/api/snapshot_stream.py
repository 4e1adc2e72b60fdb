"""Maintenance.Snapshot: a dump in blobs of 32 KiB, then its SHA-256.

Rules of this file:

1. Everything comes from one engine snapshot, taken when the stream begins; writes,
   flushes and compactions go on meanwhile and do not show.
2. Memory is bounded: one frame of the dump and what the transport lets wait.
3. Each turn of the loop does a bounded piece of work. A first pass over the rows finds
   the size, because every message says how many bytes are still to come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from revstore.api import errors
from revstore.api.dump import DumpHeader, DumpSize, header_bytes, rows_frames
from revstore.api.messages import identify_admin, parse
from revstore.api.replica import Replica
from revstore.errors import ApiError, StorageError
from revstore.interfaces.backend import Snapshot
from revstore.interfaces.transport import Stream, StreamHandler
from revstore.mvcc.state import STATE_KEY, StoreState, decode_state
from revstore.mvcc.tables import KEYSPACES, META
from revstore.proto import rpc_pb2

BLOB_BYTES = 32 * 1024
"""Data in one message, as in etcd."""

BLOBS_PER_TURN = 8
SCAN_ROWS = 1000
"""Rows counted or read in one turn, at most a little more."""

_parse = rpc_pb2.SnapshotRequest.FromString


class SnapshotStreamer(StreamHandler):
    """One Snapshot stream."""

    def __init__(self, replica: Replica, stream: Stream) -> None:
        self._replica = replica
        self._stream = stream
        self._snapshot: Snapshot | None = None
        self._work: Iterator[None] | None = None
        """Each step is one turn's share; it ends with the stream."""
        self._scheduled = False
        self._over = False

    def on_message(self, message: bytes) -> None:
        """The request."""
        try:
            parse(_parse, message)
            identify_admin(self._replica, self._stream)
        except ApiError as error:
            self._fail(error)
            return
        self._replica.open_snapshot(self._opened)

    def on_cancel(self) -> None:
        """The client is gone."""
        self._close()

    def on_writable(self) -> None:
        """There is room again."""
        self._later()

    def _opened(self, snapshot: Snapshot | ApiError) -> None:
        if isinstance(snapshot, ApiError):
            self._fail(snapshot)
            return
        if self._over:
            snapshot.close()
            return
        self._snapshot = snapshot
        self._work = self._dump(snapshot)
        self._later()

    def _later(self) -> None:
        if self._work is not None and not self._scheduled:
            self._scheduled = True
            self._replica.schedule(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._work is None or not self._stream.writable():
            return
        try:
            next(self._work)
        except StopIteration:
            self._close()
            self._stream.finish()
        except StorageError as error:
            text = f"revstore: the snapshot cannot be read: {error}"
            self._fail(ApiError(errors.Code.UNAVAILABLE, text))
        else:
            self._later()

    def _dump(self, snapshot: Snapshot) -> Iterator[None]:
        replica = self._replica
        version = replica.status().storage_version
        row = snapshot.get(META, STATE_KEY)
        state = StoreState() if row is None else decode_state(row)
        header = DumpHeader(
            version=version,
            revision=state.revision,
            compact_revision=state.compact_revision,
            cluster_id=replica.cluster_id,
            member_id=replica.member_id,
            keyspaces=KEYSPACES,
        )
        size = DumpSize(header)
        for keyspace in KEYSPACES:
            yield from size.add_keyspace(_rows(snapshot, keyspace))
        blobs = BlobSender(self._stream, size.total(), version)
        blobs.add(header_bytes(header))
        for number, keyspace in enumerate(KEYSPACES):
            for part in rows_frames(number, _rows(snapshot, keyspace)):
                if blobs.add(part):
                    yield
        blobs.add(size.tail())
        yield
        blobs.finish()

    def _fail(self, error: ApiError) -> None:
        self._close()
        self._stream.fail(error)

    def _close(self) -> None:
        self._over = True
        work, self._work = self._work, None
        # A generator cannot be closed from inside itself, which is where a transport
        # may cancel from; it holds no resources but the snapshot's cursor.
        if work is not None and not getattr(work, "gi_running", False):
            close = getattr(work, "close", None)
            if close is not None:
                close()
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None


class BlobSender:
    """Cuts a dump into messages and adds its SHA-256."""

    def __init__(self, stream: Stream, total: int, version: str) -> None:
        self._send = stream.send
        self._left = total
        self._version = version
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._sent = 0

    def add(self, data: bytes) -> bool:
        """Send what fills a message; True when it is time for a pause."""
        self._buffer += data
        while len(self._buffer) >= BLOB_BYTES:
            self._blob(bytes(self._buffer[:BLOB_BYTES]))
            del self._buffer[:BLOB_BYTES]
        if self._sent >= BLOBS_PER_TURN:
            self._sent = 0
            return True
        return False

    def finish(self) -> None:
        """Send the rest and the checksum."""
        if self._buffer:
            self._blob(bytes(self._buffer))
        self._message(self._digest.digest())

    def _blob(self, data: bytes) -> None:
        self._digest.update(data)
        self._left -= len(data)
        self._sent += 1
        self._message(data)

    def _message(self, data: bytes) -> None:
        response = rpc_pb2.SnapshotResponse(
            remaining_bytes=self._left, blob=data, version=self._version
        )
        self._send(response.SerializeToString())


def _rows(snapshot: Snapshot, keyspace: str) -> Iterator[list[tuple[bytes, bytes]]]:
    return snapshot.scan(keyspace, b"", None, chunk=SCAN_ROWS)
