"""The payloads of the records: hello, open, end and so on, to bytes and back.

Rules of this file:

1. No I/O. Every ``read_`` function takes bytes from the network and raises
   ProtocolError for what is too short or does not add up; text is decoded with
   surrogate escapes, so that a service sees what was sent.
2. Bytes behind the known fields of HELLO, WELCOME and GOAWAY are ignored, which is how
   later versions add to them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum

import msgspec

from revstore.errors import ApiError
from revstore_tcp.framing import ProtocolError
from revstore_tcp.limits import HEAD_BYTES_MAX

_HELLO = struct.Struct(">BBHQQQ")
_WELCOME = struct.Struct(">QQII")
_OPEN = struct.Struct(">IHH")
_PAIR = struct.Struct(">HH")
_END = struct.Struct(">IH")
_NUMBER = struct.Struct(">I")

OPEN_HEAD_BYTES = _OPEN.size
REPLY_OK = _END.pack(0, 0)
"""The payload of an END with status OK, in front of a unary call's answer."""

_unpack_open = _OPEN.unpack_from
_TEXT_MAX = 60_000


class Role(IntEnum):
    """What a calling side is."""

    CLIENT = 0
    MEMBER = 1


class GoAway(IntEnum):
    """Why a side ends the connection."""

    DRAIN = 0
    """Running calls may end; new ones go elsewhere."""
    PROTOCOL = 1
    CLUSTER = 2
    MEMBER = 3
    REFUSED = 4
    CERTIFICATE = 5
    PINGS = 6
    TIMEOUT = 7


class Hello(msgspec.Struct, frozen=True):
    """Who calls, and for what."""

    role: Role
    lane: int = 0
    cluster_id: int = 0
    sender: int = 0
    to: int = 0


class Welcome(msgspec.Struct, frozen=True):
    """Who answers, and what it takes."""

    cluster_id: int = 0
    member_id: int = 0
    message_bytes_max: int = 0
    streams_max: int = 0


class OpenHead(msgspec.Struct, frozen=True):
    """The head of a call; ``message_at`` is where its message begins in the payload."""

    timeout_ms: int
    path: bytes
    metadata: bytes
    message_at: int


def write_hello(hello: Hello) -> bytes:
    """The payload of HELLO. Raises: nothing."""
    return _HELLO.pack(
        hello.role, hello.lane, 0, hello.cluster_id, hello.sender, hello.to
    )


def read_hello(payload: bytes) -> Hello:
    """Raises: ProtocolError."""
    _need(payload, _HELLO.size, "HELLO")
    role, lane, _, cluster, sender, to = _HELLO.unpack_from(payload)
    if role not in (Role.CLIENT, Role.MEMBER):
        raise ProtocolError(f"HELLO names the unknown role {role}")
    return Hello(Role(role), lane, cluster, sender, to)


def write_welcome(welcome: Welcome) -> bytes:
    """The payload of WELCOME. Raises: nothing."""
    return _WELCOME.pack(
        welcome.cluster_id,
        welcome.member_id,
        min(welcome.message_bytes_max, 0xFFFF_FFFF),
        welcome.streams_max,
    )


def read_welcome(payload: bytes) -> Welcome:
    """Raises: ProtocolError."""
    _need(payload, _WELCOME.size, "WELCOME")
    return Welcome(*_WELCOME.unpack_from(payload))


def write_metadata(metadata: Mapping[str, str]) -> bytes:
    """Pairs of names and values as they stand in OPEN. Raises: nothing."""
    parts: list[bytes] = []
    for key, value in metadata.items():
        name = key.lower().encode("utf-8", "surrogateescape")
        text = value.encode("utf-8", "surrogateescape")
        parts += (_PAIR.pack(len(name), len(text)), name, text)
    return b"".join(parts)


def read_metadata(found: bytes) -> dict[str, str]:
    """The pairs, names in lower case; of a repeated name the first counts.

    Names with a colon in front are the transport's own and are left out.

    Raises:
        ProtocolError: the pairs do not fill their place.
    """
    pairs: dict[str, str] = {}
    at, end = 0, len(found)
    while at < end:
        if end - at < _PAIR.size:
            raise ProtocolError("the metadata of a call is cut off")
        name_length, value_length = _PAIR.unpack_from(found, at)
        at += _PAIR.size
        middle = at + name_length
        stop = middle + value_length
        if stop > end:
            raise ProtocolError("the metadata of a call is cut off")
        name = found[at:middle].decode("utf-8", "surrogateescape").lower()
        if not name.startswith(":"):
            value = found[middle:stop].decode("utf-8", "surrogateescape")
            pairs.setdefault(name, value)
        at = stop
    return pairs


def write_open(path: bytes, metadata: bytes, timeout_ms: int, message: bytes) -> bytes:
    """The payload of OPEN. Raises: nothing."""
    head = _OPEN.pack(timeout_ms, len(path), len(metadata))
    return head + path + metadata + message


def read_open(payload: bytes) -> OpenHead:
    """The head of an OPEN, which is whole in its first record.

    Raises:
        ProtocolError: it is cut off or over the limit.
    """
    if len(payload) < OPEN_HEAD_BYTES:
        raise ProtocolError("OPEN is too short")
    timeout_ms, path_length, metadata_length = _unpack_open(payload)
    middle = OPEN_HEAD_BYTES + path_length
    end = middle + metadata_length
    if path_length + metadata_length > HEAD_BYTES_MAX:
        raise ProtocolError("path and metadata of a call are over the limit")
    if end > len(payload):
        raise ProtocolError("OPEN is cut off")
    path = payload[OPEN_HEAD_BYTES:middle]
    return OpenHead(timeout_ms, path, payload[middle:end], end)


def write_end(error: ApiError | None) -> bytes:
    """The payload of END without an answer. Raises: nothing."""
    if error is None:
        return REPLY_OK
    text = error.message.encode("utf-8", "surrogateescape")[:_TEXT_MAX]
    return _END.pack(error.code, len(text)) + text


def read_end(payload: bytes) -> bytes | ApiError:
    """The answer of a call, or its error.

    Raises:
        ProtocolError: the payload is cut off.
    """
    _need(payload, _END.size, "END")
    code, length = _END.unpack_from(payload)
    end = _END.size + length
    _need(payload, end, "END")
    if code == 0:
        return payload[end:]
    return ApiError(code, payload[_END.size : end].decode("utf-8", "surrogateescape"))


def write_number(number: int) -> bytes:
    """The payload of CREDIT. Raises: nothing."""
    return _NUMBER.pack(number)


def read_number(payload: bytes) -> int:
    """The credit granted. Raises: ProtocolError."""
    _need(payload, _NUMBER.size, "CREDIT")
    number: int = _NUMBER.unpack_from(payload)[0]
    return number


def write_goaway(code: int, text: str) -> bytes:
    """The payload of GOAWAY. Raises: nothing."""
    body = text.encode("utf-8", "surrogateescape")[:_TEXT_MAX]
    return _END.pack(code, len(body)) + body


def read_goaway(payload: bytes) -> tuple[int, str]:
    """Code and reason. Raises: ProtocolError."""
    _need(payload, _END.size, "GOAWAY")
    code, length = _END.unpack_from(payload)
    end = _END.size + length
    _need(payload, end, "GOAWAY")
    return code, payload[_END.size : end].decode("utf-8", "replace")


def _need(payload: bytes, size: int, what: str) -> None:
    if len(payload) < size:
        raise ProtocolError(f"{what} is too short")
