"""One keyspace's part of a batch, put into a write transaction.

The order is that of B-02. Puts go to LMDB as one call with one cursor.
"""

from __future__ import annotations

from itertools import islice
from operator import itemgetter, lt

import lmdb

from revstore.interfaces.backend import KeyspaceBatch, Pair
from revstore_lmdb import layers
from revstore_lmdb.layers import DIRECT_BYTES_MAX, Keyspace

DELETE_ROWS_MAX = 1000
DELETE_BYTES_MAX = 4 * 1024 * 1024
"""How many keys, and bytes of them, one step of a range delete gathers."""

_key_of = itemgetter(0)


def apply_changes(
    txn: lmdb.Transaction[bytes], space: Keyspace, changes: KeyspaceBatch
) -> None:
    """Range deletes, then deletes, then puts (B-02).

    Raises:
        lmdb.Error: the engine failed or its map is full; abort the transaction.
    """
    for lo, hi in changes.delete_ranges:
        if hi is None or lo < hi:
            _delete_range(txn, space, lo, hi)
    rows = space.rows
    for key in changes.deletes:
        if 0 < len(key) <= DIRECT_BYTES_MAX:
            txn.delete(key, db=rows)
        else:
            layers.delete(txn, space, key)
    if changes.puts:
        _put_all(txn, space, changes)


def _put_all(
    txn: lmdb.Transaction[bytes], space: Keyspace, changes: KeyspaceBatch
) -> None:
    puts = changes.puts
    keys = [key for key, _ in puts]
    with txn.cursor(space.rows) as cursor:
        sorted_already = ascends(keys)
        append = changes.ascending and sorted_already and is_beyond(cursor, keys[0])
        if not sorted_already:
            puts = _prepared(txn, space, puts, keys)
        consumed, _ = cursor.putmulti(puts, append=append)
    if consumed != len(puts):
        raise lmdb.Error(f"only {consumed} of {len(puts)} rows were taken")


def _prepared(
    txn: lmdb.Transaction[bytes],
    space: Keyspace,
    puts: list[Pair],
    keys: list[bytes],
) -> list[Pair]:
    """Put the keys that LMDB does not take as they are; return the others, sorted.

    Sorted, neighbours share a page. Each key is put once: LMDB would keep the pages of
    a large value for a smaller one put over it in the same transaction.
    """
    if len(set(keys)) < len(keys):
        last = dict(puts)
        puts, keys = list(last.items()), list(last)
    sizes = list(map(len, keys))
    if min(sizes) == 0 or max(sizes) > DIRECT_BYTES_MAX:
        direct: list[Pair] = []
        for pair in puts:
            if 0 < len(pair[0]) <= DIRECT_BYTES_MAX:
                direct.append(pair)
            else:
                layers.put(txn, space, *pair)
        puts = direct
    return sorted(puts, key=_key_of)


def ascends(keys: list[bytes]) -> bool:
    """Whether keys are sorted, different, and such as LMDB takes as they are."""
    if not keys[0] or max(map(len, keys)) > DIRECT_BYTES_MAX:
        return False
    return all(map(lt, keys, islice(keys, 1, None)))


def is_beyond(cursor: lmdb.Cursor[bytes], key: bytes) -> bool:
    """Whether a key lies behind all rows.

    Append mode is safe only then: it drops a key out of order without an error.
    """
    return not cursor.last() or cursor.key() < key


def _delete_range(
    txn: lmdb.Transaction[bytes], space: Keyspace, lo: bytes, hi: bytes | None
) -> None:
    if not lo:
        layers.delete(txn, space, b"")
    if layers.has_layers(txn, space):
        _delete_range_layered(txn, space, lo, hi)
        return
    if not lo and hi is None:
        txn.drop(space.rows, delete=False)
        return
    with txn.cursor(space.rows) as cursor:
        cursor.set_range(layers.row_bound(b"", lo))
        key = cursor.key()
        while key and (hi is None or key < hi):
            cursor.delete()
            key = cursor.key()


def _delete_range_layered(
    txn: lmdb.Transaction[bytes], space: Keyspace, lo: bytes, hi: bytes | None
) -> None:
    """Key by key: each delete prunes the layers that it empties."""
    while True:
        doomed: list[bytes] = []
        room = DELETE_BYTES_MAX
        for key, _ in layers.walk(txn, space, lo, reverse=False):
            if hi is not None and key >= hi:
                break
            doomed.append(key)
            room -= len(key)
            if len(doomed) == DELETE_ROWS_MAX or room < 0:
                break
        if not doomed:
            return
        for key in doomed:
            layers.delete(txn, space, key)
