"""Writing frames (RFC 9113, section 4.1 and 6). Nothing here checks anything."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from revstore_http2.codes import FrameType

HEADER = Struct(">IBI")
"""Length and type together (length << 8 | type), flags, stream."""
pack_header = HEADER.pack

MESSAGE_HEADER = Struct(">IBIBI")
"""The header of a DATA frame that begins with a message's prefix: as above, then
whether the message is compressed, and its length."""
pack_message_header = MESSAGE_HEADER.pack

_SETTING = Struct(">HI")
_NUMBERED = Struct(">IBII")
_GOAWAY = Struct(">IBIII")

SETTINGS_ACK = pack_header(FrameType.SETTINGS, 1, 0)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    body = b"".join([_SETTING.pack(key, value) for key, value in values])
    return pack_header(len(body) << 8 | FrameType.SETTINGS, 0, 0) + body


def read_settings(payload: bytes) -> Iterable[tuple[int, int]]:
    """The parameters in a payload whose length is a multiple of 6."""
    return _SETTING.iter_unpack(payload)


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return _NUMBERED.pack(4 << 8 | FrameType.RST_STREAM, 0, stream_id, code)


def window_update(stream_id: int, count: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return _NUMBERED.pack(4 << 8 | FrameType.WINDOW_UPDATE, 0, stream_id, count)


def ping(payload: bytes, ack: bool) -> bytes:
    """A PING frame."""
    return pack_header(8 << 8 | FrameType.PING, ack, 0) + payload


def goaway(last_stream_id: int, code: int, debug: bytes) -> bytes:
    """A GOAWAY frame."""
    length = 8 + len(debug)
    head = _GOAWAY.pack(length << 8 | FrameType.GOAWAY, 0, 0, last_stream_id, code)
    return head + debug


def header_block(stream_id: int, block: bytes, end: bool, frame_max: int) -> bytes:
    """HEADERS, and CONTINUATION as far as needed."""
    flags = 1 if end else 0
    if len(block) <= frame_max:
        return pack_header(len(block) << 8 | 1, flags | 4, stream_id) + block
    pieces: list[bytes] = []
    kind = int(FrameType.HEADERS)
    for start in range(0, len(block), frame_max):
        part = block[start : start + frame_max]
        last = start + frame_max >= len(block)
        if last:
            flags |= 4
        pieces += pack_header(len(part) << 8 | kind, flags, stream_id), part
        kind, flags = int(FrameType.CONTINUATION), 0
    return b"".join(pieces)
