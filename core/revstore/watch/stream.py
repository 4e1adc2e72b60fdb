"""The watchers of one client's stream.

Answers to the client's own requests (created, canceled) are sent at once, whether the
sink is writable or not; whoever feeds requests bounds them. Events and progress wait
for room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from revstore.api import errors
from revstore.proto import rpc_pb2
from revstore.watch.encode import (
    CANCELED,
    CREATED,
    NO_WATCH_ID,
    compact_revision_field,
    id_field,
    reason_field,
)
from revstore.watch.watcher import (
    DELETES,
    PUTS,
    Spec,
    Watcher,
    WatchSink,
)

if TYPE_CHECKING:
    from revstore.watch.hub import WatchHub

DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY_RANGE = "mvcc: watcher range is empty"

_DROPPED_BY_FILTER = {
    rpc_pb2.WatchCreateRequest.NOPUT: PUTS,
    rpc_pb2.WatchCreateRequest.NODELETE: DELETES,
}


def make_spec(request: rpc_pb2.WatchCreateRequest) -> Spec:
    """What a create request asks for. Unknown filters have no effect."""
    kinds = PUTS | DELETES
    for number in request.filters:
        kinds &= ~_DROPPED_BY_FILTER.get(number, 0)
    return Spec(
        key=request.key or b"\0",
        end=None if request.range_end == b"\0" else request.range_end,
        kinds=kinds,
        previous=request.prev_kv,
        fragment=request.fragment,
        notify=request.progress_notify,
    )


class WatchStream:
    """What a service calls for one stream of requests.

    No method raises but for a failing store (StorageError); refusals are responses.
    """

    __slots__ = (
        "_hub",
        "_next_id",
        "_sink",
        "blocked",
        "closed",
        "notify_period",
        "progress_asked",
        "unsettled",
        "watchers",
    )

    def __init__(self, hub: WatchHub, sink: WatchSink, notify_period: float) -> None:
        self._hub = hub
        self._sink = sink
        self._next_id = 0
        self.closed = False
        self.watchers: dict[int, Watcher] = {}
        self.blocked: dict[Watcher, None] = {}
        """Those that wait for room."""
        self.unsettled = 0
        """How many of the watchers are not LIVE."""
        self.progress_asked = False
        self.notify_period = notify_period
        """Seconds between reports of progress, with this stream's share of jitter."""

    def create(self, request: rpc_pb2.WatchCreateRequest) -> int | None:
        """Start a watcher and return its id; None if it was refused or cancelled.

        ``created`` is sent before anything else of the watcher.
        """
        if self.closed:
            return None
        hub = self._hub
        spec = make_spec(request)
        start = request.start_revision
        if start < 0:
            self.refuse(errors.COMPACTED.message)
            return None
        if spec.end and spec.end <= spec.key:
            self.refuse(EMPTY_RANGE)
            return None
        watch_id = request.watch_id
        if watch_id == 0:
            while self._next_id in self.watchers:
                self._next_id += 1
            watch_id = self._next_id
            self._next_id += 1
        elif watch_id in self.watchers:
            self.refuse(DUPLICATE_ID)
            return None
        watcher = Watcher(watch_id, self, spec, self._sink)
        self._sink.send(hub.revision, watcher.prefix + CREATED)
        if 0 < start < hub.compact_revision:
            self.send_compacted(watcher)
            return None
        hub.start(watcher, start)
        return watch_id

    def refuse(self, reason: str) -> None:
        """Answer a create request with created and canceled, id -1."""
        if not self.closed:
            body = id_field(NO_WATCH_ID) + CREATED + CANCELED + reason_field(reason)
            self._sink.send(self._hub.revision, body)

    def cancel(self, watch_id: int) -> None:
        """End a watcher; an unknown id is ignored, as in etcd."""
        watcher = self.watchers.get(watch_id)
        if watcher is not None:
            self._hub.drop(watcher)
            self._sink.send(self._hub.revision, watcher.prefix + CANCELED)

    def progress(self) -> None:
        """Report progress once all watchers have everything up to the head.

        With no watchers that is now. Requests that wait share one answer.
        """
        if self.closed:
            return
        if self.watchers:
            self.progress_asked = True
            self._hub.want_progress(self)
        else:
            self.send_progress(NO_WATCH_ID, self._hub.revision)

    def send_progress(self, watch_id: int, revision: int) -> None:
        """Promise that nothing up to ``revision`` is missing."""
        self._sink.send(revision, id_field(watch_id))

    def send_compacted(self, watcher: Watcher) -> None:
        """Tell a client that history which its watcher needs is gone."""
        revision = compact_revision_field(self._hub.compact_revision)
        self._sink.send(0, watcher.prefix + CANCELED + revision)

    def writable(self) -> bool:
        """Whether events may be sent."""
        return self._sink.writable()

    def on_writable(self) -> None:
        """There is room again."""
        if not self.closed:
            self._hub.unblock(self)

    def close(self) -> None:
        """End all watchers without a word; nothing is sent any more."""
        if self.closed:
            return
        self.closed = True
        for watcher in list(self.watchers.values()):
            self._hub.drop(watcher)
        self._hub.forget(self)
