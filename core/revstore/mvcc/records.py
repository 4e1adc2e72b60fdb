"""KeyValue rows as bytes: built, cut and read without a message object.

Rules of this file:

1. Encoding is that of gogoproto and upb alike: fields in number order, zero values
   left out. Rows enter HashKV, so every byte counts.
2. A live row always has key (unless empty), create_revision, mod_revision and version,
   in this order; value and lease may be absent. A tombstone has the key only.
3. ``FIELDS`` reads the three numbers in one step; it must be tried at ``fields_at``.
"""

from __future__ import annotations

import re
from functools import lru_cache

from revstore.proto import kv_pb2
from revstore.proto.varint import varint

_NUMBER = rb"[\x80-\xff]*[\x00-\x7f]"
FIELDS = re.compile(rb"(\x10%b)\x18(%b)\x20(%b)" % (_NUMBER, _NUMBER, _NUMBER)).match
"""Groups: the create_revision field with its tag, mod_revision, version."""

HEADS = 2048
KEY_HEAD = [b"\x0a" + varint(size) if size else b"" for size in range(HEADS)]
VALUE_HEAD = [b"\x2a" + varint(size) if size else b"" for size in range(HEADS)]
"""Tag and length of a key or value, by its size below HEADS."""

decode_kv = kv_pb2.KeyValue.FromString
"""A row as a message; the slow way, for sorting and filtering."""


def key_tag(size: int) -> bytes:
    """What precedes a key of this size in a row."""
    return KEY_HEAD[size] if size < HEADS else b"\x0a" + varint(size)


def value_tag(size: int) -> bytes:
    """What precedes a value of this size in a row."""
    return VALUE_HEAD[size] if size < HEADS else b"\x2a" + varint(size)


def encode_kv(
    key: bytes, create: int, mod: int, version: int, value: bytes, lease: int
) -> bytes:
    """A row, byte-identical to what protobuf writes."""
    row = key_tag(len(key)) + key
    if create:
        row += b"\x10" + varint(create)
    if mod:
        row += b"\x18" + varint(mod)
    if version:
        row += b"\x20" + varint(version)
    row += value_tag(len(value)) + value
    return row + b"\x30" + varint(lease) if lease else row


def encode_tombstone(key: bytes) -> bytes:
    """The row of a deletion."""
    return key_tag(len(key)) + key


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The unsigned number at a position and the position behind it.

    Raises:
        IndexError: the data ends within the number.
    """
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    number = byte & 0x7F
    shift = 7
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7


def number_of(raw: bytes) -> int:
    """The number that a varint's bytes stand for."""
    if len(raw) == 1:
        return raw[0]
    number = 0
    for byte in reversed(raw):
        number = number << 7 | byte & 0x7F
    return number


@lru_cache(maxsize=4096)
def next_version(raw: bytes) -> bytes:
    """The varint that follows a version's varint."""
    return varint(number_of(raw) + 1)


def fields_at(row: bytes) -> int:
    """Where the key ends and the numbers begin."""
    if not row or row[0] != 0x0A:
        return 0
    if row[1] < 0x80:
        return row[1] + 2
    size, position = read_varint(row, 1)
    return position + size


def key_of(row: bytes) -> bytes:
    """The key of a row or tombstone."""
    if not row or row[0] != 0x0A:
        return b""
    if row[1] < 0x80:
        return row[2 : row[1] + 2]
    size, position = read_varint(row, 1)
    return row[position : position + size]


def mod_of(row: bytes) -> int:
    """The mod_revision of a live row; 0 for a tombstone."""
    match = FIELDS(row, fields_at(row))
    return number_of(match[2]) if match else 0


def lease_at(row: bytes, position: int) -> int:
    """The lease of a row, given where its version field ends."""
    end = len(row)
    if position < end and row[position] == 0x2A:
        size = row[position + 1]
        if size < 0x80:
            position += size + 2
        else:
            size, position = read_varint(row, position + 1)
            position += size
    if position >= end:
        return 0
    lease, _ = read_varint(row, position + 1)
    return lease - (1 << 64) if lease >> 63 else lease


def lease_of(row: bytes) -> int:
    """The lease of a live row, 0 if none."""
    match = FIELDS(row, fields_at(row))
    return lease_at(row, match.end()) if match else 0


def strip_value(row: bytes) -> bytes:
    """The row without its value (keys_only)."""
    match = FIELDS(row, fields_at(row))
    if match is None:
        return row
    position = match.end()
    if position == len(row) or row[position] != 0x2A:
        return row
    size, behind = read_varint(row, position + 1)
    return row[:position] + row[behind + size :]


_CHANGES = [varint(number) for number in range(2048)]


def change_suffix(sub: int, deleted: bool) -> bytes:
    """The value of an INDEX row after the predecessor's main, which is a varint, too."""
    packed = sub << 1 | deleted
    return _CHANGES[packed] if packed < 2048 else varint(packed)


def decode_change(value: bytes) -> tuple[int, int, bool]:
    """Predecessor's main (0: none alive), sub, and whether it is a tombstone."""
    pred, position = read_varint(value, 0)
    packed, _ = read_varint(value, position)
    return pred, packed >> 1, bool(packed & 1)


def messages_field(field: int, messages: list[bytes]) -> bytes:
    """Messages as a repeated field (of a number below 16), in one join."""
    heads = _HEADS.get(field)
    if heads is None:
        tag = bytes([field << 3 | 2])
        heads = _HEADS[field] = [tag + varint(size) for size in range(2048)]
    parts: list[bytes] = []
    for message in messages:
        size = len(message)
        if size < 2048:
            parts.append(heads[size])
        else:
            parts.append(heads[0][:1] + varint(size))
        parts.append(message)
    return b"".join(parts)


_HEADS: dict[int, list[bytes]] = {}
"""Tag and length by field number and size, made when first needed."""
