"""Protobuf varints (protobuf encoding guide, "Base 128 Varints")."""

from __future__ import annotations

_SMALL = [bytes([number]) for number in range(128)] + [
    bytes([0x80 | number & 0x7F, number >> 7]) for number in range(128, 16384)
]


def varint(number: int) -> bytes:
    """Encode an unsigned number, or a negative int64 as its two's complement."""
    if 0 <= number < 16384:
        return _SMALL[number]
    if number < 0:
        number += 1 << 64
    out = bytearray()
    while number > 0x7F:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    out.append(number)
    return bytes(out)
