"""The answering end of the calls between members.

Rules of this file:

1. Nothing is taken before the caller was judged: cluster, addressee, sender,
   certificate, and the node's own word (P-07, P-08).
2. A newer lane of the same sender ends the older one and its streams: the sender has
   given them up (P-10), and two lanes would mix the order (P-01).
3. Each call has one writer, the coroutine that the library started for it, and one
   reading task that ends with it. What waits to be written is a slot, never a queue, so
   that a caller that does not read cannot make anything grow.
4. A call that this side ends is ended by ``abort``, whatever the reason: the library
   logs a normal return that meets a vanished caller as an error.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from revstore.api.errors import Code
from revstore.peer.lanes.arrival import GONE, LaneArrival, Refusal, log_ended
from revstore.peer.lanes.content import Content, LaneContent, StreamContent
from revstore.peer.lanes.limits import (
    PEER_END_GRACE_S,
    PEER_REASON_CHARS_MAX,
)
from revstore.peer.lanes.wire import (
    ASK_PATH,
    LANE_PATH,
    STREAM_PATH,
    Hello,
    Metadata,
    ProtocolError,
    write_welcome,
)
from revstore.peer.streams import wake
from revstore_grpcio.calls import STATUS_OF_CODE

if TYPE_CHECKING:
    from revstore_grpcio.peers import GrpcioPeers


class Arrival(LaneArrival):
    """One call that another member made and that was let in."""

    def __init__(self, owner: GrpcioPeers, context: Any, hello: Hello) -> None:
        super().__init__(owner, hello, owner.caller_of(context).name)
        self._context = context
        self._wait: asyncio.Future[None] | None = None

    # For the base.

    def wake(self) -> None:
        """There is something to write, or nothing more. Raises: nothing."""
        wake(self._wait)

    def _end_call(self, code: Code, reason: str) -> None:
        self.wake()

    # The call.

    async def serve(self, content: Content, welcome: Metadata) -> Refusal:
        """Read and write until the call is over; returns what to end it with."""
        self.content = content
        reader: asyncio.Task[None] | None = None
        try:
            await self._context.send_initial_metadata(welcome)
            reader = self._owner.loop.create_task(self._read_in(content))
            await self._write_out(content)
        except grpc.aio.BaseError:
            # The call is over; the library cancels what is left of it.
            pass
        finally:
            self.end(Code.CANCELLED, GONE)
            if reader is not None:
                reader.cancel()
                await asyncio.wait([reader])
        assert self.end_with is not None
        return self.end_with

    async def _write_out(self, content: Content) -> None:
        while True:
            frame = content.next_frame()
            if frame is not None:
                await self._context.write(frame)
            elif self.end_with is not None:
                return
            else:
                self._wait = self._owner.loop.create_future()
                await self._wait

    async def _read_in(self, content: Content) -> None:
        read = self._context.read
        try:
            while True:
                data = await read()
                if self.end_with is not None:
                    return
                if data is grpc.aio.EOF:
                    break
                content.take(data)
        except ProtocolError as error:
            self.break_off(error)
        except grpc.aio.BaseError:
            return
        # Either the connection is lost, and the library says so at once, or the
        # caller has half closed the call, which no member does.
        await asyncio.sleep(PEER_END_GRACE_S)
        self.end(Code.INVALID_ARGUMENT, "the caller says no more")


class PeerService(grpc.GenericRpcHandler):
    """Takes the calls of other members."""

    def __init__(self, owner: GrpcioPeers) -> None:
        self._owner = owner
        handlers: dict[str, Any] = {
            LANE_PATH: grpc.stream_stream_rpc_method_handler(self._lane),
            STREAM_PATH: grpc.stream_stream_rpc_method_handler(self._stream),
            ASK_PATH: grpc.unary_unary_rpc_method_handler(self._ask),
        }
        self._handlers = handlers
        self._stranger: Any = grpc.stream_stream_rpc_method_handler(self._turn_away)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call. Raises: nothing."""
        return self._handlers.get(handler_call_details.method, self._stranger)

    async def _lane(self, _frames: Any, context: Any) -> None:
        arrival = await self._let_in(context)
        if arrival is not None:
            self._owner.admitted_lane(arrival)
            await self._serve(arrival, LaneContent(self._owner, arrival), context)

    async def _stream(self, _frames: Any, context: Any) -> None:
        arrival = await self._let_in(context)
        if arrival is None:
            return
        refusal = self._owner.admitted_stream(arrival)
        if refusal is not None:
            await end_call(context, *refusal)
            return
        await self._serve(arrival, StreamContent(self._owner, arrival), context)

    async def _serve(
        self, arrival: Arrival, content: LaneContent | StreamContent, context: Any
    ) -> None:
        options = self._owner.options
        welcome = write_welcome(options.cluster_id, options.member_id)
        await end_call(context, *await arrival.serve(content, welcome))

    async def _let_in(self, context: Any) -> Arrival | None:
        """The call as an arrival if it is let in; else it was ended."""
        found = self._owner.let_in(
            context.invocation_metadata(),
            self._owner.caller_of(context).name,
            partial(self._owner.misfit, context),
        )
        if isinstance(found, Hello):
            return Arrival(self._owner, context, found)
        await end_call(context, *found)
        return None

    async def _ask(self, question: bytes, context: Any) -> bytes:
        answer = self._owner.answer(question, self._owner.misfit(context, ()))
        if isinstance(answer, bytes):
            return answer
        log_ended(self._owner.caller_of(context).name, answer)
        await context.abort(STATUS_OF_CODE[Code.INVALID_ARGUMENT], answer)
        raise AssertionError("abort does not return")

    async def _turn_away(self, _frames: Any, context: Any) -> None:
        reason = "a client called the address for members"
        log_ended(self._owner.caller_of(context).name, reason)
        await end_call(context, Code.UNIMPLEMENTED, reason)


async def end_call(context: Any, code: Code, reason: str) -> None:
    """End a call; a caller that is gone already is none."""
    # What abort raises is raised again by the library when the handler returns.
    with contextlib.suppress(grpc.aio.BaseError):
        await context.abort(STATUS_OF_CODE[code], reason[:PEER_REASON_CHARS_MAX])
