"""Members over gRPC prove themselves by certificates (P-07)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import pytest
from tests.transports.certificates import Authority
from tests.transports.grpcio_support import run
from tests.transports.peers_support import member_certificates, tls_of

from revstore.errors import ConfigError, TransportError
from revstore.interfaces.peers import PeerTransport
from revstore.net.tls import certificate_fits
from revstore.peer.lanes.wire import ASK_PATH
from revstore_conformance.peers_harness import (
    PATIENCE_S,
    Cluster,
    Member,
    captured_logs,
    said,
)
from revstore_grpc.transport import GrpcTransport
from revstore_grpcio.addresses import parse_url
from revstore_grpcio.peer_tls import (
    Calling,
    certificate_of_caller,
    host_of_caller,
)
from revstore_grpcio.transport import GrpcioTransport

LOCAL_TLS = "https://127.0.0.1:0"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA with certificates for this host, for another, by name only, and by name
    for another host."""
    found = member_certificates(tmp_path_factory.mktemp("certificates"))
    found.sign("both", "member-by-name", "DNS:*.example,IP:192.0.2.7")
    found.sign("twin", "stranger", "DNS:*.example,IP:192.0.2.7")
    return found


@pytest.fixture(params=[GrpcTransport, GrpcioTransport], ids=["grpc", "grpcio"])
def transport(request: pytest.FixtureRequest) -> type[PeerTransport]:
    """Each transport that connects members by gRPC."""
    found: type[PeerTransport] = request.param
    return found


def test_mutual_tls(transport: type[PeerTransport], authority: Authority) -> None:
    """Members with certificates for their addresses talk over TLS, streams too."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair(tls=tls_of(authority, "here"))
        assert one.peers.addresses()[0].startswith("https://")
        await cluster.reach(one, two)
        await cluster.reach(two, one)
        writer = await one.peers.open_stream(2, b"meta")
        await cluster.until(lambda: bool(two.streams), "the stream")
        (stream,) = two.streams
        for _ in range(3):
            await writer.write(bytes(200_000))
        finishing = asyncio.ensure_future(writer.finish())
        assert sum([len(chunk) async for chunk in stream.chunks()]) == 600_000
        stream.accept()
        await finishing

    run(check, LOCAL_TLS, transport)


@pytest.mark.parametrize("name", ["named", "both"])
def test_allowed_names(
    transport: type[PeerTransport], authority: Authority, name: str
) -> None:
    """With an allow list the name counts and not the address; a name that is not on it
    is refused on either side."""

    async def check(cluster: Cluster) -> None:
        named = tls_of(authority, name, "member-by-name")
        one, two = await cluster.pair(tls=named)
        await cluster.reach(one, two)
        stranger = await cluster.start(
            3, tls=tls_of(authority, "here", "member", "member-by-name")
        )
        with captured_logs() as lines:
            stranger.peers.set_peer(1, one.peers.addresses())
            await cluster.until(lambda: bool(stranger.refused), "the refusal")
            assert "not valid for an allowed name" in stranger.refused[0][1]
            assert said(lines, "refused a member", "allowed name")
            one.peers.set_peer(3, stranger.peers.addresses())
            await cluster.until(
                lambda: said(lines, "member cannot be reached", "allowed names"),
                "the caller's refusal",
            )
        await cluster.reach(one, two)
        assert not stranger.messages

    run(check, LOCAL_TLS, transport)


def test_a_certificate_for_another_address(
    transport: type[PeerTransport], authority: Authority
) -> None:
    """Without an allow list a certificate must be valid for the member's address."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, tls=tls_of(authority, "here"))
        stranger = await cluster.start(2, tls=tls_of(authority, "elsewhere"))
        with captured_logs() as lines:
            stranger.peers.set_peer(1, one.peers.addresses())
            await cluster.until(lambda: bool(stranger.refused), "the refusal")
            assert "not valid for its address" in stranger.refused[0][1]
            one.peers.set_peer(2, stranger.peers.addresses())
            await cluster.until(
                lambda: said(lines, "member cannot be reached", "127.0.0.1"),
                "the caller's refusal",
            )
        assert not one.messages
        assert not stranger.messages

    run(check, LOCAL_TLS, transport)


def test_a_caller_without_a_certificate(
    transport: type[PeerTransport], authority: Authority, tmp_path: Path
) -> None:
    """A caller that no trusted CA signed for gets nowhere, its log says why, and others
    stay."""
    foreign = Authority(tmp_path)
    foreign.sign("here", "member", "IP:127.0.0.1")

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair(tls=tls_of(authority, "here"))
        await cluster.reach(one, two)
        one.unreachable.clear()
        tls = tls_of(foreign, "here", trusted_ca_file=authority.path("ca.crt"))
        stranger = await cluster.start(3, tls=tls)
        with captured_logs() as lines:
            stranger.peers.set_peer(1, one.peers.addresses())
            await cluster.until(
                lambda: said(lines, "member cannot be reached", ""), "the log line"
            )
        await cluster.reach(one, two)
        assert not one.messages
        assert not one.unreachable

    run(check, LOCAL_TLS, transport)


def test_an_answerer_without_a_certificate(
    transport: type[PeerTransport], authority: Authority, tmp_path: Path
) -> None:
    """Who answers with a certificate of another CA gets no message, with an allow list
    and without."""
    foreign = Authority(tmp_path)
    foreign.sign("here", "member", "IP:127.0.0.1")

    async def check(cluster: Cluster) -> None:
        stranger = await cluster.start(2, tls=tls_of(foreign, "here"))
        for allowed in ((), ("member",)):
            one = await cluster.start(1, tls=tls_of(authority, "here", *allowed))
            with captured_logs() as lines:
                one.peers.set_peer(2, stranger.peers.addresses())
                await cluster.until(
                    lambda: said(lines, "member cannot be reached", "CERTIFICATE"),
                    "the log line",
                )
        assert not stranger.messages

    run(check, LOCAL_TLS, transport)


def test_a_plain_caller(transport: type[PeerTransport], authority: Authority) -> None:
    """Who calls without TLS where TLS is spoken gets nowhere."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, tls=tls_of(authority, "here"))
        plain = await cluster.start(2, urls=["http://127.0.0.1:0"])
        url = one.peers.addresses()[0].replace("https", "http")
        plain.peers.set_peer(1, [url])
        await cluster.until(lambda: bool(plain.unreachable), "on_unreachable")
        assert not plain.peers.stats(1).connected
        assert not one.callbacks

    run(check, LOCAL_TLS, transport)


def test_the_certificate_that_was_looked_at(authority: Authority) -> None:
    """With an allow list the connection that carries messages must show the very
    certificate that was checked; another one of the same CA and address is no good."""

    async def check(cluster: Cluster) -> None:
        tls = tls_of(authority, "both", "member-by-name", "stranger")
        good = await cluster.start(1, tls=tls)
        twin = await cluster.start(2, tls=tls_of(authority, "twin", "member-by-name"))
        address = parse_url(good.peers.addresses()[0])
        credentials, name = await Calling(tls).credentials(address)
        assert name == "any.example"
        codes = []
        for member in (good, twin):
            async with grpc.aio.secure_channel(
                urlsplit(member.peers.addresses()[0]).netloc,
                credentials,
                options=[("grpc.ssl_target_name_override", name)],
            ) as channel:
                ask: Any = channel.unary_unary(ASK_PATH)
                codes.append(await ask(b"?").code())
        assert codes == [grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE]

    run(check, LOCAL_TLS)


def test_a_caller_that_nobody_knows(
    transport: type[PeerTransport], authority: Authority
) -> None:
    """A caller whose certificate is valid for the address it calls from is let in,
    though its own addresses are not known yet; so is its question."""

    async def check(cluster: Cluster) -> None:
        tls = tls_of(authority, "here")
        one = await cluster.start(1, tls=tls)
        two = await cluster.start(2, tls=tls)
        url = two.peers.addresses()[0]
        one.peers.set_peer(2, [url])
        await cluster.reach(one, two)
        assert await cluster.transport.ask(url, b"?", tls, PATIENCE_S) == b"2 heard ?"

    run(check, LOCAL_TLS, transport)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:4711", "10.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[fe80::1%eth0]:4711", "fe80::1"),
        ("unix:", ""),
        ("unix:/run/member", ""),
    ],
)
def test_where_a_caller_is(peer: str, host: str) -> None:
    """The library's text about a caller gives its address, if it has one."""

    class Context:
        def peer(self) -> str:
            return peer

    assert host_of_caller(Context()) == host


def test_questions_over_tls(
    transport: type[PeerTransport], authority: Authority
) -> None:
    """P-15: whoever asks shows a certificate; one that does not fit gets no answer."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, tls=tls_of(authority, "named", "member-by-name"))
        url = one.peers.addresses()[0]
        ask = cluster.transport.ask
        named = tls_of(authority, "named", "member-by-name")
        assert await ask(url, b"who?", named, PATIENCE_S) == b"1 heard who?"
        with captured_logs() as lines:
            other = tls_of(authority, "here", "member-by-name")
            with pytest.raises(TransportError, match="not valid for an allowed name"):
                await ask(url, b"who?", other, PATIENCE_S)
            assert said(lines, "connection ended", "allowed name")
        strict = tls_of(authority, "here")
        with pytest.raises(TransportError):
            await ask(url, b"who?", strict, PATIENCE_S)
        with pytest.raises(TransportError, match="name certificates"):
            await ask(url, b"who?", None, PATIENCE_S)

    run(check, LOCAL_TLS, transport)


def test_bad_certificates(authority: Authority) -> None:
    """Files that cannot be used are named before anything listens."""

    async def check(cluster: Cluster) -> None:
        for changes, reason in (
            ({"cert_file": "none.crt"}, "none.crt"),
            ({"key_file": authority.path("ca.key")}, "cannot be used together"),
            ({"trusted_ca_file": ""}, "name the trusted CA"),
            ({"trusted_ca_file": authority.path("ca.key")}, "holds no certificate"),
        ):
            with pytest.raises(ConfigError, match=reason):
                await cluster.start(1, tls=tls_of(authority, "here", **changes))

    run(check, LOCAL_TLS)


@pytest.mark.parametrize(
    ("names", "allowed", "hosts", "fits"),
    [
        (["10.0.0.1"], [], ["10.0.0.1"], True),
        (["10.0.0.1"], [], ["10.0.0.2"], False),
        (["0:0:0:0:0:0:0:1"], [], ["::1"], True),
        (["Node-1.example"], [], ["node-1.example."], True),
        (["*.example"], [], ["node-1.example"], True),
        (["*.example"], [], ["a.node-1.example"], False),
        (["node-1.example"], ["node-2.example"], ["node-1.example"], False),
        (["node-1.example"], ["node-1.example"], [], True),
        ([], ["member"], [], True),
        ([], [], ["member"], False),
    ],
)
def test_certificates_and_addresses(
    names: list[str], allowed: list[str], hosts: list[str], fits: bool
) -> None:
    """Alternative names are compared with addresses, all names with the allow list."""

    class Context:
        def auth_context(self) -> dict[str, list[bytes]]:
            return {
                "x509_pem_cert": [b"PEM"],
                "x509_common_name": [b"member"],
                "x509_subject_alternative_name": [name.encode() for name in names],
            }

    certificate = certificate_of_caller(Context())
    assert certificate is not None
    assert certificate_fits(certificate, allowed, hosts) is fits


def test_no_certificates() -> None:
    """Without certificates nobody is called by TLS."""

    async def check(cluster: Cluster) -> None:
        one: Member = await cluster.start(1)
        with pytest.raises(ConfigError, match="by TLS"):
            one.peers.set_peer(2, ["https://127.0.0.1:1"])
        with pytest.raises(ConfigError, match="https://"):
            await cluster.start(2, urls=["https://127.0.0.1:0"])

    run(check)
