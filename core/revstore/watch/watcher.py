"""One watcher, and watchers that want the same grouped together.

Rules of this file:

1. Watchers that want exactly the same events share one Selection: it is matched once
   and its response is put together once, however many they are.
2. A watcher is in exactly one place; its ``place`` says which, and the hub keeps the
   count of those that are not live per stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from random import Random
from typing import TYPE_CHECKING, NamedTuple, Protocol

from revstore.types import Event
from revstore.watch.encode import id_field
from revstore.watch.intervals import IntervalIndex

if TYPE_CHECKING:
    from revstore.watch.stream import WatchStream

PUTS = 1
DELETES = 2


class WatchSink(Protocol):
    """Where the responses of one stream go; called by the hub only.

    Neither method may raise. ``send`` may cancel watchers or close the stream, and may
    call ``on_writable``.
    """

    def send(self, header_revision: int, body: bytes) -> None:
        """Take a response: its header's revision and all other fields.

        A revision of 0 means a header without one.
        """
        ...

    def writable(self) -> bool:
        """Whether events may be sent; after False, call the stream's ``on_writable``
        when that has changed."""
        ...


class Spec(NamedTuple):
    """What a watcher wants; equal specs get equal responses."""

    key: bytes
    end: bytes | None
    """Exclusive; empty: the single key; None: all keys from ``key`` on."""
    kinds: int
    """PUTS and DELETES, or'ed."""
    previous: bool
    fragment: bool
    notify: bool
    """Progress is reported when nothing else was sent for a while."""


class Place(IntEnum):
    """Where a watcher is."""

    GONE = 0
    """Cancelled; nothing is sent any more."""
    LIVE = 1
    """Has everything up to the hub's head; gets new events as they come."""
    BEHIND = 2
    """Reads history from ``next_revision`` on."""
    BLOCKED = 3
    """Waits for room in its stream, then reads history from ``next_revision`` on."""
    FUTURE = 4
    """Waits for the store to reach ``next_revision``."""


class Watcher:
    """One watcher of a stream.

    Invariant: everything it wants below ``next_revision`` was delivered, or is not to
    be; ``next_revision`` never decreases. While LIVE it is a floor only: the hub's
    head says more.
    """

    __slots__ = (
        "idle",
        "next_revision",
        "place",
        "prefix",
        "selection",
        "send",
        "spec",
        "stream",
        "watch_id",
        "writable",
    )

    def __init__(
        self, watch_id: int, stream: WatchStream, spec: Spec, sink: WatchSink
    ) -> None:
        self.watch_id = watch_id
        self.stream = stream
        self.spec = spec
        self.prefix = id_field(watch_id)
        self.send: Callable[[int, bytes], None] = sink.send
        self.writable: Callable[[], bool] = sink.writable
        self.next_revision = 0
        self.place = Place.GONE
        self.selection: Selection | None = None
        self.idle = True
        """Nothing was sent since the last report of progress fell due."""


class Selection:
    """All live watchers of one spec.

    ``floor`` is at least the greatest ``next_revision`` at which a watcher joined: from
    there on all of them get the same.
    """

    __slots__ = ("floor", "spec", "watchers")

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.watchers: dict[Watcher, None] = {}
        self.floor = 0


class Selections:
    """The live watchers, found by the events that they want."""

    def __init__(self, random: Random) -> None:
        self._by_spec: dict[Spec, Selection] = {}
        self._by_key: dict[bytes, list[Selection]] = {}
        self._by_range: IntervalIndex[Selection] = IntervalIndex(random)

    def __bool__(self) -> bool:
        return bool(self._by_spec)

    def watchers(self) -> list[Watcher]:
        """All of them. Raises: nothing."""
        return [
            watcher
            for selection in self._by_spec.values()
            for watcher in selection.watchers
        ]

    def add(self, watcher: Watcher) -> None:
        """A watcher becomes live at its ``next_revision``. Raises: nothing."""
        spec = watcher.spec
        selection = self._by_spec.get(spec)
        if selection is None:
            selection = self._by_spec[spec] = Selection(spec)
            if spec.end == b"":
                self._by_key.setdefault(spec.key, []).append(selection)
            else:
                self._by_range.add(spec.key, spec.end, selection)
        selection.watchers[watcher] = None
        selection.floor = max(selection.floor, watcher.next_revision)
        watcher.selection = selection

    def remove(self, watcher: Watcher) -> None:
        """A watcher is live no more. Raises: KeyError: it was not."""
        spec = watcher.spec
        selection = self._by_spec[spec]
        del selection.watchers[watcher]
        watcher.selection = None
        if selection.watchers:
            return
        del self._by_spec[spec]
        if spec.end != b"":
            self._by_range.remove(spec.key, spec.end, selection)
            return
        same_key = self._by_key[spec.key]
        same_key.remove(selection)
        if not same_key:
            del self._by_key[spec.key]

    def match(self, events: Sequence[Event]) -> dict[Selection, list[int]]:
        """Who wants which of the events, by their positions, ascending.

        Raises: nothing.
        """
        hits: dict[Selection, list[int]] = {}
        by_key = self._by_key
        by_range = self._by_range if self._by_range else None
        for position, event in enumerate(events):
            kind = DELETES if event.deleted else PUTS
            for selection in by_key.get(event.key, ()):
                if selection.spec.kinds & kind:
                    hits.setdefault(selection, []).append(position)
            if by_range is None:
                continue
            for selection in by_range.find(event.key):
                if selection.spec.kinds & kind:
                    hits.setdefault(selection, []).append(position)
        return hits
