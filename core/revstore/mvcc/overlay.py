"""Changes that the backend does not have yet.

Rules of this file:

1. ``records`` has a row for every key that changed since the layer below was frozen;
   None stands for "deleted". Keys are never taken out again.
2. ``events`` and ``preds`` run parallel, in order of revision; all of them are newer
   than the layer below.
3. ``fresh`` holds the keys of ``records`` that have no live row in the layers below.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from revstore.types import Event

_INSORT_SHARE = 200
"""Inserting new keys one by one beats a sort while they are fewer than a 200th."""


class Overlay:
    """One layer of changes: filled by the loop, then frozen and flushed."""

    __slots__ = (
        "_history",
        "_history_end",
        "_sorted",
        "dirty",
        "events",
        "fresh",
        "index_deletes",
        "log_deletes",
        "new_keys",
        "preds",
        "records",
        "size",
        "system",
    )

    def __init__(self) -> None:
        self.records: dict[bytes, bytes | None] = {}
        self.new_keys: list[bytes] = []
        """Keys of ``records`` that are not in the sorted list yet."""
        self.fresh: set[bytes] = set()
        self.events: list[Event] = []
        self.preds: list[bytes] = []
        """Per event the main revision of the row that it replaces, as a varint."""
        self.system: dict[str, dict[bytes, bytes | None]] = {}
        self.log_deletes: list[bytes] = []
        self.index_deletes: list[bytes] = []
        self.size = 0
        """Bytes of rows held, roughly."""
        self.dirty = False
        """Whether anything, the applied index included, is to be flushed."""
        self._sorted: list[bytes] = []
        self._history: dict[bytes, list[Event]] = {}
        self._history_end = 0

    def keys_in(self, lo: bytes, hi: bytes | None) -> list[bytes]:
        """The changed keys with lo <= key < hi, sorted."""
        if self.new_keys:
            self._sort()
        keys = self._sorted
        if not keys:
            return keys
        first = bisect_left(keys, lo)
        last = len(keys) if hi is None else bisect_left(keys, hi, first)
        return keys[first:last]

    def touches(self, lo: bytes, hi: bytes | None) -> bool:
        """Whether there are changed keys with lo <= key < hi."""
        if self.new_keys:
            self._sort()
        keys = self._sorted
        first = bisect_left(keys, lo)
        return first < len(keys) and (hi is None or keys[first] < hi)

    def _sort(self) -> None:
        if len(self.new_keys) * _INSORT_SHARE < len(self._sorted):
            for key in self.new_keys:
                insort(self._sorted, key)
        else:
            self._sorted += self.new_keys
            self._sorted.sort()
        self.new_keys.clear()

    def count_delta(self, lo: bytes, hi: bytes | None) -> int:
        """By how many live keys this layer grows the range."""
        records = self.records
        fresh = self.fresh
        delta = 0
        for key in self.keys_in(lo, hi):
            if key in fresh:
                delta += records[key] is not None
            else:
                delta -= records[key] is None
        return delta

    def history(self, key: bytes) -> list[Event]:
        """The changes of one key in this layer, oldest first.

        The index behind it is built when first asked for and grown as needed.
        """
        events = self.events
        if self._history_end < len(events):
            index = self._history
            for position in range(self._history_end, len(events)):
                event = events[position]
                index.setdefault(event.key, []).append(event)
            self._history_end = len(events)
        return self._history.get(key, [])

    def at(self, key: bytes, revision: int) -> Event | None:
        """The newest change of a key at or before a revision."""
        for event in reversed(self.history(key)):
            if event.revision <= revision:
                return event
        return None

    def forget_from(self, position: int) -> None:
        """Drop the events from a position on; for a transaction that is undone."""
        for event in self.events[position : self._history_end]:
            self._history[event.key].remove(event)
        self._history_end = min(self._history_end, position)
        del self.events[position:]
        del self.preds[position:]
