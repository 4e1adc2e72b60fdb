"""What the calls of other members bring: messages of a lane, chunks of a stream.

Rules of this file:

1. What waits to be written is a slot, never a queue, so that a caller that does not
   read cannot make anything grow.
2. A ProtocolError is for whoever serves the call: it ends the call (P-13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from revstore.api.errors import Code
from revstore.peer.lanes.incoming import LaneIncomingStream
from revstore.peer.lanes.limits import PEER_META_BYTES_MAX
from revstore.peer.lanes.wire import (
    Finish,
    Inbox,
    Open,
    Part,
    Ping,
    Pong,
    ProtocolError,
    encode,
    read_chunk,
    read_lane,
)

if TYPE_CHECKING:
    from revstore.peer.lanes.arrival import LaneArrival
    from revstore.peer.lanes.owner import LanePeers


class Content(Protocol):
    """What is particular to one kind of call."""

    def take(self, data: bytes) -> None:
        """A frame came. Raises: ProtocolError."""

    def next_frame(self) -> bytes | None:
        """The next frame to send, None if there is none. Raises: nothing."""

    def lost(self, reason: str) -> None:
        """The call is over. Raises: nothing."""


class LaneContent:
    """Messages of one lane from one member."""

    def __init__(self, owner: LanePeers, arrival: LaneArrival) -> None:
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

    def __init__(self, owner: LanePeers, arrival: LaneArrival) -> None:
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
            stream.take_end(frame.crc, frame.total)
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
