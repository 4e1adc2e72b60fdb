"""Keys of any length on an engine whose keys have 1 to 511 bytes.

A keyspace is two LMDB databases. ``rows`` holds the keys of 1 to 510 bytes as they
are. A longer key is cut: its first 510 bytes and a zero byte make a *marker* row whose
value is the 8-byte id of a *layer*, and the layer holds the remainder. Layers live in
the second database, ``layers``, under their id: a remainder of up to 502 bytes is a row
``id + remainder``; a longer one is a marker there, and so on.

Rules of this file:
1. A row of 511 bytes is a marker, and only such a row. It cannot be mistaken for a key.
2. A marker sorts right after the key equal to its first 510 bytes and before every
   other key, which is where all keys that it stands for belong. So the order of the
   rows, markers replaced by their layers, is the order of the keys.
3. A remainder has at least one byte; a layer that a marker names is not empty. Deleting
   the last row of a layer deletes its marker, up to the root.
4. Ids ascend from 1 and are never used twice. Id 0 keeps two rows of its own: the next
   id, and the value of the empty key, which LMDB does not accept as a key.
5. A keyspace without long keys has no row beyond id 0, and reading it costs nothing
   extra for each row.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from revstore.interfaces.backend import Pair

if TYPE_CHECKING:
    from lmdb import Cursor, Transaction, _Database

DIRECT_BYTES_MAX = 510
"""The longest row that is a key; one byte more is a marker."""

MARKER_BYTES = DIRECT_BYTES_MAX + 1
ID_BYTES = 8
LAYER_ROOM = DIRECT_BYTES_MAX - ID_BYTES

COUNT_ROWS_FIRST = 16
COUNT_ROWS_MAX = 4096
"""A count reads keys in blocks that double: a short range reads little too much."""

NEXT_ID_ROW = bytes(ID_BYTES) + b"n"
EMPTY_KEY_ROW = bytes(ID_BYTES) + b"e"
FIRST_LAYER = (1).to_bytes(ID_BYTES, "big")


class Keyspace:
    """The two databases of a keyspace in one environment."""

    __slots__ = ("layers", "rows")

    def __init__(self, rows: _Database, layers: _Database) -> None:
        self.rows = rows
        self.layers = layers


def has_layers(txn: Transaction[bytes], space: Keyspace) -> bool:
    """Whether the keyspace has any long key."""
    with txn.cursor(space.layers) as cursor:
        return cursor.set_range(FIRST_LAYER)


def get(txn: Transaction[bytes], space: Keyspace, key: bytes) -> bytes | None:
    """The value of a key of any length, or None."""
    if not key:
        return txn.get(EMPTY_KEY_ROW, None, space.layers)
    found = _find(txn, space, key, [])
    return None if found is None else txn.get(found[1], None, found[0])


def put(txn: Transaction[bytes], space: Keyspace, key: bytes, value: bytes) -> None:
    """Set a key of any length."""
    if not key:
        txn.put(EMPTY_KEY_ROW, value, db=space.layers)
        return
    database, prefix, at = space.rows, b"", 0
    room = DIRECT_BYTES_MAX
    while len(key) - at > room:
        marker = prefix + key[at : at + room] + b"\0"
        layer = txn.get(marker, None, database)
        if layer is None:
            layer = _new_layer(txn, space)
            txn.put(marker, layer, db=database)
        at += room
        database, prefix, room = space.layers, layer, LAYER_ROOM
    txn.put(prefix + key[at:], value, db=database)


def delete(txn: Transaction[bytes], space: Keyspace, key: bytes) -> None:
    """Remove a key of any length, and the layers that it leaves empty (rule 3)."""
    if not key:
        txn.delete(EMPTY_KEY_ROW, db=space.layers)
        return
    trail: list[tuple[_Database, bytes, bytes]] = []
    found = _find(txn, space, key, trail)
    if found is None or not txn.delete(found[1], db=found[0]):
        return
    with txn.cursor(space.layers) as cursor:
        while trail:
            database, marker, layer = trail.pop()
            if cursor.set_range(layer) and cursor.key()[:ID_BYTES] == layer:
                return
            txn.delete(marker, db=database)


def _find(
    txn: Transaction[bytes],
    space: Keyspace,
    key: bytes,
    trail: list[tuple[_Database, bytes, bytes]],
) -> tuple[_Database, bytes] | None:
    """Where a key's row belongs; None if a marker on the way is missing.

    ``trail`` receives the markers passed, each with the layer that it names.
    """
    database, prefix, at = space.rows, b"", 0
    room = DIRECT_BYTES_MAX
    while len(key) - at > room:
        marker = prefix + key[at : at + room] + b"\0"
        layer = txn.get(marker, None, database)
        if layer is None:
            return None
        trail.append((database, marker, layer))
        at += room
        database, prefix, room = space.layers, layer, LAYER_ROOM
    return database, prefix + key[at:]


def _new_layer(txn: Transaction[bytes], space: Keyspace) -> bytes:
    layer = txn.get(NEXT_ID_ROW, FIRST_LAYER, space.layers)
    following = int.from_bytes(layer, "big") + 1
    txn.put(NEXT_ID_ROW, following.to_bytes(ID_BYTES, "big"), db=space.layers)
    return layer


def seek_forward(
    cursor: Cursor[bytes], lo: bytes, prefix: bytes = b"", at: int = 0
) -> Iterator[Pair]:
    """The rows from the place of ``prefix + lo[at:]`` on, markers among them."""
    found = cursor.set_range(row_bound(prefix, lo, at))
    return cursor.iternext(True, True) if found else iter(())


def seek_reverse(
    cursor: Cursor[bytes], hi: bytes | None, prefix: bytes = b"", at: int = 0
) -> Iterator[Pair]:
    """The rows before the place of ``prefix + hi[at:]``, backwards, markers among them.

    The marker that ``hi`` itself passes through is the first of them.
    """
    if hi is not None:
        bound = row_bound(prefix, hi, at)
    elif prefix:
        bound = (int.from_bytes(prefix, "big") + 1).to_bytes(ID_BYTES, "big")
    else:
        return cursor.iterprev(True, True) if cursor.last() else iter(())
    if not cursor.set_range(bound):
        found = cursor.last()
    elif len(bound) == MARKER_BYTES and cursor.key() == bound:
        found = True
    else:
        found = cursor.prev()
    return cursor.iterprev(True, True) if found else iter(())


def row_bound(prefix: bytes, bound: bytes, at: int = 0) -> bytes:
    """The row where a key would be, or the marker through which it passes."""
    room = DIRECT_BYTES_MAX - len(prefix)
    if len(bound) - at > room:
        return prefix + bound[at : at + room] + b"\0"
    return prefix + bound[at:]


def count(txn: Transaction[bytes], space: Keyspace, lo: bytes, hi: bytes | None) -> int:
    """The number of keys with lo <= key < hi, where lo < hi."""
    empty = not lo and txn.get(EMPTY_KEY_ROW, None, space.layers) is not None
    if has_layers(txn, space):
        rows = walk(txn, space, lo, reverse=False)
        inside = rows if hi is None else takewhile(lambda pair: pair[0] < hi, rows)
        return empty + sum(1 for _ in inside)
    if not lo and hi is None:
        return empty + txn.stat(space.rows)["entries"]
    total = int(empty)
    with txn.cursor(space.rows) as cursor:
        if not cursor.set_range(row_bound(b"", lo)):
            return total
        keys = cursor.iternext(True, False)
        size = COUNT_ROWS_FIRST
        while block := list(islice(keys, size)):
            if hi is not None and block[-1] >= hi:
                return total + bisect_left(block, hi)
            total += len(block)
            size = min(2 * size, COUNT_ROWS_MAX)
    return total


class _Level:
    """One layer, or the root, on the way of a walk."""

    __slots__ = ("bound", "path_bytes", "prefix", "rows")

    def __init__(
        self,
        rows: Iterator[Pair],
        prefix: bytes,
        bound: bytes | None,
        path_bytes: int,
    ) -> None:
        self.rows = rows
        self.prefix = prefix
        self.bound = bound
        """The bound if it passes through this level, whole: cutting it at each level
        would cost the square of its length. The part before ``path_bytes`` is the path.
        """
        self.path_bytes = path_bytes
        """How much of the key the levels above this one spell."""

    def is_passed(self, marker: bytes) -> bool:
        """Whether the bound goes on in the layer that ``marker`` names."""
        bound = self.bound
        room = DIRECT_BYTES_MAX - len(self.prefix)
        if bound is None or len(bound) - self.path_bytes <= room:
            return False
        return marker == row_bound(self.prefix, bound, self.path_bytes)


def walk(
    txn: Transaction[bytes],
    space: Keyspace,
    bound: bytes | None,
    *,
    reverse: bool,
) -> Iterator[Pair]:
    """The keys from ``bound`` on (reverse: below it), long ones put together.

    Layers are entered with an explicit stack and one shared path: a key of 2 MiB is
    four thousand layers deep.
    """
    path = bytearray()
    stack = [_enter(txn, space.rows, b"", bound, 0, reverse=reverse)]
    while stack:
        level = stack[-1]
        prefix = level.prefix
        skip = len(prefix)
        del path[level.path_bytes :]
        for row, value in level.rows:
            if skip and row[:skip] != prefix:
                stack.pop()
                break
            if len(row) != MARKER_BYTES:
                yield bytes(path) + row[skip:] if skip else row, value
                continue
            path += row[skip:-1]
            inner = level.bound if level.is_passed(row) else None
            stack.append(
                _enter(txn, space.layers, value, inner, len(path), reverse=reverse)
            )
            break
        else:
            stack.pop()


def _enter(
    txn: Transaction[bytes],
    database: _Database,
    prefix: bytes,
    bound: bytes | None,
    path_bytes: int,
    *,
    reverse: bool,
) -> _Level:
    cursor = txn.cursor(database)
    if reverse:
        rows = seek_reverse(cursor, bound, prefix, path_bytes)
    elif bound is None:
        rows = seek_forward(cursor, b"", prefix)
    else:
        rows = seek_forward(cursor, bound, prefix, path_bytes)
    return _Level(rows, prefix, bound, path_bytes)
