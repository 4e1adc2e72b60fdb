"""Watches: the readers, and the stream that serves them all.

What goes out and when is decided in ``watching``; this shell carries it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Self

import msgspec

from revstore.client.caller import Caller, CallOptions
from revstore.client.methods import WATCH
from revstore.client.standing import StandingStream, Work
from revstore.client.watching import (
    Created,
    Deliver,
    Effect,
    Ended,
    Send,
    TokenRefused,
    WatchSession,
)
from revstore.embedded.events import WatchCanceled
from revstore.embedded.readers import AsyncEventReader
from revstore.embedded.values import WatchEvent
from revstore.errors import ApiError, InvariantViolation, RevstoreError, Unavailable
from revstore.interfaces.channel import ChannelStream
from revstore.proto import rpc_pb2

QUEUE_EVENTS_MAX = 10_000
QUEUE_BYTES_MAX = 16 << 20
"""What may wait for a slow reader; the rest stays at the server until it catches up."""
EVENT_COST = 200


class WatchBatch(msgspec.Struct, frozen=True):
    """All changes of one or more whole revisions; ``events`` may be empty: progress."""

    revision: int
    """Every change up to here, that the watch is about, has been handed out."""
    events: tuple[WatchEvent, ...]


class AsyncWatcher(AsyncEventReader):
    """Changes in order, each once; iterate with ``async for``. Must be closed.

    It goes on over broken connections and failed members without loss or repetition.
    ``async with`` waits until it stands: changes from then on are seen.
    """

    def __init__(
        self,
        streams: WatchStreams,
        request: rpc_pb2.WatchCreateRequest,
        timeout_s: float | None,
    ) -> None:
        self._streams = streams
        self._timeout_s = timeout_s
        self._batches: deque[WatchBatch] = deque()
        self._events: deque[WatchEvent] = deque()
        self._batch_revision = 0
        self._size = 0
        self._count = 0
        self._parked = False
        self._closed = False
        self._stood = False
        self._error: RevstoreError | None = None
        self._arrived = asyncio.Event()
        self._started = asyncio.Event()
        self.revision = 0
        """Every change up to here has been handed out, or does not concern the watch."""
        self.number = streams.add(self, request)

    # ----- reading

    async def started(self) -> Self:
        """Wait until the watch stands, as long as for a call.

        Raises:
            WatchCanceled, ApiError: it was refused.
            Unavailable: no member took it in time; the watch goes on trying.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._started.wait()
        except TimeoutError:
            raise Unavailable(
                f"no member took the watch in time; {self._streams.reasons()}"
            ) from None
        if self._error is not None and not self._stood:
            self._raise()
        return self

    async def next_event(self) -> WatchEvent | None:
        """The next change; None once the watcher is closed.

        Raises:
            WatchCanceled: the watch cannot go on; see there.
        """
        while not self._events:
            batch = await self._take()
            if batch is None:
                return None
            self._events.extend(batch.events)
            self._batch_revision = batch.revision
            if not batch.events:
                self.revision = max(self.revision, batch.revision)
        event = self._events.popleft()
        # The last revision is complete with its last event only.
        done = event.revision - 1 if self._events else self._batch_revision
        self.revision = max(self.revision, done)
        return event

    async def next_batch(self) -> WatchBatch | None:
        """The next changes that belong together, or a report of progress without any.

        None once the watcher is closed. Raises: WatchCanceled: see there.
        """
        if self._events:
            rest = tuple(self._events)
            self._events.clear()
            self.revision = self._batch_revision
            return WatchBatch(self._batch_revision, rest)
        batch = await self._take()
        if batch is not None:
            self.revision = max(self.revision, batch.revision)
        return batch

    async def _take(self) -> WatchBatch | None:
        while not self._batches:
            if self._closed:
                return None
            if self._error is not None:
                self._raise()
            self._arrived.clear()
            await self._arrived.wait()
        batch = self._batches.popleft()
        self._count -= len(batch.events)
        self._size -= _size_of(batch)
        if self._parked and not self._behind(2):
            self._parked = False
            self._streams.unpark(self.number)
        return batch

    def request_progress(self) -> None:
        """Ask how far the watch is; a batch without events is the answer."""
        self._streams.ask_progress()

    def close(self) -> None:
        """End the watch; twice is allowed."""
        if not self._closed:
            self._closed = True
            self._streams.remove(self.number)
            self._wake()

    # ----- the stream's side

    def deliver(self, batch: WatchBatch) -> None:
        """Called by the stream."""
        self._batches.append(batch)
        self._count += len(batch.events)
        self._size += _size_of(batch)
        if not self._parked and self._behind(1):
            self._parked = True
            self._streams.park(self.number)
        self._arrived.set()

    def created(self) -> None:
        """Called by the stream."""
        self._stood = True
        self._started.set()

    def end(self, error: RevstoreError) -> None:
        """Called by the stream: what arrived can still be read."""
        self._error = error
        self._wake()

    def _behind(self, part: int) -> bool:
        return (
            self._count > QUEUE_EVENTS_MAX // part
            or self._size > QUEUE_BYTES_MAX // part
        )

    def _wake(self) -> None:
        self._started.set()
        self._arrived.set()

    def _raise(self) -> None:
        error = self._error
        if isinstance(error, WatchCanceled):
            raise WatchCanceled(str(error), error.compact_revision)
        if isinstance(error, ApiError):
            raise error.fresh()
        if isinstance(error, InvariantViolation):
            raise InvariantViolation(str(error))
        raise Unavailable(str(error))

    async def __aenter__(self) -> Self:
        try:
            return await self.started()
        except BaseException:
            self.close()
            raise


class WatchStreams(StandingStream):
    """The stream of all watches with the same options, open while there are any."""

    def __init__(self, caller: Caller, options: CallOptions, random: Random) -> None:
        super().__init__(WATCH, caller, options, random)
        self._session = WatchSession(renewable=caller.tokens.password)
        self._watchers: dict[int, AsyncWatcher] = {}
        self._outgoing: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # ----- what watchers want

    def add(self, watcher: AsyncWatcher, request: rpc_pb2.WatchCreateRequest) -> int:
        """Begin a watch; its number. Raises: Unavailable: the client is closed."""
        if self._closed:
            raise Unavailable("the client is closed")
        number, effects = self._session.add(request)
        self._watchers[number] = watcher
        self._apply(effects)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return number

    def remove(self, number: int) -> None:
        """End a watch."""
        self._watchers.pop(number, None)
        self._apply(self._session.remove(number))
        if not self._watchers:
            self.leave(None)

    def park(self, number: int) -> None:
        """The reader of a watch is behind."""
        self._apply(self._session.park(number))

    def unpark(self, number: int) -> None:
        """The reader of a watch has caught up."""
        self._apply(self._session.unpark(number))

    def ask_progress(self) -> None:
        """Ask for the progress of all watches."""
        self._apply(self._session.ask_progress())

    def reasons(self) -> str:
        """Why there is no stream, as far as it is known."""
        if self._opened is not None:
            return f"{self._opened.url} does not answer"
        return self._caller.pool.reasons()

    async def close(self) -> None:
        """End all watches; twice is allowed. Raises: nothing."""
        self._closed = True
        for watcher in tuple(self._watchers.values()):
            watcher.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # ----- the stream

    async def _run(self) -> None:
        try:
            await self.hold()
        except Exception as error:
            # A bug must not leave readers waiting for ever.
            self.on_given_up(
                InvariantViolation(f"the stream of watches failed: {error!r}")
            )
            raise

    def needed(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watchers)

    def on_opened(self, stream: ChannelStream) -> Sequence[Work]:
        """Ask for all watches again, from where they are."""
        self._apply(self._session.opened())
        return [self._write(stream)]

    def on_message(self, message: bytes) -> None:
        """A response came. Raises: DecodeError: it is none."""
        self._apply(self._session.received(message))

    def on_gone(self) -> None:
        """Nothing more comes or goes until the next one."""
        self._session.lost()
        self._outgoing.clear()

    async def _write(self, stream: ChannelStream) -> ApiError | None:
        try:
            while True:
                while self._outgoing:
                    await stream.send(self._outgoing.popleft())
                self._more.clear()
                await self._more.wait()
        except ApiError as error:
            return error

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Deliver):
                self._useful = True
                watcher = self._watchers.get(effect.number)
                if watcher is not None:
                    watcher.deliver(WatchBatch(effect.revision, tuple(effect.events)))
            elif isinstance(effect, Send):
                self._outgoing.append(effect.message)
                self._more.set()
            elif isinstance(effect, Created):
                self._useful = True
                watcher = self._watchers.get(effect.number)
                if watcher is not None:
                    watcher.created()
            elif isinstance(effect, Ended):
                self._ended(effect)
            elif isinstance(effect, TokenRefused):
                self.leave(self._caller.token_refusal(effect.reason))

    def _ended(self, effect: Ended) -> None:
        watcher = self._watchers.pop(effect.number, None)
        if watcher is not None:
            watcher.end(WatchCanceled(effect.reason, effect.compact_revision))
        if not self._watchers:
            self.leave(None)

    def on_given_up(self, error: RevstoreError) -> None:
        """End all watches with an error."""
        for number, watcher in tuple(self._watchers.items()):
            self._session.remove(number)
            watcher.end(error)
        self._watchers.clear()


def _size_of(batch: WatchBatch) -> int:
    return sum(
        len(event.kv.key) + len(event.kv.value) + EVENT_COST for event in batch.events
    )
