"""The transport "tcp" for clients: addresses, TLS, keepalive, draining."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from tests.transports.server_support import (
    ECHO,
    Maker,
    make_certificates,
    run,
    tls_options,
)
from tests.transports.tcp_support import raw, serving

from revstore.errors import ApiError
from revstore.hookspecs import NoOptions, TransportPlugin
from revstore.interfaces.peers import peer_transport
from revstore.interfaces.transport import (
    Call,
)
from revstore.net.tls import client_context
from revstore_conformance.transport import (
    PATIENCE_S,
    failure_of,
    unary,
    until,
)
from revstore_tcp.calls import CLIENT_NAME_KEY
from revstore_tcp.client import TcpChannel
from revstore_tcp.framing import (
    RecordType,
    record,
)
from revstore_tcp.messages import (
    GoAway,
    read_end,
    read_goaway,
    write_open,
)
from revstore_tcp.plugin import CAPABILITIES, revstore_register_transport
from revstore_tcp.transport import TcpTransport


def test_a_unix_socket_in_no_folder() -> None:
    """A socket whose folder is not there is refused with the reason and the URL."""

    async def check() -> None:
        url = "unix:///no/such/folder/socket"
        message = await Maker(TcpTransport, "tcp").refusal(url)
        assert "No such file" in message
        assert url in message

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
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server and of a client named ann."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_tls(certificates: Path) -> None:
    """A client that trusts the CA is served over TLS, long messages too; one that does
    not is UNAVAILABLE."""

    async def check() -> None:
        async with serving(
            urls=["tcps://127.0.0.1:0"], tls=tls_options(certificates)
        ) as server:
            url = server.addresses()[0]
            assert url.startswith("tcps://127.0.0.1:")
            context = client_context(str(certificates / "ca.crt"))
            async with TcpChannel(url, context) as client:
                assert await client.unary("/t.S/Echo", bytes(900_000)) == bytes(900_000)
            async with TcpChannel(url, ssl.create_default_context()) as client:
                error = await failure_of(client.unary("/t.S/Echo", b""))
                assert error.code == 14

    run(check())


def test_client_certificates(certificates: Path) -> None:
    """With a trusted CA only clients with a certificate are served, and the service
    sees the name in it."""
    seen: list[str] = []

    def note(call: Call, message: bytes) -> None:
        seen.append(call.metadata()[CLIENT_NAME_KEY])
        call.reply(b"")

    async def check() -> None:
        ca = str(certificates / "ca.crt")
        tls = tls_options(certificates, trusted_ca_file=ca, client_cert_auth=True)
        method = unary("/t.S/Note", note)
        async with serving(method, urls=["https://127.0.0.1:0"], tls=tls) as server:
            url = server.addresses()[0]
            context = client_context(
                ca, str(certificates / "client.crt"), str(certificates / "client.key")
            )
            async with TcpChannel(url, context) as client:
                await client.unary("/t.S/Note", b"")
            async with TcpChannel(url, client_context(ca)) as client:
                error = await failure_of(client.unary("/t.S/Note", b""))
                assert error.code == 14
        assert seen == ["ann"]

    run(check())
