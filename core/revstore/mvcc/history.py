"""Reading old revisions from INDEX and LOG of one snapshot.

Rules of this file:

1. Only for revisions below the snapshot's own; from there on CURRENT and the overlays
   answer (``layers``).
2. Memory is bounded by the chunk of a scan, however many versions a key has: a chunk
   that holds versions of one key only is left by seeking.
"""

from __future__ import annotations

from collections.abc import Iterator

from revstore.errors import CorruptionError
from revstore.interfaces.backend import Pair, Snapshot
from revstore.mvcc.records import decode_change, mod_of
from revstore.mvcc.tables import (
    CURRENT,
    INDEX,
    LOG,
    MAIN_END,
    index_bound,
    index_prefix,
    key_of_index_row,
    log_suffix,
)

_CHUNK = 1000
_ROWS_CHUNK = 128

_FIRST_PUT = log_suffix(0, False)

Found = tuple[bytes, bytes]
"""Key and its row key in LOG."""


def get_at(snapshot: Snapshot, key: bytes, revision: int) -> bytes | None:
    """The row of a key at a revision, or None.

    Raises:
        CorruptionError: INDEX names a row that LOG does not have.
        StorageError: the engine failed.
    """
    prefix = index_prefix(key)
    newest = newest_at(snapshot, prefix, revision)
    if newest is None:
        return None
    found = _live(*newest)
    return None if found is None else rows_of(snapshot, [found])[0]


def newest_at(snapshot: Snapshot, prefix: bytes, revision: int) -> Pair | None:
    """The newest INDEX row of a key at or before a revision."""
    end = prefix + (revision + 1).to_bytes(8, "big")
    for pairs in snapshot.scan(INDEX, prefix, end, reverse=True, limit=1, chunk=1):
        return pairs[0]
    return None


def changed_between(snapshot: Snapshot, key: bytes, after: int, upto: int) -> bool:
    """Whether a key changed at a revision with after < revision <= upto."""
    prefix = index_prefix(key)
    lo = prefix + (after + 1).to_bytes(8, "big")
    hi = prefix + (upto + 1).to_bytes(8, "big")
    return any(snapshot.scan(INDEX, lo, hi, limit=1, chunk=1))


def live_at(
    snapshot: Snapshot, lo: bytes, hi: bytes | None, revision: int
) -> Iterator[list[Found]]:
    """The keys in [lo, hi) that were alive at a revision, in order, in lists."""
    limit = revision.to_bytes(8, "big")
    position = index_bound(lo)
    end = None if hi is None else index_bound(hi)
    newest: Pair | None = None
    while True:
        resume: bytes | None = None
        for pairs in snapshot.scan(INDEX, position, end, chunk=_CHUNK):
            found: list[Found] = []
            if len(pairs) == _CHUNK and pairs[0][0][:-8] == pairs[-1][0][:-8]:
                _add(found, newest, pairs[0][0][:-8])
                prefix = pairs[0][0][:-8]
                newest = newest_at(snapshot, prefix, revision)
                resume = prefix + MAIN_END
            else:
                newest = _pick(pairs, newest, limit, found)
            if found:
                yield found
            if resume is not None:
                break
        if resume is None:
            break
        position = resume
    last = None if newest is None else _live(*newest)
    if last is not None:
        yield [last]


def _add(found: list[Found], newest: Pair | None, prefix: bytes) -> None:
    """Settle a key that the new chunk does not go on with."""
    if newest is not None and newest[0][:-8] != prefix:
        live = _live(*newest)
        if live is not None:
            found.append(live)


def _pick(
    pairs: list[Pair], newest: Pair | None, limit: bytes, found: list[Found]
) -> Pair | None:
    """Go through a chunk; returns the newest row so far of the key still open."""
    current = None if newest is None else newest[0][:-8]
    for pair in pairs:
        row_key = pair[0]
        prefix = row_key[:-8]
        if prefix != current:
            if newest is not None:
                live = _live(*newest)
                if live is not None:
                    found.append(live)
            newest = None
            current = prefix
        if row_key[-8:] <= limit:
            newest = pair
    return newest


def _live(row_key: bytes, value: bytes) -> Found | None:
    """Key and LOG row of an INDEX row, None for a tombstone."""
    key = key_of_index_row(row_key)
    if value[-1] == 0:
        # A varint ends in zero only if it is zero: sub 0 and no tombstone.
        return key, row_key[-8:] + _FIRST_PUT
    _, sub, deleted = decode_change(value)
    return None if deleted else (key, row_key[-8:] + log_suffix(sub, False))


def rows_of(snapshot: Snapshot, found: list[Found]) -> list[bytes]:
    """The rows behind what ``live_at`` found.

    Most keys of a store have not changed since any given revision. Their rows are in
    CURRENT side by side, where one scan reads them; only the others are fetched from
    the log one by one.

    Raises:
        CorruptionError: LOG lacks one of them.
    """
    rows: list[bytes | None] = [None] * len(found)
    if len(found) > 1:
        _take_unchanged(snapshot, found, rows)
    places = [place for place, row in enumerate(rows) if row is None]
    row_keys = [found[place][1] for place in places]
    for place, row in zip(places, snapshot.get_many(LOG, row_keys), strict=True):
        if row is None:
            key, row_key = found[place]
            text = f"the log has no row {row_key.hex()}, named by the index for {key!r}"
            raise CorruptionError(text)
        rows[place] = row
    return rows  # type: ignore[return-value]  # every place was filled above


def _take_unchanged(
    snapshot: Snapshot, found: list[Found], rows: list[bytes | None]
) -> None:
    """Fill in the rows that are still current."""
    place = 0
    end = len(found)
    # Keys made since then lie in between; too many of them make the scan a waste.
    scan = snapshot.scan(
        CURRENT, found[0][0], found[-1][0] + b"\x00", limit=2 * end, chunk=_ROWS_CHUNK
    )
    for pairs in scan:
        for key, row in pairs:
            while place < end and found[place][0] < key:
                place += 1
            if place == end:
                return
            wanted, row_key = found[place]
            if wanted == key and mod_of(row).to_bytes(8, "big") == row_key[:8]:
                rows[place] = row
