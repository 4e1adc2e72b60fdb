"""The call objects that services see, on top of a grpc.aio context.

Rules of this file:

1. Everything runs on the server's event loop (T-06); no lock is needed.
2. A unary call whose answer came inline is never suspended: no future is made.
3. A stream has one writer, the coroutine that grpcio started for it. It drains a
   queue; ``send`` only appends. Input is not read while output is over its bound, so
   that a client that never reads cannot make the queue grow by asking.
4. What waits in all streams of a server together is bounded, too: over that bound a
   stream has room only below a floor, so that many streams that nobody reads neither
   fill the memory nor shut out the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

import grpc

from revstore.api.errors import message_too_large
from revstore.api.lookup import INTERNAL_ERROR
from revstore.errors import ApiError
from revstore.interfaces.transport import Call, Stream, StreamHandler
from revstore_grpcio.limits import (
    STREAM_MESSAGE_COST_BYTES,
    STREAM_QUEUE_BYTES_FLOOR,
    STREAM_QUEUE_BYTES_MAX,
    STREAM_QUEUE_BYTES_RESUME,
    STREAMS_QUEUE_BYTES_MAX,
)

_log = logging.getLogger(__name__)

Context = Any
"""``grpc.aio.ServicerContext``; its stubs do not fit identity serializers."""

STATUS_OF_CODE = {code.value[0]: code for code in grpc.StatusCode}

CLIENT_NAME_KEY = ":client-common-name"
"""Metadata name for the common name of a verified client certificate.

No client can send it: HTTP/2 keeps names with a colon for itself.
"""


def metadata_of(context: Context) -> dict[str, str]:
    """The text metadata of a call; of a repeated name the first counts."""
    found: dict[str, str] = {}
    for key, value in context.invocation_metadata() or ():
        if isinstance(value, str):
            found.setdefault(key, value)
    identity = context.auth_context()
    if identity:
        names = identity.get("x509_common_name")
        if names:
            found[CLIENT_NAME_KEY] = names[0].decode("utf-8", "surrogateescape")
    return found


async def abort(context: Context, error: ApiError) -> None:
    """End a call with an error; does not return."""
    code = STATUS_OF_CODE.get(error.code, grpc.StatusCode.UNKNOWN)
    await context.abort(code, error.message)


class UnaryCall(Call):
    """One unary call; ``outcome`` is None until it is answered."""

    __slots__ = ("_cancelled", "_context", "_metadata", "_waiter", "outcome")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._metadata: dict[str, str] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._cancelled = False
        self.outcome: bytes | ApiError | None = None

    def metadata(self) -> Mapping[str, str]:
        found = self._metadata
        if found is None:
            found = self._metadata = metadata_of(self._context)
        return found

    def peer(self) -> str:
        return str(self._context.peer())

    def reply(self, message: bytes) -> None:
        if self.outcome is None:
            self.outcome = message
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    def fail(self, error: ApiError) -> None:
        if self.outcome is None:
            self.outcome = error
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    def cancelled(self) -> bool:
        return self._cancelled

    async def wait(self) -> bytes | ApiError:
        """The outcome; marks the call cancelled if the waiting is cancelled."""
        if self.outcome is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self._cancelled = True
                raise
        assert self.outcome is not None
        return self.outcome


class Waiting:
    """Bytes that wait in all streams of one server."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0


class GrpcStream(Stream):
    """One streaming call: a bounded queue and the coroutine that writes it out."""

    __slots__ = (
        "_cancelled",
        "_congested",
        "_context",
        "_error",
        "_metadata",
        "_over",
        "_queue",
        "_queued_bytes",
        "_room",
        "_told",
        "_waiting",
        "_wake",
        "handler",
    )

    def __init__(self, context: Context, waiting: Waiting) -> None:
        self._context = context
        self._waiting = waiting
        """Invariant: this stream's share in it is ``_queued_bytes``."""
        self._metadata: dict[str, str] | None = None
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._congested = False
        self._over = False
        self._cancelled = False
        self._told = False
        """Whether the handler got ``on_cancel``. Invariant: nothing reaches it after."""
        self._error: ApiError | None = None
        self._wake: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.handler = StreamHandler()

    def metadata(self) -> Mapping[str, str]:
        found = self._metadata
        if found is None:
            found = self._metadata = metadata_of(self._context)
        return found

    def peer(self) -> str:
        return str(self._context.peer())

    def reply(self, message: bytes) -> None:
        self.send(message)
        self.finish()

    def fail(self, error: ApiError) -> None:
        self._end(error)

    def finish(self) -> None:
        self._end(None)

    def cancelled(self) -> bool:
        return self._cancelled

    def send(self, message: bytes) -> None:
        if self._over:
            return
        self._queue.append(message)
        self._count(len(message) + STREAM_MESSAGE_COST_BYTES)
        self._wake_writer()

    def writable(self) -> bool:
        queued = self._queued_bytes
        if queued < STREAM_QUEUE_BYTES_FLOOR or (
            queued < STREAM_QUEUE_BYTES_MAX
            and self._waiting.total < STREAMS_QUEUE_BYTES_MAX
        ):
            return True
        self._congested = True
        return False

    @property
    def over(self) -> bool:
        """Whether the service or the client has ended the stream."""
        return self._over

    def guard(self, step: str, *arguments: bytes) -> None:
        """Run one callback of the handler; an exception ends the stream (T-05)."""
        try:
            getattr(self.handler, step)(*arguments)
        except Exception:
            _log.exception("%s of a stream handler raised", step)
            self._end(INTERNAL_ERROR)

    def cancel(self, error: ApiError | None = None) -> None:
        """The stream is over for a reason outside the service."""
        if self._over:
            return
        self._cancelled = True
        self._end(error)
        if not self._told:
            self._told = True
            self.guard("on_cancel")

    async def write_out(self) -> None:
        """Send what is queued until the stream is over; then end the call."""
        try:
            await self._drain_queue()
        except grpc.aio.BaseError:
            self.cancel()
            return
        except BaseException:
            self.cancel()
            raise
        finally:
            self._count(-self._queued_bytes)
        if self._error is not None:
            await abort(self._context, self._error)

    async def read_in(self, size_max: int) -> None:
        """Hand messages to the service until the client sends no more."""
        read = self._context.read
        while not self._over:
            while self._queued_bytes >= STREAM_QUEUE_BYTES_MAX and not self._over:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            try:
                message = await read()
            except grpc.aio.BaseError:
                return
            if self._over:
                return
            if message is grpc.aio.EOF:
                self.guard("on_half_close")
                return
            if len(message) > size_max:
                self.cancel(message_too_large(len(message), size_max))
                return
            self.guard("on_message", message)

    async def _drain_queue(self) -> None:
        queue = self._queue
        write = self._context.write
        loop = asyncio.get_running_loop()
        while True:
            if queue:
                message = queue.popleft()
                await write(message)
                self._count(-len(message) - STREAM_MESSAGE_COST_BYTES)
                self._make_room()
            elif self._over:
                return
            else:
                self._wake = loop.create_future()
                await self._wake

    def _count(self, size: int) -> None:
        self._queued_bytes += size
        self._waiting.total += size

    def _make_room(self) -> None:
        crowded = self._waiting.total >= STREAMS_QUEUE_BYTES_MAX
        resume = STREAM_QUEUE_BYTES_FLOOR if crowded else STREAM_QUEUE_BYTES_RESUME
        if self._queued_bytes >= resume:
            return
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._congested:
            self._congested = False
            if not self._over:
                self.guard("on_writable")

    def _end(self, error: ApiError | None) -> None:
        if self._over:
            return
        self._over = True
        self._error = error
        self._wake_writer()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _wake_writer(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
