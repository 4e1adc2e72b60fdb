"""The store's content as layers: active overlay, frozen overlay, backend snapshot.

Rules of this file:

1. A read looks from the newest layer down. ``snapshot`` holds everything up to revision
   ``base``; every event of the overlays is newer than ``base``.
2. So a read at a revision >= base is CURRENT plus the overlays' events up to that
   revision, and a read below base needs the snapshot alone (``history``).
3. No scan of a snapshot outlives a call: the snapshot is replaced after each flush.
4. Revisions are not checked here; callers have done so.
"""

from __future__ import annotations

from collections.abc import Iterator

from revstore.interfaces.backend import Snapshot
from revstore.mvcc import history
from revstore.mvcc.overlay import Overlay
from revstore.mvcc.tables import CURRENT

MISSING: bytes = bytes(bytearray(b"\x00missing\x00"))
"""Compared by identity: "this layer says nothing about the key"."""

Change = tuple[bytes, bytes | None]
Page = tuple[list[bytes], bytes | None]
"""Rows, and the key to go on from (None: the range is done)."""

_CHUNK = 1000
_BOUNDED_CHUNK = 128
"""Rows a scan holds at most where the bytes of a page are bounded."""


class Layers:
    """What a read sees."""

    __slots__ = ("active", "base", "flushing", "snapshot")

    def __init__(self, snapshot: Snapshot, base: int) -> None:
        self.snapshot = snapshot
        self.base = base
        self.active = Overlay()
        self.flushing: Overlay | None = None

    def below(self, key: bytes) -> bytes | None:
        """The live row of a key that the active overlay says nothing about."""
        flushing = self.flushing
        if flushing is not None:
            row = flushing.records.get(key, MISSING)
            if row is not MISSING:
                return row
        return self.snapshot.get(CURRENT, key)

    def below_many(self, keys: list[bytes]) -> dict[bytes, bytes | None]:
        """The live rows of those keys that the active overlay says nothing about."""
        records = self.active.records
        if len(keys) == 1:
            return {} if keys[0] in records else {keys[0]: self.below(keys[0])}
        wanted = [key for key in keys if key not in records]
        found: dict[bytes, bytes | None] = {}
        if self.flushing is not None:
            beneath = self.flushing.records
            found = {key: beneath[key] for key in wanted if key in beneath}
            wanted = [key for key in wanted if key not in found]
        found.update(zip(wanted, self.snapshot.get_many(CURRENT, wanted), strict=True))
        return found

    def get(self, key: bytes) -> bytes | None:
        """The live row of a key at the head."""
        row = self.active.records.get(key, MISSING)
        return self.below(key) if row is MISSING else row

    def get_at(self, key: bytes, revision: int) -> bytes | None:
        """The row of a key at a revision below the head."""
        if revision < self.base:
            return history.get_at(self.snapshot, key, revision)
        for layer in (self.active, self.flushing):
            if layer is not None and key in layer.records:
                event = layer.at(key, revision)
                if event is not None:
                    return None if event.deleted else event.kv
        return self.snapshot.get(CURRENT, key)

    def changed_between(self, key: bytes, after: int, upto: int) -> bool:
        """Whether a key changed at a revision with after < revision <= upto."""
        for layer in (self.active, self.flushing):
            if layer is not None and key in layer.records:
                event = layer.at(key, upto)
                if event is not None:
                    return event.revision > after
        return history.changed_between(self.snapshot, key, after, upto)

    def page(
        self,
        lo: bytes,
        hi: bytes | None,
        revision: int | None,
        limit: int = 0,
        bytes_max: int = 0,
    ) -> Page:
        """The live rows of [lo, hi) in key order; revision None is the head.

        Stops after ``limit`` rows or once the rows have ``bytes_max`` bytes; 0 means
        "no bound". With ``bytes_max`` a page may also be short for no visible reason.
        """
        if revision is not None and revision < self.base:
            return self._page_below_base(lo, hi, revision, limit, bytes_max)
        if self._touched(lo, hi):
            return self._page_merged(lo, hi, revision, limit, bytes_max)
        rows: list[bytes] = []
        size = 0
        chunk = _BOUNDED_CHUNK if bytes_max else _CHUNK
        chunk = min(limit or chunk, chunk)
        last = lo
        walk = self.snapshot.scan_values(CURRENT, lo, hi, limit=limit, chunk=chunk)
        for last, found in walk:
            rows += found
            if bytes_max:
                size += sum(map(len, found))
                if size >= bytes_max:
                    return rows, last + b"\x00"
        if limit and len(rows) == limit:
            return rows, last + b"\x00"
        return rows, None

    def count(self, lo: bytes, hi: bytes | None, revision: int | None) -> int:
        """The number of live keys in [lo, hi)."""
        if revision is not None and revision < self.base:
            walk = history.live_at(self.snapshot, lo, hi, revision)
            return sum(len(found) for found in walk)
        total = self.snapshot.count(CURRENT, lo, hi)
        if revision is None:
            total += self.active.count_delta(lo, hi)
            if self.flushing is not None:
                total += self.flushing.count_delta(lo, hi)
            return total
        for key, row in self._changes(lo, hi, revision):
            lowest = self.active
            if self.flushing is not None and key in self.flushing.records:
                lowest = self.flushing
            total += (row is not None) - (key not in lowest.fresh)
        return total

    def _changes(
        self, lo: bytes, hi: bytes | None, revision: int | None
    ) -> list[Change]:
        """What the overlays say about [lo, hi), sorted by key."""
        active = self.active
        upper = active.keys_in(lo, hi)
        flushing = self.flushing
        lower = flushing.keys_in(lo, hi) if flushing is not None else []
        if revision is not None:
            return self._changes_at(lower, upper, revision)
        records = active.records
        if flushing is None or not lower:
            return [(key, records[key]) for key in upper]
        beneath = flushing.records
        if not upper:
            return [(key, beneath[key]) for key in lower]
        merged = {key: beneath[key] for key in lower}
        for key in upper:
            merged[key] = records[key]
        return sorted(merged.items())

    def _changes_at(
        self, lower: list[bytes], upper: list[bytes], revision: int
    ) -> list[Change]:
        merged: dict[bytes, bytes | None] = {}
        for layer, keys in ((self.flushing, lower), (self.active, upper)):
            for key in keys:
                event = None if layer is None else layer.at(key, revision)
                if event is not None:
                    merged[key] = None if event.deleted else event.kv
        return sorted(merged.items())

    def _touched(self, lo: bytes, hi: bytes | None) -> bool:
        """Whether an overlay has keys in the range."""
        flushing = self.flushing
        return self.active.touches(lo, hi) or (
            flushing is not None and flushing.touches(lo, hi)
        )

    def _page_merged(
        self,
        lo: bytes,
        hi: bytes | None,
        revision: int | None,
        limit: int,
        bytes_max: int,
    ) -> Page:
        rows: list[bytes] = []
        size = 0
        bounded = limit or bytes_max
        chunk = min(limit or _CHUNK, _BOUNDED_CHUNK) if bounded else _CHUNK
        for keys, found in self._merged(lo, hi, revision, chunk):
            if limit and len(rows) + len(found) >= limit:
                rest = limit - len(rows)
                return rows + found[:rest], keys[rest - 1] + b"\x00"
            rows += found
            if bytes_max:
                size += sum(map(len, found))
                if size >= bytes_max:
                    return rows, keys[-1] + b"\x00"
        return rows, None

    def _merged(
        self, lo: bytes, hi: bytes | None, revision: int | None, chunk: int
    ) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """CURRENT under the overlays: lists of keys with lists of rows, none empty."""
        for pairs in self.snapshot.scan(CURRENT, lo, hi, chunk=chunk):
            # What the overlays say is gathered chunk by chunk, so a page costs what it
            # covers however much waits to be flushed.
            beyond = pairs[-1][0] + b"\x00"
            changes = self._changes(lo, beyond, revision)
            lo = beyond
            if not changes:
                yield [key for key, _ in pairs], [row for _, row in pairs]
                continue
            merged: dict[bytes, bytes | None] = dict(pairs)
            merged.update(changes)
            live = [item for item in sorted(merged.items()) if item[1] is not None]
            if live:
                yield [key for key, _ in live], [row for _, row in live if row]
        tail = [item for item in self._changes(lo, hi, revision) if item[1] is not None]
        for start in range(0, len(tail), chunk):
            part = tail[start : start + chunk]
            yield [key for key, _ in part], [row for _, row in part if row]

    def _page_below_base(
        self, lo: bytes, hi: bytes | None, revision: int, limit: int, bytes_max: int
    ) -> Page:
        rows: list[bytes] = []
        size = 0
        step = _BOUNDED_CHUNK if bytes_max else _CHUNK
        for found in history.live_at(self.snapshot, lo, hi, revision):
            for start in range(0, len(found), step):
                part = found[start : start + step]
                if limit:
                    part = part[: limit - len(rows)]
                got = history.rows_of(self.snapshot, part)
                rows += got
                size += sum(map(len, got))
                if (limit and len(rows) >= limit) or (bytes_max and size >= bytes_max):
                    return rows, part[-1][0] + b"\x00"
            if bytes_max:
                # A page may be short; going on would read index rows that the next
                # page reads again.
                return rows, found[-1][0] + b"\x00"
        return rows, None
