"""Members prove themselves by certificates, whatever carries their messages (P-07)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.transports.certificates import Authority
from tests.transports.grpcio_support import run
from tests.transports.peers_support import member_certificates, tls_of

from revstore.errors import ConfigError, TransportError
from revstore.interfaces.peers import PeerTransport
from revstore_conformance.peers_harness import (
    PATIENCE_S,
    Cluster,
    captured_logs,
    said,
)
from revstore_grpc.transport import GrpcTransport
from revstore_grpcio.transport import GrpcioTransport
from revstore_tcp.transport import TcpTransport

TRANSPORTS: dict[str, type[PeerTransport]] = {
    "grpc": GrpcTransport,
    "grpcio": GrpcioTransport,
    "tcp": TcpTransport,
}


def local_of(transport: type[PeerTransport]) -> str:
    """Any port of this host, with TLS."""
    scheme = "tcps" if transport is TcpTransport else "https"
    return f"{scheme}://127.0.0.1:0"


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> type[PeerTransport]:
    """Each transport that connects members over sockets."""
    return TRANSPORTS[request.param]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA with certificates for this host, for another, by name only, and by name
    for another host."""
    found = member_certificates(tmp_path_factory.mktemp("certificates"))
    found.sign("both", "member-by-name", "DNS:*.example,IP:192.0.2.7")
    return found


def test_mutual_tls(transport: type[PeerTransport], authority: Authority) -> None:
    """Members with certificates for their addresses talk over TLS, streams too."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair(tls=tls_of(authority, "here"))
        local = local_of(transport).removesuffix("0")
        assert one.peers.addresses()[0].startswith(local)
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

    run(check, local_of(transport), transport)


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

    run(check, local_of(transport), transport)


def test_a_certificate_for_another_address(
    transport: type[PeerTransport], authority: Authority
) -> None:
    """Without an allow list a certificate must be valid for the member's address."""
    reason = "127.0.0.1" if transport is GrpcioTransport else "IP address mismatch"

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, tls=tls_of(authority, "here"))
        stranger = await cluster.start(2, tls=tls_of(authority, "elsewhere"))
        with captured_logs() as lines:
            stranger.peers.set_peer(1, one.peers.addresses())
            await cluster.until(lambda: bool(stranger.refused), "the refusal")
            assert "not valid for its address" in stranger.refused[0][1]
            one.peers.set_peer(2, stranger.peers.addresses())
            await cluster.until(
                lambda: said(lines, "member cannot be reached", reason),
                "the caller's refusal",
            )
        assert not one.messages
        assert not stranger.messages

    run(check, local_of(transport), transport)


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
            if transport is not GrpcioTransport:
                await cluster.until(
                    lambda: said(
                        lines, "connection refused", "CERTIFICATE_VERIFY_FAILED"
                    ),
                    "the log line of the called",
                )
        await cluster.reach(one, two)
        assert not one.messages
        assert not one.unreachable

    run(check, local_of(transport), transport)


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

    run(check, local_of(transport), transport)


def test_a_plain_caller(transport: type[PeerTransport], authority: Authority) -> None:
    """Who calls without TLS where TLS is spoken gets nowhere."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, tls=tls_of(authority, "here"))
        plain = await cluster.start(2, urls=["http://127.0.0.1:0"])
        port = one.peers.addresses()[0].rpartition(":")[2]
        url = f"http://127.0.0.1:{port}"
        plain.peers.set_peer(1, [url])
        await cluster.until(lambda: bool(plain.unreachable), "on_unreachable")
        assert not plain.peers.stats(1).connected
        assert not one.callbacks

    run(check, local_of(transport), transport)


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

    run(check, local_of(transport), transport)


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

    run(check, local_of(transport), transport)


def test_bad_certificates(transport: type[PeerTransport], authority: Authority) -> None:
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

    run(check, local_of(transport), transport)


def test_a_question_to_a_member_of_another_name(
    transport: type[PeerTransport], authority: Authority
) -> None:
    """P-15: with an allow list, who asks takes no answer from a name that is not on
    it."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, tls=tls_of(authority, "here", "member"))
        url, ask = one.peers.addresses()[0], cluster.transport.ask
        good = tls_of(authority, "here", "member")
        assert await ask(url, b"who?", good, PATIENCE_S) == b"1 heard who?"
        wrong = tls_of(authority, "here", "member-by-name")
        with pytest.raises(TransportError, match="none of the allowed names"):
            await ask(url, b"who?", wrong, PATIENCE_S)

    run(check, local_of(transport), transport)
