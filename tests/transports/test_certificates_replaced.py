"""Certificates are replaced while a server runs, and broken ones are not taken."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.transports.certificates import Authority
from tests.transports.server_support import Maker, run, tls_options

from revstore.errors import ConfigError
from revstore.interfaces.peers import PeerTls
from revstore.interfaces.transport import Transport
from revstore.net.tls import FileContext, names_of, peer_contexts
from revstore_grpc.transport import GrpcTransport
from revstore_grpcio.addresses import parse_url
from revstore_grpcio.peer_tls import Calling
from revstore_grpcio.transport import GrpcioTransport
from revstore_tcp.transport import TcpTransport

MAKERS = {
    "grpc": ("https://127.0.0.1:0", GrpcTransport),
    "grpcio": ("https://127.0.0.1:0", GrpcioTransport),
    "tcp": ("tcps://127.0.0.1:0", TcpTransport),
}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A CA with two server certificates for this host, "server" and "other"."""
    found = Authority(tmp_path)
    for name in ("server", "other"):
        found.sign(name, name, "DNS:localhost,IP:127.0.0.1")
    return found


def replace(authority: Authority, *endings: str) -> None:
    """Put the other certificate, key or both where the server's are."""
    for ending in endings:
        Path(authority.path(f"other.{ending}")).replace(
            authority.path(f"server.{ending}")
        )


async def shown(url: str, authority: Authority) -> str:
    """The common name that a listener shows to a new connection."""
    context = ssl.create_default_context(cafile=authority.path("ca.crt"))
    context.set_alpn_protocols(["h2"])
    place = urlsplit(url)
    _, writer = await asyncio.open_connection(place.hostname, place.port, ssl=context)
    certificate = writer.get_extra_info("peercert")
    writer.close()
    with_names = next(iter(names_of(certificate)))
    try:
        await writer.wait_closed()
    except (ConnectionError, ssl.SSLError):
        pass  # The server does not have to say goodbye.
    return with_names


@pytest.mark.parametrize("name", MAKERS)
def test_new_connections_see_a_new_certificate(authority: Authority, name: str) -> None:
    """A certificate that is renewed on disk is shown from then on, without a restart;
    half of a pair is not taken, and the one in use goes on."""
    url, make = MAKERS[name]

    async def check() -> None:
        transport: Callable[[], Transport] = make
        tls = tls_options(authority.folder)
        async with Maker(transport).serving(urls=[url], tls=tls) as server:
            listening = server.addresses()[0]
            assert await shown(listening, authority) == "server"
            replace(authority, "crt")
            assert await shown(listening, authority) == "server"
            replace(authority, "key")
            assert await shown(listening, authority) == "other"

    run(check())


def test_members_take_new_certificates(authority: Authority) -> None:
    """Both ends of a connection between members re-read their files."""
    tls = PeerTls(
        authority.path("server.crt"),
        authority.path("server.key"),
        authority.path("ca.crt"),
    )
    for context in peer_contexts(tls):
        assert isinstance(context, FileContext)
        assert context._files is not None
        before = context._files._stamp
        Path(tls.cert_file).touch()
        context.wrap_bio(
            ssl.MemoryBIO(),
            ssl.MemoryBIO(),
            server_side=context.protocol == ssl.PROTOCOL_TLS_SERVER,
            server_hostname=None
            if context.protocol == ssl.PROTOCOL_TLS_SERVER
            else "localhost",
        )
        assert context._files._stamp != before
    calling = Calling(tls)
    replace(authority, "crt", "key")

    async def check() -> None:
        await calling.credentials(parse_url("https://127.0.0.1:1"))

    run(check())
    assert calling._certificate == Path(tls.cert_file).read_bytes()
    assert calling._key == Path(tls.key_file).read_bytes()


def test_a_missing_file_changes_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that are away for a moment are no reason to stop, and are said once."""
    caplog.set_level("INFO")
    context = FileContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ConfigError, match="cannot read the certificate file"):
        context.use("/nowhere.crt", "/nowhere.key")
    context.use(authority.path("server.crt"), authority.path("server.key"))
    Path(authority.path("server.crt")).unlink()
    for _ in range(3):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    said = [one for one in caplog.records if "is kept" in one.getMessage()]
    assert len(said) == 1
    replace(authority, "crt", "key")
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    assert "the certificate was replaced" in caplog.text
