"""The framing without any I/O: bytes in, records out, and the reverse.

Rules of this file:

1. No socket, clock or loop; what is fed in pieces of any size gives the same records.
2. A frame is checked (length, CRC-32C) before any byte of it is looked at. Behind
   ``FrameReader`` a body is what some sender framed; behind ``records_of`` its records
   fill it exactly.
3. What is wrong raises ProtocolError once; the connection is lost then, for nobody can
   say where the next frame begins.
4. Memory held is at most one frame and, in ``Assembler``, what its caller allows.

Layout in docs/design/tcp-framing.md. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag

from google_crc32c import value as crc32c

from revstore.errors import TransportError
from revstore_tcp.limits import (
    FRAME_BODY_MAX,
    FRAME_BODY_TARGET,
    RECORD_PAYLOAD_MAX,
)

MAGIC = b"RVS\x01"
"""What the calling side sends first; the last byte is the version of the protocol."""

FRAME = struct.Struct(">II")
"""Length of the body and its CRC-32C."""

RECORD = struct.Struct(">IBBI")
"""Length of the payload, type, flags, stream."""

TOTAL = struct.Struct(">I")
"""Stands first in the payload of a cut record's first part: its whole length."""


class RecordType(IntEnum):
    """What a record means; see the table in the document."""

    HELLO = 1
    WELCOME = 2
    OPEN = 3
    MESSAGE = 4
    END = 5
    CANCEL = 6
    CREDIT = 7
    PING = 8
    PONG = 9
    GOAWAY = 10
    FINISH = 11
    QUESTION = 12
    ANSWER = 13


class Flag(IntFlag):
    """Bits of a record's flags; unknown ones are ignored."""

    MORE = 1
    """The payload goes on in the next record of this stream."""
    BODY = 2
    """OPEN carries a message."""


class ProtocolError(TransportError):
    """The other side sent what the framing does not allow."""


Record = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""

_HEAD_BYTES = FRAME.size
_RECORD_BYTES = RECORD.size
_MORE = int(Flag.MORE)
_unpack_frame = FRAME.unpack_from
_unpack_record = RECORD.unpack_from
_pack_record = RECORD.pack


def frame(body: bytes) -> bytes:
    """One frame around a body of records. Raises: nothing."""
    return FRAME.pack(len(body), crc32c(body)) + body


def record(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One record; the payload must fit into one (see ``cut``). Raises: nothing."""
    return _pack_record(len(payload), kind, flags, stream) + payload


def cut(kind: int, stream: int, payload: bytes, flags: int = 0) -> Iterator[bytes]:
    """The records of a payload of any length, in order. Raises: nothing."""
    total = len(payload)
    if total <= RECORD_PAYLOAD_MAX:
        yield _pack_record(total, kind, flags, stream) + payload
        return
    end = RECORD_PAYLOAD_MAX - TOTAL.size
    part = TOTAL.pack(total) + payload[:end]
    yield _pack_record(len(part), kind, flags | _MORE, stream) + part
    while total - end > RECORD_PAYLOAD_MAX:
        part = payload[end : end + RECORD_PAYLOAD_MAX]
        end += RECORD_PAYLOAD_MAX
        yield _pack_record(len(part), kind, flags | _MORE, stream) + part
    part = payload[end:]
    yield _pack_record(len(part), kind, flags, stream) + part


def records_of(body: bytes) -> list[Record]:
    """The records of a checked body.

    Raises:
        ProtocolError: they do not fill it exactly, or one is too long.
    """
    found: list[Record] = []
    end = len(body)
    at = 0
    while at < end:
        start = at + _RECORD_BYTES
        if start > end:
            raise ProtocolError("a frame ends inside a record's head")
        length, kind, flags, stream = _unpack_record(body, at)
        at = start + length
        if at > end:
            raise ProtocolError("a frame ends inside a record")
        if length > RECORD_PAYLOAD_MAX:
            raise ProtocolError(f"a record of {length} bytes is over the limit")
        found.append((kind, flags, stream, body[start:at]))
    return found


class FrameReader:
    """Bytes in, checked bodies out; ``greeting`` must come first if there is one."""

    __slots__ = ("_have", "_need", "_parts", "_peer_speaks_first", "failed")

    def __init__(self, greeting: bool = False) -> None:
        self._parts: list[bytes] = []
        self._have = 0
        self._peer_speaks_first = greeting
        self._need = len(MAGIC) if greeting else _HEAD_BYTES
        self.failed = False

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that are complete with these bytes.

        Raises:
            ProtocolError: no greeting, a frame over the limit, or a wrong checksum. The
                reader is of no more use.
        """
        if self.failed:
            raise ProtocolError("the connection has failed before")
        have = self._have + len(data)
        if have < self._need:
            self._parts.append(data)
            self._have = have
            return []
        if self._have:
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts.clear()
        try:
            return self._bodies(data, have)
        except ProtocolError:
            self.failed = True
            raise

    def _bodies(self, data: bytes, end: int) -> list[bytes]:
        at = 0
        if self._peer_speaks_first:
            self._peer_speaks_first = False
            at = len(MAGIC)
            _check_greeting(data[:at])
        bodies = []
        need = _HEAD_BYTES
        while end - at >= _HEAD_BYTES:
            length, crc = _unpack_frame(data, at)
            if length > FRAME_BODY_MAX or not length:
                raise ProtocolError(f"a frame of {length} bytes is over the limit")
            start = at + _HEAD_BYTES
            if end - start < length:
                need = _HEAD_BYTES + length
                break
            at = start + length
            body = data[start:at]
            if crc32c(body) != crc:
                raise ProtocolError("the checksum of a frame is wrong")
            bodies.append(body)
        self._need = need
        self._have = end - at
        if at < end:
            self._parts.append(data[at:] if at else data)
        return bodies


def _check_greeting(found: bytes) -> None:
    if found == MAGIC:
        return
    if found[:3] == MAGIC[:3]:
        raise ProtocolError(
            f"the caller speaks version {found[3]} of the protocol, not {MAGIC[3]}"
        )
    raise ProtocolError(
        f"the caller does not speak this protocol: it began with {found!r}"
    )


class FrameWriter:
    """Collects records and makes frames of them, as few as the limits allow."""

    __slots__ = ("_records", "size")

    def __init__(self) -> None:
        self._records: list[bytes] = []
        self.size = 0
        """Bytes of the records that wait."""

    def add(self, one: bytes) -> None:
        """Queue a record. Raises: nothing."""
        self._records.append(one)
        self.size += len(one)

    def take(self) -> bytes:
        """Frames of all that waits, empty if nothing does. Raises: nothing."""
        records = self._records
        if not records:
            return b""
        self._records = []
        size, self.size = self.size, 0
        if size <= FRAME_BODY_TARGET:
            return frame(b"".join(records))
        frames: list[bytes] = []
        first = size = 0
        for number, one in enumerate(records, 1):
            size += len(one)
            if size >= FRAME_BODY_TARGET:
                frames.append(frame(b"".join(records[first:number])))
                first, size = number, 0
        if first < len(records):
            frames.append(frame(b"".join(records[first:])))
        return b"".join(frames)


class Partial:
    """A payload whose last part has not come yet."""

    __slots__ = ("flags", "have", "kind", "parts", "total")

    def __init__(self, kind: int, flags: int, total: int) -> None:
        self.kind = kind
        self.flags = flags
        self.total = total
        self.have = 0
        self.parts: list[bytes] = []


class Assembler:
    """Puts cut payloads together again, by stream.

    A caller that bounds them looks at ``total_of`` a first part before it adds it.
    """

    __slots__ = ("_partial", "bytes_held")

    def __init__(self) -> None:
        self._partial: dict[int, Partial] = {}
        self.bytes_held = 0
        """Announced length of all payloads that are not complete."""

    def holds(self, stream: int) -> bool:
        """Whether parts of a stream's payload are held. Raises: nothing."""
        return stream in self._partial

    def add(self, kind: int, flags: int, stream: int, payload: bytes) -> Record | None:
        """Take one record; the whole one when it is complete, else None.

        Raises:
            ProtocolError: parts do not fit together or break their announced length.
        """
        partial = self._partial.get(stream)
        if partial is None:
            if not flags & _MORE:
                return kind, flags, stream, payload
            partial = self._begin(kind, flags, stream, payload)
            payload = payload[TOTAL.size :]
        elif partial.kind != kind:
            raise ProtocolError("a record of another type stands between parts of one")
        if not payload and flags & _MORE:
            raise ProtocolError("a part of a record is empty")
        partial.parts.append(payload)
        partial.have += len(payload)
        if partial.have > partial.total:
            raise ProtocolError("the parts of a record are longer than announced")
        if flags & _MORE:
            return None
        if partial.have != partial.total:
            raise ProtocolError("the parts of a record are shorter than announced")
        self.drop(stream)
        return kind, flags, stream, b"".join(partial.parts)

    def drop(self, stream: int) -> None:
        """Forget the parts of a stream. Raises: nothing."""
        partial = self._partial.pop(stream, None)
        if partial is not None:
            self.bytes_held -= partial.total

    def _begin(self, kind: int, flags: int, stream: int, payload: bytes) -> Partial:
        partial = Partial(kind, flags, total_of(payload))
        self._partial[stream] = partial
        self.bytes_held += partial.total
        return partial


def total_of(payload: bytes) -> int:
    """The whole length that the first part of a payload announces.

    Raises:
        ProtocolError: the part is too short to say.
    """
    if len(payload) < TOTAL.size:
        raise ProtocolError("the first part of a record has no length")
    total: int = TOTAL.unpack_from(payload)[0]
    return total
