"""Writing a snapshot: from one view of a backend to pieces of bytes.

Rules of this file:

1. Memory is bounded by one batch, whatever the store holds. A batch ends at
   ``BATCH_BYTES``, so it has at most one row and one list of the scan more than that.
2. Nothing here knows where the bytes go; whoever asks for a piece pays for making it,
   on any thread, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import google_crc32c

from revstore.apply.cluster import CONF, decode_conf_state
from revstore.interfaces.backend import Pair
from revstore.interfaces.backend import Snapshot as Reader
from revstore.mvcc.state import STATE_KEY, StoreState, decode_state
from revstore.mvcc.tables import CLUSTER, META
from revstore.snapshot import format as layout
from revstore.snapshot.format import SnapshotHeader
from revstore.types import ConfState
from revstore.version import ETCD_API_VERSION

SCAN_ROWS = 64
"""Rows read at once; with values as large as requests may be, about 100 MB."""

COMPRESSION = "lz4"
"""Buffers are compressed one by one; see docs/design/snapshots.md for the figures."""


def describe(reader: Reader, cluster_id: int, member_id: int) -> SnapshotHeader:
    """What a snapshot of this view says of itself.

    Raises:
        CorruptionError, FormatError: the backend's own rows cannot be read.
        StorageError: the engine failed.
    """
    row = reader.get(META, STATE_KEY)
    state = StoreState() if row is None else decode_state(row)
    conf = reader.get(CLUSTER, CONF)
    return SnapshotHeader(
        version=ETCD_API_VERSION,
        cluster_id=cluster_id,
        member_id=member_id,
        index=state.applied_index,
        term=state.applied_term,
        conf_state=ConfState() if conf is None else decode_conf_state(conf),
        revision=state.revision,
        compact_revision=state.compact_revision,
    )


class _Pieces:
    """A file for Arrow to write to: keeps what was written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def write_snapshot(
    reader: Reader, header: SnapshotHeader, compression: str | None = COMPRESSION
) -> Iterator[bytes]:
    """The pieces of a snapshot, none of them empty.

    Raises:
        ConfigError: pyarrow is not installed.
        StorageError: the engine failed.
    """
    pa = layout.arrow()
    schema = make_schema(header)
    sink = _Pieces()
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    crc = rows = 0
    with (
        pa.PythonFile(sink, mode="w") as file,
        pa.ipc.new_stream(file, schema, options=options) as stream,
    ):
        for number, name in enumerate(header.keyspaces):
            for keys, values in _batches(reader, name):
                rows += len(keys)
                batch = make_batch(schema, number, keys, values)
                checksum = b"%08x" % checksum_of(batch)
                stream.write_batch(batch, custom_metadata={layout.CHECKSUM: checksum})
                piece = sink.take()
                crc = google_crc32c.extend(crc, piece)
                yield piece
        stream.close()
        piece = sink.take()
        crc = google_crc32c.extend(crc, piece)
    yield piece + layout.footer(rows, crc)


def _batches(
    reader: Reader, keyspace: str
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """The rows of a keyspace in lists of about ``BATCH_BYTES`` (rule 1)."""
    keys: list[bytes] = []
    values: list[bytes] = []
    size = 0
    for pairs in reader.scan(keyspace, b"", None, chunk=SCAN_ROWS):
        for part in _parts(pairs):
            some_keys, some_values = zip(*part, strict=True)
            keys += some_keys
            values += some_values
            size += sum(map(len, some_keys)) + sum(map(len, some_values))
            if size >= layout.BATCH_BYTES:
                yield keys, values
                keys, values = [], []
                size = 0
    if keys:
        yield keys, values


def _parts(pairs: list[Pair]) -> Iterator[list[Pair]]:
    """A list as it is, or row by row if it alone is too much for a batch."""
    if sum(len(value) for _, value in pairs) < layout.BATCH_BYTES:
        yield pairs
    else:
        for pair in pairs:
            yield [pair]


def make_schema(header: SnapshotHeader) -> Any:
    """The Arrow schema with the header in it. Raises: ConfigError."""
    pa = layout.arrow()
    fields = [
        pa.field("keyspace", pa.uint8(), nullable=False),
        pa.field("key", pa.binary(), nullable=False),
        pa.field("value", pa.binary(), nullable=False),
    ]
    return pa.schema(fields, metadata={layout.METADATA: layout.encode_header(header)})


def make_batch(
    schema: Any, number: int, keys: Sequence[bytes], values: Sequence[bytes]
) -> Any:
    """A record batch of rows of one keyspace. Raises: nothing."""
    pa = layout.arrow()
    count = len(keys)
    numbers = pa.py_buffer(bytes((number,)) * count)
    return pa.record_batch(
        [
            pa.Array.from_buffers(pa.uint8(), count, [None, numbers]),
            pa.array(keys, pa.binary()),
            pa.array(values, pa.binary()),
        ],
        schema=schema,
    )


def checksum_of(batch: Any) -> int:
    """CRC-32C of the buffers of a batch's columns. Raises: nothing."""
    crc = 0
    for column in batch.columns:
        for buffer in column.buffers():
            if buffer is not None:
                crc = google_crc32c.extend(crc, buffer.to_pybytes())
    found: int = crc
    return found
