"""Many watches on one stream, and how they go on after it broke.

Rules of this file:

1. A value machine: answers come in, effects go out; nothing here waits or sends.
2. ``next_revision`` of a watch is the first revision not handed out yet. Only what was
   handed out whole moves it: the last event of a batch, or a report of progress. The
   revision in the header of a response with events says nothing: newer events may be
   on their way.
3. After a break each watch is asked for again from its ``next_revision``; an event
   below it is dropped. So every event is handed out once.
4. A watch "from now" begins where the first stream that created it says; from then on
   it is a watch from that revision.
5. Parts of a split response are handed out together; a break drops them all.
6. Creations are answered in the order of asking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from revstore.api import errors
from revstore.embedded.events import cancel_reason, decode_event
from revstore.embedded.values import WatchEvent
from revstore.proto import kv_pb2, rpc_pb2

REFUSED = -1
"""The watch id of a creation that failed, and of progress of the whole stream."""
TOKEN_TEXTS = (
    errors.INVALID_AUTH_TOKEN.message,
    errors.AUTH_OLD_REVISION.message,
    errors.USER_EMPTY.message,
)


class Send(msgspec.Struct, frozen=True):
    """Send this to the server."""

    message: bytes


class Created(msgspec.Struct, frozen=True):
    """The watch stands: whatever happens from now on will be handed out."""

    number: int


class Deliver(msgspec.Struct, frozen=True):
    """Hand out; ``events`` empty is a report of progress up to ``revision``."""

    number: int
    revision: int
    events: Sequence[WatchEvent]


class Ended(msgspec.Struct, frozen=True):
    """The watch cannot go on."""

    number: int
    reason: str
    compact_revision: int = 0


class TokenRefused(msgspec.Struct, frozen=True):
    """The stream's token is no good any more: renew it and open another stream."""

    reason: str


Effect = Send | Created | Deliver | Ended | TokenRefused


class _Stage(StrEnum):
    WAITING = "waiting"
    """To be asked for as soon as there is a stream."""
    ASKED = "asked"
    OPEN = "open"
    PARKED = "parked"
    """Its reader is behind: nothing is asked for until it has caught up."""


class _Watch:
    __slots__ = ("next_revision", "number", "parts", "request", "server_id", "stage")

    def __init__(self, number: int, request: rpc_pb2.WatchCreateRequest) -> None:
        self.number = number
        self.request = request
        self.next_revision = max(request.start_revision, 0)
        self.stage = _Stage.WAITING
        self.server_id = 0
        self.parts: list[kv_pb2.Event] = []


class WatchSession:
    """The watches of one client; ``renewable``: a refused token can be fetched anew."""

    def __init__(self, renewable: bool = False) -> None:
        self._renewable = renewable
        self._watches: dict[int, _Watch] = {}
        self._by_server_id: dict[int, _Watch] = {}
        self._asked: deque[_Watch] = deque()
        self._numbers = 0
        self._connected = False

    def __len__(self) -> int:
        return len(self._watches)

    def next_revision(self, number: int) -> int:
        """The first revision not handed out; 0: "from now", and not created yet."""
        return self._watches[number].next_revision

    # ----- what the reader wants

    def add(self, request: rpc_pb2.WatchCreateRequest) -> tuple[int, list[Effect]]:
        """Begin a watch; its number."""
        self._numbers += 1
        watch = self._watches[self._numbers] = _Watch(self._numbers, request)
        return watch.number, self._ask(watch)

    def remove(self, number: int) -> list[Effect]:
        """End a watch; nothing of it is handed out any more."""
        watch = self._watches.pop(number, None)
        return [] if watch is None else self._leave(watch)

    def park(self, number: int) -> list[Effect]:
        """Let a watch rest; it will go on where it is."""
        watch = self._watches.get(number)
        # One that was not created yet has nothing to rest from.
        if watch is None or watch.stage is not _Stage.OPEN:
            return []
        effects = self._leave(watch)
        watch.stage = _Stage.PARKED
        return effects

    def unpark(self, number: int) -> list[Effect]:
        """Let a watch that rests go on."""
        watch = self._watches.get(number)
        if watch is None or watch.stage is not _Stage.PARKED:
            return []
        watch.stage = _Stage.WAITING
        return self._ask(watch)

    def ask_progress(self) -> list[Effect]:
        """Ask how far the stream is; nothing while there is none."""
        if not self._connected:
            return []
        request = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
        return [Send(request.SerializeToString())]

    # ----- the stream

    def opened(self) -> list[Effect]:
        """A stream is open: ask for all watches, from where they are."""
        self._connected = True
        effects: list[Effect] = []
        for watch in self._watches.values():
            if watch.stage is _Stage.WAITING:
                effects += self._ask(watch)
        return effects

    def lost(self) -> None:
        """The stream is gone; what it had not handed over will come again."""
        self._connected = False
        self._by_server_id.clear()
        self._asked.clear()
        for watch in self._watches.values():
            watch.parts.clear()
            if watch.stage is not _Stage.PARKED:
                watch.stage = _Stage.WAITING

    def received(self, message: bytes) -> list[Effect]:
        """A response came. Raises: DecodeError: it is none."""
        response = rpc_pb2.WatchResponse.FromString(message)
        if response.created:
            return self._created(response)
        watch = self._by_server_id.get(response.watch_id)
        if watch is None:
            if response.watch_id == REFUSED and not response.canceled:
                return self._progress_of_all(response.header.revision)
            return []
        if response.canceled:
            return self._canceled(watch, response)
        if not response.events and not response.fragment:
            return self._progress(watch, response.header.revision)
        return self._events(watch, response)

    # ----- within

    def _ask(self, watch: _Watch) -> list[Effect]:
        if not self._connected:
            return []
        create = rpc_pb2.WatchCreateRequest()
        create.CopyFrom(watch.request)
        create.start_revision = watch.next_revision or watch.request.start_revision
        create.watch_id = 0
        create.fragment = True
        watch.stage = _Stage.ASKED
        self._asked.append(watch)
        request = rpc_pb2.WatchRequest(create_request=create)
        return [Send(request.SerializeToString())]

    def _leave(self, watch: _Watch) -> list[Effect]:
        watch.parts.clear()
        if watch.stage is not _Stage.OPEN:
            return []
        del self._by_server_id[watch.server_id]
        return self._cancel(watch.server_id)

    @staticmethod
    def _cancel(server_id: int) -> list[Effect]:
        cancel = rpc_pb2.WatchCancelRequest(watch_id=server_id)
        request = rpc_pb2.WatchRequest(cancel_request=cancel)
        return [Send(request.SerializeToString())]

    def _created(self, response: rpc_pb2.WatchResponse) -> list[Effect]:
        if not self._asked:
            return []
        watch = self._asked.popleft()
        wanted = self._watches.get(watch.number) is watch
        if response.canceled or response.watch_id == REFUSED:
            if not wanted:
                return []
            return self._canceled(watch, response)
        if not wanted:
            return self._cancel(response.watch_id)
        watch.stage = _Stage.OPEN
        watch.server_id = response.watch_id
        self._by_server_id[response.watch_id] = watch
        if not watch.next_revision:
            watch.next_revision = response.header.revision + 1
        return [Created(watch.number)]

    def _canceled(self, watch: _Watch, response: rpc_pb2.WatchResponse) -> list[Effect]:
        reason = cancel_reason(response)
        if self._renewable and any(text in reason for text in TOKEN_TEXTS):
            return [TokenRefused(reason)]
        self._watches.pop(watch.number, None)
        if self._by_server_id.get(watch.server_id) is watch:
            del self._by_server_id[watch.server_id]
        return [Ended(watch.number, reason, response.compact_revision)]

    def _events(self, watch: _Watch, response: rpc_pb2.WatchResponse) -> list[Effect]:
        watch.parts.extend(response.events)
        if response.fragment:
            return []
        first = watch.next_revision
        parts, watch.parts = watch.parts, []
        events = tuple(
            decode_event(event) for event in parts if event.kv.mod_revision >= first
        )
        if not events:
            return []
        revision = events[-1].revision
        watch.next_revision = revision + 1
        return [Deliver(watch.number, revision, events)]

    def _progress(self, watch: _Watch, revision: int) -> list[Effect]:
        if watch.parts:
            return []
        watch.next_revision = max(watch.next_revision, revision + 1)
        return [Deliver(watch.number, revision, ())]

    def _progress_of_all(self, revision: int) -> list[Effect]:
        effects: list[Effect] = []
        for watch in self._by_server_id.values():
            effects += self._progress(watch, revision)
        return effects
