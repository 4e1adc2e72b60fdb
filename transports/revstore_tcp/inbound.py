"""The answering end of a member's connection: one lane, from one sender.

Rules of this file:

1. Nothing is taken before HELLO was checked: cluster, addressee, sender, certificate,
   and the node's own word (P-07, P-08).
2. A newer connection of the same sender and lane ends the older one: the sender has
   given it up, and two would mix the order (P-01).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from revstore import logs
from revstore.api.errors import Code
from revstore.errors import ApiError
from revstore.interfaces.peers import Lane
from revstore_tcp.framing import (
    Assembler,
    Flag,
    ProtocolError,
    RecordType,
    record,
    total_of,
)
from revstore_tcp.limits import HANDSHAKE_TIMEOUT_S, PEER_STREAMS_MAX
from revstore_tcp.link import Link
from revstore_tcp.messages import (
    GoAway,
    Hello,
    Role,
    Welcome,
    read_hello,
    read_open,
    write_end,
    write_welcome,
)
from revstore_tcp.peer_streams import TcpIncomingStream

if TYPE_CHECKING:
    from revstore_tcp.peers import TcpPeers

_log = logs.get(__name__)

_MESSAGE = int(RecordType.MESSAGE)
_MORE = int(Flag.MORE)
_TOO_MANY_STREAMS = ApiError(
    Code.RESOURCE_EXHAUSTED, f"more than {PEER_STREAMS_MAX} streams at once"
)


class InboundLink(Link):
    """One connection that another member made."""

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: TcpPeers) -> None:
        super().__init__(loop, greeting=True)
        self.sender = 0
        """Who is at the other end; 0 before HELLO."""
        self.lane = Lane.CONTROL
        self._owner = owner
        self._assembler = Assembler()
        self._streams: dict[int, TcpIncomingStream] = {}
        self._last_stream = 0
        self._timer: asyncio.TimerHandle | None = None

    def made(self) -> None:
        self._owner.arrivals.add(self)
        self._timer = self.loop.call_later(HANDSHAKE_TIMEOUT_S, self._no_hello)

    def lost(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for stream in tuple(self._streams.values()):
            stream.fail(f"connection lost: {reason}")
        self._streams.clear()
        self._owner.departed(self)

    def certificate(self) -> dict[str, Any] | None:
        """What the caller proved itself with, None without TLS. Raises: nothing."""
        if self.transport is None:
            return None
        return self.transport.get_extra_info("peercert") or None

    def remote_host(self) -> str:
        """The address the caller comes from, empty if it has none. Raises: nothing."""
        found = self.transport and self.transport.get_extra_info("peername")
        return str(found[0]) if isinstance(found, tuple) else ""

    def handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self.sender:
            self._greet(kind, payload)
        elif kind == _MESSAGE:
            self._message(flags, stream, payload)
        elif kind == RecordType.PING:
            self.add(record(RecordType.PONG, 0, payload[:64]))
        elif kind == RecordType.OPEN:
            self._open(flags, stream, payload)
        elif kind == RecordType.FINISH:
            found = self._streams.get(stream)
            if found is not None:
                found.take_finish(payload)
        elif kind == RecordType.CANCEL:
            self._assembler.drop(stream)
            found = self._streams.pop(stream, None)
            if found is not None:
                found.fail("aborted by its sender")

    def _greet(self, kind: int, payload: bytes) -> None:
        if kind == RecordType.QUESTION:
            answer = self._owner.answer(payload, self._owner.misfit(self, ()))
            if isinstance(answer, str):
                raise ProtocolError(answer)
            self.add(record(RecordType.ANSWER, 0, answer))
            self.close()
            return
        if kind != RecordType.HELLO:
            raise ProtocolError("the first record is not HELLO")
        hello = read_hello(payload)
        code, reason = self._judge(hello)
        if code is not None:
            _log.warn(
                "refused a member",
                member=f"{hello.sender:x}",
                peer=self.peer_name(),
                reason=reason,
            )
            self.close(code, reason)
            return
        if self._timer is not None:
            self._timer.cancel()
        self.sender = hello.sender
        self.lane = Lane(hello.lane)
        options = self._owner.options
        welcome = Welcome(
            cluster_id=options.cluster_id,
            member_id=options.member_id,
            message_bytes_max=options.message_bytes_max,
        )
        self.add(record(RecordType.WELCOME, 0, write_welcome(welcome)))
        self._owner.admitted(self)

    def _judge(self, hello: Hello) -> tuple[GoAway | None, str]:
        if hello.role is not Role.MEMBER or hello.lane > max(Lane):
            return GoAway.PROTOCOL, "a client called the address for members"
        reason = self._owner.mistaken(hello.cluster_id, hello.to, hello.sender)
        if reason:
            foreign = hello.cluster_id != self._owner.options.cluster_id
            return (GoAway.CLUSTER if foreign else GoAway.MEMBER), reason
        return self._owner.judge(hello.sender, self)

    def _message(self, flags: int, stream: int, payload: bytes) -> None:
        whole = payload
        found: TcpIncomingStream | None = None
        if stream:
            found = self._streams.get(stream)
            if found is None:
                self._assembler.drop(stream)
                return
        if flags & _MORE or self._assembler.holds(stream):
            if not self._assembler.holds(stream):
                self._check_size(total_of(payload))
                if found is not None:
                    found.check_credit()
            parts = self._assembler.add(_MESSAGE, flags, stream, payload)
            if parts is None:
                return
            whole = parts[3]
        if found is not None:
            self._owner.count_received(self.sender, len(whole))
            found.take(whole)
        else:
            self._owner.deliver(self.sender, self.lane, whole)

    def _check_size(self, size: int) -> None:
        limit = self._owner.options.message_bytes_max
        if size > limit:
            raise ProtocolError(f"a message of {size} bytes is over the limit {limit}")

    def _open(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & _MORE or stream <= self._last_stream:
            raise ProtocolError("a stream between members was opened wrongly")
        if self.lane is not Lane.BULK:
            raise ProtocolError("a stream was opened outside the bulk lane")
        self._last_stream = stream
        if len(self._streams) >= PEER_STREAMS_MAX:
            self.add(record(RecordType.END, stream, write_end(_TOO_MANY_STREAMS)))
            return
        head = read_open(payload)
        self._streams[stream] = found = TcpIncomingStream(
            self,
            stream,
            self.sender,
            payload[head.message_at :],
            self._owner.options.stream_window_bytes,
            self._forget,
        )
        self._owner.opened(found)

    def _forget(self, stream: int) -> None:
        self._streams.pop(stream, None)
        self._assembler.drop(stream)

    def _no_hello(self) -> None:
        self.fail(GoAway.TIMEOUT, "no HELLO came in time")
