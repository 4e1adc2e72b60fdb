"""Checks of the contract of a channel, clause by clause (H-01 to H-06).

Each check serves a small table through the transport under test and calls it through
a proxy that can cut the connection, so that the server and the channel learn of it as
they would from a network. Use::

    @pytest.mark.parametrize("check", CHECKS, ids=name_of)
    def test_contract(check):
        asyncio.run(check(make_transport, "tcp"))

where ``make_transport()`` makes the transport and the other argument is the scheme of
its URLs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from revstore.api.errors import Code
from revstore.errors import ApiError
from revstore.interfaces.channel import Channel, ChannelOptions, ChannelStream, NotSent
from revstore.interfaces.transport import (
    Call,
    ServeOptions,
    Stream,
    StreamHandler,
    Transport,
)
from revstore_conformance.transport import (
    PATIENCE_S,
    bidi,
    failure_of,
    server_stream,
    table_of,
    unary,
    until,
)

MakeTransport = Callable[[], Transport]
Check = Callable[[MakeTransport, str], Coroutine[Any, Any, None]]

OPTIONS = ChannelOptions(connect_timeout_s=5.0)
MESSAGES = 500


class Proxy:
    """Passes bytes on to a server until it cuts them off."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def open(self) -> None:
        """Listen; again on the same port after ``refuse``."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break all connections, without a farewell."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def refuse(self) -> None:
        """Break all connections and take no new ones."""
        if self._server is not None:
            self._server.close()
        self.cut()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there[1]}
        try:
            await asyncio.gather(
                self._pass(reader, there[1]), self._pass(there[0], writer)
            )
        finally:
            self._writers -= {writer, there[1]}
            for one in (writer, there[1]):
                one.transport.abort()

    @staticmethod
    async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        except (OSError, RuntimeError):
            pass
        target.transport.abort()


class Service:
    """What the server did, by message: how often, and which calls still wait."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.waiting: list[Call] = []
        self.handlers: list[EchoHandler] = []

    def echo(self, call: Call, message: bytes) -> None:
        """Answer with the message."""
        self.seen.append(message)
        call.reply(message)

    def hold(self, call: Call, message: bytes) -> None:
        """Never answer."""
        self.seen.append(message)
        self.waiting.append(call)

    def refuse(self, call: Call, message: bytes) -> None:
        """Refuse as a member without a leader does."""
        call.fail(ApiError(Code.UNAVAILABLE, message.decode()))

    def metadata(self, call: Call, message: bytes) -> None:
        """Answer with a value of the metadata."""
        call.reply(call.metadata().get(message.decode(), "none").encode())

    def open(self, stream: Stream) -> StreamHandler:
        """Echo what comes; an empty message is answered with many."""
        handler = EchoHandler(stream)
        self.handlers.append(handler)
        return handler


class EchoHandler(StreamHandler):
    """Sends back, or counts up when asked by an empty message."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.ended = False
        """Told that the client is gone, or that it sends no more: grpcio's server says
        the latter of an idle stream that is cancelled."""
        self.got: list[bytes] = []
        self._next = 0

    def on_message(self, message: bytes) -> None:
        self.got.append(message)
        if message:
            self.stream.send(message)
        else:
            self._next = 1
            self._count()

    def on_writable(self) -> None:
        self._count()

    def on_half_close(self) -> None:
        self.ended = True
        self.stream.finish()

    def on_cancel(self) -> None:
        self.ended = True

    def _count(self) -> None:
        while 0 < self._next <= MESSAGES and self.stream.writable():
            self.stream.send(b"%d" % self._next)
            self._next += 1


@asynccontextmanager
async def calling(
    make: MakeTransport, scheme: str
) -> AsyncIterator[tuple[Channel, Service, Proxy]]:
    """A channel to a server, with a proxy between."""
    service = Service()
    table = table_of(
        unary("/t.T/Echo", service.echo),
        unary("/t.T/Hold", service.hold),
        unary("/t.T/Refuse", service.refuse),
        unary("/t.T/Metadata", service.metadata),
        bidi("/t.T/Stream", service.open),
        server_stream("/t.T/Answers", service.open),
    )
    transport = make()
    options = ServeOptions(urls=[f"{scheme}://127.0.0.1:0"])
    server = await transport.serve_clients(table, options)
    proxy = Proxy(int(server.addresses()[0].rpartition(":")[2]))
    await proxy.open()
    try:
        channel = transport.open_channel(f"{scheme}://127.0.0.1:{proxy.port}", OPTIONS)
        async with channel:
            yield channel, service, proxy
    finally:
        await proxy.refuse()
        await server.drain(0)


async def receive(stream: ChannelStream) -> bytes | None:
    """The next message, with a bound on the wait."""
    return await asyncio.wait_for(stream.receive(), PATIENCE_S)


async def answered(channel: Channel, message: bytes) -> bytes:
    """The answer to an echo, tried until the channel has connected again."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            return await channel.unary("/t.T/Echo", message)
        except ApiError as error:
            late = asyncio.get_running_loop().time() > deadline
            if late or error.code != Code.UNAVAILABLE:
                raise
            await asyncio.sleep(0.01)


async def check_h01_nothing_listens(make: MakeTransport, scheme: str) -> None:
    """H-01: whatever is called where nobody listens was not sent."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    channel = make().open_channel(f"{scheme}://127.0.0.1:{port}", OPTIONS)
    async with channel:
        for work in (
            channel.connect(),
            channel.unary("/t.T/Echo", b"x"),
            channel.server_stream("/t.T/Answers", b"x"),
            channel.bidi_stream("/t.T/Stream"),
        ):
            error = await failure_of(work)
            assert isinstance(error, NotSent), error
            assert error.code == Code.UNAVAILABLE


async def check_h01_cut_off_is_not_unsent(make: MakeTransport, scheme: str) -> None:
    """H-01, H-02: a call that the server has when the connection breaks is not called
    unsent, and the server does not see it again."""
    async with calling(make, scheme) as (channel, service, proxy):
        call = asyncio.ensure_future(channel.unary("/t.T/Hold", b"once"))
        await until(lambda: bool(service.waiting), "the server has the call")
        proxy.cut()
        error = await failure_of(call)
        assert error.code == Code.UNAVAILABLE
        assert not isinstance(error, NotSent)
        await answered(channel, b"after")
        assert service.seen.count(b"once") == 1


async def check_h01_a_refusal_is_not_unsent(make: MakeTransport, scheme: str) -> None:
    """H-01: the server's own UNAVAILABLE comes as it is, with its text."""
    async with calling(make, scheme) as (channel, _, _):
        error = await failure_of(channel.unary("/t.T/Refuse", b"no leader"))
        assert (error.code, error.message) == (Code.UNAVAILABLE, "no leader")
        assert not isinstance(error, NotSent)


async def check_h02_sent_once_over_cuts(make: MakeTransport, scheme: str) -> None:
    """H-02: of calls under which connections break none arrives twice, and each that
    is said not to have left has not arrived."""
    async with calling(make, scheme) as (channel, service, proxy):
        unsent: list[bytes] = []

        async def one(number: int) -> None:
            message = b"%d" % number
            try:
                await channel.unary("/t.T/Echo", message)
            except NotSent:
                unsent.append(message)
            except ApiError as error:
                if error.code != Code.UNAVAILABLE:
                    raise

        for first in range(0, 100, 10):
            calls = asyncio.gather(*(one(n) for n in range(first, first + 10)))
            for _ in range(first // 10):
                await asyncio.sleep(0)
            proxy.cut()
            await asyncio.wait_for(calls, PATIENCE_S)
        await answered(channel, b"end")
        assert len(service.seen) == len(set(service.seen))
        assert not set(unsent) & set(service.seen)


async def check_h03_connects_anew(make: MakeTransport, scheme: str) -> None:
    """H-03: after the server was away calls are answered again, without a new channel."""
    async with calling(make, scheme) as (channel, _, proxy):
        assert await answered(channel, b"before") == b"before"
        await proxy.refuse()
        error = await failure_of(channel.unary("/t.T/Echo", b"away"))
        assert error.code == Code.UNAVAILABLE
        await proxy.open()
        assert await answered(channel, b"back") == b"back"


async def check_h04_messages_in_order(make: MakeTransport, scheme: str) -> None:
    """H-04: many messages of any size come back as they went, then the end."""
    async with calling(make, scheme) as (channel, _, _):
        stream = await channel.bidi_stream("/t.T/Stream")
        wanted = [b"x" * (number * 37 % 4000 + 1) for number in range(MESSAGES)]

        async def write() -> None:
            for message in wanted:
                await stream.send(message)
            await stream.half_close()

        writing = asyncio.ensure_future(write())
        got = [await receive(stream) for _ in wanted]
        assert got == wanted
        assert await receive(stream) is None
        await writing


async def check_h04_answers_in_order(make: MakeTransport, scheme: str) -> None:
    """H-04: a stream of answers to one message, read slowly."""
    async with calling(make, scheme) as (channel, service, _):
        stream = await channel.server_stream("/t.T/Answers", b"")
        for number in range(1, MESSAGES + 1):
            assert await receive(stream) == b"%d" % number
        await stream.cancel()
        await until(lambda: service.handlers[0].ended, "the server hears of it")


async def check_h04_a_cut_stream_is_over(make: MakeTransport, scheme: str) -> None:
    """H-04: it fails and does not go on, whatever the next connection does."""
    async with calling(make, scheme) as (channel, service, proxy):
        stream = await channel.bidi_stream("/t.T/Stream")
        await stream.send(b"one")
        assert await receive(stream) == b"one"
        proxy.cut()
        error = await failure_of(stream.receive())
        assert error.code == Code.UNAVAILABLE
        await answered(channel, b"again")
        assert (await failure_of(stream.receive())).code == Code.UNAVAILABLE
        await until(lambda: service.handlers[0].ended, "the server hears of it")
        assert service.handlers[0].got == [b"one"]


async def check_h05_cancelled_calls_are_told(make: MakeTransport, scheme: str) -> None:
    """H-05: the server knows that nobody waits for a call or a stream any more."""
    async with calling(make, scheme) as (channel, service, _):
        call = asyncio.ensure_future(channel.unary("/t.T/Hold", b"x"))
        await until(lambda: bool(service.waiting), "the server has the call")
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        await until(service.waiting[0].cancelled, "the server hears of it")
        stream = await channel.bidi_stream("/t.T/Stream")
        await stream.send(b"x")
        assert await receive(stream) == b"x"
        await stream.cancel()
        await stream.cancel()
        await until(lambda: service.handlers[0].ended, "the server hears of that")
        assert await answered(channel, b"goes on") == b"goes on"


async def check_h05_deadlines(make: MakeTransport, scheme: str) -> None:
    """H-05: a call without an answer ends at its time, on both sides."""
    async with calling(make, scheme) as (channel, service, _):
        await channel.connect()
        error = await failure_of(channel.unary("/t.T/Hold", b"x", timeout_s=0.3))
        assert error.code == Code.DEADLINE_EXCEEDED
        await until(service.waiting[0].cancelled, "the server gives up, too")


async def check_h06_closing(make: MakeTransport, scheme: str) -> None:
    """H-06: closing ends what goes on; closing again is nothing; nothing can begin."""
    async with calling(make, scheme) as (channel, service, _):
        call = asyncio.ensure_future(channel.unary("/t.T/Hold", b"x"))
        stream = await channel.bidi_stream("/t.T/Stream")
        await stream.send(b"x")
        assert await receive(stream) == b"x"
        await until(lambda: bool(service.waiting), "the server has the call")
        reading = asyncio.ensure_future(stream.receive())
        await asyncio.sleep(0)
        await channel.close()
        await channel.close()
        for work in (call, reading):
            await asyncio.wait([work], timeout=PATIENCE_S)
            assert work.done()
            assert work.cancelled() or isinstance(work.exception(), ApiError)
        assert isinstance(await failure_of(channel.unary("/t.T/Echo", b"x")), NotSent)
        assert isinstance(await failure_of(channel.connect()), NotSent)


async def check_metadata_is_carried(make: MakeTransport, scheme: str) -> None:
    """Names and values reach the service."""
    async with calling(make, scheme) as (channel, _, _):
        for value in ("true", "abc.1"):
            metadata = {"hasleader": value, "token": "t"}
            found = await channel.unary("/t.T/Metadata", b"hasleader", metadata)
            assert found == value.encode()


CHECKS: tuple[Check, ...] = (
    check_h01_nothing_listens,
    check_h01_cut_off_is_not_unsent,
    check_h01_a_refusal_is_not_unsent,
    check_h02_sent_once_over_cuts,
    check_h03_connects_anew,
    check_h04_messages_in_order,
    check_h04_answers_in_order,
    check_h04_a_cut_stream_is_over,
    check_h05_cancelled_calls_are_told,
    check_h05_deadlines,
    check_h06_closing,
    check_metadata_is_carried,
)
"""All checks, in the order of the clauses."""


def name_of(check: Check) -> str:
    """A check's name for a test id."""
    return getattr(check, "__name__", repr(check)).removeprefix("check_")
