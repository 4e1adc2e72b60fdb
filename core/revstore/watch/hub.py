"""The hub: every watcher of a member, and how events reach them.

A watcher is LIVE (gets events as they are applied), BEHIND (reads history), BLOCKED
(its stream has no room) or FUTURE (starts at a revision that is not there yet).

Rules of this file:

1. What a watcher wants is delivered in order, once, whole revisions at a time, and
   without a gap until the watcher is cancelled.
2. A stream without room holds no events in memory: its watchers keep their next
   revision and read history later.
3. ``notify`` does work for live watchers only, ``step`` a bounded amount of catching up.
4. Progress up to a revision is reported only when nothing up to it is missing.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

import msgspec

from revstore.interfaces.ports import Clock
from revstore.types import Event
from revstore.watch.catchup import Chunk, Waiting
from revstore.watch.encode import FRAGMENT, NO_WATCH_ID, Batch, Piece
from revstore.watch.stream import WatchStream
from revstore.watch.watcher import (
    Place,
    Selection,
    Selections,
    Spec,
    Watcher,
    WatchSink,
)


class History(Protocol):
    """What the hub needs of a store."""

    @property
    def revision(self) -> int:
        """The head."""
        ...

    @property
    def compact_revision(self) -> int:
        """Below it history may be gone; -1: never compacted."""
        ...

    def get(self, key: bytes, revision: int = 0) -> bytes | None:
        """The pair as of a revision. Raises: ApiError COMPACTED."""
        ...

    def events(
        self, first_revision: int, limit_revisions: int, limit_bytes: int
    ) -> tuple[list[Event], int]:
        """History: whole revisions from the first on, and where to go on."""
        ...


class WatchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds and periods of the hub; the defaults are etcd's where it has them."""

    notify_interval_s: float = 600.0
    """Between reports of progress of an idle watcher that asked for them."""
    notify_jitter: float = 0.1
    """Largest share that is added to the interval, chosen once per stream."""
    piece_bytes: int = 1 << 20
    """A response of several revisions ends at the first border after this size."""
    fragment_bytes: int = 1_572_864 + 524_288
    """From this size on a response is cut for watchers that allow fragments."""
    chunk_revisions: int = 256
    """History read in one step."""
    chunk_bytes: int = 1 << 20
    chunk_watchers: int = 512
    """Watchers served in one step."""


class WatchHub:
    """All watchers of one store. One thread calls it."""

    def __init__(
        self,
        store: History,
        clock: Clock,
        options: WatchOptions | None = None,
        *,
        random: Random | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._options = options or WatchOptions()
        self._random = random or Random(0)
        self._head = store.revision
        self._live = Selections(self._random)
        self._behind = Waiting()
        self._future: dict[int, dict[Watcher, None]] = {}
        self._future_starts: list[int] = []
        self._chunk: Chunk | None = None
        self._progress: dict[WatchStream, None] = {}
        self._notify_due: list[tuple[float, int, WatchStream]] = []
        self._notify_streams: set[WatchStream] = set()
        self._notify_number = 0
        self._watchers = 0
        self.on_work: Callable[[], None] | None = None
        """Called when ``step`` has work that it had not before."""

    @property
    def active(self) -> bool:
        """Whether there is any watcher; if so, ``notify`` must get every event."""
        return self._watchers > 0

    @property
    def watcher_count(self) -> int:
        """All watchers."""
        return self._watchers

    @property
    def slow_watcher_count(self) -> int:
        """Watchers that read history."""
        return len(self._behind)

    @property
    def revision(self) -> int:
        """The store's head."""
        return self._store.revision

    @property
    def compact_revision(self) -> int:
        """Below it history may be gone; -1: never compacted."""
        return self._store.compact_revision

    def open_stream(self, sink: WatchSink) -> WatchStream:
        """A stream without watchers; close it. Raises: nothing."""
        options = self._options
        jitter = 1 + options.notify_jitter * self._random.random()
        return WatchStream(self, sink, options.notify_interval_s * jitter)

    # Events.

    def notify(self, events: Sequence[Event]) -> None:
        """Deliver what was applied: whole revisions, in order, after it is readable.

        Events that were given before are ignored. If some are missing, the live
        watchers read them from history. Raises: StorageError.
        """
        if self._watchers == 0 or not events:
            return
        if events[0].revision <= self._head:
            known = bisect_left(events, self._head + 1, key=lambda one: one.revision)
            events = events[known:]
            if not events:
                return
        if events[0].revision > self._head + 1:
            self.resync()
            return
        self._head = events[-1].revision
        if self._live:
            hits = self._live.match(events)
            if hits:
                batch = Batch(events, self._store)
                for selection, positions in hits.items():
                    self._deliver(selection, positions, batch)
        if self._future_starts:
            self._start_future()
        if self._progress:
            self._report_progress()

    def _deliver(
        self, selection: Selection, positions: list[int], batch: Batch
    ) -> None:
        spec = selection.spec
        pieces = self._pieces(batch, positions, spec)
        head = self._store.revision
        first = batch.revisions[0]
        watchers = list(selection.watchers)
        if len(pieces) > 1 or selection.floor > first or pieces[0].fragments:
            for watcher in watchers:
                if watcher.selection is selection:
                    own = pieces
                    if watcher.next_revision > first:
                        rest = _from_revision(batch, positions, watcher.next_revision)
                        own = self._pieces(batch, rest, spec)
                    self._push(watcher, own, head)
            return
        # The common case, a thousand times over: one message, the same for all.
        revision, body, _ = pieces[0]
        for watcher in watchers:
            if watcher.selection is not selection:
                continue
            if watcher.writable():
                watcher.send(head, watcher.prefix + body)
            else:
                self._block(watcher, revision)
        if spec.notify:
            for watcher in watchers:
                watcher.idle = False

    def _pieces(
        self, batch: Batch, positions: Sequence[int], spec: Spec
    ) -> list[Piece]:
        options = self._options
        return batch.pieces(
            positions,
            previous=spec.previous,
            fragment=spec.fragment,
            piece_bytes=options.piece_bytes,
            fragment_bytes=options.fragment_bytes,
        )

    def _push(self, watcher: Watcher, pieces: Sequence[Piece], head: int) -> bool:
        """Send pieces while there is room; False: the watcher is BLOCKED or GONE."""
        for piece in pieces:
            if not watcher.writable():
                self._block(watcher, piece.first)
                return False
            watcher.idle = False
            if not piece.fragments:
                watcher.send(head, watcher.prefix + piece.body)
            else:
                for fragment in piece.fragments[:-1]:
                    watcher.send(head, watcher.prefix + FRAGMENT + fragment)
                watcher.send(head, watcher.prefix + piece.fragments[-1])
            if watcher.place is Place.GONE:
                return False
        return True

    # Places.

    def start(self, watcher: Watcher, start_revision: int) -> None:
        """Take a new watcher in; a start of 0 means from now on. Raises: nothing."""
        if self._watchers == 0:
            self._head = self._store.revision
        self._watchers += 1
        stream = watcher.stream
        stream.watchers[watcher.watch_id] = watcher
        stream.unsettled += 1
        following = self._store.revision + 1
        watcher.next_revision = start_revision or following
        if watcher.next_revision < following:
            self._go_behind(watcher)
        elif watcher.next_revision == following:
            self._go_live(watcher)
        else:
            self._go_future(watcher)
        if watcher.spec.notify and stream not in self._notify_streams:
            self._notify_streams.add(stream)
            self._set_notify(stream)

    def drop(self, watcher: Watcher) -> None:
        """A watcher ends. Raises: nothing."""
        if watcher.place is Place.GONE:
            return
        stream = watcher.stream
        self._leave(watcher)
        stream.unsettled -= 1
        del stream.watchers[watcher.watch_id]
        self._watchers -= 1
        if stream.progress_asked and stream.unsettled == 0:
            self._wake()

    def _leave(self, watcher: Watcher) -> None:
        """Take a watcher out of its place; it is unsettled and GONE after that."""
        place = watcher.place
        if place is Place.LIVE:
            self._live.remove(watcher)
            watcher.stream.unsettled += 1
        elif place is Place.BEHIND:
            self._behind.remove(watcher)
        elif place is Place.BLOCKED:
            del watcher.stream.blocked[watcher]
        elif place is Place.FUTURE:
            group = self._future[watcher.next_revision]
            del group[watcher]
            if not group:
                del self._future[watcher.next_revision]
                if len(self._future_starts) > 2 * len(self._future) + 64:
                    self._future_starts = sorted(self._future)
        watcher.place = Place.GONE

    def _go_live(self, watcher: Watcher) -> None:
        self._live.add(watcher)
        watcher.place = Place.LIVE
        watcher.stream.unsettled -= 1

    def _go_behind(self, watcher: Watcher) -> None:
        self._behind.add(watcher)
        watcher.place = Place.BEHIND
        self._wake()

    def _go_future(self, watcher: Watcher) -> None:
        start = watcher.next_revision
        if start not in self._future:
            self._future[start] = {}
            heapq.heappush(self._future_starts, start)
        self._future[start][watcher] = None
        watcher.place = Place.FUTURE

    def _block(self, watcher: Watcher, revision: int) -> None:
        """The stream has no room: remember only where to go on."""
        if watcher.place is not Place.GONE:
            self._leave(watcher)
        watcher.next_revision = max(watcher.next_revision, revision)
        watcher.stream.blocked[watcher] = None
        watcher.place = Place.BLOCKED

    def unblock(self, stream: WatchStream) -> None:
        """A stream has room again. Raises: nothing."""
        for watcher in list(stream.blocked):
            self._leave(watcher)
            self._go_behind(watcher)
        if stream.progress_asked:
            self._wake()

    def forget(self, stream: WatchStream) -> None:
        """A stream is closed. Raises: nothing."""
        self._progress.pop(stream, None)
        self._notify_streams.discard(stream)
        due = self._notify_due
        if len(due) > 2 * len(self._notify_streams) + 64:
            self._notify_due = [one for one in due if one[2] in self._notify_streams]
            heapq.heapify(self._notify_due)

    def _start_future(self) -> None:
        starts = self._future_starts
        while starts and starts[0] <= self._head + 1:
            start = heapq.heappop(starts)
            for watcher in self._future.pop(start, ()):
                watcher.place = Place.GONE
                if start == self._head + 1:
                    self._go_live(watcher)
                else:
                    self._go_behind(watcher)

    def resync(self, store: History | None = None) -> None:
        """Let every live watcher read on from history, after the store jumped.

        ``store`` replaces the store (a snapshot was installed). No watcher goes back
        or misses anything. Raises: nothing.
        """
        if store is not None:
            self._store = store
        self._chunk = None
        for watcher in self._live.watchers():
            self._leave(watcher)
            watcher.next_revision = max(watcher.next_revision, self._head + 1)
            if watcher.next_revision > self._store.revision:
                self._go_live(watcher)
            else:
                self._go_behind(watcher)
        self._head = self._store.revision
        self._start_future()
        if self._progress:
            self._wake()

    # Catching up.

    def step(self) -> bool:
        """Do a bounded amount of work; True: there is more to do now.

        Raises: StorageError.
        """
        if self._behind:
            self._catch_up()
            if not self._behind:
                self._chunk = None
        if self._progress:
            self._report_progress()
        return bool(self._behind)

    def _catch_up(self) -> None:
        store, options = self._store, self._options
        first = self._behind.first()
        if first < store.compact_revision:
            for watcher in self._behind.turn(first, first, options.chunk_watchers):
                self.drop(watcher)
                watcher.stream.send_compacted(watcher)
            return
        chunk = self._read(first)
        head = store.revision
        shared: dict[tuple[Spec, int], list[Piece]] = {}
        last = chunk.next_revision - 1
        for watcher in self._behind.turn(first, last, options.chunk_watchers):
            if watcher.place is not Place.BEHIND:
                continue
            wanted = (watcher.spec, watcher.next_revision)
            pieces = shared.get(wanted)
            if pieces is None:
                pieces = shared[wanted] = self._pieces(
                    chunk.batch, chunk.positions(*wanted), watcher.spec
                )
            if self._push(watcher, pieces, head):
                self._leave(watcher)
                watcher.next_revision = chunk.next_revision
                if chunk.next_revision > store.revision:
                    self._go_live(watcher)
                else:
                    self._go_behind(watcher)

    def _read(self, first: int) -> Chunk:
        """History from ``first`` on; the last chunk serves all that begin within."""
        chunk = self._chunk
        floor = self._store.compact_revision
        if (
            chunk is None
            or not chunk.first <= first < chunk.next_revision
            or chunk.batch.floor != floor
        ):
            options = self._options
            events, following = self._store.events(
                first, options.chunk_revisions, options.chunk_bytes
            )
            chunk = Chunk(first, following, Batch(events, self._store, floor))
            self._chunk = chunk
        return chunk

    def _wake(self) -> None:
        if self.on_work is not None:
            self.on_work()

    # Progress.

    def want_progress(self, stream: WatchStream) -> None:
        """A client asked how far its stream is. Raises: nothing."""
        self._progress[stream] = None
        self._report_progress()

    def _report_progress(self) -> None:
        """Answer the streams that miss nothing up to the head and have room."""
        if self._head != self._store.revision and self._watchers:
            return
        for stream in list(self._progress):
            if stream.unsettled == 0 and stream.writable():
                del self._progress[stream]
                stream.progress_asked = False
                stream.send_progress(NO_WATCH_ID, self._store.revision)

    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do; None: never, as things are.

        Raises: nothing.
        """
        return self._notify_due[0][0] if self._notify_due else None

    def tick(self) -> None:
        """Report progress of watchers that asked for it and were idle.

        Raises: nothing.
        """
        now = self._clock.now()
        due = self._notify_due
        while due and due[0][0] <= now:
            stream = heapq.heappop(due)[2]
            if stream in self._notify_streams:
                self._notify(stream)
                self._set_notify(stream)

    def _notify(self, stream: WatchStream) -> None:
        head = self._head
        current = head == self._store.revision
        for watcher in list(stream.watchers.values()):
            if not watcher.spec.notify:
                continue
            settled = watcher.place is Place.LIVE and current
            if watcher.idle and settled and stream.writable():
                stream.send_progress(watcher.watch_id, head)
            watcher.idle = True

    def _set_notify(self, stream: WatchStream) -> None:
        self._notify_number += 1
        deadline = self._clock.now() + stream.notify_period
        heapq.heappush(self._notify_due, (deadline, self._notify_number, stream))


def _from_revision(
    batch: Batch, positions: Sequence[int], revision: int
) -> Sequence[int]:
    start = bisect_left(batch.revisions, revision)
    return positions[bisect_left(positions, start) :]
