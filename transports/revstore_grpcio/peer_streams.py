"""The writing end of a stream between members, as a call of the library.

Nothing is written before the call is let in: when a call is ended while its caller
writes, the library may say "Internal error from Core" in place of the refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from revstore.peer.lanes.outgoing import LaneOutgoingStream
from revstore.peer.lanes.wire import ProtocolError, error_of
from revstore.peer.streams import wake


class GrpcioOutgoingStream(LaneOutgoingStream):
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
        super().__init__(loop, member, meta)
        self._call = call
        self._welcomed = welcomed
        self._forget = forget
        self._work: asyncio.Future[None] | None = None
        self._let_in: asyncio.Future[None] = loop.create_future()
        self._tasks = (
            loop.create_task(self._write_out()),
            loop.create_task(self._read_in()),
        )

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """What runs until the stream is over. Raises: nothing."""
        return self._tasks

    # For the base.

    def _wake_call(self) -> None:
        wake(self._work)

    def _drop(self) -> None:
        super()._drop()
        self._call.cancel()
        current = asyncio.current_task(self._loop)
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._forget(self)

    # Inside.

    async def _write_out(self) -> None:
        write = self._call.write
        await self._let_in
        try:
            while True:
                frame = self.next_frame()
                if frame is not None:
                    await write(frame)
                elif self._finished:
                    return
                else:
                    self._work = self._loop.create_future()
                    await self._work
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
                self.take(data)
        except ProtocolError as error:
            self.fail(str(error))
        except grpc.aio.AioRpcError as error:
            self.fail(
                f"connection lost: {error_of(error.code().value[0], error.details())}"
            )
        except (grpc.aio.BaseError, asyncio.InvalidStateError) as error:
            self.fail(f"connection lost: {error}")
