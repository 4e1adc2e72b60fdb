"""The calling end: one lane to one member, its connection and its queue.

A lane is in one of these states:

    IDLE        nothing is wanted (bulk), or not yet
    CONNECTING  an attempt runs; messages wait, within the bound
    OPEN        messages go to the connection's queue, within the bound
    PAUSED      the last attempt failed; messages are dropped until the next
    CLOSED      the member was removed, or everything is closed

Rules of this file:

1. All changes of state are in ``PeerLane``, in the methods named ``_become_``.
2. A message is counted against the bound from ``send`` until the socket has taken it.
3. Time is that of the event loop; the only randomness is the jitter of ``Backoff``.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from revstore import logs
from revstore.errors import TransportError
from revstore.interfaces.peers import Lane, LaneLimits
from revstore.net.tls import certificate_fits
from revstore.peer.backoff import Backoff
from revstore_tcp.addresses import Address
from revstore_tcp.framing import (
    MAGIC,
    ProtocolError,
    RecordType,
    frame,
    record,
)
from revstore_tcp.limits import CLOSE_S, RECORD_PAYLOAD_MAX
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

_log = logs.get(__name__)

_NO_BOUND = 1 << 62
"""Credit of what is bounded elsewhere."""
_SEQUENCE = struct.Struct(">Q")
_REFUSALS = frozenset(
    {GoAway.CLUSTER, GoAway.MEMBER, GoAway.REFUSED, GoAway.CERTIFICATE}
)


class RefusedError(TransportError):
    """The other member does not want to talk to this one."""


class State(StrEnum):
    """See the table above."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    PAUSED = "paused"
    CLOSED = "closed"


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
            self._lane.answered(payload)
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


class PeerLane:
    """One lane to one member."""

    def __init__(self, peer: Peer, lane: Lane, limits: LaneLimits) -> None:
        options = peer.owner.options
        self.peer = peer
        self.lane = lane
        self.state = State.IDLE
        self.link: OutboundLink | None = None
        self._loop = peer.owner.loop
        self._limits = limits
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._attempt: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = Backoff(
            options.retry_min_s, options.retry_max_s, options.random
        )
        self._failing = False
        """Whether the failure of this lane is in the log already."""
        self._probe_number = 0
        self._probe_at: float | None = None
        """When the probe that is not answered yet was sent."""

    # For the owner.

    @property
    def is_open(self) -> bool:
        """Whether there is a connection. Raises: nothing."""
        return self.state is State.OPEN

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

    def start(self) -> None:
        """Connect without waiting for a message. Raises: nothing."""
        if self.state is State.IDLE:
            self._become_connecting()

    def hint(self) -> None:
        """The member was heard of: try again at once (P-06). Raises: nothing."""
        if self.state is State.PAUSED:
            self._backoff.reset()
            self._become_connecting()

    def restart(self) -> None:
        """The member has other addresses now. Raises: nothing."""
        if self.state is State.CLOSED:
            return
        wanted = self.state is not State.IDLE
        self._let_go("the member has moved")
        self._backoff.reset()
        self.state = State.IDLE
        if wanted:
            self._become_connecting()

    def close(self, reason: str) -> Sequence[asyncio.Future[None]]:
        """Give everything up; what to wait for. Raises: nothing."""
        link = self.link
        self.state = State.CLOSED
        attempt = self._attempt
        self._let_go(reason)
        found: list[asyncio.Future[None]] = []
        if link is not None:
            found.append(link.closed)
        if attempt is not None:
            found.append(attempt)
        return found

    async def ready(self) -> OutboundLink:
        """The open connection, made if need be. Raises: TransportError."""
        if self.state is State.IDLE:
            self._become_connecting()
        if self.state is State.CONNECTING and self._attempt is not None:
            await asyncio.wait([self._attempt])
        if self.state is not State.OPEN or self.link is None:
            raise TransportError(
                f"member {self.peer.member:x} cannot be reached now; try again later"
            )
        return self.link

    # From the connection.

    def broken(self, link: OutboundLink, error: TransportError) -> None:
        """An open connection is gone. Raises: nothing."""
        if self.link is link and self.state is State.OPEN:
            self._become_paused(error)

    def answered(self, payload: bytes) -> None:
        """A probe came back. Raises: nothing."""
        if self._probe_at is None or payload != _SEQUENCE.pack(self._probe_number):
            return
        if self.lane is Lane.CONTROL:
            self.peer.round_trip_s = self._loop.time() - self._probe_at
        self._probe_at = None

    # States.

    def _become_connecting(self) -> None:
        self._stop_timer()
        self.state = State.CONNECTING
        self._attempt = self._loop.create_task(self._connect())

    def _become_open(self, link: OutboundLink) -> None:
        self.state = State.OPEN
        self.link = link
        self._backoff.reset()
        if self._failing:
            self._failing = False
            _log.info(
                "member reached again",
                member=f"{self.peer.member:x}",
                lane=self.lane.name,
            )
        waiting, self._waiting = self._waiting, deque()
        self._waiting_bytes = 0
        for payload in waiting:
            link.unflushed += 1
            link.messages.send(payload)
        self._probe_at = None
        self._probe()

    def _become_paused(self, error: Exception) -> None:
        peer = self.peer
        self._let_go(str(error))
        peer.send_failures += 1
        if isinstance(error, RefusedError):
            self._backoff.longest()
        if not self._failing:
            self._failing = True
            _log.warn(
                "member cannot be reached",
                member=f"{peer.member:x}",
                lane=self.lane.name,
                urls=[address.url for address in peer.addresses],
                reason=str(error),
            )
        self.state = State.PAUSED
        self._timer = self._loop.call_later(self._backoff.next_s(), self._pause_over)
        peer.owner.unreachable(peer.member)
        if isinstance(error, RefusedError):
            peer.owner.refused(peer.member, str(error))

    # Inside.

    def _over(self, count: int, held: int) -> bool:
        limits = self._limits
        return count >= limits.messages_max or held > limits.bytes_max

    def _pause_over(self) -> None:
        self._timer = None
        self.state = State.IDLE
        if self.lane is not Lane.BULK:
            self._become_connecting()

    def _let_go(self, reason: str) -> None:
        """Drop connection, attempt, timer and what waits."""
        self._stop_timer()
        link, self.link = self.link, None
        if link is not None:
            for stream in tuple(link.streams.values()):
                stream.fail(reason)
            link.streams.clear()
            if not link.closing:
                link.abort()
        attempt, self._attempt = self._attempt, None
        if attempt is not None and attempt is not asyncio.current_task(self._loop):
            attempt.cancel()
        self.peer.dropped_messages += len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _probe(self) -> None:
        link = self.link
        if link is None or self.state is not State.OPEN:
            return
        options = self.peer.owner.options
        now = self._loop.time()
        if self._probe_at is None:
            self._probe_number += 1
            self._probe_at = now
            payload = _SEQUENCE.pack(self._probe_number)
            link.add(record(RecordType.PING, 0, payload))
        elif now - self._probe_at >= options.probe_timeout_s:
            link.abort()
            self._become_paused(
                TransportError(f"no probe answered for {options.probe_timeout_s} s")
            )
            return
        self._timer = self._loop.call_later(options.probe_interval_s, self._probe)

    async def _connect(self) -> None:
        error: Exception = TransportError("no address")
        for address in self.peer.addresses:
            try:
                async with asyncio.timeout(self.peer.owner.options.connect_timeout_s):
                    link = await self._dial(address)
            except (OSError, TransportError) as failure:
                error = failure
                if isinstance(failure, TimeoutError) and not str(failure):
                    error = TransportError("no answer in time")
                continue
            self._attempt = None
            if link.closing:
                error = TransportError("the connection was closed at once")
                continue
            self._become_open(link)
            return
        self._attempt = None
        self._become_paused(error)

    async def _dial(self, address: Address) -> OutboundLink:
        loop = self._loop
        owner = self.peer.owner

        def make() -> OutboundLink:
            return OutboundLink(loop, self)

        if address.path:
            _, link = await loop.create_unix_connection(make, address.path)
        else:
            context = owner.calling_context if address.tls else None
            _, link = await loop.create_connection(
                make,
                address.host,
                address.port,
                ssl=context,
                server_hostname=address.host if context is not None else None,
                ssl_shutdown_timeout=CLOSE_S if context is not None else None,
            )
            link.keep_alive()
        try:
            self._check_certificate(link, address)
            await asyncio.shield(link.welcome)
        except BaseException:
            link.abort()
            raise
        return link

    def _check_certificate(self, link: OutboundLink, address: Address) -> None:
        tls = self.peer.owner.options.tls
        if tls is None or not address.tls or link.transport is None:
            return
        found = link.transport.get_extra_info("peercert") or {}
        if tls.allowed_names and not certificate_fits(found, tls.allowed_names, ()):
            raise TransportError(
                f"the certificate of {address.url} has none of the allowed names"
            )


META_BYTES_MAX = RECORD_PAYLOAD_MAX - 64
"""Longest description of a stream; it travels in one record."""
