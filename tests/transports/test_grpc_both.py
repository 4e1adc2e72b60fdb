"""What both gRPC transports owe, seen by grpcio: sizes, addresses, TLS, deadlines."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.transports.grpc_support import (
    ECHO,
    LOCAL,
    Maker,
    channel_credentials,
    make_certificates,
    run,
    tls_options,
)

from revstore.errors import ApiError
from revstore.interfaces.transport import Call, Stream, StreamHandler
from revstore_conformance.transport import (
    PATIENCE_S,
    bidi,
    failure_of,
    receive,
    unary,
    until,
)
from revstore_grpc.transport import GrpcTransport
from revstore_grpcio.calls import CLIENT_NAME_KEY
from revstore_grpcio.client import GrpcioClient
from revstore_grpcio.transport import GrpcioTransport


@pytest.fixture(params=[GrpcTransport, GrpcioTransport], ids=["grpc", "grpcio"])
def maker(request: pytest.FixtureRequest) -> Maker:
    """Servers of each transport in turn."""
    return Maker(request.param)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server and of a client named ann."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_message_over_the_limit(maker: Maker) -> None:
    """A message of the limit passes; a larger one is refused in gRPC's own words."""

    async def check() -> None:
        async with (
            maker.serving(request_bytes_max=1000) as server,
            GrpcioClient(server.addresses()[0]) as client,
        ):
            assert len(await client.unary("/t.S/Echo", bytes(1000))) == 1000
            error = await failure_of(client.unary("/t.S/Echo", bytes(1001)))
            text = "grpc: received message larger than max (1001 vs. 1000)"
            assert error == ApiError(8, text)
            error = await failure_of(client.unary("/t.S/Echo", bytes(100_000)))
            assert error.code == 8

    run(check())


def test_stream_message_over_the_limit(maker: Maker) -> None:
    """A message over the limit ends its stream and the handler hears of it."""
    events: list[str] = []

    class Noting(StreamHandler):
        def on_message(self, message: bytes) -> None:
            events.append(f"message {len(message)}")

        def on_cancel(self) -> None:
            events.append("cancel")

    async def check() -> None:
        async with (
            maker.serving(
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


def test_client_that_never_reads_is_not_read_from(maker: Maker) -> None:
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
            maker.serving(bidi("/t.S/Loud", Loud)) as server,
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


def test_deadline_cancels_the_call(maker: Maker) -> None:
    """When the client's deadline passes the service can see it, and its late answer is
    dropped."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with (
            maker.serving(method, ECHO) as server,
            GrpcioClient(server.addresses()[0]) as client,
        ):
            error = await failure_of(client.unary("/t.S/Park", b"", timeout_s=0.05))
            assert error.code == 4
            await until(lambda: calls[0].cancelled(), "the cancellation")
            calls[0].reply(b"late")
            assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_addresses_have_the_real_port(maker: Maker) -> None:
    """Port 0 picks a port, and several URLs are all served."""

    async def check() -> None:
        async with maker.serving(urls=[LOCAL, "http://localhost:0"]) as server:
            first, second = server.addresses()
            assert first != second
            assert not first.endswith(":0")
            assert second.startswith("http://localhost:")
            for url in (first, second):
                async with GrpcioClient(url) as client:
                    assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_unix_socket(maker: Maker, tmp_path: Path) -> None:
    """A unix socket serves; one that is in use is refused, a left-over one is not."""
    url = f"unix://{tmp_path}/socket"

    async def check() -> None:
        async with maker.serving(urls=[url]) as server, GrpcioClient(url) as client:
            assert list(server.addresses()) == [url]
            assert await client.unary("/t.S/Echo", b"x") == b"x"
            assert "another server" in await maker.refusal(url)
        with socket.socket(socket.AF_UNIX) as left_over:
            left_over.bind(f"{tmp_path}/left")
        async with maker.serving(urls=[f"unix://{tmp_path}/left"]):
            pass

    run(check())


def test_port_in_use(maker: Maker) -> None:
    """A taken port is an error that names the address; nothing is shared in silence."""

    async def check() -> None:
        async with maker.serving() as server:
            url = server.addresses()[0]
            assert url in await maker.refusal(url)

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
def test_bad_urls(maker: Maker, url: str, reason: str) -> None:
    """A URL that cannot be listened on is refused with the reason and the URL."""

    async def check() -> None:
        message = await maker.refusal(url)
        assert reason in message
        assert url in message

    run(check())


def test_no_urls(maker: Maker) -> None:
    """A server without any URL is refused."""

    async def check() -> None:
        assert "at least one" in await maker.refusal()

    run(check())


def test_drain_lets_a_running_call_end(maker: Maker) -> None:
    """A call that runs when draining begins is answered within the grace."""
    calls: list[Call] = []

    async def check() -> None:
        method = unary("/t.S/Park", lambda call, message: calls.append(call))
        async with (
            maker.serving(method) as server,
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


def test_drained_streams_get_etcds_error(maker: Maker) -> None:
    """A stream that the server ends tells the client that the server stopped."""

    opened: list[Stream] = []

    def open_stream(stream: Stream) -> StreamHandler:
        opened.append(stream)
        return StreamHandler()

    async def check() -> None:
        async with (
            maker.serving(bidi("/t.S/In", open_stream)) as server,
            GrpcioClient(server.addresses()[0]) as client,
        ):
            stream = await client.bidi_stream("/t.S/In")
            await stream.send(b"x")
            waiting = asyncio.create_task(failure_of(stream.receive()))
            await until(lambda: bool(opened), "the stream")
            await server.drain(PATIENCE_S)
            assert await waiting == ApiError(14, "etcdserver: server stopped")

    run(check())


def test_tls(maker: Maker, certificates: Path) -> None:
    """A client that trusts the CA is served over TLS."""

    async def check() -> None:
        async with maker.serving(
            urls=["https://127.0.0.1:0"], tls=tls_options(certificates)
        ) as server:
            url = server.addresses()[0]
            assert url.startswith("https://127.0.0.1:")
            credentials = channel_credentials(certificates, client=False)
            async with GrpcioClient(url, credentials) as client:
                assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_client_certificates(maker: Maker, certificates: Path) -> None:
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
        async with maker.serving(
            method, urls=["https://127.0.0.1:0"], tls=tls
        ) as server:
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
    maker: Maker, certificates: Path, changes: dict[str, Any], reason: str
) -> None:
    """Files that cannot be used are named before anything listens."""
    paths = {
        name: str(certificates / value) if isinstance(value, str) else value
        for name, value in changes.items()
    }

    async def check() -> None:
        message = await maker.refusal(
            "https://127.0.0.1:0", tls=tls_options(certificates, **paths)
        )
        assert reason in message

    run(check())
