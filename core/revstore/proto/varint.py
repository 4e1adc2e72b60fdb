"""Protobuf varints (protobuf encoding guide, "Base 128 Varints")."""

from __future__ import annotations

_SMALL = [bytes([number]) for number in range(128)] + [
    bytes([0x80 | number & 0x7F, number >> 7]) for number in range(128, 16384)
]

_PAIRS = [bytes([0x80 | low & 0x7F, 0x80 | low >> 7]) for low in range(16384)]
"""The first two bytes of a longer number."""


def varint(number: int) -> bytes:
    """Encode an unsigned number, or a negative int64 as its two's complement."""
    if 0 <= number < 16384:
        return _SMALL[number]
    if 0 < number < 2097152:
        # Revisions, mostly.
        return _PAIRS[number & 0x3FFF] + _SMALL[number >> 14]
    if number < 0:
        number += 1 << 64
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    out.append(number)
    return bytes(out)
