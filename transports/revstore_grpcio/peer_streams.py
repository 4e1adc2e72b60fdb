"""The writing end of a stream between members; each stream is a call of its own.

Rules of this file:

1. Finish carries the length and the CRC-32C of everything that was written; a reader
   that cannot confirm both fails the stream on both ends (P-10).
2. The reader's end takes frames from the library as they come, so that HTTP/2 never
   stands still; what bounds the writer is credit, which is given back when a chunk is
   taken by the reader (P-09).
3. A stream ends once: with the reader's answer, its refusal, an abort, or the call.
4. Nothing is written before the call is let in: when a call is ended while its caller
   writes, the library may say "Internal error from Core" in place of the refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google_crc32c import extend as crc32c_extend

from revstore.errors import TransportError
from revstore.interfaces.peers import OutgoingStream
from revstore.peer.lanes.limits import PEER_CHUNK_COST_BYTES
from revstore.peer.lanes.wire import (
    Credit,
    Finish,
    Open,
    Outbox,
    ProtocolError,
    Refused,
    encode,
    error_of,
    read_answer,
)


class GrpcioOutgoingStream(OutgoingStream):
    """The writing end: a call, a task that writes to it and one that reads answers."""

    def __init__(
        self,
        call: Any,
        member: int,
        meta: bytes,
        welcomed: Callable[[Any], Awaitable[None]],
        forget: Callable[[GrpcioOutgoingStream], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._call = call
        self._member = member
        self._welcomed = welcomed
        self._forget = forget
        self._outbox = Outbox()
        self._credit = 0
        self._crc = 0
        self._total = 0
        self._finished = False
        self._room: asyncio.Future[None] | None = None
        self._work: asyncio.Future[None] | None = None
        self._verdict: asyncio.Future[bytes] = loop.create_future()
        self._let_in: asyncio.Future[None] = loop.create_future()
        self._tasks = (
            loop.create_task(self._write_out(encode(Open(meta)))),
            loop.create_task(self._read_in()),
        )

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """What runs until the stream is over. Raises: nothing."""
        return self._tasks

    async def write(self, chunk: bytes) -> None:
        while not self._verdict.done() and self._credit <= 0:
            self._room = self._loop.create_future()
            await self._room
        self._check()
        self._crc = crc32c_extend(self._crc, chunk)
        self._total += len(chunk)
        self._credit -= len(chunk) + PEER_CHUNK_COST_BYTES
        self._outbox.add(chunk)
        _wake(self._work)

    async def finish(self) -> bytes:
        self._check()
        self._finished = True
        _wake(self._work)
        return await asyncio.shield(self._verdict)

    def abort(self) -> None:
        self.fail("aborted by this member")

    def fail(self, reason: str) -> None:
        """The stream is broken. Raises: nothing."""
        if self._verdict.done():
            return
        text = f"stream to member {self._member:x}: {reason}"
        self._verdict.set_exception(TransportError(text))
        # A writer that never asks again has given up by itself.
        self._verdict.exception()
        self._end()

    def _end(self) -> None:
        self._outbox.clear()
        _wake(self._room)
        self._call.cancel()
        current = asyncio.current_task(self._loop)
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._forget(self)

    def _check(self) -> None:
        if self._finished:
            raise TransportError(
                f"stream to member {self._member:x} was finished already; open another"
            )
        if self._verdict.done():
            error = self._verdict.exception()
            if error is not None:
                raise TransportError(str(error))
            raise TransportError(
                f"stream to member {self._member:x}: the reader ended it before its end"
            )

    async def _write_out(self, first: bytes) -> None:
        write = self._call.write
        await self._let_in
        frame: bytes | None = first
        try:
            while True:
                if frame is None and self._finished:
                    await write(encode(Finish(self._crc, self._total)))
                    return
                if frame is None:
                    self._work = self._loop.create_future()
                    await self._work
                else:
                    await write(frame)
                frame = self._outbox.next_frame()
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            # The call is over; the reading task hears why.
            return

    async def _read_in(self) -> None:
        try:
            await self._welcomed(self._call)
            self._let_in.set_result(None)
            while not self._verdict.done():
                data = await self._call.read()
                if data is grpc.aio.EOF:
                    self.fail("its reader ended it without an answer")
                    return
                self._take(data)
        except ProtocolError as error:
            self.fail(str(error))
        except grpc.aio.AioRpcError as error:
            self.fail(
                f"connection lost: {error_of(error.code().value[0], error.details())}"
            )
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            self.fail(f"connection lost: {error}")

    def _take(self, data: bytes) -> None:
        frame = read_answer(data)
        if isinstance(frame, Credit):
            self._credit += frame.amount
            if self._credit > 0:
                _wake(self._room)
        elif isinstance(frame, Refused):
            self.fail(f"refused: {frame.reason}")
        elif not self._verdict.done():
            # Before the end it is no success either: the writer's next step fails.
            self._verdict.set_result(frame.answer)
            self._end()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
