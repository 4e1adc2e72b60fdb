"""What is particular to grpcio when members prove themselves by certificates (P-07)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import pytest
from tests.transports.certificates import Authority
from tests.transports.grpcio_support import run
from tests.transports.peers_support import member_certificates, tls_of

from revstore.errors import ConfigError
from revstore.net.tls import certificate_fits
from revstore.peer.lanes.wire import ASK_PATH
from revstore_conformance.peers_harness import (
    Cluster,
    Member,
)
from revstore_grpcio.addresses import parse_url
from revstore_grpcio.peer_tls import (
    Calling,
    certificate_of_caller,
)

LOCAL_TLS = "https://127.0.0.1:0"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA with certificates for this host, for another, by name only, and by name
    for another host."""
    found = member_certificates(tmp_path_factory.mktemp("certificates"))
    found.sign("both", "member-by-name", "DNS:*.example,IP:192.0.2.7")
    found.sign("twin", "stranger", "DNS:*.example,IP:192.0.2.7")
    return found


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
