"""How gRPC writes metadata, deadlines and texts into header fields.

Reference: "gRPC over HTTP2" (PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable

from revstore.errors import UsageError
from revstore_http2.events import Pairs

TIMEOUT_DIGITS_MAX = 8
SECONDS_OF_UNIT = {
    0x48: 3600.0,  # H
    0x4D: 60.0,  # M
    0x53: 1.0,  # S
    0x6D: 1e-3,  # m
    0x75: 1e-6,  # u
    0x6E: 1e-9,  # n
}
_UNITS = (
    ("n", 1e9),
    ("u", 1e6),
    ("m", 1e3),
    ("S", 1.0),
    ("M", 1 / 60),
    ("H", 1 / 3600),
)

_NAME = re.compile(rb"[0-9a-z_.\-]+\Z")
_VALUE = re.compile(rb"[\x20-\x7e]*\Z")
_UNSAFE = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")

RESERVED = frozenset(
    {
        b"content-type",
        b"content-length",
        b"te",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-status",
        b"grpc-message",
        b"grpc-status-details-bin",
    }
)
"""Fields of the protocol itself; the shell neither sees nor sends them as metadata."""


def timeout_seconds(value: bytes) -> float:
    """The meaning of ``grpc-timeout``; negative if it has none. Raises: nothing."""
    digits = value[:-1]
    if digits.isdigit() and len(digits) <= TIMEOUT_DIGITS_MAX:
        unit = SECONDS_OF_UNIT.get(value[-1])
        if unit is not None:
            return int(digits) * unit
    return -1.0


def timeout_value(seconds: float) -> bytes:
    """``grpc-timeout`` for a time, rounded up so that it is not over too early.

    Raises: nothing.
    """
    if seconds <= 0:
        return b"0n"
    for unit, per_second in _UNITS:
        count = seconds * per_second
        if count < 10**TIMEOUT_DIGITS_MAX - 1:
            whole = int(count)
            return b"%d%s" % (whole + (whole < count), unit.encode())
    return b"99999999H"


def percent_encode(text: str) -> bytes:
    """``grpc-message`` for a text. Raises: nothing."""
    raw = text.encode("utf-8", "replace")
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], raw)


def percent_decode(value: bytes) -> str:
    """The text of a ``grpc-message``, as good as it can be read. Raises: nothing."""
    raw = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), value)
    return raw.decode("utf-8", "replace")


def encode_pairs(
    pairs: Iterable[tuple[str, str | bytes]],
) -> list[tuple[bytes, bytes]]:
    """Header fields for metadata.

    Raises:
        UsageError: a name or a value cannot be sent; the message says why.
    """
    fields = []
    for name, value in pairs:
        key = name.lower().encode("utf-8")
        if not _NAME.match(key) or key in RESERVED:
            raise UsageError(f"{name!r} is no name for metadata; choose another")
        if key.endswith(b"-bin"):
            raw = value.encode() if isinstance(value, str) else value
            fields.append((key, encode_binary(raw)))
            continue
        if isinstance(value, bytes):
            raise UsageError(f"the value of {name!r} is bytes; end its name in -bin")
        text = value.encode("utf-8")
        if not _VALUE.match(text):
            raise UsageError(
                f"the value of {name!r} is not printable ASCII; end its name in -bin"
            )
        fields.append((key, text))
    return fields


def encode_binary(value: bytes) -> bytes:
    """The value of a ``-bin`` field; without padding, as the protocol prefers.

    Raises: nothing.
    """
    return binascii.b2a_base64(value, newline=False).rstrip(b"=")


def decode_binary(value: bytes) -> bytes:
    """The bytes of a ``-bin`` field's value.

    Raises:
        ValueError: it is not base64.
    """
    bare = value.rstrip(b"=")
    return binascii.a2b_base64(bare + b"=" * (-len(bare) % 4), strict_mode=True)


def decode_pairs(fields: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """The metadata among header fields, in order.

    Raises:
        ValueError: the value of a ``-bin`` field is not base64; the message names it.
    """
    pairs: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name in RESERVED or name.startswith(b":"):
            continue
        key = name.decode("latin-1")
        if not name.endswith(b"-bin"):
            pairs.append((key, value.decode("latin-1")))
            continue
        for part in value.split(b","):
            try:
                pairs.append((key, decode_binary(part.strip())))
            except ValueError:
                raise ValueError(f"the value of {key} is not base64") from None
    return tuple(pairs)
