"""The transport "tcp" for clients: sizes, flow control, deadlines, hostile clients."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.transports.server_support import ECHO, run
from tests.transports.tcp_support import HELLO, raw, serving

from revstore.errors import ApiError
from revstore.interfaces.transport import (
    Call,
    Stream,
    StreamHandler,
)
from revstore_conformance.transport import (
    PATIENCE_S,
    bidi,
    failure_of,
    receive,
    server_stream,
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
from revstore_tcp.limits import MESSAGE_COST, STREAM_WINDOW
from revstore_tcp.messages import (
    GoAway,
    Hello,
    Role,
    read_end,
    read_goaway,
    write_hello,
    write_number,
    write_open,
)


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


def test_a_server_keeps_to_the_clients_credit() -> None:
    """A stream sends no further than its credit, and goes on when more is granted."""

    class Flood(StreamHandler):
        def __init__(self, stream: Stream) -> None:
            self.stream = stream
            self.send(20)

        def on_message(self, message: bytes) -> None:
            self.send(60)
            self.stream.finish()

        def send(self, count: int) -> None:
            for _ in range(count):
                self.stream.send(bytes(10_000))

    async def check() -> None:
        async with (
            serving(bidi("/t.S/Flood", Flood), ECHO) as server,
            raw(server) as client,
        ):
            opening = write_open(b"/t.S/Flood", b"", 0, b"")
            client.send(record(RecordType.OPEN, 1, opening))
            first = 1 + STREAM_WINDOW // (10_000 + MESSAGE_COST)
            for number in range(first):
                await client.until(RecordType.MESSAGE)
                if number == 15:
                    client.send(record(RecordType.MESSAGE, 1, b"more"))
            client.send(
                record(RecordType.OPEN, 2, write_open(b"/t.S/Echo", b"", 0, b"x"), 2)
            )
            assert read_end(await client.until(RecordType.END)) == b"x"
            assert not client.records
            client.send(record(RecordType.CREDIT, 1, write_number(1_000_000)))
            for _ in range(80 - first):
                await client.until(RecordType.MESSAGE)
            assert read_end(await client.until(RecordType.END)) == b""

    run(check())


def test_long_answers_take_turns() -> None:
    """The parts of two long answers leave in turn, so that neither waits for the
    other's whole length."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with serving(method) as server, raw(server) as client:
            for number in (1, 2):
                payload = write_open(b"/t.S/Park", b"", 0, b"")
                client.send(record(RecordType.OPEN, number, payload, 2))
            await until(lambda: len(calls) == 2, "both calls")
            for call in calls:
                call.reply(bytes(1_000_000))
            order: list[int] = []
            while len(order) < 32:
                order.append(await client.stream_of(RecordType.END))
            assert order == [1, 2] * 16

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
