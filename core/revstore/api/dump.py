"""The dump: all rows of all keyspaces at one moment, in one file for any backend.

What ``Maintenance.Snapshot`` streams and what a restore reads. Layout: 8 bytes magic,
then frames; numbers are big endian::

    frame     kind (1)  length (4)  payload (length)  CRC-32C of all before it (4)
    HEADER    JSON: the fields of ``DumpHeader``; first frame
    ROWS      keyspace number (1), then rows: key length (4), value length (4), key,
              value; rows ascend within a keyspace, keyspaces come in header order
    END       number of rows (8); the last frame with meaning
    PADDING   zeros, so that the file's length is a multiple of 512

On the wire a SHA-256 of the whole file follows (32 bytes), so that etcd's clients, which
want a length of 32 modulo 512, take it.

Rules of this file:

1. Pure: bytes in, bytes out; memory is bounded by one frame.
2. The size of a dump is known before its first byte, from the lengths of its rows
   alone (``DumpSize``); how rows are grouped into frames depends on nothing else.
3. A reader checks every frame before it hands out anything of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct

import google_crc32c
import msgspec

from revstore.errors import CorruptionError, FormatError

MAGIC = b"RVSTDUMP"
FORMAT = 1
BLOCK_BYTES = 512
FRAME_BYTES_AIM = 64 * 1024
"""A ROWS frame is closed when its payload reaches this."""

FRAME_BYTES_MAX = 256 * 1024 * 1024
"""A reader refuses longer frames; the largest row is far below."""

KIND_HEADER, KIND_ROWS, KIND_END, KIND_PADDING = 1, 2, 3, 4

_HEAD = Struct(">BI")
_CRC = Struct(">I")
_ROW = Struct(">II")
_COUNT = Struct(">Q")

FRAME_OVERHEAD = _HEAD.size + _CRC.size
ROW_OVERHEAD = _ROW.size

Rows = Sequence[tuple[bytes, bytes]]


class DumpHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a dump says about itself."""

    format: int = FORMAT
    version: str
    """Version of the API that wrote it."""
    revision: int
    compact_revision: int
    cluster_id: int
    member_id: int
    keyspaces: tuple[str, ...]


def frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    head = _HEAD.pack(kind, len(payload)) + payload
    return head + _CRC.pack(google_crc32c.value(head))


def header_bytes(header: DumpHeader) -> bytes:
    """Magic and first frame."""
    return MAGIC + frame(KIND_HEADER, msgspec.json.encode(header))


def rows_frames(keyspace: int, rows: Iterable[Rows]) -> Iterator[bytes]:
    """The frames of one keyspace."""
    parts: list[bytes] = []
    size = 0
    for chunk in rows:
        for key, value in chunk:
            parts += (_ROW.pack(len(key), len(value)), key, value)
            size += ROW_OVERHEAD + len(key) + len(value)
            if size >= FRAME_BYTES_AIM:
                yield frame(KIND_ROWS, bytes((keyspace,)) + b"".join(parts))
                parts = []
                size = 0
    if parts:
        yield frame(KIND_ROWS, bytes((keyspace,)) + b"".join(parts))


class DumpSize:
    """Adds up how long a dump will be; feed it what ``rows_frames`` will get."""

    def __init__(self, header: DumpHeader) -> None:
        self._bytes = len(header_bytes(header))
        self.rows = 0

    def add_keyspace(self, rows: Iterable[Rows]) -> Iterator[None]:
        """Count one keyspace, with a pause after every chunk of rows."""
        size = 0
        for chunk in rows:
            for key, value in chunk:
                size += ROW_OVERHEAD + len(key) + len(value)
                if size >= FRAME_BYTES_AIM:
                    self._bytes += FRAME_OVERHEAD + 1 + size
                    size = 0
            self.rows += len(chunk)
            yield
        if size:
            self._bytes += FRAME_OVERHEAD + 1 + size

    def total(self) -> int:
        """The length of the whole file, padding included."""
        return self._bytes + len(self.tail())

    def tail(self) -> bytes:
        """The last frame and the padding."""
        end = frame(KIND_END, _COUNT.pack(self.rows))
        over = (self._bytes + len(end) + FRAME_OVERHEAD) % BLOCK_BYTES
        return end + frame(KIND_PADDING, bytes(-over % BLOCK_BYTES))


class DumpReader:
    """Reads a dump that arrives in pieces.

    ``feed`` gives the rows that became complete; after the last piece call ``finish``.
    ``header`` is set once the first frame is there.
    """

    def __init__(self) -> None:
        self.header: DumpHeader | None = None
        self._buffer = bytearray()
        self._offset = 0
        """Position of the buffer's first byte in the file, for messages."""
        self._rows = 0
        self._ended = False

    def feed(self, data: bytes) -> list[tuple[str, list[tuple[bytes, bytes]]]]:
        """Take a piece; returns (keyspace, rows) for every complete frame of rows.

        Raises:
            CorruptionError: the bytes are not those of a dump; says where.
            FormatError: a newer revstore wrote it.
        """
        self._buffer += data
        if self._offset == 0:
            if len(self._buffer) < len(MAGIC):
                return []
            if not self._buffer.startswith(MAGIC):
                raise CorruptionError("this is not a revstore dump: wrong magic")
            self._skip(len(MAGIC))
        found = []
        while (complete := self._next_frame()) is not None:
            kind, payload = complete
            if kind == KIND_ROWS:
                found.append(self._rows_of(payload))
            else:
                self._control(kind, payload)
        return found

    def finish(self) -> int:
        """The number of rows; to be called when everything was fed.

        Raises:
            CorruptionError: the dump is not complete.
        """
        if not self._ended or self._buffer:
            raise CorruptionError(
                f"the dump is cut off at byte {self._offset + len(self._buffer)}"
            )
        return self._rows

    def _next_frame(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < _HEAD.size:
            return None
        kind, length = _HEAD.unpack_from(buffer)
        if length > FRAME_BYTES_MAX:
            raise self._damaged("a frame of impossible length")
        end = _HEAD.size + length
        if len(buffer) < end + _CRC.size:
            return None
        checked = bytes(buffer[:end])
        (crc,) = _CRC.unpack_from(buffer, end)
        if crc != google_crc32c.value(checked):
            raise self._damaged("a checksum does not match")
        self._skip(end + _CRC.size)
        return kind, checked[_HEAD.size :]

    def _control(self, kind: int, payload: bytes) -> None:
        if kind == KIND_HEADER and self.header is None:
            self.header = self._decode_header(payload)
        elif kind == KIND_END and not self._ended:
            (count,) = _COUNT.unpack(payload)
            if count != self._rows:
                raise self._damaged(f"{self._rows} rows instead of {count}")
            self._ended = True
        elif kind != KIND_PADDING:
            raise self._damaged(f"a frame of unexpected kind {kind}")

    def _decode_header(self, payload: bytes) -> DumpHeader:
        try:
            found = msgspec.json.decode(payload, type=DumpHeader)
        except msgspec.MsgspecError as error:
            raise self._damaged(f"the header cannot be read: {error}") from error
        if found.format > FORMAT:
            raise FormatError(
                f"the dump has format {found.format}, this version reads up to "
                f"{FORMAT}; use the version that wrote it ({found.version}) or newer"
            )
        return found

    def _rows_of(self, payload: bytes) -> tuple[str, list[tuple[bytes, bytes]]]:
        header = self.header
        if header is None or self._ended or payload[0] >= len(header.keyspaces):
            raise self._damaged("rows where none can be")
        rows = []
        position = 1
        while position < len(payload):
            if position + ROW_OVERHEAD > len(payload):
                raise self._damaged("a row that is cut off")
            key_size, value_size = _ROW.unpack_from(payload, position)
            middle = position + ROW_OVERHEAD + key_size
            end = middle + value_size
            if end > len(payload):
                raise self._damaged("a row that is cut off")
            rows.append(
                (payload[position + ROW_OVERHEAD : middle], payload[middle:end])
            )
            position = end
        self._rows += len(rows)
        return header.keyspaces[payload[0]], rows

    def _skip(self, size: int) -> None:
        del self._buffer[:size]
        self._offset += size

    def _damaged(self, what: str) -> CorruptionError:
        return CorruptionError(f"the dump is damaged at byte {self._offset}: {what}")
