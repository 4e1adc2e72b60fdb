"""Reading the log of changes in order, from the backend and the overlays.

Rules of this file:

1. A page comes from one layer; revisions up to ``layers.base`` are in the backend.
2. Pages are bounded in rows and bytes. Only ``read_events`` may go beyond its bounds,
   to finish a revision.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

from revstore.errors import CorruptionError
from revstore.mvcc.layers import Layers
from revstore.mvcc.overlay import Overlay
from revstore.mvcc.records import decode_change, key_of, number_of
from revstore.mvcc.tables import (
    INDEX,
    LOG,
    index_key,
    log_bound,
    log_key,
    split_log_key,
)
from revstore.types import Event

FIRST_CHANGE = 2
"""A fresh store is at revision 1, so the first change has revision 2."""

_CHUNK = 64
_PAGE_BYTES_MAX = 4 << 20

Position = tuple[int, int]
"""Main and sub of the change to go on with."""


class LogPage(msgspec.Struct, frozen=True):
    """Some consecutive changes."""

    events: list[Event]
    preds: list[bytes] | None
    """The overlay's knowledge of what was replaced; None for rows of the backend."""
    resume: Position | None
    """Where to go on; None: nothing is left."""


def read_page(layers: Layers, start: Position, upto: int, rows: int) -> LogPage:
    """Changes from a position on with revision <= upto.

    Raises:
        StorageError: the engine failed.
    """
    if start[0] > upto:
        return LogPage([], None, None)
    if start[0] > layers.base:
        return _overlay_page(layers, start, upto, rows)
    end = min(upto, layers.base) + 1
    events: list[Event] = []
    size = 0
    scan = layers.snapshot.scan(
        LOG, log_key(*start, False), log_bound(end), limit=rows, chunk=min(rows, _CHUNK)
    )
    for pairs in scan:
        for row_key, row in pairs:
            main, sub, deleted = split_log_key(row_key)
            events.append(Event(main, sub, key_of(row), row, deleted))
            size += len(row)
        if size >= _PAGE_BYTES_MAX:
            break
    if len(events) >= rows or size >= _PAGE_BYTES_MAX:
        last = events[-1]
        return LogPage(events, None, (last.revision, last.sub + 1))
    return LogPage(events, None, (end, 0) if end <= upto else None)


def _overlay_page(layers: Layers, start: Position, upto: int, rows: int) -> LogPage:
    flushing = layers.flushing
    layer = layers.active
    following: Position | None = None
    if flushing is not None and flushing.events:
        last = flushing.events[-1].revision
        if start[0] <= last:
            layer = flushing
            following = (last + 1, 0) if last < upto else None
    first = bisect_left(layer.events, start, key=lambda ev: (ev.revision, ev.sub))
    end = bisect_left(layer.events, upto + 1, key=lambda ev: ev.revision)
    stop = min(end, first + rows)
    if stop < end:
        event = layer.events[stop]
        following = (event.revision, event.sub)
    return LogPage(layer.events[first:stop], layer.preds[first:stop], following)


def replaced_by(layers: Layers, page: LogPage) -> list[int]:
    """Per change of a page the main revision of the row that it replaced, 0: none.

    Raises:
        CorruptionError: INDEX lacks a row that LOG has.
        StorageError: the engine failed.
    """
    if page.preds is not None:
        return [number_of(pred) for pred in page.preds]
    keys = [index_key(event.key, event.revision) for event in page.events]
    preds: list[int] = []
    for value, event in zip(
        layers.snapshot.get_many(INDEX, keys), page.events, strict=True
    ):
        if value is None:
            raise CorruptionError(
                f"the index has no row for {event.key!r} at revision"
                f" {event.revision}, which the log has"
            )
        preds.append(decode_change(value)[0])
    return preds


def read_events(
    layers: Layers, first: int, head: int, limit_revisions: int, limit_bytes: int
) -> tuple[list[Event], int]:
    """Whole revisions from ``first`` on; see ``Store.events``."""
    first = max(first, FIRST_CHANGE)
    upto = min(head, first + max(limit_revisions, 1) - 1)
    if first > upto:
        return [], max(first, 1)
    events: list[Event] = []
    size = 0
    if first <= layers.base:
        end = log_bound(min(upto, layers.base) + 1)
        for pairs in layers.snapshot.scan(LOG, log_bound(first), end, chunk=_CHUNK):
            for row_key, row in pairs:
                main, sub, deleted = split_log_key(row_key)
                if size >= limit_bytes and main != events[-1].revision:
                    return events, main
                events.append(Event(main, sub, key_of(row), row, deleted))
                size += len(row)
    for layer in (layers.flushing, layers.active):
        if layer is not None:
            for event in _between(layer, first, upto):
                if (
                    size >= limit_bytes
                    and events
                    and event.revision != events[-1].revision
                ):
                    return events, event.revision
                events.append(event)
                size += len(event.kv)
    return events, upto + 1


def _between(layer: Overlay, first: int, upto: int) -> list[Event]:
    start = bisect_left(layer.events, first, key=lambda event: event.revision)
    end = bisect_left(layer.events, upto + 1, key=lambda event: event.revision)
    return layer.events[start:end]
