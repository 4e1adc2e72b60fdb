"""What to read and what was read, and etcd's way to name a range of keys."""

from __future__ import annotations

import msgspec

from revstore.mvcc.records import messages_field
from revstore.proto.varint import varint

SORT_NONE, SORT_ASCEND, SORT_DESCEND = 0, 1, 2
TARGET_KEY, TARGET_VERSION, TARGET_CREATE, TARGET_MOD, TARGET_VALUE = 0, 1, 2, 3, 4
"""Numbers as in RangeRequest.SortOrder and RangeRequest.SortTarget."""


class RangeQuery(msgspec.Struct, frozen=True, gc=False):
    """A read of one key or a range of keys; the fields are those of RangeRequest."""

    key: bytes
    end: bytes = b""
    """Empty: exactly ``key``; ``00``: every key from ``key`` on; else exclusive."""
    limit: int = 0
    revision: int = 0
    order: int = 0
    target: int = 0
    keys_only: bool = False
    count_only: bool = False
    min_mod: int = 0
    max_mod: int = 0
    min_create: int = 0
    max_create: int = 0


class RangeResult(msgspec.Struct, frozen=True, gc=False):
    """Rows (serialized KeyValue) and etcd's facts about them."""

    kvs: list[bytes]
    more: bool
    """The limit cut something off."""
    count: int
    """Keys in the range at that revision, before filters and limit."""
    revision: int
    """The head revision, not the one that was asked for."""


Bounds = tuple[bytes, bytes | None]


def bounds(key: bytes, end: bytes) -> Bounds | None:
    """The half-open range [lo, hi) that etcd's pair means; None if it is empty.

    ``hi`` None means "to the end".
    """
    if not end:
        return key, key + b"\x00"
    if end == b"\x00":
        return key, None
    if end <= key:
        return None
    return key, end


def range_body(result: RangeResult) -> bytes:
    """A RangeResponse without its header."""
    body = messages_field(2, result.kvs)
    if result.more:
        body += b"\x18\x01"
    return body + b"\x20" + varint(result.count) if result.count else body
