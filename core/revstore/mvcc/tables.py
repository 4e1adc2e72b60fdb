"""The keyspaces of the store and how their keys are built.

Rules of this file:

1. Every key layout sorts in the order in which the store scans it, as unsigned bytes.
2. The rows of LOG are byte for byte those of etcd's bucket ``key``; HashKV is a
   checksum over them.
3. Layouts are part of the data format: changing one needs a new format number.
"""

from __future__ import annotations

from struct import Struct

CURRENT = "current"
"""User key -> KeyValue of the live keys, as of the newest revision flushed."""
LOG = "log"
"""8 B main + ``_`` + 8 B sub [+ ``t``] -> KeyValue (tombstone: the key only)."""
INDEX = "index"
"""Escaped key + terminator + 8 B main -> predecessor's main, sub, tombstone flag."""
LEASE_KEY = "lease_key"
"""8 B lease id + key -> nothing."""
META = "meta"
"""The one row that says which state the other keyspaces hold."""
LEASE = "lease"
"""8 B lease id -> leasepb.Lease."""
ALARM = "alarm"
AUTH = "auth"
CLUSTER = "cluster"

SYSTEM_KEYSPACES: tuple[str, ...] = (LEASE, ALARM, AUTH, CLUSTER)
"""Small keyspaces that belong to other parts, reached through ``Store.system_*``."""

KEYSPACES: tuple[str, ...] = (CURRENT, LOG, INDEX, LEASE_KEY, META, *SYSTEM_KEYSPACES)

MAIN_END = b"\xff" * 8
"""Beyond every main revision, which is a signed 64-bit number."""

_TERMINATOR = b"\x00\x00"
_ESCAPED_ZERO = b"\x00\xff"
_LOG_KEY = Struct(">QcQ")
_SIGN = 1 << 63
_SUBS = [b"_" + sub.to_bytes(8, "big") for sub in range(1024)]


def log_suffix(sub: int, deleted: bool) -> bytes:
    """A row key of LOG after its main revision."""
    suffix = _SUBS[sub] if sub < 1024 else b"_" + sub.to_bytes(8, "big")
    return suffix + b"t" if deleted else suffix


def log_key(main: int, sub: int, deleted: bool) -> bytes:
    """The row key of one change, as in etcd."""
    return main.to_bytes(8, "big") + log_suffix(sub, deleted)


def log_bound(main: int) -> bytes:
    """The smallest possible row key of a main revision."""
    return main.to_bytes(8, "big")


def split_log_key(key: bytes) -> tuple[int, int, bool]:
    """Main, sub and whether the row is a tombstone."""
    main, _, sub = _LOG_KEY.unpack_from(key)
    return main, sub, len(key) == 18


def index_bound(key: bytes) -> bytes:
    """At or before every row of ``key`` and after every row of a smaller key.

    A zero byte becomes ``00 ff``, so the terminator ``00 00`` sorts before any
    continuation of the key.
    """
    return key.replace(b"\x00", _ESCAPED_ZERO)


def index_prefix(key: bytes) -> bytes:
    """What all rows of ``key`` begin with; eight bytes of main revision follow."""
    return key.replace(b"\x00", _ESCAPED_ZERO) + _TERMINATOR


def index_key(key: bytes, main: int) -> bytes:
    """The row of the change of ``key`` at a main revision."""
    return key.replace(b"\x00", _ESCAPED_ZERO) + _TERMINATOR + main.to_bytes(8, "big")


def key_of_index_row(row_key: bytes) -> bytes:
    """The user key of a row of INDEX."""
    return row_key[:-10].replace(_ESCAPED_ZERO, b"\x00")


def decode_index_key(row_key: bytes) -> tuple[bytes, int]:
    """The inverse of ``index_key``."""
    return key_of_index_row(row_key), int.from_bytes(row_key[-8:], "big")


def lease_key_prefix(lease: int) -> bytes:
    """Eight bytes that sort as the signed lease id does."""
    return (lease + _SIGN).to_bytes(8, "big")


def lease_key_bounds(lease: int) -> tuple[bytes, bytes | None]:
    """The range of LEASE_KEY that holds the keys of a lease."""
    following = lease + _SIGN + 1
    hi = following.to_bytes(8, "big") if following < 1 << 64 else None
    return lease_key_prefix(lease), hi


def lease_of_prefix(prefix: bytes) -> int:
    """The inverse of ``lease_key_prefix``; what follows the eight bytes is ignored."""
    return int.from_bytes(prefix[:8], "big") - _SIGN
