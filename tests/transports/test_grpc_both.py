"""What both gRPC transports owe, seen by grpcio: sizes, addresses, TLS, deadlines."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.transports.grpc_support import channel_credentials
from tests.transports.server_support import (
    ECHO,
    Maker,
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
