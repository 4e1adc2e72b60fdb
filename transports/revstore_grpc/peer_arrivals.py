"""The answering end of the calls between members.

Rules of this file:

1. Nothing is taken before the caller was judged: cluster, addressee, sender,
   certificate, and the node's own word (P-07, P-08).
2. A newer lane of the same sender ends the older one and its streams: the sender has
   given them up (P-10), and two lanes would mix the order (P-01).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from revstore.api.errors import Code
from revstore.errors import ApiError
from revstore.interfaces.transport import (
    Call,
    Method,
    MethodKind,
    ServiceTable,
    Stream,
    StreamHandler,
)
from revstore.peer.lanes.arrival import GONE, LaneArrival, log_ended
from revstore.peer.lanes.content import Content, LaneContent, StreamContent
from revstore.peer.lanes.limits import PEER_REASON_CHARS_MAX
from revstore.peer.lanes.wire import (
    ASK_PATH,
    LANE_PATH,
    STREAM_PATH,
    Hello,
    ProtocolError,
    write_welcome,
)
from revstore_grpc.calls import GrpcStream, UnaryCall

if TYPE_CHECKING:
    from revstore_grpc.peers import GrpcPeers


class Arrival(LaneArrival, StreamHandler):
    """One call that another member made and that was let in."""

    def __init__(self, owner: GrpcPeers, stream: GrpcStream, hello: Hello) -> None:
        super().__init__(owner, hello, stream.peer())
        self._stream = stream

    # For the base.

    def wake(self) -> None:
        """There is something to write. Raises: nothing."""
        content = self.content
        while content is not None:
            frame = content.next_frame()
            if frame is None:
                return
            self._stream.send(frame)

    def _end_call(self, code: Code, reason: str) -> None:
        # A stream that was read may still owe its answer.
        self.wake()
        _refuse(self._stream, code, reason)

    # From the connection.

    def on_message(self, message: bytes) -> None:
        """A frame came."""
        if self.end_with is not None or self.content is None:
            return
        try:
            self.content.take(message)
        except ProtocolError as error:
            self.break_off(error)

    def on_half_close(self) -> None:
        """The caller says no more, which no member does."""
        self.end(Code.INVALID_ARGUMENT, "the caller says no more")

    def on_cancel(self) -> None:
        """The call is gone."""
        self.end(Code.CANCELLED, GONE)


def peer_table(owner: GrpcPeers) -> ServiceTable:
    """The methods that other members call."""

    def let_in(stream: Stream) -> Arrival | None:
        """The call as an arrival if it is let in; else it was ended."""
        assert isinstance(stream, GrpcStream)
        link = stream.link
        found = owner.let_in(
            stream.metadata().items(),
            stream.peer(),
            lambda hosts: owner.misfit(link, hosts),
        )
        if isinstance(found, Hello):
            return Arrival(owner, stream, found)
        _refuse(stream, *found)
        return None

    def welcome(arrival: Arrival, stream: Stream, content: Content) -> StreamHandler:
        assert isinstance(stream, GrpcStream)
        options = owner.options
        arrival.content = content
        stream.send_head(write_welcome(options.cluster_id, options.member_id))
        return arrival

    def lane(stream: Stream) -> StreamHandler:
        arrival = let_in(stream)
        if arrival is None:
            return StreamHandler()
        owner.admitted_lane(arrival)
        return welcome(arrival, stream, LaneContent(owner, arrival))

    def chunks(stream: Stream) -> StreamHandler:
        arrival = let_in(stream)
        if arrival is None:
            return StreamHandler()
        refusal = owner.admitted_stream(arrival)
        if refusal is not None:
            _refuse(stream, *refusal)
            return StreamHandler()
        return welcome(arrival, stream, StreamContent(owner, arrival))

    def ask(call: Call, question: bytes) -> None:
        assert isinstance(call, UnaryCall)
        answer = owner.answer(question, owner.misfit(call.link, ()))
        if isinstance(answer, bytes):
            call.reply(answer)
        else:
            log_ended(call.peer(), answer)
            call.fail(ApiError(Code.INVALID_ARGUMENT, answer))

    methods = (
        Method(path=LANE_PATH, kind=MethodKind.BIDI_STREAM, stream=lane),
        Method(path=STREAM_PATH, kind=MethodKind.BIDI_STREAM, stream=chunks),
        Method(path=ASK_PATH, kind=MethodKind.UNARY, unary=ask),
    )
    return {method.path: method for method in methods}


def _refuse(stream: Stream, code: Code, reason: str) -> None:
    stream.fail(ApiError(code, reason[:PEER_REASON_CHARS_MAX]))
