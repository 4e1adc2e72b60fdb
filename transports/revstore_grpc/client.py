"""A client of the transport "grpc": calls in bytes, errors as ApiError.

Rules of this file:

1. A channel has at most one connection that takes new calls; it is made when a call
   needs it, and made anew by the first call after it broke or was told to go away. A
   call is never sent twice.
2. What the server surely did not look at (a call beyond its GOAWAY, a refused stream)
   fails as not sent; everything else that a broken connection takes along may or may
   not have happened.
3. The connection is always read. A stream whose messages nobody takes is held in the
   machine, and holds up no other.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from revstore.api.errors import Code
from revstore.errors import ApiError, Unavailable, UsageError
from revstore.interfaces.channel import (
    NO_METADATA,
    ChannelOptions,
    ChannelStream,
    ChannelTls,
    NotSent,
)
from revstore.net.addresses import Address
from revstore.net.channels import LinkChannel
from revstore.net.dial import dial
from revstore.net.tls import channel_context, client_context
from revstore_grpc.addresses import parse_url
from revstore_grpc.calls import DEADLINE_PASSED
from revstore_grpc.limits import INBOX_BYTES_MAX, MESSAGE_COST_BYTES
from revstore_grpc.link import Link
from revstore_http2.client import ClientConnection
from revstore_http2.codes import ErrorCode
from revstore_http2.events import (
    CallEnded,
    CallsAllowed,
    ConnectionFailed,
    Event,
    GoingAway,
    MessageReceived,
    Pairs,
    ResponseStarted,
    Writable,
)
from revstore_http2.limits import Limits

MESSAGE_BYTES_MAX = 2**32 - 1
"""A client trusts its server: answers may have any length that gRPC has."""

_CANCELLED = ApiError(Code.CANCELLED, "context canceled")


class _Unary:
    """A unary call on its way."""

    __slots__ = ("future", "message")

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        self.future = future
        self.message = b""


class ClientCall(Protocol):
    """A call with any number of messages, as its connection sees it."""

    def head(self, pairs: Pairs) -> None:
        """The server takes the call; its metadata. Raises: nothing."""
        ...

    def take(self, message: bytes) -> None:
        """A message came. Raises: nothing."""
        ...

    def room(self) -> None:
        """More may be sent. Raises: nothing."""
        ...

    def end(self, error: ApiError | None) -> None:
        """The call is over. Raises: nothing."""
        ...


class ClientLink(Link):
    """A client's connection and the calls that run on it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: str,
        authority: str,
        scheme: str,
        limits: Limits,
    ) -> None:
        self.connection = ClientConnection(
            authority, limits, now=loop.time(), scheme=scheme
        )
        super().__init__(loop, self.connection)
        self.url = url
        self.unary: dict[int, _Unary] = {}
        self.streams: dict[int, ClientCall] = {}
        self.leaving = False
        """Whether the server takes no new calls on this connection."""
        self.reason = f"connection to {url} lost"
        self._room: asyncio.Future[None] | None = None

    @property
    def usable(self) -> bool:
        """Whether new calls may go here, now or soon."""
        return not self.closing and not self.leaving and not self.connection.over

    async def wait_for_room(self) -> None:
        """Return when another call may be made, or none ever. Raises: nothing."""
        while self.usable and not self.connection.can_call:
            if self._room is None or self._room.done():
                self._room = self.loop.create_future()
            await asyncio.wait([self._room])

    def start(
        self,
        path: str,
        message: bytes | None,
        metadata: Mapping[str, str],
        timeout_s: float | None = None,
    ) -> int:
        """Start a call; its number. Raises: NotSent; ApiError: bad metadata."""
        if self.closing:
            raise NotSent(self.reason)
        try:
            number = self.connection.call(
                path, message, timeout_s=timeout_s, pairs=metadata.items()
            )
        except Unavailable as error:
            raise NotSent(f"{self.url} takes no new calls: {error}") from error
        except UsageError as error:
            raise ApiError(Code.INTERNAL, str(error)) from error
        if not self.awake:
            self.wake()
        return number

    async def call(
        self,
        path: str,
        message: bytes,
        metadata: Mapping[str, str] = NO_METADATA,
        timeout_s: float | None = None,
    ) -> bytes:
        """Make a unary call. Raises: NotSent, ApiError."""
        number = self.start(path, message, metadata, timeout_s)
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.unary[number] = _Unary(future)
        timer = None
        if timeout_s is not None:
            timer = self.loop.call_later(timeout_s, self.expire, number)
        try:
            return await future
        except asyncio.CancelledError:
            if self.unary.pop(number, None) is not None:
                self.give_up(number)
            raise
        finally:
            # A future's exception knows this frame: without this, a cycle.
            del future
            if timer is not None:
                timer.cancel()

    def give_up(self, number: int) -> None:
        """Nobody waits for a call any more. Raises: nothing."""
        self.connection.reset(number, ErrorCode.CANCEL)
        self.wake()

    def expire(self, number: int) -> None:
        """The deadline of a unary call passed. Raises: nothing."""
        call = self.unary.pop(number, None)
        if call is not None:
            self.give_up(number)
            if not call.future.done():
                call.future.set_exception(DEADLINE_PASSED.fresh())

    # The connection.

    def on_made(self) -> None:
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self.awake = True
        unary = self.unary
        for event in self.connection.receive(data, self.loop.time()):
            if type(event) is MessageReceived and event.stream_id in unary:
                unary[event.stream_id].message = event.message
            else:
                self.on_event(event)
        self.flush()

    def on_event(self, event: Event) -> None:
        match event:
            case MessageReceived():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.take(event.message)
            case ResponseStarted():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.head(event.pairs)
            case CallEnded():
                self._ended(event)
            case Writable():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.room()
            case CallsAllowed():
                self._make_room()
            case GoingAway():
                self.leaving = True
                self.reason = f"{self.url} goes away: {event.reason or event.code}"
                self._make_room()
                self._leave_if_idle()
            case ConnectionFailed():
                self.reason = f"connection to {self.url} failed: {event.reason}"
                self.note(event)
            case _:
                self.note(event)

    def on_lost(self, reason: str) -> None:
        if not self.leaving:
            self.reason = f"{self.reason}: {reason}"
        self._make_room()

    def _ended(self, event: CallEnded) -> None:
        error: ApiError | None = None
        if event.unprocessed:
            error = NotSent(event.text)
        elif event.code:
            error = ApiError(event.code, event.text)
        call = self.unary.pop(event.stream_id, None)
        if call is not None:
            if not call.future.done():
                if error is None:
                    call.future.set_result(call.message)
                else:
                    call.future.set_exception(error)
        else:
            stream = self.streams.pop(event.stream_id, None)
            if stream is not None:
                stream.end(error)
        if self.leaving:
            self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if not self.unary and not self.streams and not self.closing:
            self.connection.close()
            self.wake()

    def _make_room(self) -> None:
        wake(self._room)


class GrpcClientStream(ChannelStream):
    """The client's end of a streaming call; one task reads, one writes."""

    def __init__(self, link: ClientLink, number: int) -> None:
        self._link = link
        self._number = number
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._held = False
        """Whether the machine keeps back what comes."""
        self._over = False
        self._error: ApiError | None = None
        self._congested = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    async def send(self, message: bytes) -> None:
        link = self._link
        while self._congested and not self._over:
            self._writer = link.loop.create_future()
            await self._writer
        if self._over:
            if self._error is not None:
                raise self._error.fresh()
            return
        queued = link.connection.send(self._number, message)
        self._congested = queued >= link.connection.limits.stream_high_bytes
        link.wake()

    async def half_close(self) -> None:
        if not self._over:
            self._link.connection.half_close(self._number)
            self._link.wake()

    async def receive(self) -> bytes | None:
        inbox = self._inbox
        while not inbox:
            if self._over:
                if self._error is not None:
                    raise self._error.fresh()
                return None
            self._reader = self._link.loop.create_future()
            await self._reader
        message = inbox.popleft()
        self._inbox_bytes -= len(message) + MESSAGE_COST_BYTES
        if self._held and self._inbox_bytes < INBOX_BYTES_MAX // 2:
            self._held = False
            self._link.handle(self._link.connection.release(self._number))
        return message

    async def cancel(self) -> None:
        if self._over:
            return
        self._link.streams.pop(self._number, None)
        self._link.give_up(self._number)
        self._inbox.clear()
        self.end(_CANCELLED)

    # From the connection.

    def head(self, pairs: Pairs) -> None:
        """The server takes the call. Raises: nothing."""

    def take(self, message: bytes) -> None:
        """A message came. Raises: nothing."""
        self._inbox.append(message)
        self._inbox_bytes += len(message) + MESSAGE_COST_BYTES
        if self._inbox_bytes >= INBOX_BYTES_MAX and not self._held:
            self._held = True
            self._link.connection.hold(self._number)
        wake(self._reader)

    def room(self) -> None:
        """More may be sent. Raises: nothing."""
        self._congested = False
        wake(self._writer)

    def end(self, error: ApiError | None) -> None:
        """The stream is over; what came before can still be received. Raises: nothing."""
        self._over = True
        self._error = error
        wake(self._reader)
        wake(self._writer)


class GrpcChannel(LinkChannel[ClientLink]):
    """A channel to one server; see ``Channel``."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None = None,
        *,
        server_name: str = "",
        options: ChannelOptions | None = None,
    ) -> None:
        super().__init__()
        options = options or ChannelOptions()
        self._address = parse_url(url)
        self._tls = tls
        self._server_name = server_name
        self._connect_timeout_s = options.connect_timeout_s
        self._limits = Limits(
            message_bytes_max=MESSAGE_BYTES_MAX,
            unfinished_bytes_max=2 * MESSAGE_BYTES_MAX,
            keepalive_interval_s=options.keepalive_s,
            keepalive_timeout_s=options.keepalive_timeout_s,
        )

    async def connect(self) -> None:
        await self._ready()

    async def close(self) -> None:
        await self._connect_no_more()
        links, self._links = self._links, set()
        for link in links:
            _end_calls(link)
            link.connection.close()
            link.close()
        await asyncio.gather(*(link.wait_closed() for link in links))

    async def unary(
        self,
        path: str,
        message: bytes,
        metadata: Mapping[str, str] = NO_METADATA,
        timeout_s: float | None = None,
    ) -> bytes:
        link = self._link
        if link is None or not link.usable or not link.connection.can_call:
            if timeout_s is None:
                link = await self._ready()
            else:
                began = asyncio.get_running_loop().time()
                try:
                    async with asyncio.timeout(timeout_s):
                        link = await self._ready()
                except TimeoutError:
                    raise DEADLINE_PASSED.fresh() from None
                timeout_s -= link.loop.time() - began
        return await link.call(path, message, metadata, timeout_s)

    async def server_stream(
        self, path: str, message: bytes, metadata: Mapping[str, str] = NO_METADATA
    ) -> GrpcClientStream:
        return self._open(await self._ready(), path, message, metadata)

    async def bidi_stream(
        self, path: str, metadata: Mapping[str, str] = NO_METADATA
    ) -> GrpcClientStream:
        return self._open(await self._ready(), path, None, metadata)

    def _open(
        self,
        link: ClientLink,
        path: str,
        message: bytes | None,
        metadata: Mapping[str, str],
    ) -> GrpcClientStream:
        number = link.start(path, message, metadata)
        stream = link.streams[number] = GrpcClientStream(link, number)
        return stream

    async def _ready(self) -> ClientLink:
        """A connection that takes a call now, made if there is none. Raises: NotSent."""
        while True:
            link = await self._connected()
            if link.connection.can_call:
                return link
            await link.wait_for_room()

    async def _connect(self) -> ClientLink:
        address = self._address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await connect_link(
                    address, self._limits, self._context(), self._server_name
                )
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            raise NotSent(f"cannot connect to {address.url}: {reason}") from error

    def _context(self) -> ssl.SSLContext | None:
        if not self._address.tls:
            return None
        return self._tls if self._tls is not None else client_context()


async def connect_link(
    address: Address,
    limits: Limits,
    context: ssl.SSLContext | None,
    server_name: str = "",
) -> ClientLink:
    """A connection to an address, ready for calls.

    Raises:
        OSError: nobody answers there, or TLS fails.
    """
    loop = asyncio.get_running_loop()
    host = f"[{address.host}]" if ":" in address.host else address.host
    authority = "localhost" if address.path else f"{host}:{address.port}"
    scheme = "https" if address.tls else "http"

    def make() -> ClientLink:
        return ClientLink(loop, address.url, authority, scheme, limits)

    return await dial(address, make, context, server_name)


def open_channel(url: str, options: ChannelOptions) -> GrpcChannel:
    """A channel with TLS from PEM files. Raises: ConfigError."""
    context = None
    name = ""
    if parse_url(url).tls:
        tls = options.tls or ChannelTls()
        name = tls.server_name
        context = channel_context(tls)
        context.set_alpn_protocols(["h2"])
    return GrpcChannel(url, context, server_name=name, options=options)


def _end_calls(link: ClientLink) -> None:
    error = ApiError(Code.CANCELLED, "the channel was closed")
    calls, link.unary = link.unary, {}
    for call in calls.values():
        if not call.future.done():
            call.future.set_exception(error.fresh())
    streams, link.streams = link.streams, {}
    for stream in streams.values():
        stream.end(error)


def wake(future: asyncio.Future[None] | None) -> None:
    """Let go whoever waits, if anybody does. Raises: nothing."""
    if future is not None and not future.done():
        future.set_result(None)
