"""What is particular to the transport "grpcio": sizes, addresses, TLS, deadlines."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from revstore.errors import ApiError, ConfigError, PluginError
from revstore.hookspecs import NoOptions, TransportPlugin
from revstore.interfaces.transport import (
    Call,
    ClientServer,
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
    table_of,
    unary,
    until,
)
from revstore_grpcio.addresses import parse_listen_url
from revstore_grpcio.calls import CLIENT_NAME_KEY
from revstore_grpcio.client import GrpcioClient, _api_error
from revstore_grpcio.plugin import CAPABILITIES, make, revstore_register_transport
from revstore_grpcio.transport import GrpcioTransport, _channel_options

ECHO = unary("/t.S/Echo", lambda call, message: call.reply(message))
LOCAL = "http://127.0.0.1:0"


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine with a bound on its time."""
    asyncio.run(asyncio.wait_for(test, 3 * PATIENCE_S))


@asynccontextmanager
async def serving(*methods: Method, **options: Any) -> AsyncIterator[ClientServer]:
    """A server of these methods."""
    chosen = {"urls": [LOCAL], **options}
    table = table_of(*(methods or (ECHO,)))
    server = await GrpcioTransport().serve_clients(table, ServeOptions(**chosen))
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


def test_message_over_the_limit() -> None:
    """A message of the limit passes; a larger one is refused in gRPC's own words."""

    async def check() -> None:
        async with (
            serving(request_bytes_max=1000) as server,
            GrpcioClient(server.addresses()[0]) as client,
        ):
            assert len(await client.unary("/t.S/Echo", bytes(1000))) == 1000
            error = await failure_of(client.unary("/t.S/Echo", bytes(1001)))
            text = "grpc: received message larger than max (1001 vs. 1000)"
            assert error == ApiError(8, text)
            error = await failure_of(client.unary("/t.S/Echo", bytes(100_000)))
            assert error.code == 8

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
        async with (
            serving(
                bidi("/t.S/In", lambda _: Noting()), request_bytes_max=10
            ) as server,
            GrpcioClient(server.addresses()[0]) as client,
        ):
            stream = await client.bidi_stream("/t.S/In")
            await stream.send(bytes(10))
            await stream.send(bytes(11))
            error = await failure_of(stream.receive())
            assert error.code == 8
            assert "(11 vs. 10)" in error.message
        assert events == ["message 10", "cancel"]

    run(check())


def test_client_that_never_reads_is_not_read_from() -> None:
    """A client that only sends is held back once its answers fill the queue."""
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
            GrpcioClient(server.addresses()[0]) as client,
        ):
            stream = await client.bidi_stream("/t.S/Loud")

            async def send_all() -> None:
                for _ in range(200):
                    await stream.send(b"more")

            sending = asyncio.create_task(send_all())
            quiet, before = 0, -1
            while quiet < 50:
                quiet = quiet + 1 if len(seen) == before else 0
                before = len(seen)
                await asyncio.sleep(0.001)
            assert len(seen) < 200
            for _ in range(200):
                assert len(await receive(stream) or b"") == 200_000
            await sending
            assert len(seen) == 200

    run(check())


def test_deadline_cancels_the_call() -> None:
    """When the client's deadline passes the service can see it, and its late answer is
    dropped."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with (
            serving(method, ECHO) as server,
            GrpcioClient(server.addresses()[0]) as client,
        ):
            error = await failure_of(client.unary("/t.S/Park", b"", timeout_s=0.05))
            assert error.code == 4
            await until(lambda: calls[0].cancelled(), "the cancellation")
            calls[0].reply(b"late")
            assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_addresses_have_the_real_port() -> None:
    """Port 0 picks a port, and several URLs are all served."""

    async def check() -> None:
        async with serving(urls=[LOCAL, "http://localhost:0"]) as server:
            first, second = server.addresses()
            assert first != second
            assert not first.endswith(":0")
            assert second.startswith("http://localhost:")
            for url in (first, second):
                async with GrpcioClient(url) as client:
                    assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_unix_socket(tmp_path: Path) -> None:
    """A unix socket serves; one that is in use is refused, a left-over one is not."""
    url = f"unix://{tmp_path}/socket"

    async def check() -> None:
        async with serving(urls=[url]) as server, GrpcioClient(url) as client:
            assert list(server.addresses()) == [url]
            assert await client.unary("/t.S/Echo", b"x") == b"x"
            assert "another server" in await refusal(url)
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
        ("http://127.0.0.1", "no port"),
        ("http://:2379", "no host"),
        ("http://127.0.0.1:99999", "Port"),
        ("http://127.0.0.1:2379/path", "more than host and port"),
        ("unix://", "no path"),
        ("http://no-such-host.invalid:2379", "no address"),
        ("http://192.0.2.1:0", "not of this host"),
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


def test_ipv6_addresses() -> None:
    """A literal IPv6 address keeps its brackets."""
    address = parse_listen_url("http://[::1]:0")
    assert address.target == "[::1]:0"
    assert address.bound_url(5) == "http://[::1]:5"


def test_options_reach_the_library() -> None:
    """Limits and keepalive rules are given to the library in its units."""
    options = dict(
        _channel_options(
            ServeOptions(
                urls=[LOCAL],
                request_bytes_max=1000,
                concurrent_streams_max=7,
                keepalive_min_time_s=5.0,
                keepalive_interval_s=7200.0,
                keepalive_timeout_s=20.0,
            )
        )
    )
    assert options["grpc.so_reuseport"] == 0
    assert options["grpc.max_concurrent_streams"] == 7
    assert options["grpc.keepalive_time_ms"] == 7_200_000
    assert options["grpc.keepalive_timeout_ms"] == 20_000
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 5000
    unbounded = dict(_channel_options(ServeOptions(urls=[LOCAL])))
    assert "grpc.max_concurrent_streams" not in unbounded


def test_drain_lets_a_running_call_end() -> None:
    """A call that runs when draining begins is answered within the grace."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with (
            serving(method) as server,
            GrpcioClient(server.addresses()[0]) as client,
        ):
            answer = asyncio.create_task(client.unary("/t.S/Park", b""))
            await until(lambda: bool(calls), "the call")
            draining = asyncio.create_task(server.drain(PATIENCE_S))
            await asyncio.sleep(0)
            calls[0].reply(b"done")
            assert await answer == b"done"
            await draining

    run(check())


def test_drained_streams_get_etcds_error() -> None:
    """A stream that the server ends tells the client that the server stopped."""

    async def check() -> None:
        async with (
            serving(bidi("/t.S/In", lambda _: StreamHandler())) as server,
            GrpcioClient(server.addresses()[0]) as client,
        ):
            stream = await client.bidi_stream("/t.S/In")
            await stream.send(b"x")
            waiting = asyncio.create_task(failure_of(stream.receive()))
            handlers = server._handler  # type: ignore[attr-defined] # GrpcioServer
            await until(lambda: bool(handlers.streams), "the stream")
            await server.drain(PATIENCE_S)
            assert await waiting == ApiError(14, "etcdserver: server stopped")

    run(check())


def test_plugin_registers_and_makes() -> None:
    """The plugin describes itself without its driver and makes the transport."""
    found: list[TransportPlugin] = []
    revstore_register_transport(found.append)
    (plugin,) = found
    assert (plugin.name, plugin.extra) == ("grpcio", "grpc")
    assert plugin.capabilities is CAPABILITIES
    assert isinstance(plugin.factory(NoOptions()), GrpcioTransport)


def test_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without grpcio the error says what to install."""
    monkeypatch.delitem(__import__("sys").modules, "revstore_grpcio.transport")
    monkeypatch.setitem(__import__("sys").modules, "grpc", None)
    with pytest.raises(PluginError, match=r"revstore\[grpc\]"):
        make(NoOptions())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a server certificate for localhost and one of a client named ann."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make certificates")
    folder = tmp_path_factory.mktemp("certificates")

    def make_certificate(name: str, subject: str, *more: str) -> None:
        command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256"
        command += f" -nodes -days 2 -subj /CN={subject} -keyout {name}.key"
        command += f" -out {name}.crt"
        subprocess.run(
            [*command.split(), *more], cwd=folder, check=True, capture_output=True
        )

    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-addext")
    make_certificate("ca", "test-ca")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    make_certificate("server", "server", *signed, names)
    make_certificate("client", "ann", *signed, "extendedKeyUsage=clientAuth")
    return folder


def tls_options(folder: Path, **changes: Any) -> TlsOptions:
    """TLS with these certificates."""
    found: dict[str, Any] = {
        "cert_file": str(folder / "server.crt"),
        "key_file": str(folder / "server.key"),
        **changes,
    }
    return TlsOptions(**found)


def channel_credentials(folder: Path, client: bool) -> grpc.ChannelCredentials:
    """What a client trusts and shows."""
    authority = (folder / "ca.crt").read_bytes()
    if not client:
        return grpc.ssl_channel_credentials(authority)
    return grpc.ssl_channel_credentials(
        authority,
        (folder / "client.key").read_bytes(),
        (folder / "client.crt").read_bytes(),
    )


def test_tls(certificates: Path) -> None:
    """A client that trusts the CA is served over TLS."""

    async def check() -> None:
        async with serving(
            urls=["https://127.0.0.1:0"], tls=tls_options(certificates)
        ) as server:
            url = server.addresses()[0]
            assert url.startswith("https://127.0.0.1:")
            credentials = channel_credentials(certificates, client=False)
            async with GrpcioClient(url, credentials) as client:
                assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_client_certificates(certificates: Path) -> None:
    """With a trusted CA only clients with a certificate are served, and the service
    sees the name in it."""
    seen: list[str] = []

    def note(call: Call, message: bytes) -> None:
        seen.append(call.metadata()[CLIENT_NAME_KEY])
        call.reply(b"")

    async def check() -> None:
        authority = str(certificates / "ca.crt")
        tls = tls_options(
            certificates, trusted_ca_file=authority, client_cert_auth=True
        )
        method = unary("/t.S/Note", note)
        async with serving(method, urls=["https://127.0.0.1:0"], tls=tls) as server:
            url = server.addresses()[0]
            credentials = channel_credentials(certificates, client=True)
            async with GrpcioClient(url, credentials) as client:
                await client.unary("/t.S/Note", b"")
            credentials = channel_credentials(certificates, client=False)
            async with GrpcioClient(url, credentials) as client:
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
    certificates: Path, changes: dict[str, Any], reason: str
) -> None:
    """Files that cannot be used are named before anything listens."""
    paths = {
        name: str(certificates / value) if isinstance(value, str) else value
        for name, value in changes.items()
    }

    async def check() -> None:
        message = await refusal(
            "https://127.0.0.1:0", tls=tls_options(certificates, **paths)
        )
        assert reason in message

    run(check())


def test_a_connection_that_breaks_is_no_internal_error() -> None:
    """grpcio's "Internal error from Core" is its own word for a broken connection; a
    client that took it for the server's would not try another member."""
    from grpc.aio import AioRpcError, Metadata

    error = AioRpcError(
        grpc.StatusCode.INTERNAL, Metadata(), Metadata(), "Internal error from Core"
    )
    assert _api_error(error).code == grpc.StatusCode.UNAVAILABLE.value[0]
