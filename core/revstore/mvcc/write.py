"""One transaction: all changes that share a main revision.

Rules of this file:

1. Changes go straight into the active overlay, so the transaction's own reads see them;
   ``revision`` of the store moves at ``commit``. ``abort`` undoes everything.
2. A key changes at most once per main revision. A second change raises DUPLICATE_KEY,
   whatever let the request come this far; INDEX relies on it.
3. The put path is flat on purpose: a row is cut from the row that it replaces (key and
   create_revision stay), and everything that the transaction's puts share is made once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from revstore.api import errors
from revstore.errors import CorruptionError
from revstore.mvcc.layers import MISSING, Layers
from revstore.mvcc.query import RangeQuery, RangeResult, bounds
from revstore.mvcc.ranges import run_range
from revstore.mvcc.records import (
    FIELDS,
    HEADS,
    KEY_HEAD,
    VALUE_HEAD,
    encode_tombstone,
    fields_at,
    key_of,
    key_tag,
    lease_at,
    lease_of,
    next_version,
    value_tag,
)
from revstore.mvcc.tables import LEASE_KEY, lease_key_prefix
from revstore.proto.varint import varint
from revstore.types import Event

if TYPE_CHECKING:
    from revstore.mvcc.store import Store

_PREV_BYTES_MAX = 1 << 20
"""A range delete keeps at most this many bytes of replaced rows in its events."""
_DELETE_PAGE_BYTES = 1 << 20

Put = tuple[bytes, bytes, int]
"""Key, value, lease."""


class WriteTxn:
    """Made by ``Store.begin``; exactly one of ``commit`` and ``abort`` ends it."""

    __slots__ = (
        "_created",
        "_deletes",
        "_layers",
        "_main",
        "_modified",
        "_start",
        "_store",
        "changed",
        "revision",
    )

    def __init__(self, store: Store, layers: Layers, revision: int) -> None:
        self._store = store
        self._layers = layers
        self.revision = revision
        """The main revision that the transaction gets if it changes anything."""
        self.changed = False
        self._start = len(layers.active.events)
        main = varint(revision)
        self._main = main
        self._created = b"\x10%b\x18%b\x20\x01" % (main, main)
        self._modified = b"\x18%b\x20" % main
        self._deletes = False

    def get(self, key: bytes) -> bytes | None:
        """The live row of a key, own changes included."""
        return self._layers.get(key)

    def range(self, query: RangeQuery) -> RangeResult:
        """Answer a query; own changes show when ``query.revision`` is 0 or negative.

        ``RangeResult.revision`` is the transaction's own once it has changed anything.

        Raises:
            ApiError: COMPACTED or FUTURE_REV, as ``check_revision`` says.
        """
        head = self._store.revision
        asked: int | None = query.revision
        if asked == 0:
            asked = None
        else:
            self.check_revision(query.revision)
            if query.revision < 0:
                asked = None
        return run_range(self._layers, query, asked, head + self.changed)

    def check_revision(self, revision: int) -> None:
        """Refuse a revision that a range of this transaction cannot read.

        The bounds are those of the store before the transaction. A negative number
        passes only when it is not below the compact revision, -1 meaning "never".

        Raises:
            ApiError: COMPACTED or FUTURE_REV.
        """
        if revision == 0:
            return
        if revision > self._store.revision:
            raise errors.FUTURE_REV.fresh()
        if revision < self._store.compact_revision:
            raise errors.COMPACTED.fresh()

    def put(self, key: bytes, value: bytes, lease: int = 0) -> bytes | None:
        """Set a key; returns the row it had.

        Raises:
            ApiError: DUPLICATE_KEY, the transaction has changed this key already; it
                must be aborted.
            StorageError: the engine failed.
        """
        return self.put_all([(key, value, lease)])[0]

    def put_all(self, items: list[Put]) -> list[bytes | None]:
        """Set several keys; returns the rows that they had.

        Raises:
            ApiError: as for ``put``.
            StorageError: the engine failed.
        """
        layers = self._layers
        overlay = layers.active
        records, events = overlay.records, overlay.events
        revision, main, created = self.revision, self._main, self._created
        beneath = layers.below_many([item[0] for item in items])
        before: list[bytes | None] = []
        for key, value, lease in items:
            prev = records.get(key, MISSING)
            if prev is MISSING:
                prev = beneath[key]
                overlay.new_keys.append(key)
                if prev is None:
                    overlay.fresh.add(key)
            size = len(value)
            value_head = VALUE_HEAD[size] if size < HEADS else value_tag(size)
            size = len(key)
            old_lease = 0
            if prev is None:
                if self._deletes:
                    self._check_not_deleted(key)
                head = KEY_HEAD[size] if size < HEADS else key_tag(size)
                row = b"".join((head, key, created, value_head, value))
                pred = b"\x00"
            else:
                overlay.size += len(prev)
                start = size + 2 if 0 < size < 128 else fields_at(prev)
                match = FIELDS(prev, start)
                if match is None:
                    records[key] = prev
                    raise CorruptionError(f"the current row of key {key!r} is damaged")
                pred = match[2]
                if pred == main:
                    raise errors.DUPLICATE_KEY.fresh()
                version = next_version(match[3])
                old = prev[: match.end(1)]
                row = b"".join((old, self._modified, version, value_head, value))
                end = match.end()
                if end != len(prev):
                    old_lease = lease_at(prev, end)
            if lease or old_lease:
                row = self._with_lease(key, row, old_lease, lease)
            records[key] = row
            events.append(
                Event(revision, len(events) - self._start, key, row, False, prev)
            )
            overlay.preds.append(pred)
            overlay.size += len(row)
            before.append(prev)
        if items:
            self.changed = True
        return before

    def _with_lease(self, key: bytes, row: bytes, old: int, new: int) -> bytes:
        if old != new:
            self._move_lease(key, old, new)
        return row + b"\x30" + varint(new) if new else row

    def _check_not_deleted(self, key: bytes) -> None:
        event = self._layers.active.at(key, self.revision)
        if event is not None and event.revision == self.revision:
            raise errors.DUPLICATE_KEY.fresh()

    def _move_lease(self, key: bytes, old: int, new: int) -> None:
        rows = self._layers.active.system.setdefault(LEASE_KEY, {})
        if old:
            rows[lease_key_prefix(old) + key] = None
        if new:
            rows[lease_key_prefix(new) + key] = b""

    def delete_range(self, key: bytes, end: bytes = b"") -> list[bytes]:
        """Delete the live keys of a range, in key order; returns their rows.

        Raises:
            ApiError: DUPLICATE_KEY, the transaction has put one of them; it must be
                aborted.
            StorageError: the engine failed.
        """
        removed: list[bytes] = []
        self._delete(key, end, removed)
        return removed

    def delete_count(self, key: bytes, end: bytes = b"") -> int:
        """As ``delete_range``, but the rows are not kept; returns how many there were.

        Raises:
            ApiError: as for ``delete_range``.
            StorageError: the engine failed.
        """
        return self._delete(key, end, None)

    def _delete(self, key: bytes, end: bytes, removed: list[bytes] | None) -> int:
        if not end:
            row = self._layers.get(key)
            if row is None:
                return 0
            self._delete_rows([row], removed, True)
            return 1
        span = bounds(key, end)
        if span is None:
            return 0
        resume: bytes | None = span[0]
        count = size = 0
        while resume is not None:
            # Pages keep memory bounded; what is deleted lies before ``resume``.
            rows, resume = self._layers.page(
                resume, span[1], None, bytes_max=_DELETE_PAGE_BYTES
            )
            size += sum(map(len, rows))
            self._delete_rows(rows, removed, size <= _PREV_BYTES_MAX)
            count += len(rows)
        return count

    def _delete_rows(
        self, rows: list[bytes], removed: list[bytes] | None, keep: bool
    ) -> None:
        if not rows:
            return
        overlay = self._layers.active
        for row in rows:
            start = fields_at(row)
            match = FIELDS(row, start)
            if match is None:
                raise CorruptionError(f"a current row is damaged: {row[:80]!r}")
            pred = match[2]
            if pred == self._main:
                raise errors.DUPLICATE_KEY.fresh()
            key = row[2:start] if start < 130 else key_of(row)
            if key not in overlay.records:
                overlay.new_keys.append(key)
            lease = lease_at(row, match.end())
            if lease:
                self._move_lease(key, lease, 0)
            overlay.records[key] = None
            sub = len(overlay.events) - self._start
            tombstone = encode_tombstone(key)
            prev = row if keep else None
            overlay.events.append(Event(self.revision, sub, key, tombstone, True, prev))
            overlay.preds.append(pred)
            overlay.size += len(tombstone)
        self._deletes = self.changed = True
        if removed is not None:
            removed += rows

    def commit(self) -> int:
        """Make the changes the store's newest revision; returns the head revision."""
        store = self._store
        if self.changed:
            store.revision = self.revision
            self._layers.active.dirty = True
        return store.revision

    def abort(self) -> None:
        """Undo every change; the store reads as before ``begin``.

        Raises:
            StorageError: the engine failed.
        """
        layers = self._layers
        overlay = layers.active
        undone = overlay.events[self._start :]
        overlay.forget_from(self._start)
        for event in undone:
            before = layers.get_at(event.key, self._store.revision)
            old_lease = lease_of(before) if before else 0
            lease = 0 if event.deleted else lease_of(event.kv)
            if lease != old_lease:
                self._move_lease(event.key, lease, old_lease)
            overlay.records[event.key] = before
        self.changed = False
