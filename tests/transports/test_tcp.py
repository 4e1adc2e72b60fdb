"""What is particular to the transport "tcp" for clients: sizes, flow control, hostile
clients, addresses, TLS, deadlines, keepalive, draining."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.transports.certificates import Authority

from revstore.errors import ApiError, ConfigError
from revstore.hookspecs import NoOptions, TransportPlugin
from revstore.interfaces.peers import peer_transport
from revstore.interfaces.transport import (
    Call,
    Method,
    ServeOptions,
    Stream,
    StreamHandler,
    TlsOptions,
)
from revstore_conformance.transport import (
    PATIENCE_S,
    bidi,
    failure_of,
    receive,
    server_stream,
    table_of,
    unary,
    until,
)
from revstore_tcp.calls import CLIENT_NAME_KEY
from revstore_tcp.client import TcpChannel
from revstore_tcp.framing import (
    MAGIC,
    FrameReader,
    RecordType,
    frame,
    record,
    records_of,
)
from revstore_tcp.limits import STREAM_WINDOW
from revstore_tcp.messages import (
    GoAway,
    Hello,
    Role,
    read_end,
    read_goaway,
    write_hello,
    write_open,
)
from revstore_tcp.plugin import CAPABILITIES, revstore_register_transport
from revstore_tcp.tls import client_context
from revstore_tcp.transport import TcpServer, TcpTransport

ECHO = unary("/t.S/Echo", lambda call, message: call.reply(message))
LOCAL = "tcp://127.0.0.1:0"
HELLO = MAGIC + frame(record(RecordType.HELLO, 0, write_hello(Hello(Role.CLIENT))))


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine with a bound on its time."""
    asyncio.run(asyncio.wait_for(test, 3 * PATIENCE_S))


@asynccontextmanager
async def serving(*methods: Method, **options: Any) -> AsyncIterator[TcpServer]:
    """A server of these methods."""
    chosen = {"urls": [LOCAL], **options}
    table = table_of(*(methods or (ECHO,)))
    server = await TcpTransport().serve_clients(table, ServeOptions(**chosen))
    try:
        yield server
    finally:
        await server.drain(0)


async def refusal(*urls: str, tls: TlsOptions | None = None) -> str:
    """The message of the error that listening ends with."""
    with pytest.raises(ConfigError) as caught:
        async with serving(urls=urls, tls=tls):
            pass
    return str(caught.value)


class Raw:
    """A client that sends what it likes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self.writer = writer
        self._frames = FrameReader()
        self.records: list[tuple[int, int, int, bytes]] = []

    async def until(self, kind: RecordType) -> bytes:
        """The payload of the next record of a type."""
        while True:
            while self.records:
                found, _, _, payload = self.records.pop(0)
                if found == kind:
                    return payload
            data = await asyncio.wait_for(self._reader.read(65536), PATIENCE_S)
            assert data, f"the server closed before {kind.name}"
            for body in self._frames.feed(data):
                self.records += records_of(body)

    async def closed(self) -> None:
        """Wait until the server has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(self._reader.read(65536), PATIENCE_S):
                pass

    def send(self, *records: bytes) -> None:
        """Send records in one frame."""
        self.writer.write(frame(b"".join(records)))


@asynccontextmanager
async def raw(server: TcpServer, greeting: bytes = HELLO) -> AsyncIterator[Raw]:
    """A connection without a client behind it."""
    parts = urlsplit(server.addresses()[0])
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(greeting)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def test_message_over_the_limit() -> None:
    """A message of the limit passes; a larger one is refused in gRPC's own words, also
    when it is far larger than one record."""

    async def check() -> None:
        async with (
            serving(request_bytes_max=1000) as server,
            TcpChannel(server.addresses()[0]) as client,
        ):
            assert len(await client.unary("/t.S/Echo", bytes(1000))) == 1000
            for size in (1001, 100_000, 5_000_000):
                error = await failure_of(client.unary("/t.S/Echo", bytes(size)))
                text = f"grpc: received message larger than max ({size} vs. 1000)"
                assert error == ApiError(8, text)
            assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_stream_message_over_the_limit() -> None:
    """A message over the limit ends its stream and the handler hears of it."""
    events: list[str] = []

    class Noting(StreamHandler):
        def on_message(self, message: bytes) -> None:
            events.append(f"message {len(message)}")

        def on_cancel(self) -> None:
            events.append("cancel")

    async def check() -> None:
        method = bidi("/t.S/In", lambda _: Noting())
        for size in (11, 1_000_000):
            async with (
                serving(method, request_bytes_max=10) as server,
                TcpChannel(server.addresses()[0]) as client,
            ):
                stream = await client.bidi_stream("/t.S/In")
                await stream.send(bytes(10))
                await stream.send(bytes(size))
                error = await failure_of(stream.receive())
                assert error.code == 8
                assert f"({size} vs. 10)" in error.message
        assert events == ["message 10", "cancel"] * 2

    run(check())


def test_long_answers_and_requests_are_whole() -> None:
    """Messages of many records come out whole, beside one another."""
    sizes = [65_520, 65_536, 1_000_000, 3, 1_999_999]

    async def check() -> None:
        async with serving() as server, TcpChannel(server.addresses()[0]) as client:
            bodies = [bytes([number]) * size for number, size in enumerate(sizes)]
            calls = [client.unary("/t.S/Echo", body) for body in bodies]
            assert await asyncio.gather(*calls) == bodies

    run(check())


def test_an_answer_over_the_clients_limit() -> None:
    """A client with a limit of its own refuses a longer answer and stays usable."""

    async def check() -> None:
        async with (
            serving() as server,
            TcpChannel(server.addresses()[0], answer_bytes_max=100_000) as client,
        ):
            error = await failure_of(client.unary("/t.S/Echo", bytes(200_000)))
            assert error.code == 8
            assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_a_stalled_stream_blocks_no_other() -> None:
    """While one stream's client does not read, another stream and unary calls of the
    same connection go on; the stalled one then gets all."""
    sent: list[int] = []

    class Flood(StreamHandler):
        def __init__(self, stream: Stream) -> None:
            self.stream = stream

        def on_message(self, message: bytes) -> None:
            self.fill()

        def on_writable(self) -> None:
            self.fill()

        def fill(self) -> None:
            while self.stream.writable():
                if len(sent) == 100:
                    self.stream.finish()
                    return
                sent.append(1)
                self.stream.send(bytes(50_000))

    class Talk(StreamHandler):
        def __init__(self, stream: Stream) -> None:
            self.stream = stream

        def on_message(self, message: bytes) -> None:
            self.stream.send(message)

    async def check() -> None:
        methods = server_stream("/t.S/Flood", Flood), bidi("/t.S/Talk", Talk), ECHO
        async with (
            serving(*methods) as server,
            TcpChannel(server.addresses()[0]) as client,
        ):
            stalled = await client.server_stream("/t.S/Flood", b"")
            talk = await client.bidi_stream("/t.S/Talk")
            before = -1
            while len(sent) != before:
                before = len(sent)
                for number in range(20):
                    await talk.send(b"%d" % number)
                    assert await receive(talk) == b"%d" % number
                    assert await client.unary("/t.S/Echo", b"x") == b"x"
            assert len(sent) < 100, "nothing held the stream back"
            total = 0
            while (message := await receive(stalled)) is not None:
                total += len(message)
            assert total == 100 * 50_000

    run(check())


def test_client_that_never_reads_is_not_read_from() -> None:
    """A stream whose client only sends is held back once its answers fill the queue,
    and nothing is lost."""
    seen: list[int] = []

    class Loud(StreamHandler):
        def __init__(self, stream: Stream) -> None:
            self.stream = stream

        def on_message(self, message: bytes) -> None:
            seen.append(len(message))
            self.stream.send(bytes(200_000))

    async def check() -> None:
        async with (
            serving(bidi("/t.S/Loud", Loud)) as server,
            TcpChannel(server.addresses()[0]) as client,
        ):
            stream = await client.bidi_stream("/t.S/Loud")
            for _ in range(200):
                await stream.send(b"more")
            await stream.half_close()
            quiet, before = 0, -1
            while quiet < 50:
                quiet = quiet + 1 if len(seen) == before else 0
                before = len(seen)
                await asyncio.sleep(0.001)
            assert len(seen) < 20
            for _ in range(200):
                assert len(await receive(stream) or b"") == 200_000
            assert len(seen) == 200

    run(check())


def test_client_that_takes_no_answers_is_not_read() -> None:
    """A client that never reads its socket stops being served before its answers fill
    the memory, others do not notice, and it gets all of them when it reads."""
    served: list[int] = []

    def answer(call: Call, message: bytes) -> None:
        served.append(1)
        call.reply(bytes(100_000))

    async def check() -> None:
        count = 2000
        async with (
            serving(unary("/t.S/Big", answer), ECHO) as server,
            raw(server) as client,
            TcpChannel(server.addresses()[0]) as other,
        ):
            payload = write_open(b"/t.S/Big", b"", 0, b"")
            for number in range(1, count + 1):
                client.send(record(RecordType.OPEN, number, payload, 2))
            quiet, before = 0, -1
            while quiet < 20:
                quiet = quiet + 1 if len(served) == before else 0
                before = len(served)
                assert await other.unary("/t.S/Echo", b"x") == b"x"
                await asyncio.sleep(0.001)
            assert len(served) < 200
            reader = FrameReader()
            ends = 0
            while ends < count:
                data = await asyncio.wait_for(client._reader.read(1 << 20), PATIENCE_S)
                assert data
                for body in reader.feed(data):
                    for kind, flags, _, _ in records_of(body):
                        ends += kind == RecordType.END and not flags & 1
            assert len(served) == count

    run(check())


def test_credit_is_enforced() -> None:
    """A client that sends on a stream without credit loses its connection, and nobody
    else's."""

    class Hold(StreamHandler):
        def __init__(self, stream: Stream) -> None:
            stream.send(bytes(1_500_000))
            stream.send(bytes(1_500_000))

    async def check() -> None:
        async with (
            serving(bidi("/t.S/Hold", Hold), ECHO) as server,
            raw(server) as client,
            TcpChannel(server.addresses()[0]) as other,
        ):
            assert await other.unary("/t.S/Echo", b"x") == b"x"
            head = write_open(b"/t.S/Hold", b"", 0, b"")
            client.send(record(RecordType.OPEN, 1, head))
            # The second answer waits for credit, so the messages stay in the inbox.
            for _ in range(2 + STREAM_WINDOW // 60_000):
                client.send(record(RecordType.MESSAGE, 1, bytes(60_000)))
            code, reason = read_goaway(await client.until(RecordType.GOAWAY))
            assert code == GoAway.PROTOCOL
            assert "without credit" in reason
            assert await other.unary("/t.S/Echo", b"y") == b"y"

    run(check())


def test_deadline_cancels_the_call() -> None:
    """When the client's deadline passes the service can see it, and its late answer is
    dropped."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with (
            serving(method, ECHO) as server,
            TcpChannel(server.addresses()[0]) as client,
        ):
            error = await failure_of(client.unary("/t.S/Park", b"", timeout_s=0.05))
            assert error == ApiError(4, "context deadline exceeded")
            await until(lambda: calls[0].cancelled(), "the cancellation")
            calls[0].reply(b"late")
            assert await client.unary("/t.S/Echo", b"x", timeout_s=10) == b"x"

    run(check())


def test_the_server_keeps_the_deadline_too() -> None:
    """A deadline in OPEN ends the call at the server though the client only waits; a
    stream's handler hears of it."""
    events: list[str] = []

    class Noting(StreamHandler):
        def on_cancel(self) -> None:
            events.append("cancel")

    async def check() -> None:
        methods = (
            unary("/t.S/Park", lambda call, message: None),
            bidi("/t.S/In", lambda _: Noting()),
        )
        async with serving(*methods) as server, raw(server) as client:
            for number, path in enumerate((b"/t.S/Park", b"/t.S/In"), 1):
                payload = write_open(path, b"", 20, b"")
                client.send(record(RecordType.OPEN, number, payload, 2))
                found = read_end(await client.until(RecordType.END))
                assert found == ApiError(4, "context deadline exceeded")
        assert events == ["cancel"]

    run(check())


def test_cancelling_the_task_cancels_the_call() -> None:
    """A client task that is cancelled gives the call up at the server."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with (
            serving(method) as server,
            TcpChannel(server.addresses()[0]) as client,
        ):
            task = asyncio.ensure_future(client.unary("/t.S/Park", b""))
            await until(lambda: bool(calls), "the call")
            task.cancel()
            await until(lambda: calls[0].cancelled(), "the cancellation")

    run(check())


def test_more_calls_than_the_server_takes_wait_for_their_turn() -> None:
    """With a bound on calls the client's own queue holds the rest; a client that does
    not keep it is refused."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with (
            serving(method, concurrent_streams_max=3) as server,
            TcpChannel(server.addresses()[0]) as client,
            raw(server) as rude,
        ):
            tasks = [
                asyncio.ensure_future(client.unary("/t.S/Park", b"")) for _ in range(7)
            ]
            for answered in range(7):
                await until(lambda a=answered: len(calls) > a, "a call")  # type: ignore[misc] # mypy cannot infer a lambda's default
                assert len(calls) - answered <= 3
                calls[answered].reply(b"")
            await asyncio.gather(*tasks)
            for number in range(1, 5):
                payload = write_open(b"/t.S/Park", b"", 0, b"")
                rude.send(record(RecordType.OPEN, number, payload, 2))
            found = read_end(await rude.until(RecordType.END))
            assert isinstance(found, ApiError)
            assert found.code == 8

    run(check())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(300),
        MAGIC + bytes(8),
        MAGIC + frame(b"no record"),
        MAGIC + frame(record(RecordType.PING, 0)),
        MAGIC + frame(record(RecordType.HELLO, 0, b"short")),
        MAGIC + frame(record(RecordType.HELLO, 0, write_hello(Hello(Role.MEMBER)))),
        HELLO + b"\xff" * 8,
        HELLO + frame(record(RecordType.OPEN, 1, b"")),
        HELLO + frame(record(RecordType.OPEN, 1, b"\0\0\0\0\xff\xff\xff\xff")),
        HELLO + frame(record(RecordType.MESSAGE, 5, b"x")),
        HELLO + frame(record(RecordType.CREDIT, 5, b"")),
        HELLO + frame(record(RecordType.OPEN, 1, b"\0\0", 1)),
    ],
)
def test_what_is_not_the_protocol_ends_one_connection(data: bytes) -> None:
    """Whatever else than the protocol comes: a GOAWAY with the reason, the end of that
    connection, and nothing for others."""

    async def check() -> None:
        async with (
            serving() as server,
            TcpChannel(server.addresses()[0]) as other,
        ):
            assert await other.unary("/t.S/Echo", b"x") == b"x"
            async with raw(server, data) as client:
                code, reason = read_goaway(await client.until(RecordType.GOAWAY))
                assert code == GoAway.PROTOCOL
                assert reason
                await client.closed()
            assert await other.unary("/t.S/Echo", b"y") == b"y"

    run(check())


@settings(max_examples=25, deadline=None)
@given(some.lists(some.binary(max_size=80), min_size=1, max_size=5))
def test_garbage_never_disturbs_others(pieces: list[bytes]) -> None:
    """Random bytes, bare or in good frames, leave the server serving and without
    anything of that connection left."""

    async def check() -> None:
        async with (
            serving() as server,
            TcpChannel(server.addresses()[0]) as other,
        ):
            for piece in pieces:
                async with raw(server, HELLO) as client:
                    if piece:
                        client.writer.write(frame(piece))
                    client.writer.write(piece)
                    client.writer.write_eof()
                    await client.closed()
            assert await other.unary("/t.S/Echo", b"x") == b"x"
            links = server._serving.links
            await until(lambda: len(links) == 1, "the connections' ends")

    run(check())


def test_a_call_without_a_message() -> None:
    """A unary call or a stream of answers without its message is refused by itself."""

    async def check() -> None:
        method = server_stream("/t.S/Out", lambda stream: StreamHandler())
        async with serving(ECHO, method) as server, raw(server) as client:
            for number, path in enumerate((b"/t.S/Echo", b"/t.S/Out"), 1):
                client.send(
                    record(RecordType.OPEN, number, write_open(path, b"", 0, b""))
                )
                found = read_end(await client.until(RecordType.END))
                assert isinstance(found, ApiError)
                assert found.code == 13

    run(check())


def test_names_of_the_transport_cannot_be_sent() -> None:
    """A client cannot pass itself off as the holder of a certificate."""
    seen: list[dict[str, str]] = []

    def note(call: Call, message: bytes) -> None:
        seen.append(dict(call.metadata()))
        call.reply(b"")

    async def check() -> None:
        async with (
            serving(unary("/t.S/Note", note)) as server,
            TcpChannel(server.addresses()[0]) as client,
        ):
            await client.unary(
                "/t.S/Note", b"", {CLIENT_NAME_KEY: "root", "Other": "1"}
            )
        assert seen == [{"other": "1"}]

    run(check())


def test_metadata_over_the_limit() -> None:
    """Metadata over the limit fails the call at the client, with the limit's name."""

    async def check() -> None:
        async with serving() as server, TcpChannel(server.addresses()[0]) as client:
            error = await failure_of(
                client.unary("/t.S/Echo", b"", {"a": "b" * 40_000})
            )
            assert error.code == 8
            assert "metadata" in error.message

    run(check())


def test_addresses_have_the_real_port() -> None:
    """Port 0 picks a port, and several URLs are all served, etcd's spelling too."""

    async def check() -> None:
        async with serving(urls=[LOCAL, "http://localhost:0"]) as server:
            first, second = server.addresses()
            assert first.startswith("tcp://127.0.0.1:")
            assert second.startswith("http://localhost:")
            assert not first.endswith(":0")
            for url in (first, second):
                async with TcpChannel(url) as client:
                    assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_unix_socket(tmp_path: Path) -> None:
    """A unix socket serves; one that is in use is refused, a left-over one is not."""
    url = f"unix://{tmp_path}/socket"

    async def check() -> None:
        async with serving(urls=[url]) as server, TcpChannel(url) as client:
            assert list(server.addresses()) == [url]
            assert await client.unary("/t.S/Echo", b"x") == b"x"
            assert "another server" in await refusal(url)
        assert not (tmp_path / "socket").exists()
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(f"{tmp_path}/left")
        async with serving(urls=[f"unix://{tmp_path}/left"]):
            pass

    run(check())


def test_port_in_use() -> None:
    """A taken port is an error that names the address; nothing is shared in silence."""

    async def check() -> None:
        async with serving() as server:
            url = server.addresses()[0]
            assert url in await refusal(url)

    run(check())


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("127.0.0.1:2379", "scheme"),
        ("ftp://127.0.0.1:2379", "scheme"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://:2379", "no host"),
        ("tcp://127.0.0.1:99999", "Port"),
        ("tcp://127.0.0.1:2379/path", "more than host and port"),
        ("unix://", "no path"),
        ("unix:///no/such/folder/socket", "No such file"),
        ("tcp://no-such-host.invalid:2379", "no address"),
        ("tcp://192.0.2.1:0", "not of this host"),
        ("tcps://127.0.0.1:0", "certificate"),
        ("https://127.0.0.1:0", "certificate"),
    ],
)
def test_bad_urls(url: str, reason: str) -> None:
    """A URL that cannot be listened on is refused with the reason and the URL."""

    async def check() -> None:
        message = await refusal(url)
        assert reason in message
        assert url in message

    run(check())


def test_no_urls() -> None:
    """A server without any URL is refused."""

    async def check() -> None:
        assert "at least one" in await refusal()

    run(check())


def test_nobody_there() -> None:
    """A call to an address where nobody listens is UNAVAILABLE and names it."""

    async def check() -> None:
        async with serving() as server:
            url = server.addresses()[0]
        async with TcpChannel(url) as client:
            error = await failure_of(client.unary("/t.S/Echo", b""))
            assert error.code == 14
            assert url in error.message

    run(check())


def test_a_broken_connection_fails_calls_and_is_made_anew() -> None:
    """Calls that run when the connection breaks are UNAVAILABLE; the next call makes a
    new connection, and nothing was sent twice."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with (
            serving(method, ECHO) as server,
            TcpChannel(server.addresses()[0]) as client,
        ):
            task = asyncio.ensure_future(client.unary("/t.S/Park", b""))
            await until(lambda: bool(calls), "the call")
            for link in tuple(server._serving.links):
                link.abort()
            error = await failure_of(task)
            assert error.code == 14
            assert calls[0].cancelled()
            assert await client.unary("/t.S/Echo", b"x") == b"x"
            assert len(calls) == 1

    run(check())


def test_drain_lets_a_running_call_end() -> None:
    """A call that runs when draining begins is answered within the grace; a new one on
    the same connection is refused."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with (
            serving(method) as server,
            TcpChannel(server.addresses()[0]) as client,
            raw(server) as other,
        ):
            await other.until(RecordType.WELCOME)
            answer = asyncio.create_task(client.unary("/t.S/Park", b""))
            await until(lambda: bool(calls), "the call")
            draining = asyncio.create_task(server.drain(PATIENCE_S))
            code, text = read_goaway(await other.until(RecordType.GOAWAY))
            assert (code, text) == (GoAway.DRAIN, "etcdserver: server stopped")
            other.send(
                record(RecordType.OPEN, 1, write_open(b"/t.S/Park", b"", 0, b""), 2)
            )
            found = read_end(await other.until(RecordType.END))
            assert found == ApiError(14, "etcdserver: server stopped")
            calls[0].reply(bytes(3_000_000))
            assert len(await answer) == 3_000_000
            await draining

    run(check())


def test_drained_streams_get_etcds_error() -> None:
    """A stream that the server ends tells the client that the server stopped."""

    async def check() -> None:
        async with (
            serving(bidi("/t.S/In", lambda _: StreamHandler())) as server,
            TcpChannel(server.addresses()[0]) as client,
        ):
            stream = await client.bidi_stream("/t.S/In")
            await stream.send(b"x")
            waiting = asyncio.create_task(failure_of(stream.receive()))
            links = server._serving.links
            await until(lambda: any(link.calls for link in links), "the stream")
            await server.drain(PATIENCE_S)
            assert await waiting == ApiError(14, "etcdserver: server stopped")

    run(check())


def test_pings() -> None:
    """A ping is answered with its payload; too many end the connection, as in gRPC."""

    async def check() -> None:
        async with (
            serving(keepalive_min_time_s=1000.0) as server,
            raw(server) as client,
        ):
            client.send(record(RecordType.PING, 0, b"12345678"))
            assert await client.until(RecordType.PONG) == b"12345678"
            for _ in range(3):
                client.send(record(RecordType.PING, 0))
            code, reason = read_goaway(await client.until(RecordType.GOAWAY))
            assert (code, reason) == (GoAway.PINGS, "too_many_pings")
            await client.closed()

    run(check())


def test_a_client_that_answers_no_ping_is_let_go() -> None:
    """A silent client is asked, and let go when it says nothing; one that answers is
    kept."""

    async def check() -> None:
        quick = {"keepalive_interval_s": 0.02, "keepalive_timeout_s": 0.5}
        async with (
            serving(**quick) as server,
            TcpChannel(server.addresses()[0]) as alive,
            raw(server) as silent,
        ):
            assert await alive.unary("/t.S/Echo", b"x") == b"x"
            await silent.until(RecordType.PING)
            await silent.closed()
            assert len(server._serving.links) == 1
            assert await alive.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_a_server_that_answers_no_ping_is_let_go() -> None:
    """With keepalive a client notices a server that says nothing any more."""

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: None)
        async with (
            serving(method) as server,
            TcpChannel(
                server.addresses()[0], keepalive_s=0.01, keepalive_timeout_s=0.05
            ) as client,
        ):
            task = asyncio.ensure_future(client.unary("/t.S/Park", b""))
            links = server._serving.links
            await until(lambda: any(link.calls for link in links), "the call")
            for link in links:
                assert link.transport is not None
                link.transport.pause_reading()
            error = await failure_of(task)
            assert error.code == 14
            assert "answers no ping" in error.message

    run(check())


def test_plugin_registers_and_makes() -> None:
    """The plugin describes itself and makes a transport for clients and members."""
    found: list[TransportPlugin] = []
    revstore_register_transport(found.append)
    (plugin,) = found
    assert (plugin.name, plugin.extra) == ("tcp", "")
    assert plugin.capabilities is CAPABILITIES
    made = plugin.factory(NoOptions())
    assert isinstance(made, TcpTransport)
    assert peer_transport("tcp", made) is made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA with a server certificate for this host and one of a client named ann."""
    found = Authority(tmp_path_factory.mktemp("certificates"))
    found.sign("server", "server", "DNS:localhost,IP:127.0.0.1")
    found.sign("client", "ann")
    return found


def tls_options(authority: Authority, **changes: Any) -> TlsOptions:
    """TLS with these certificates."""
    found: dict[str, Any] = {
        "cert_file": authority.path("server.crt"),
        "key_file": authority.path("server.key"),
        **changes,
    }
    return TlsOptions(**found)


def test_tls(authority: Authority) -> None:
    """A client that trusts the CA is served over TLS, long messages too; one that does
    not is UNAVAILABLE."""

    async def check() -> None:
        async with serving(
            urls=["tcps://127.0.0.1:0"], tls=tls_options(authority)
        ) as server:
            url = server.addresses()[0]
            assert url.startswith("tcps://127.0.0.1:")
            context = client_context(authority.path("ca.crt"))
            async with TcpChannel(url, context) as client:
                assert await client.unary("/t.S/Echo", bytes(900_000)) == bytes(900_000)
            async with TcpChannel(url, ssl.create_default_context()) as client:
                error = await failure_of(client.unary("/t.S/Echo", b""))
                assert error.code == 14

    run(check())


def test_client_certificates(authority: Authority) -> None:
    """With a trusted CA only clients with a certificate are served, and the service
    sees the name in it."""
    seen: list[str] = []

    def note(call: Call, message: bytes) -> None:
        seen.append(call.metadata()[CLIENT_NAME_KEY])
        call.reply(b"")

    async def check() -> None:
        ca = authority.path("ca.crt")
        tls = tls_options(authority, trusted_ca_file=ca, client_cert_auth=True)
        method = unary("/t.S/Note", note)
        async with serving(method, urls=["https://127.0.0.1:0"], tls=tls) as server:
            url = server.addresses()[0]
            context = client_context(
                ca, authority.path("client.crt"), authority.path("client.key")
            )
            async with TcpChannel(url, context) as client:
                await client.unary("/t.S/Note", b"")
            async with TcpChannel(url, client_context(ca)) as client:
                error = await failure_of(client.unary("/t.S/Note", b""))
                assert error.code == 14
        assert seen == ["ann"]

    run(check())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cert_file": "none.crt"}, "none.crt"),
        ({"key_file": "none.key"}, "none.key"),
        ({"key_file": "ca.key"}, "cannot be used together"),
        ({"trusted_ca_file": "none.crt"}, "none.crt"),
        ({"trusted_ca_file": "ca.key"}, "holds no certificate"),
        ({"client_cert_auth": True}, "no trusted CA file"),
    ],
)
def test_bad_certificates(
    authority: Authority, changes: dict[str, Any], reason: str
) -> None:
    """Files that cannot be used are named before anything listens."""
    paths = {
        name: authority.path(value) if isinstance(value, str) else value
        for name, value in changes.items()
    }

    async def check() -> None:
        message = await refusal(
            "tcps://127.0.0.1:0", tls=tls_options(authority, **paths)
        )
        assert reason in message

    run(check())
