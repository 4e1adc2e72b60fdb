"""What every transport owes as a server: addresses, certificates, its end."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.transports.server_support import Maker, make_certificates, run, tls_options

from revstore.errors import ApiError
from revstore.interfaces.transport import Stream, StreamHandler
from revstore_conformance.transport import PATIENCE_S, bidi, failure_of, until
from revstore_grpc.transport import GrpcTransport
from revstore_grpcio.transport import GrpcioTransport
from revstore_tcp.client import TcpChannel
from revstore_tcp.transport import TcpTransport

MAKERS = {
    "grpc": Maker(GrpcTransport),
    "grpcio": Maker(GrpcioTransport),
    "tcp": Maker(TcpTransport, "tcp", TcpChannel),
}


@pytest.fixture(params=MAKERS)
def maker(request: pytest.FixtureRequest) -> Maker:
    """Servers of each transport in turn."""
    return MAKERS[request.param]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server and of a client named ann."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_addresses_have_the_real_port(maker: Maker) -> None:
    """Port 0 picks a port, and several URLs are all served, in etcd's spelling too."""

    async def check() -> None:
        async with maker.serving(urls=[maker.local, "http://localhost:0"]) as server:
            first, second = server.addresses()
            assert first != second
            assert first.startswith(f"{maker.scheme}://127.0.0.1:")
            assert not first.endswith(":0")
            assert second.startswith("http://localhost:")
            for url in (first, second):
                async with maker.channel(url) as client:
                    assert await client.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_unix_socket(maker: Maker, tmp_path: Path) -> None:
    """A unix socket serves; one that is in use is refused, a left-over one is not."""
    url = f"unix://{tmp_path}/socket"

    async def check() -> None:
        async with maker.serving(urls=[url]) as server, maker.channel(url) as client:
            assert list(server.addresses()) == [url]
            assert await client.unary("/t.S/Echo", b"x") == b"x"
            assert "another server" in await maker.refusal(url)
        assert not (tmp_path / "socket").exists()
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
        ("{}://127.0.0.1", "no port"),
        ("{}://:2379", "no host"),
        ("{}://127.0.0.1:99999", "Port"),
        ("{}://127.0.0.1:2379/path", "more than host and port"),
        ("unix://", "no path"),
        ("{}://no..name:2379", "label"),
        ("{}://no-such-host.invalid:2379", "no address"),
        ("{}://192.0.2.1:0", "not of this host"),
        ("{}s://127.0.0.1:0", "certificate"),
        ("https://127.0.0.1:0", "certificate"),
    ],
)
def test_bad_urls(maker: Maker, url: str, reason: str) -> None:
    """A URL that cannot be listened on is refused with the reason and the URL."""
    url = url.format(maker.scheme)

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


def test_drained_streams_get_etcds_error(maker: Maker) -> None:
    """A stream that the server ends tells the client that the server stopped."""

    opened: list[Stream] = []

    def open_stream(stream: Stream) -> StreamHandler:
        opened.append(stream)
        return StreamHandler()

    async def check() -> None:
        async with (
            maker.serving(bidi("/t.S/In", open_stream)) as server,
            maker.channel(server.addresses()[0]) as client,
        ):
            stream = await client.bidi_stream("/t.S/In")
            await stream.send(b"x")
            waiting = asyncio.create_task(failure_of(stream.receive()))
            await until(lambda: bool(opened), "the stream")
            await server.drain(PATIENCE_S)
            assert await waiting == ApiError(14, "etcdserver: server stopped")

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
            f"{maker.scheme}s://127.0.0.1:0", tls=tls_options(certificates, **paths)
        )
        assert reason in message

    run(check())
