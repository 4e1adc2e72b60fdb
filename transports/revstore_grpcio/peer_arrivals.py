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
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio

from revstore import logs
from revstore.api.errors import Code
from revstore.peer.lanes.incoming import LaneIncomingStream
from revstore.peer.lanes.limits import (
    PEER_END_GRACE_S,
    PEER_META_BYTES_MAX,
    PEER_REASON_CHARS_MAX,
)
from revstore.peer.lanes.owner import Refusal
from revstore.peer.lanes.wire import (
    ASK_PATH,
    LANE_PATH,
    STREAM_PATH,
    Finish,
    Hello,
    Inbox,
    Metadata,
    Open,
    Part,
    Ping,
    Pong,
    ProtocolError,
    encode,
    read_chunk,
    read_hello,
    read_lane,
    write_welcome,
)
from revstore_grpcio.calls import STATUS_OF_CODE

if TYPE_CHECKING:
    from revstore_grpcio.peers import GrpcioPeers

_log = logs.get(__name__)

_GONE = "aborted by its sender, or the connection is lost"


class _Content(Protocol):
    """What is particular to one kind of call."""

    def take(self, data: bytes) -> None:
        """A frame came. Raises: ProtocolError."""

    def next_frame(self) -> bytes | None:
        """The next frame to send, None if there is none. Raises: nothing."""

    def lost(self, reason: str) -> None:
        """The call is over. Raises: nothing."""


class Arrival:
    """One call that another member made and that was let in."""

    def __init__(self, owner: GrpcioPeers, context: Any, hello: Hello) -> None:
        self.sender = hello.sender
        self.lane = hello.lane
        self.link = hello.link
        self.streams: set[Arrival] = set()
        """Of a lane: the streams that live and end with it."""
        self.content: _Content | None = None
        self.end_with: Refusal | None = None
        """What the call ends with. Invariant: once set, nothing more is taken."""
        self._owner = owner
        self._context = context
        self._wait: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """There is something to write. Raises: nothing."""
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(None)

    def end(self, code: Code, reason: str) -> None:
        """End the call soon; the first reason counts. Raises: nothing."""
        if self.end_with is not None:
            return
        self.end_with = (code, reason)
        self._owner.departed(self)
        if self.content is not None:
            self.content.lost(reason)
        for stream in tuple(self.streams):
            stream.end(code, reason)
        self.wake()

    async def serve(self, content: _Content, welcome: Metadata) -> Refusal:
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
            self.end(Code.CANCELLED, _GONE)
            if reader is not None:
                reader.cancel()
                await asyncio.wait([reader])
        assert self.end_with is not None
        return self.end_with

    async def _write_out(self, content: _Content) -> None:
        while True:
            frame = content.next_frame()
            if frame is not None:
                await self._context.write(frame)
            elif self.end_with is not None:
                return
            else:
                self._wait = self._owner.loop.create_future()
                await self._wait

    async def _read_in(self, content: _Content) -> None:
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
            self._refuse(str(error))
        except grpc.aio.BaseError:
            return
        # Either the connection is lost, and the library says so at once, or the
        # caller has half closed the call, which no member does.
        await asyncio.sleep(PEER_END_GRACE_S)
        self.end(Code.INVALID_ARGUMENT, "the caller says no more")

    def _refuse(self, reason: str) -> None:
        if self.end_with is None:
            log_ended(self._context, reason)
            self.end(Code.INVALID_ARGUMENT, reason)


class LaneContent:
    """Messages of one lane from one member."""

    def __init__(self, owner: GrpcioPeers, arrival: Arrival) -> None:
        self._owner = owner
        self._arrival = arrival
        self._inbox = Inbox(owner.options.message_bytes_max)
        self._pong: int | None = None

    def take(self, data: bytes) -> None:
        frame = read_lane(data)
        if isinstance(frame, Ping):
            self._pong = frame.number
            self._arrival.wake()
            return
        arrival = self._arrival
        for payload in self._inbox.payloads(frame):
            if arrival.end_with is not None:
                return
            self._owner.deliver(arrival.sender, arrival.lane, payload)

    def next_frame(self) -> bytes | None:
        number, self._pong = self._pong, None
        return None if number is None else encode(Pong(number))

    def lost(self, reason: str) -> None:
        pass


class StreamContent:
    """One stream of a member."""

    def __init__(self, owner: GrpcioPeers, arrival: Arrival) -> None:
        self._owner = owner
        self._arrival = arrival
        self._inbox = Inbox(owner.options.message_bytes_max)
        self._stream: LaneIncomingStream | None = None

    def take(self, data: bytes) -> None:
        frame = read_chunk(data)
        stream = self._stream
        if stream is None:
            self._open(frame)
        elif isinstance(frame, Open):
            raise ProtocolError("a stream was opened twice")
        elif isinstance(frame, Finish):
            if not self._inbox.idle:
                raise ProtocolError("a stream ends before all parts of a chunk")
            stream.take_finish(frame)
        else:
            if isinstance(frame, Part) and self._inbox.idle:
                stream.check_credit()
            for chunk in self._inbox.payloads(frame):
                self._owner.count_received(self._arrival.sender, len(chunk))
                stream.take(chunk)

    def next_frame(self) -> bytes | None:
        stream = self._stream
        if stream is None:
            return None
        frame = stream.next_answer()
        if frame is None and stream.over:
            self._arrival.end(Code.ABORTED, "the stream has its answer")
        return frame

    def lost(self, reason: str) -> None:
        if self._stream is not None and not self._stream.over:
            self._stream.fail(reason)

    def _open(self, frame: object) -> None:
        if not isinstance(frame, Open):
            raise ProtocolError("the first frame of a stream does not open it")
        if len(frame.meta) > PEER_META_BYTES_MAX:
            raise ProtocolError(f"{len(frame.meta)} bytes about a stream are too many")
        self._stream = LaneIncomingStream(
            self._arrival.sender,
            frame.meta,
            self._owner.options.stream_window_bytes,
            self._arrival.wake,
        )
        self._arrival.wake()
        self._owner.opened(self._stream)


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
        self._stranger: Any = grpc.stream_stream_rpc_method_handler(_turn_away)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call. Raises: nothing."""
        return self._handlers.get(handler_call_details.method, self._stranger)

    async def _lane(self, _frames: Any, context: Any) -> None:
        arrival = await self._judge(context)
        if arrival is not None:
            self._owner.admitted_lane(arrival)
            await self._serve(arrival, LaneContent(self._owner, arrival), context)

    async def _stream(self, _frames: Any, context: Any) -> None:
        arrival = await self._judge(context)
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

    async def _judge(self, context: Any) -> Arrival | None:
        """The call as an arrival if it is let in; else it was ended."""
        try:
            hello = read_hello(context.invocation_metadata())
        except ProtocolError as error:
            log_ended(context, str(error))
            await end_call(context, Code.INVALID_ARGUMENT, str(error))
            return None
        refusal = self._owner.judge(hello, partial(self._owner.misfit, context))
        if refusal is None:
            return Arrival(self._owner, context, hello)
        if refusal[0] is not Code.UNAVAILABLE:
            _log.warn(
                "refused a member",
                member=f"{hello.sender:x}",
                peer=str(context.peer()),
                reason=refusal[1],
            )
        await end_call(context, *refusal)
        return None

    async def _ask(self, question: bytes, context: Any) -> bytes:
        answer = self._owner.answer(question, self._owner.misfit(context, ()))
        if isinstance(answer, bytes):
            return answer
        log_ended(context, answer)
        await context.abort(STATUS_OF_CODE[Code.INVALID_ARGUMENT], answer)
        raise AssertionError("abort does not return")


async def end_call(context: Any, code: Code, reason: str) -> None:
    """End a call; a caller that is gone already is none."""
    # What abort raises is raised again by the library when the handler returns.
    with contextlib.suppress(grpc.aio.BaseError):
        await context.abort(STATUS_OF_CODE[code], reason[:PEER_REASON_CHARS_MAX])


def log_ended(context: Any, reason: str) -> None:
    """One line about a caller that broke the protocol (P-13). Raises: nothing."""
    _log.warn("connection ended", peer=str(context.peer()), reason=reason)


async def _turn_away(_frames: Any, context: Any) -> None:
    reason = "a client called the address for members"
    log_ended(context, reason)
    await end_call(context, Code.UNIMPLEMENTED, reason)
