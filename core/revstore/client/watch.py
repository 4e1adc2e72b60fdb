"""Watches: the readers, and the stream that serves them all.

What goes out and when is decided in ``watching``; this shell carries it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from random import Random
from types import TracebackType
from typing import Self

import msgspec
from google.protobuf.message import DecodeError

from revstore.api.errors import Code
from revstore.client.caller import Caller, CallOptions, OpenStream
from revstore.client.methods import WATCH
from revstore.client.retry import pause_after
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
from revstore.embedded.values import WatchEvent
from revstore.errors import ApiError, InvariantViolation, RevstoreError, Unavailable
from revstore.interfaces.channel import UNAVAILABLE, ChannelStream
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


class AsyncWatcher:
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

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        event = await self.next_event()
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        try:
            return await self.started()
        except BaseException:
            self.close()
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


class WatchStreams:
    """The stream of all watches with the same options, opened while there are any."""

    def __init__(self, caller: Caller, options: CallOptions, random: Random) -> None:
        self._caller = caller
        self._options = msgspec.structs.replace(options, timeout_s=None)
        self._random = random
        self._session = WatchSession(renewable=caller.tokens.password)
        self._watchers: dict[int, AsyncWatcher] = {}
        self._outgoing: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._broken: asyncio.Future[ApiError | None] | None = None
        self._url = ""
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._useful = False
        """Whether the stream stood: another one may be opened without a pause."""
        caller.pool.on_down.append(self._endpoint_down)

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
            self._break(None)

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
        if self._url:
            return f"{self._url} does not answer"
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
            await self._serve_all()
        except Exception as error:
            # A bug must not leave readers waiting for ever.
            self._end_all(
                InvariantViolation(f"the stream of watches failed: {error!r}")
            )
            raise

    async def _serve_all(self) -> None:
        attempts = 0
        while self._watchers:
            self._useful = False
            error, opened = await self._once()
            self._session.lost()
            self._outgoing.clear()
            if error is None:
                continue
            try:
                if not await self._goes_on(error, opened):
                    self._end_all(error)
                    return
            except RevstoreError as refusal:
                self._end_all(refusal)
                return
            attempts = 0 if self._useful else attempts + 1
            if attempts:
                count = len(self._caller.pool.urls)
                await asyncio.sleep(pause_after(attempts, count, self._random))

    async def _once(self) -> tuple[RevstoreError | None, OpenStream | None]:
        """Open a stream and serve it to its end; why it ended, None: nobody watches."""
        try:
            opened = await self._caller.open_stream(WATCH, self._options)
        except RevstoreError as error:
            return error, None
        broken: asyncio.Future[ApiError | None]
        broken = self._broken = asyncio.get_running_loop().create_future()
        self._url = opened.url
        self._apply(self._session.opened())
        tasks: list[asyncio.Future[ApiError | None]] = [
            asyncio.ensure_future(self._read(opened.stream)),
            asyncio.ensure_future(self._write(opened.stream)),
        ]
        try:
            if not self._watchers:
                return None, opened
            ends = [broken, *tasks]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return next(end for end in ends if end.done()).result(), opened
        finally:
            self._url = ""
            self._broken = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await opened.stream.cancel()

    async def _read(self, stream: ChannelStream) -> ApiError | None:
        try:
            while (message := await stream.receive()) is not None:
                self._apply(self._session.received(message))
        except ApiError as error:
            return error
        except DecodeError as error:
            return ApiError(Code.INTERNAL, f"the server sent no response: {error}")
        return ApiError(UNAVAILABLE, "the server ended the stream")

    async def _write(self, stream: ChannelStream) -> ApiError | None:
        try:
            while True:
                while self._outgoing:
                    await stream.send(self._outgoing.popleft())
                self._more.clear()
                await self._more.wait()
        except ApiError as error:
            return error

    async def _goes_on(self, error: RevstoreError, opened: OpenStream | None) -> bool:
        if not isinstance(error, ApiError):
            return False
        if opened is None:
            url, token = "", self._caller.tokens.token
        else:
            url, token = opened.url, opened.token
        return await self._caller.stream_broke(url, error, token)

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
                self._break(self._caller.token_refusal(effect.reason))

    def _ended(self, effect: Ended) -> None:
        watcher = self._watchers.pop(effect.number, None)
        if watcher is not None:
            watcher.end(WatchCanceled(effect.reason, effect.compact_revision))
        if not self._watchers:
            self._break(None)

    def _end_all(self, error: RevstoreError) -> None:
        for number, watcher in tuple(self._watchers.items()):
            self._session.remove(number)
            watcher.end(error)
        self._watchers.clear()

    def _endpoint_down(self, url: str) -> None:
        if url == self._url:
            self._break(ApiError(UNAVAILABLE, f"{url} is down"))

    def _break(self, error: ApiError | None) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(error)


def _size_of(batch: WatchBatch) -> int:
    return sum(
        len(event.kv.key) + len(event.kv.value) + EVENT_COST for event in batch.events
    )
