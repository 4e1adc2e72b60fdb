"""The calling end: one lane to one member, its connection and its queue.

Rule of this file: a message is counted against the bound from ``send`` until the socket
has taken it.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from revstore.errors import TransportError
from revstore.interfaces.peers import Lane, LaneLimits
from revstore.net.dial import check_names, dial
from revstore.peer.lane_states import LaneStates, RefusedError, State
from revstore_tcp.addresses import Address
from revstore_tcp.framing import (
    MAGIC,
    ProtocolError,
    RecordType,
    frame,
    record,
)
from revstore_tcp.limits import RECORD_PAYLOAD_MAX
from revstore_tcp.link import Link
from revstore_tcp.messages import (
    GoAway,
    Hello,
    Role,
    read_end,
    read_goaway,
    read_number,
    read_welcome,
    write_hello,
    write_open,
)
from revstore_tcp.outgoing import Outgoing
from revstore_tcp.peer_streams import TcpOutgoingStream

if TYPE_CHECKING:
    from revstore_tcp.peers import Peer

_NO_BOUND = 1 << 62
"""Credit of what is bounded elsewhere."""
_SEQUENCE = struct.Struct(">Q")
_REFUSALS = frozenset(
    {GoAway.CLUSTER, GoAway.MEMBER, GoAway.REFUSED, GoAway.CERTIFICATE}
)


class OutboundLink(Link):
    """A connection that this member made."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lane: PeerLane) -> None:
        super().__init__(loop, greeting=False)
        self.welcome: asyncio.Future[None] = loop.create_future()
        self.messages = Outgoing(self, 0, credit=_NO_BOUND)
        self.unflushed = 0
        """Messages that were added since the last write."""
        self.streams: dict[int, TcpOutgoingStream] = {}
        self._lane = lane
        self._next = 1
        self._refusal = ""

    def open_stream(self, meta: bytes) -> TcpOutgoingStream:
        """Start a stream. Raises: nothing."""
        number = self._next
        self._next += 1
        found = TcpOutgoingStream(self, number, self._lane.peer.member, self._forget)
        self.streams[number] = found
        payload = write_open(b"", b"", 0, meta)
        self.add(record(RecordType.OPEN, number, payload))
        return found

    def made(self) -> None:
        assert self.transport is not None
        options = self._lane.peer.owner.options
        hello = Hello(
            Role.MEMBER,
            self._lane.lane,
            options.cluster_id,
            options.member_id,
            self._lane.peer.member,
        )
        self.transport.write(
            MAGIC + frame(record(RecordType.HELLO, 0, write_hello(hello)))
        )

    def drained(self) -> None:
        self.unflushed = 0

    def handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == RecordType.PONG:
            if len(payload) == _SEQUENCE.size:
                self._lane.answered(_SEQUENCE.unpack(payload)[0])
        elif kind == RecordType.CREDIT:
            found = self.streams.get(stream)
            if found is not None:
                found.out.grant(read_number(payload))
        elif kind == RecordType.END:
            found = self.streams.pop(stream, None)
            if found is not None:
                found.answer(read_end(payload))
        elif kind == RecordType.WELCOME:
            self._welcomed(payload)
        elif kind == RecordType.GOAWAY:
            code, text = read_goaway(payload)
            if code in _REFUSALS:
                self._refusal = text
            self.abort()
        elif not self.welcome.done():
            raise ProtocolError("the first record is not WELCOME")

    def lost(self, reason: str) -> None:
        for stream in tuple(self.streams.values()):
            stream.fail(f"connection lost: {reason}")
        self.streams.clear()
        error = RefusedError(self._refusal) if self._refusal else TransportError(reason)
        if not self.welcome.done():
            self.welcome.set_exception(error)
            # The attempt may have been given up already.
            self.welcome.exception()
        else:
            self._lane.broken(self, error)

    def _welcomed(self, payload: bytes) -> None:
        welcome = read_welcome(payload)
        peer = self._lane.peer
        expected = (peer.owner.options.cluster_id, peer.member)
        if (welcome.cluster_id, welcome.member_id) != expected:
            raise ProtocolError(
                f"member {peer.member:x} of cluster {expected[0]:x} was called, "
                f"{welcome.member_id:x} of {welcome.cluster_id:x} answered"
            )
        if not self.welcome.done():
            self.welcome.set_result(None)

    def _forget(self, number: int) -> None:
        self.streams.pop(number, None)


class PeerLane(LaneStates[OutboundLink]):
    """One lane to one member."""

    peer: Peer

    def __init__(self, peer: Peer, lane: Lane, limits: LaneLimits) -> None:
        super().__init__(peer, lane, limits)
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None
        """The running attempt."""

    # For the owner.

    def send(self, payload: bytes) -> bool:
        """Queue a message; False if it is over the bound or nobody can be reached."""
        state = self.state
        if state is State.OPEN:
            link = self.link
            assert link is not None
            held = link.output_bytes() + link.messages.queued_bytes
            count = link.unflushed + len(link.messages)
            if held and self._over(count, held + len(payload)):
                return False
            link.unflushed += 1
            link.messages.send(payload)
            return True
        if state is State.IDLE:
            self._become_connecting()
        elif state is not State.CONNECTING:
            return False
        held = self._waiting_bytes + len(payload)
        if self._waiting and self._over(len(self._waiting), held):
            return False
        self._waiting.append(payload)
        self._waiting_bytes = held
        return True

    # From the connection.

    def broken(self, link: OutboundLink, error: TransportError) -> None:
        """An open connection is gone. Raises: nothing."""
        if self.link is link and self.state is State.OPEN:
            self._become_paused(error)

    # For the base.

    def _attempt(self) -> None:
        self._task = self._loop.create_task(self._connect())

    def _become_open(self, link: OutboundLink) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._waiting_bytes = 0
        for payload in waiting:
            link.unflushed += 1
            link.messages.send(payload)
        super()._become_open(link)

    def _drop(
        self, link: OutboundLink | None, reason: str
    ) -> Sequence[asyncio.Future[None]]:
        waits: list[asyncio.Future[None]] = []
        if link is not None:
            for stream in tuple(link.streams.values()):
                stream.fail(reason)
            link.streams.clear()
            if not link.closing:
                link.abort()
            waits.append(link.closed)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            waits.append(task)
        self.peer.dropped_messages += len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return waits

    def _send_probe(self, link: OutboundLink, number: int) -> None:
        link.add(record(RecordType.PING, 0, _SEQUENCE.pack(number)))

    def _break(self, link: OutboundLink, reason: str) -> None:
        link.abort()
        self._become_paused(TransportError(reason))

    # Inside.

    def _over(self, count: int, held: int) -> bool:
        limits = self._limits
        return count >= limits.messages_max or held > limits.bytes_max

    async def _connect(self) -> None:
        error: Exception = TransportError("no address")
        for address in self.peer.addresses:
            try:
                async with asyncio.timeout(self.peer.owner.options.connect_timeout_s):
                    link = await self._dial(address)
            except Exception as failure:
                error = self._why(failure)
                continue
            if link.closing:
                error = TransportError("the connection was closed at once")
                continue
            self._task = None
            self._become_open(link)
            return
        self._task = None
        self._become_paused(error)

    async def _dial(self, address: Address) -> OutboundLink:
        loop = self._loop
        owner = self.peer.owner

        def make() -> OutboundLink:
            return OutboundLink(loop, self)

        link = await dial(address, make, owner.calling_context)
        link.keep_alive()
        try:
            check_names(link.transport, address, owner.options.tls)
            await asyncio.shield(link.welcome)
        except BaseException:
            link.abort()
            raise
        return link


META_BYTES_MAX = RECORD_PAYLOAD_MAX - 64
"""Longest description of a stream; it travels in one record."""
