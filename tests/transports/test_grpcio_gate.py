"""Connections of members before grpcio gets them: who is refused is in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
from tests.transports.certificates import Authority
from tests.transports.grpcio_support import run
from tests.transports.loops import LOOPS
from tests.transports.peers_support import member_certificates, tls_of

from revstore.logs import fields_of
from revstore.net.listen import CLOSE_S
from revstore.peer.lanes.wire import LANE_PATH
from revstore_conformance.peers_harness import Cluster, captured_logs, said
from revstore_grpcio.addresses import parse_listen_url
from revstore_grpcio.gate import (
    ENDED_BY_LIBRARY,
    HTTP2_BEGIN,
    LOOPBACK,
    NOT_HTTP2,
    NOT_TLS,
    Connection,
    Gate,
)

SEED = 20261123
ANY_PORT = f"http://{LOOPBACK}:0"
LOCAL_TLS = "https://127.0.0.1:0"
ENDED = "connection ended"
TURNS_MAX = 1_000_000

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Serve = Callable[[Reader, Writer], Awaitable[None]]


@pytest.fixture(params=LOOPS)
def on_loop(
    request: pytest.FixtureRequest,
) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a check on each kind of loop that members run on."""

    def run_it(check: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(check)

    return run_it


@asynccontextmanager
async def gated(serve: Serve) -> AsyncIterator[tuple[Gate, Reader, Writer]]:
    """A gate before something that listens like the library, and a caller."""
    library = await asyncio.start_server(serve, LOOPBACK, 0)
    gate = Gate()
    own = library.sockets[0].getsockname()[1]
    url = await gate.open(parse_listen_url(ANY_PORT), f"http://{LOOPBACK}:{own}")
    reader, writer = await asyncio.open_connection(LOOPBACK, urlsplit(url).port)
    try:
        yield gate, reader, writer
    finally:
        writer.transport.abort()
        await gate.close()
        library.close()


async def echo(reader: Reader, writer: Writer) -> None:
    """Send all back."""
    while data := await reader.read(65_536):
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
    writer.close()


async def only_connection(gate: Gate) -> Connection:
    """The one that came, as soon as the gate has it."""
    for _ in range(TURNS_MAX):
        if gate._connections:
            (found,) = gate._connections
            return found
        await asyncio.sleep(0)
    raise AssertionError("no connection came")


def told_of(lines: list[logging.LogRecord]) -> list[object]:
    """Whose connections were ended, as the log has it."""
    return [fields_of(one)["peer"] for one in lines if one.getMessage() == ENDED]


OnLoop = Callable[[Coroutine[Any, Any, None]], None]


def test_bytes_pass_unchanged_both_ways(on_loop: OnLoop) -> None:
    """In any pieces, while both sides send more than buffers hold."""
    source = random.Random(SEED)
    data = HTTP2_BEGIN + source.randbytes(5_000_000)

    async def check() -> None:
        async with gated(echo) as (_, reader, writer):

            async def send() -> None:
                at = 0
                while at < len(data):
                    size = source.choice((1, 7, 24, 4_096, 300_000))
                    writer.write(data[at : at + size])
                    await writer.drain()
                    at += size

            sending = asyncio.create_task(send())
            assert await reader.readexactly(len(data)) == data
            await sending

    on_loop(check())


def test_who_does_not_read_makes_the_other_wait(on_loop: OnLoop) -> None:
    """What waits in the gate is bounded, and arrives when there is room again."""
    total = 50_000_000
    go_on: asyncio.Event
    counted: asyncio.Future[int]

    async def lazy(reader: Reader, writer: Writer) -> None:
        await go_on.wait()
        size = 0
        while size < total:
            size += len(await reader.read(1_000_000))
        counted.set_result(size)
        writer.close()

    async def check() -> None:
        nonlocal go_on, counted
        go_on = asyncio.Event()
        counted = asyncio.get_running_loop().create_future()
        async with gated(lazy) as (gate, _, writer):
            writer.write(HTTP2_BEGIN.ljust(total, b"\0"))
            before = -1
            # Until nothing moves any more: all that can is on its way by then.
            while before != (before := writer.transport.get_write_buffer_size()):
                for _ in range(100):
                    await asyncio.sleep(0)
            connection = await only_connection(gate)
            held = connection._library.transport.get_write_buffer_size()
            assert 0 < held < 1_000_000
            go_on.set()
            assert await counted == total

    on_loop(check())


@pytest.mark.parametrize("known", [0, 1, 23])
def test_what_is_not_http2_is_refused_at_the_first_wrong_byte(
    known: int, on_loop: OnLoop
) -> None:
    """The library never sees it, and the log says who it was."""
    seen = bytearray()

    async def watch(reader: Reader, writer: Writer) -> None:
        seen.extend(await reader.read())
        writer.close()

    async def check() -> None:
        with captured_logs() as lines:
            async with gated(watch) as (_, reader, writer):
                for byte in HTTP2_BEGIN[:known] + b"?":
                    writer.write(bytes([byte]))
                    await writer.drain()
                assert await reader.read() == b""
                own = writer.get_extra_info("sockname")
        assert said(lines, ENDED, NOT_HTTP2)
        assert told_of(lines) == [f"{own[0]}:{own[1]}"]
        assert HTTP2_BEGIN[:known].startswith(bytes(seen))

    on_loop(check())


def test_who_closes_by_itself_is_not_worth_a_line(on_loop: OnLoop) -> None:
    """A port that is looked at, a member that goes: nothing is wrong with them."""

    async def check() -> None:
        with captured_logs() as lines:
            for begin in (b"", HTTP2_BEGIN[:5], HTTP2_BEGIN):
                async with gated(echo) as (gate, _, writer):
                    writer.write(begin)
                    await writer.drain()
                    connection = await only_connection(gate)
                    writer.close()
                    await connection.closed
                    assert not gate._connections
                    assert not gate._by_port
        assert told_of(lines) == []

    on_loop(check())


def test_a_library_that_is_gone(on_loop: OnLoop) -> None:
    """A connection that nobody takes over is ended, and the gate can be closed."""

    async def check() -> None:
        library = await asyncio.start_server(echo, LOOPBACK, 0)
        own = library.sockets[0].getsockname()[1]
        library.close()
        await library.wait_closed()
        gate = Gate()
        url = await gate.open(parse_listen_url(ANY_PORT), f"http://{LOOPBACK}:{own}")
        with captured_logs() as lines:
            reader, writer = await asyncio.open_connection(LOOPBACK, urlsplit(url).port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
        assert said(lines, "cannot hand a connection on", "")
        await gate.close()
        assert not gate._connections

    on_loop(check())


def test_closing_ends_who_stays(on_loop: OnLoop) -> None:
    """Without a line in the log: nobody did anything wrong."""

    async def check() -> None:
        with captured_logs() as lines:
            async with gated(echo) as (gate, reader, writer):
                writer.write(HTTP2_BEGIN)
                assert await reader.readexactly(len(HTTP2_BEGIN)) == HTTP2_BEGIN
                await gate.close()
                assert await reader.read() == b""
                assert not gate._connections
        assert told_of(lines) == []

    on_loop(check())


def test_a_library_that_is_being_stopped_ends_nobody_s_fault(on_loop: OnLoop) -> None:
    """It ends its connections before the gate does; that is no news either."""
    stop: asyncio.Event

    async def until_stopped(_reader: Reader, writer: Writer) -> None:
        await stop.wait()
        writer.close()

    async def check() -> None:
        nonlocal stop
        stop = asyncio.Event()
        with captured_logs() as lines:
            async with gated(until_stopped) as (gate, reader, writer):
                writer.write(HTTP2_BEGIN)
                await only_connection(gate)
                gate.refuse()
                stop.set()
                assert await reader.read() == b""
        assert told_of(lines) == []

    on_loop(check())


def test_a_caller_that_reads_no_more_does_not_hold_up_an_end(on_loop: OnLoop) -> None:
    """What the library had still to say is given up after a while."""

    async def shout(_reader: Reader, writer: Writer) -> None:
        writer.write(bytes(20_000_000))
        writer.close()

    async def check() -> None:
        async with gated(shout) as (gate, _, writer):
            cast(asyncio.Transport, writer.transport).pause_reading()
            connection = await only_connection(gate)
            await asyncio.wait_for(gate.close(), 10 * CLOSE_S)
            assert connection.closed.done()

    on_loop(check())


def test_what_the_library_ends_is_in_the_log() -> None:
    """A good beginning, and then no frames: only the library can tell."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair()
        await cluster.reach(one, two)
        parts = urlsplit(two.peers.addresses()[0])
        with captured_logs() as lines:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(HTTP2_BEGIN + b"\xff" * 100)
            await reader.read()
            writer.close()
            await cluster.until(
                lambda: said(lines, ENDED, ENDED_BY_LIBRARY[False]), "a log line"
            )
        await cluster.reach(one, two)
        assert one.unreachable == []

    run(check)


def test_a_refused_call_is_told_of_once_and_by_its_own_address() -> None:
    """Not by that of the gate, and not again when its connection ends."""

    async def check(cluster: Cluster) -> None:
        member = await cluster.start(1)
        parts = urlsplit(member.peers.addresses()[0])
        with captured_logs() as lines:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(call_of(LANE_PATH))
            await cluster.until(lambda: said(lines, ENDED, "protocol 1"), "a log line")
            writer.write(b"\xff" * 100)
            await reader.read()
            own = writer.get_extra_info("sockname")
            writer.close()
        assert told_of(lines) == [f"{own[0]}:{own[1]}"]

    run(check)


def call_of(path: str) -> bytes:
    """A connection's beginning with one gRPC call, headers as they are."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "member",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(text)]) + text.encode()
        for name, text in fields.items()
    )
    head = len(block).to_bytes(3, "big") + b"\x01\x04" + (1).to_bytes(4, "big")
    return HTTP2_BEGIN + b"\0\0\0\x04\0\0\0\0\0" + head + block


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA with a certificate for this host."""
    found = member_certificates(tmp_path_factory.mktemp("certificates"))
    found.sign("both", "member", "IP:127.0.0.1")
    return found


def test_failed_handshakes_are_in_the_log(authority: Authority) -> None:
    """Plain bytes, a record that is no handshake, a caller without a certificate."""

    async def check(cluster: Cluster) -> None:
        member = await cluster.start(1, tls=tls_of(authority, "both"))
        parts = urlsplit(member.peers.addresses()[0])
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        for data, reason in (
            (HTTP2_BEGIN, NOT_TLS),
            (b"\x16\x03\x01\x00\x05hello", ENDED_BY_LIBRARY[True]),
            (None, ENDED_BY_LIBRARY[True]),
        ):
            with captured_logs() as lines, contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    parts.hostname, parts.port, ssl=context if data is None else None
                )
                writer.write(data or HTTP2_BEGIN)
                await reader.read()
                writer.close()
            await cluster.until(lambda: said(lines, ENDED, reason), reason)  # noqa: B023

    run(check, LOCAL_TLS)
