"""A connection that this member made to another: the call of its lane, and streams.

Rules of this file:

1. What waits for the socket stays in the lane's own queue, where it is bounded: frames
   go to the machine only while it has room.
2. Nothing counts before the right member has let the call in (``check_welcome``).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from revstore import logs
from revstore.errors import ApiError, TransportError
from revstore.net.addresses import Address
from revstore.net.dial import check_names
from revstore.peer.lanes.lane import PeerLane
from revstore.peer.lanes.limits import PEER_FRAME_BYTES_MAX
from revstore.peer.lanes.outgoing import LaneOutgoingStream
from revstore.peer.lanes.wire import (
    LANE_PATH,
    STREAM_PATH,
    ProtocolError,
    error_of,
    read_pong,
)
from revstore_grpc.client import ClientLink, connect_link
from revstore_http2.events import Pairs
from revstore_http2.limits import Limits

_log = logs.get(__name__)

PEER_LIMITS = Limits(
    message_bytes_max=PEER_FRAME_BYTES_MAX,
    stream_high_bytes=512 * 1024,
    stream_low_bytes=128 * 1024,
    keepalive_interval_s=0.0,
)
"""Of a connection to another member; the lane itself probes it."""


class PeerLink:
    """See above; the ``LaneLink`` of this transport."""

    def __init__(self, lane: PeerLane, context: ssl.SSLContext | None) -> None:
        owner = lane.peer.owner
        self.lane = lane
        self.loop = owner.loop
        self.link: ClientLink | None = None
        self._context = context
        self._hello = dict(lane.hello(owner.next_link()))
        self._number = 0
        self._congested = False
        self._pumping = False
        self._welcome: asyncio.Future[None] = owner.loop.create_future()
        self._over: asyncio.Future[TransportError] = owner.loop.create_future()
        self._streams: set[PeerOutgoingStream] = set()
        self._closed = False

    # For the lane.

    async def open(self, address: Address) -> None:
        """See ``LaneLink.open``."""
        link = await connect_link(address, PEER_LIMITS, self._context)
        self.link = link
        if self._closed:
            link.abort()
            raise TransportError("given up")
        check_names(link.transport, address, self.lane.peer.owner.options.tls)
        self._number = link.start(LANE_PATH, None, self._hello)
        link.streams[self._number] = self
        await self._welcome

    async def read_in(self) -> None:
        """See ``LaneLink.read_in``."""
        raise await asyncio.shield(self._over)

    def wake(self) -> None:
        """See ``LaneLink.wake``; what is sent in one turn leaves together."""
        if not self._pumping:
            self._pumping = True
            self.loop.call_soon(self._pump)

    def open_stream(self, meta: bytes) -> PeerOutgoingStream:
        """See ``LaneLink.open_stream``."""
        assert self.link is not None
        number = self.link.start(STREAM_PATH, None, self._hello)
        found = PeerOutgoingStream(self, number, meta)
        self.link.streams[number] = found
        self._streams.add(found)
        return found

    def give_up(self, reason: str) -> None:
        """See ``LaneLink.give_up``."""
        self._end(TransportError(reason))

    def close(self, reason: str) -> Sequence[asyncio.Task[None]]:
        """See ``LaneLink.close``."""
        if self._closed:
            return ()
        self._closed = True
        for stream in tuple(self._streams):
            stream.fail(f"connection lost: {reason}")
        self._end(TransportError(reason))
        link = self.link
        if link is None:
            return ()
        link.streams.clear()
        link.connection.close()
        link.close()
        closing = self.loop.create_task(link.wait_closed())
        self.lane.peer.owner.keep(closing)
        return (closing,)

    # For the streams.

    def forget(self, stream: PeerOutgoingStream, number: int) -> None:
        """A stream is over on this end. Raises: nothing."""
        self._streams.discard(stream)
        link = self.link
        if link is not None and link.streams.pop(number, None) is not None:
            link.give_up(number)

    # From the connection: the call of the lane.

    def head(self, pairs: Pairs) -> None:
        """The member has let the call in. Raises: nothing."""
        try:
            self.lane.check(dict(pairs))
        except ProtocolError as error:
            self._end(error)
        else:
            if not self._welcome.done():
                self._welcome.set_result(None)

    def take(self, message: bytes) -> None:
        """The answer to a probe came. Raises: nothing."""
        try:
            number = read_pong(message).number
        except ProtocolError as error:
            member = f"member {self.lane.peer.member:x}"
            _log.warn("connection ended", peer=member, reason=str(error))
            self._end(error)
        else:
            self.lane.answered(number)

    def room(self) -> None:
        """The machine has room again. Raises: nothing."""
        self._congested = False
        self.wake()

    def end(self, error: ApiError | None) -> None:
        """The call is over. Raises: nothing."""
        if error is None:
            self._end(TransportError("the member ended the connection"))
        else:
            self._end(error_of(error.code, error.message))

    # Inside.

    def _pump(self) -> None:
        self._pumping = False
        link = self.link
        if link is None or self._closed or self._over.done():
            return
        connection, high = link.connection, PEER_LIMITS.stream_high_bytes
        while not self._congested:
            frame = self.lane.next_frame()
            if frame is None:
                break
            self._congested = connection.send(self._number, frame) >= high
        link.wake()

    def _end(self, error: TransportError) -> None:
        if not self._welcome.done():
            self._welcome.set_exception(error)
            # Nobody may be waiting for it any more.
            self._welcome.exception()
        if not self._over.done():
            self._over.set_result(error)


class PeerOutgoingStream(LaneOutgoingStream):
    """The writing end of a stream; a call of its own on the connection of its lane."""

    def __init__(self, owner: PeerLink, number: int, meta: bytes) -> None:
        super().__init__(owner.loop, owner.lane.peer.member, meta)
        self._owner = owner
        self._number = number
        self._congested = False
        self._wake_call()

    # From the connection.

    def head(self, pairs: Pairs) -> None:
        """The member has let the stream in. Raises: nothing."""
        try:
            self._owner.lane.check(dict(pairs))
        except ProtocolError as error:
            self.fail(str(error))

    def room(self) -> None:
        """The machine has room again. Raises: nothing."""
        self._congested = False
        self._wake_call()

    def end(self, error: ApiError | None) -> None:
        """The call is over. Raises: nothing."""
        if error is None:
            self.fail("its reader ended it without an answer")
        else:
            self.fail(f"connection lost: {error_of(error.code, error.message)}")

    # For the base.

    def _wake_call(self) -> None:
        link = self._owner.link
        while link is not None and not self._congested and not self._verdict.done():
            frame = self.next_frame()
            if frame is None:
                return
            queued = link.connection.send(self._number, frame)
            self._congested = queued >= PEER_LIMITS.stream_high_bytes
            link.wake()

    def _drop(self) -> None:
        super()._drop()
        self._owner.forget(self, self._number)
