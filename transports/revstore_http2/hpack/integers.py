"""Integers with a prefix (RFC 7541, section 5.1)."""

from __future__ import annotations

from revstore_http2.hpack.errors import HpackError

INTEGER_BITS_MAX = 28
"""No length, index or size in use comes near this; a longer integer is an attack."""


def read_integer(block: bytes, position: int, prefix: int) -> tuple[int, int]:
    """Read what follows a prefix whose bits are all set.

    ``prefix`` is the value of the full prefix, ``position`` that of the byte behind it.
    Returns the integer and the position behind it.

    Raises:
        HpackError: the integer does not end in time.
        IndexError: the block ends within it.
    """
    value, shift = prefix, 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift >= INTEGER_BITS_MAX:
            raise HpackError("an integer in a header block is too long")


def integer(value: int, prefix: int, flags: int) -> bytes:
    """An integer behind ``flags``; ``prefix`` is the value of the full prefix."""
    if value < prefix:
        return bytes((flags | value,))
    found = bytearray((flags | prefix,))
    value -= prefix
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
