"""What is particular to the transport "grpc": its shell."""

from __future__ import annotations

import asyncio
import gc
import ssl
import weakref
from pathlib import Path
from typing import Any

import pytest
from tests.client.fakes import VirtualLoop
from tests.transports.grpc_support import get, port_of
from tests.transports.grpc_support import (
    serving_grpc as serving,
)
from tests.transports.server_support import ECHO, make_certificates, run, tls_options

from revstore.errors import ApiError
from revstore.hookspecs import NoOptions, TransportPlugin
from revstore.interfaces.channel import ChannelOptions, ChannelTls, NotSent
from revstore.interfaces.transport import (
    Call,
    Stream,
    StreamHandler,
    TlsOptions,
)
from revstore.plugin.manager import PluginManager
from revstore_conformance.transport import (
    PATIENCE_S,
    bidi,
    failure_of,
    unary,
    until,
)
from revstore_grpc.client import ClientLink, GrpcChannel, GrpcClientStream, open_channel
from revstore_grpc.link import Link
from revstore_grpc.plugin import CAPABILITIES, revstore_register_transport
from revstore_grpc.server import ServerLink, Serving
from revstore_grpc.transport import GrpcTransport
from revstore_http2.codes import PREFACE
from revstore_http2.frames import settings
from revstore_http2.limits import Limits


def test_answers_of_one_turn_leave_in_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is answered in one turn of the loop is written at once."""
    parked: list[Call] = []
    links: list[ServerLink] = []
    original = ServerLink.on_made

    def on_made(link: ServerLink) -> None:
        links.append(link)
        original(link)

    monkeypatch.setattr(ServerLink, "on_made", on_made)

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: parked.append(call))
        async with (
            serving(method) as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            calls = [
                asyncio.ensure_future(channel.unary("/t.S/Park", b""))
                for _ in range(100)
            ]
            await until(lambda: len(parked) == 100, "all calls")
            writes: list[int] = []
            (link,) = links
            assert link.transport is not None
            write = link.transport.write

            class Counting:
                """The transport, counting writes."""

                def __getattr__(self, name: str) -> Any:
                    return getattr(transport, name)

                def write(self, data: bytes) -> None:
                    writes.append(len(data))
                    write(data)

            transport = link.transport
            link.transport = Counting()  # type: ignore[assignment]  # wraps one
            for call in parked:
                call.reply(b"done")
            assert await asyncio.gather(*calls) == [b"done"] * 100
            assert len(writes) == 1

    run(check())


def test_ended_streams_leave_no_cycle() -> None:
    """A handler is gone when its stream is, however that ended, without the collector.

    Handlers that know their streams, as nearly all do, lived until it ran.
    """
    handlers: list[weakref.ref[StreamHandler]] = []

    class Knowing(StreamHandler):
        def __init__(self, stream: Stream) -> None:
            self.stream = stream
            handlers.append(weakref.ref(self))

        def on_message(self, message: bytes) -> None:
            if message == b"finish":
                self.stream.finish()
            elif message == b"fail":
                self.stream.fail(ApiError(3, "no"))

    async def check() -> None:
        async with (
            serving(bidi("/t.S/In", Knowing)) as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            for ending in (b"finish", b"fail", b"cancel"):
                stream = await channel.bidi_stream("/t.S/In")
                await stream.send(ending)
                await until(lambda: bool(handlers), "the handler")
                if ending == b"cancel":
                    await stream.cancel()
                await until(lambda: handlers[-1]() is None, "the handler's end")
                handlers.clear()

    gc.collect()
    gc.disable()
    try:
        run(check())
    finally:
        gc.enable()


def test_the_server_keeps_deadlines() -> None:
    """A deadline that the client leaves to the server ends the call there, unary or
    not, and later ones are still kept."""
    parked: list[Call] = []
    events: list[str] = []

    class Noting(StreamHandler):
        def on_cancel(self) -> None:
            events.append("cancel")

    async def check() -> None:
        methods = (
            unary("/t.S/Park", lambda call, message: parked.append(call)),
            bidi("/t.S/In", lambda stream: Noting()),
        )
        async with (
            serving(*methods) as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            await channel.connect()
            link = channel._link
            assert link is not None
            patient = asyncio.ensure_future(
                channel.unary("/t.S/Park", b"", timeout_s=PATIENCE_S)
            )
            await until(lambda: bool(parked), "the patient call")
            for path, message in (("/t.S/Park", b""), ("/t.S/In", None)):
                number = link.start(path, message, {}, 0.02)
                stream = link.streams[number] = GrpcClientStream(link, number)
                error = await failure_of(stream.receive())
                assert error == ApiError(4, "context deadline exceeded")
            assert [call.cancelled() for call in parked] == [False, True]
            assert events == ["cancel"]
            parked[1].reply(b"late")
            parked[0].reply(b"in time")
            assert await patient == b"in time"

    run(check())


def test_a_client_that_never_reads_is_not_read_from() -> None:
    """Answers that nobody reads stop the reading of requests, and nobody else's."""
    served: list[int] = []

    def serve(call: Call, message: bytes) -> None:
        served.append(1)
        call.reply(bytes(500_000))

    async def check() -> None:
        async with (
            serving(unary("/t.S/Large", serve), ECHO) as server,
            GrpcChannel(server.addresses()[0]) as greedy,
            GrpcChannel(server.addresses()[0]) as other,
        ):
            await greedy.connect()
            assert greedy._link is not None
            transport = greedy._link.transport
            assert transport is not None
            transport.pause_reading()
            calls = [
                asyncio.ensure_future(greedy.unary("/t.S/Large", bytes(100_000)))
                for _ in range(200)
            ]
            quiet, before = 0, -1
            while quiet < 50:
                quiet = quiet + 1 if len(served) == before else 0
                before = len(served)
                await asyncio.sleep(0.001)
            assert 0 < len(served) < 200
            assert await other.unary("/t.S/Echo", b"x") == b"x"
            transport.resume_reading()
            assert {len(one) for one in await asyncio.gather(*calls)} == {500_000}

    run(check())


@pytest.mark.parametrize(
    "garbage",
    [
        PREFACE + b"\xff" * 100,
        PREFACE + bytes(9),
        b"\x00" * 64,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    ],
)
def test_garbage_ends_its_own_connection(garbage: bytes) -> None:
    """Bytes that are no protocol end the connection they came on and no other."""

    async def check() -> None:
        async with (
            serving() as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(garbage)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), PATIENCE_S)
            writer.close()
            await writer.wait_closed()
            assert await channel.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_bounded_streams_make_calls_wait() -> None:
    """With a bound on open calls a channel waits for its turn and loses none."""
    parked: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: parked.append(call))
        async with (
            serving(method, concurrent_streams_max=2) as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            # The bound is known once the server's settings are.
            first = asyncio.ensure_future(channel.unary("/t.S/Park", b""))
            await until(lambda: len(parked) == 1, "the first call")
            calls = [
                asyncio.ensure_future(channel.unary("/t.S/Park", b"")) for _ in range(5)
            ]
            await until(lambda: len(parked) == 2, "the second call")
            for number in range(6):
                await until(lambda at=number: len(parked) > at, "the next call")  # type: ignore[misc]  # a default binds
                assert len(parked) <= number + 2
                parked[number].reply(b"%d" % number)
            assert await first == b"0"
            assert sorted(await asyncio.gather(*calls)) == [
                b"1",
                b"2",
                b"3",
                b"4",
                b"5",
            ]

    run(check())


def test_draining_with_idle_connections_is_quick() -> None:
    """A connection without calls does not hold up the end, and its client sees that
    what it calls later was not sent."""

    async def check() -> None:
        async with (
            serving() as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            assert await channel.unary("/t.S/Echo", b"x") == b"x"
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            loop = asyncio.get_running_loop()
            before = loop.time()
            await asyncio.wait_for(server.drain(PATIENCE_S), PATIENCE_S)
            assert loop.time() - before < PATIENCE_S / 2
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
            with pytest.raises(NotSent):
                await channel.unary("/t.S/Echo", b"x")

    run(check())


class Silent(asyncio.Transport):
    """Takes everything, says nothing, and notes when it was closed."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self.closed_at = -1.0
        self._link = link

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        """There is no buffer."""

    def write(self, data: object) -> None:
        """Nobody reads it."""

    def is_closing(self) -> bool:
        """Closing is done at once."""
        return False

    def close(self) -> None:
        """The connection is gone."""
        self.closed_at = self._link.loop.time()
        self._link.connection_lost(None)


def test_draining_does_not_wait_for_the_next_tick() -> None:
    """A client that never answers the drain's ping is let go at the drain's own time."""

    limits = Limits(drain_timeout_s=2.0, tick_interval_s=15.0)
    loop = VirtualLoop()
    link = ServerLink(loop, Serving({}, limits, None))
    transport = Silent(link)

    async def check() -> None:
        link.connection_made(transport)
        link.data_received(PREFACE + settings(()))
        await asyncio.sleep(1.0)
        link.drain()
        async with asyncio.timeout(100.0):
            await link.drained

    try:
        loop.run_until_complete(check())
    finally:
        loop.close()
    assert transport.closed_at == 3.0


def test_a_channel_says_that_nobody_answered() -> None:
    """A connection that was given up for silence gives that as its reason."""
    limits = Limits(keepalive_interval_s=30.0, settings_timeout_s=100.0)
    loop = VirtualLoop()
    link = ClientLink(loop, "http://x:1", "x:1", "http", limits)

    async def check() -> None:
        link.connection_made(Silent(link))
        link.data_received(settings(()))
        async with asyncio.timeout(100.0):
            await link.closed

    try:
        loop.run_until_complete(check())
    finally:
        loop.close()
    assert "no answer to a keepalive ping" in link.reason


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server and of a client named ann."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("offered", [["h2"], ["http/1.1"], ["h2", "http/1.1"], []])
def test_alpn(certificates: Path, offered: list[str]) -> None:
    """TLS agrees on what the client offers, HTTP/2 first; both protocols are served."""

    async def check() -> None:
        tls = tls_options(certificates)
        async with serving(urls=["https://127.0.0.1:0"], tls=tls) as server:
            context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
            if offered:
                context.set_alpn_protocols(offered)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port_of(server), ssl=context
            )
            agreed = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            assert agreed == (offered[0] if offered else None)
            writer.write(get("/version"))
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await writer.wait_closed()

    run(check())


def test_channel_over_tls(certificates: Path) -> None:
    """A channel proves itself by its certificate and checks the server's."""
    names: list[str] = []

    def note(call: Call, message: bytes) -> None:
        names.append(call.metadata()[":client-common-name"])
        call.reply(message)

    authority = str(certificates / "ca.crt")
    cert, key = str(certificates / "client.crt"), str(certificates / "client.key")

    async def check() -> None:
        tls = TlsOptions(
            str(certificates / "server.crt"),
            str(certificates / "server.key"),
            authority,
            True,
        )
        method = unary("/t.S/Note", note)
        async with serving(method, urls=["https://127.0.0.1:0"], tls=tls) as server:
            url = server.addresses()[0]
            trusting = ChannelOptions(tls=ChannelTls(authority, cert, key))
            async with open_channel(url, trusting) as channel:
                assert await channel.unary("/t.S/Note", b"x") == b"x"
            blind = ChannelOptions(
                tls=ChannelTls("", cert, key, insecure_skip_verify=True)
            )
            async with open_channel(url, blind) as channel:
                assert await channel.unary("/t.S/Note", b"x") == b"x"
            named = ChannelTls(authority, cert, key, server_name="other")
            async with open_channel(url, ChannelOptions(tls=named)) as channel:
                with pytest.raises(NotSent, match="other"):
                    await channel.unary("/t.S/Note", b"x")
            bare = ChannelOptions(tls=ChannelTls(trusted_ca_file=authority))
            async with open_channel(url, bare) as channel:
                assert (await failure_of(channel.unary("/t.S/Note", b"x"))).code == 14
            assert names == ["ann", "ann"]

    run(check())


def test_plugin() -> None:
    """The plugin registers itself and makes the transport."""
    found: list[TransportPlugin] = []
    revstore_register_transport(found.append)
    (plugin,) = found
    assert (plugin.name, plugin.extra) == ("grpc", "")
    assert plugin.capabilities is CAPABILITIES
    assert isinstance(plugin.factory(NoOptions()), GrpcTransport)
    assert isinstance(PluginManager().make_transport("grpc", {}), GrpcTransport)
