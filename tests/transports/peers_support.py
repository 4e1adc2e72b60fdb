"""What the tests of members share: a cluster in this process, and TLS of members."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.transports.certificates import Authority

from revstore.interfaces.peers import PeerTls, PeerTransport
from revstore_conformance.peers_harness import PATIENCE_S, Cluster


class Loopback:
    """The harness of the conformance suite, for its members that take notes."""

    def __init__(self, url: str, transport: type[PeerTransport]) -> None:
        self._url = url
        self._transport = transport

    def transport(self) -> PeerTransport:
        return self._transport()

    def url(self) -> str:
        return self._url

    async def garbage(self, url: str, data: bytes) -> None:
        raise AssertionError("not used here")


def run_members(
    test: Callable[[Cluster], Awaitable[None]], url: str, transport: type[PeerTransport]
) -> None:
    """Run a test on members of its own, with a bound on its time."""

    async def whole() -> None:
        cluster = Cluster(Loopback(url, transport))
        try:
            await asyncio.wait_for(test(cluster), 3 * PATIENCE_S)
        finally:
            await cluster.close()

    asyncio.run(whole())


def member_certificates(folder: Path) -> Authority:
    """A CA with a certificate for this host, one for another, and one by name only."""
    found = Authority(folder)
    found.sign("here", "member", "IP:127.0.0.1,DNS:localhost")
    found.sign("elsewhere", "stranger", "IP:192.0.2.1")
    found.sign("named", "member-by-name")
    return found


def tls_of(authority: Authority, name: str, *allowed: str, **changes: str) -> PeerTls:
    """TLS of a member with a certificate."""
    files = {
        "cert_file": authority.path(f"{name}.crt"),
        "key_file": authority.path(f"{name}.key"),
        "trusted_ca_file": authority.path("ca.crt"),
        **changes,
    }
    return PeerTls(**files, allowed_names=allowed)
