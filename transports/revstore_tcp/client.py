"""A client of the transport "tcp": calls in bytes, errors as ApiError.

Rules of this file:

1. A channel has at most one connection; it is made when a call needs it, and made anew
   by the first call after it broke. A call is never sent twice: what was on its way when
   the connection broke fails with UNAVAILABLE and may or may not have happened.
2. The connection is always read. What a server may send without being asked is bounded
   by each stream's window, so one that nobody reads holds up no other.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping

from revstore.api.errors import Code, message_too_large
from revstore.errors import ApiError
from revstore.interfaces.channel import (
    NO_METADATA,
    ChannelOptions,
    ChannelStream,
    ChannelTls,
    NotSent,
)
from revstore.net.channels import LinkChannel
from revstore.net.dial import dial
from revstore.net.tls import channel_context
from revstore_tcp.addresses import parse_url
from revstore_tcp.calls import DEADLINE_PASSED
from revstore_tcp.framing import (
    MAGIC,
    Assembler,
    Flag,
    RecordType,
    cut,
    frame,
    record,
    total_of,
)
from revstore_tcp.limits import (
    HANDSHAKE_TIMEOUT_S,
    HEAD_BYTES_MAX,
    MESSAGE_COST,
    RECORD_PAYLOAD_MAX,
    STREAM_WINDOW,
)
from revstore_tcp.link import Cut, Link
from revstore_tcp.messages import (
    GoAway,
    Hello,
    Role,
    Welcome,
    read_end,
    read_goaway,
    read_number,
    read_welcome,
    write_hello,
    write_metadata,
    write_number,
    write_open,
)
from revstore_tcp.outgoing import Outgoing

_OPEN = int(RecordType.OPEN)
_END = int(RecordType.END)
_MESSAGE = int(RecordType.MESSAGE)
_BODY = int(Flag.BODY)
_MORE = int(Flag.MORE)
_STREAM_MAX = 0xFFFF_FFFF
_TIMEOUT_MS_MAX = 0xFFFF_FFFF
_HELLO = MAGIC + frame(record(RecordType.HELLO, 0, write_hello(Hello(Role.CLIENT))))


def _unavailable(text: str) -> ApiError:
    return ApiError(Code.UNAVAILABLE, text)


class ClientLink(Link):
    """A client's connection and the calls that run on it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: str,
        keepalive_s: float,
        keepalive_timeout_s: float,
        answer_bytes_max: int,
    ) -> None:
        super().__init__(loop, greeting=False)
        self.url = url
        self.welcome: asyncio.Future[Welcome] = loop.create_future()
        self.unary: dict[int, asyncio.Future[bytes]] = {}
        self.streams: dict[int, TcpClientStream] = {}
        self.draining = False
        """Whether the server takes no new calls on this connection."""
        self.slots: asyncio.Semaphore | None = None
        self.error = _unavailable(f"connection to {url} lost")
        self._next = 1
        self._assembler = Assembler()
        self._answer_bytes_max = answer_bytes_max
        self._keepalive_s = keepalive_s
        self._keepalive_timeout_s = keepalive_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0

    @property
    def usable(self) -> bool:
        """Whether a new call may go here."""
        return not self.closing and not self.draining and self._next < _STREAM_MAX

    @property
    def reason(self) -> str:
        """Why calls fail here once it is over."""
        return self.error.message

    def open(self, path: str, metadata: bytes, timeout_ms: int, message: bytes) -> int:
        """Send a unary call or the opening of a stream of answers; its number."""
        number = self._next
        self._next += 1
        payload = write_open(path.encode(), metadata, timeout_ms, message)
        if len(payload) <= RECORD_PAYLOAD_MAX:
            self.add(record(_OPEN, number, payload, _BODY))
        else:
            records = cut(_OPEN, number, payload, _BODY)
            # The first part of a call leaves in its turn: numbers must not go back.
            self.add(next(records))
            self.activate(Cut(self, payload, records))
        return number

    def open_bare(self, path: str, metadata: bytes, timeout_ms: int) -> int:
        """Open a stream without a message; its number."""
        number = self._next
        self._next += 1
        payload = write_open(path.encode(), metadata, timeout_ms, b"")
        self.add(record(_OPEN, number, payload))
        return number

    def cancel(self, number: int) -> None:
        """Tell the server that nobody waits any more. Raises: nothing."""
        self._assembler.drop(number)
        self.add(record(RecordType.CANCEL, number))

    # Records.

    def made(self) -> None:
        assert self.transport is not None
        self.transport.write(_HELLO)
        if self._keepalive_s:
            self._timer = self.loop.call_later(self._keepalive_s, self._probe)

    def handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_END, _MESSAGE):
            if flags & _MORE or self._assembler.holds(stream):
                whole = self._part(kind, flags, stream, payload)
                if whole is None:
                    return
                payload = whole
            if kind == _END:
                self._end(stream, payload)
            else:
                found = self.streams.get(stream)
                if found is not None:
                    found.take(payload)
        elif kind == RecordType.CREDIT:
            found = self.streams.get(stream)
            if found is not None:
                found.out.grant(read_number(payload))
        elif kind == RecordType.PING:
            self.add(record(RecordType.PONG, 0, payload[:64]))
        elif kind == RecordType.WELCOME:
            if not self.welcome.done():
                self.welcome.set_result(read_welcome(payload))
        elif kind == RecordType.GOAWAY:
            code, text = read_goaway(payload)
            self.draining = True
            self.error = _unavailable(text)
            if code != GoAway.DRAIN:
                self.abort()

    def fail(self, code: GoAway, text: str) -> None:
        self.error = _unavailable(f"connection to {self.url} ended: {text}")
        self.draining = True
        self.close(code, text)

    def lost(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        error = self.error
        if not self.draining:
            error = _unavailable(f"{error.message}: {reason}")
        if not self.welcome.done():
            self.welcome.set_exception(error)
            # Nobody may be waiting for it any more.
            self.welcome.exception()
        for future in self.unary.values():
            if not future.done():
                future.set_exception(error.fresh())
        self.unary.clear()
        for stream in tuple(self.streams.values()):
            stream.end(error)
        self.streams.clear()

    def _part(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes | None:
        if not self._assembler.holds(stream):
            if stream not in self.unary and stream not in self.streams:
                return None
            size = total_of(payload)
            limit = self._answer_bytes_max
            if limit and size > limit:
                self._end_with(stream, message_too_large(size, limit))
                self.cancel(stream)
                return None
        elif stream not in self.unary and stream not in self.streams:
            self._assembler.drop(stream)
            return None
        whole = self._assembler.add(kind, flags, stream, payload)
        return whole[3] if whole is not None else None

    def _end(self, stream: int, payload: bytes) -> None:
        self._end_with(stream, read_end(payload))

    def _end_with(self, stream: int, outcome: bytes | ApiError) -> None:
        future = self.unary.pop(stream, None)
        if future is not None:
            if future.done():
                return
            if isinstance(outcome, ApiError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
            return
        found = self.streams.pop(stream, None)
        if found is not None:
            found.end(outcome if isinstance(outcome, ApiError) else None)

    # Keepalive.

    def _probe(self) -> None:
        if self.received_bytes == self._heard:
            self.add(record(RecordType.PING, 0))
            delay = self._keepalive_timeout_s
            self._timer = self.loop.call_later(delay, self._unheard)
            return
        self._heard = self.received_bytes
        self._timer = self.loop.call_later(self._keepalive_s, self._probe)

    def _unheard(self) -> None:
        if self.received_bytes == self._heard:
            self.error = _unavailable(f"{self.url} answers no ping")
            self.abort()
        else:
            self._probe()


class TcpClientStream(ChannelStream):
    """The client's end of a streaming call; one task reads, one writes."""

    def __init__(self, link: ClientLink, number: int) -> None:
        self.out = Outgoing(link, number)
        self.out.on_room = self._wake_writer
        self._link = link
        self._number = number
        self._inbox: deque[bytes] = deque()
        self._consumed = 0
        self._over = False
        self._error: ApiError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    async def send(self, message: bytes) -> None:
        """Send one message. Raises: ApiError if the stream ended with an error."""
        while not self._over and not self.out.writable():
            self._writer = self._link.loop.create_future()
            await self._writer
        if self._over:
            if self._error is not None:
                raise self._error.fresh()
            return
        self.out.send(message)

    async def half_close(self) -> None:
        """Say that no more will come. Raises: nothing."""
        self.out.end(record(RecordType.FINISH, self._number))

    async def receive(self) -> bytes | None:
        """The next message, None at the end. Raises: ApiError of the stream."""
        inbox = self._inbox
        while not inbox:
            if self._over:
                if self._error is not None:
                    raise self._error.fresh()
                return None
            self._reader = self._link.loop.create_future()
            await self._reader
        message = inbox.popleft()
        self._consumed += len(message) + MESSAGE_COST
        if self._consumed >= STREAM_WINDOW // 2 and not self._over:
            credit, self._consumed = self._consumed, 0
            payload = write_number(credit)
            self._link.add(record(RecordType.CREDIT, self._number, payload))
        return message

    async def cancel(self) -> None:
        """Give up. Raises: nothing."""
        if self._over:
            return
        self._link.streams.pop(self._number, None)
        self._link.cancel(self._number)
        self._inbox.clear()
        self.end(ApiError(Code.CANCELLED, "context canceled"))

    def take(self, message: bytes) -> None:
        """A message came. Raises: nothing."""
        self._inbox.append(message)
        self._wake(self._reader)

    def end(self, error: ApiError | None) -> None:
        """The stream is over; what came before can still be received. Raises: nothing."""
        self._over = True
        self._error = error
        self.out.discard()
        self._wake(self._reader)
        self._wake(self._writer)

    def _wake_writer(self) -> None:
        self._wake(self._writer)

    @staticmethod
    def _wake(future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)


class TcpChannel(LinkChannel[ClientLink]):
    """A channel to one server; an async context manager.

    ``keepalive_s`` 0 sends no pings. ``answer_bytes_max`` 0 takes answers of any size.
    """

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None = None,
        *,
        server_name: str = "",
        keepalive_s: float = 0.0,
        keepalive_timeout_s: float = 20.0,
        connect_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        answer_bytes_max: int = 0,
    ) -> None:
        super().__init__()
        self._address = parse_url(url)
        self._tls = tls
        self._server_name = server_name
        self._keepalive_s = keepalive_s
        self._keepalive_timeout_s = keepalive_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._answer_bytes_max = answer_bytes_max

    async def connect(self) -> None:
        await self._connected()

    async def close(self) -> None:
        await self._connect_no_more()
        for link in self._links:
            link.error = _unavailable("the channel was closed")
            link.abort()
        if self._links:
            await asyncio.wait([link.closed for link in self._links])

    async def unary(
        self,
        path: str,
        message: bytes,
        metadata: Mapping[str, str] = NO_METADATA,
        timeout_s: float | None = None,
    ) -> bytes:
        """Make a unary call. Raises: ApiError with the server's code and text."""
        head = self._head(path, metadata)
        if timeout_s is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._unary(path, message, head, timeout_s)
            except TimeoutError:
                raise DEADLINE_PASSED.fresh() from None
        return await self._unary(path, message, head, None)

    async def server_stream(
        self, path: str, message: bytes, metadata: Mapping[str, str] = NO_METADATA
    ) -> TcpClientStream:
        """Open a stream of answers to one message. Raises: ApiError: no connection."""
        head = self._head(path, metadata)
        link = await self._connected()
        number = link.open(path, head, 0, message)
        stream = link.streams[number] = TcpClientStream(link, number)
        return stream

    async def bidi_stream(
        self, path: str, metadata: Mapping[str, str] = NO_METADATA
    ) -> TcpClientStream:
        """Open a stream both ways. Raises: ApiError: no connection."""
        head = self._head(path, metadata)
        link = await self._connected()
        number = link.open_bare(path, head, 0)
        stream = link.streams[number] = TcpClientStream(link, number)
        return stream

    async def _unary(
        self, path: str, message: bytes, head: bytes, timeout_s: float | None
    ) -> bytes:
        link = self._link
        if link is None or not link.usable:
            link = await self._connected()
        slots = link.slots
        if slots is None:
            return await self._call(link, path, message, head, timeout_s)
        async with slots:
            return await self._call(link, path, message, head, timeout_s)

    async def _call(
        self,
        link: ClientLink,
        path: str,
        message: bytes,
        head: bytes,
        timeout_s: float | None,
    ) -> bytes:
        if link.closing:
            raise NotSent(link.reason)
        timeout_ms = 0
        if timeout_s is not None:
            timeout_ms = min(max(int(timeout_s * 1000), 1), _TIMEOUT_MS_MAX)
        number = link.open(path, head, timeout_ms, message)
        future: asyncio.Future[bytes] = link.loop.create_future()
        link.unary[number] = future
        try:
            return await future
        except asyncio.CancelledError:
            if link.unary.pop(number, None) is not None:
                link.cancel(number)
            raise

    def _head(self, path: str, metadata: Mapping[str, str]) -> bytes:
        if not metadata:
            return b""
        head = write_metadata(metadata)
        if len(head) + len(path) > HEAD_BYTES_MAX:
            text = f"revstore: the metadata of a call is over {HEAD_BYTES_MAX} bytes"
            raise ApiError(Code.RESOURCE_EXHAUSTED, text)
        return head

    async def _connect(self) -> ClientLink:
        loop = asyncio.get_running_loop()
        address = self._address

        def make() -> ClientLink:
            return ClientLink(
                loop,
                address.url,
                self._keepalive_s,
                self._keepalive_timeout_s,
                self._answer_bytes_max,
            )

        link: ClientLink | None = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                link = await dial(address, make, self._context(), self._server_name)
                welcome = await asyncio.shield(link.welcome)
        except (OSError, TimeoutError) as error:
            if link is not None:
                link.abort()
            reason = str(error) or "no answer in time"
            raise NotSent(f"cannot connect to {address.url}: {reason}") from error
        except ApiError as error:
            if link is not None:
                link.abort()
            raise NotSent(error.message) from error
        except BaseException:
            if link is not None:
                link.abort()
            raise
        if welcome.streams_max:
            link.slots = asyncio.Semaphore(welcome.streams_max)
        return link

    def _context(self) -> ssl.SSLContext | None:
        if not self._address.tls:
            return None
        return self._tls if self._tls is not None else ssl.create_default_context()


def open_channel(url: str, options: ChannelOptions) -> TcpChannel:
    """A channel with TLS from PEM files. Raises: ConfigError."""
    context = None
    name = ""
    if parse_url(url).tls:
        tls = options.tls or ChannelTls()
        name = tls.server_name
        context = channel_context(tls)
    return TcpChannel(
        url,
        context,
        server_name=name,
        keepalive_s=options.keepalive_s,
        keepalive_timeout_s=options.keepalive_timeout_s,
        connect_timeout_s=options.connect_timeout_s,
    )


__all__ = ["TcpChannel", "TcpClientStream", "open_channel"]
