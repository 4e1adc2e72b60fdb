"""Every transport between members keeps their contract: the same cases over each."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from revstore.interfaces.peers import PeerTransport
from revstore.peer.memory import SCHEME, MemoryNetwork
from revstore_conformance.peers import CHECKS, Check, Harness, name_of, run
from revstore_tcp.transport import TcpTransport


class TcpHarness:
    """Loopback sockets."""

    def transport(self) -> PeerTransport:
        return TcpTransport()

    def url(self) -> str:
        return "tcp://127.0.0.1:0"

    async def garbage(self, url: str, data: bytes) -> None:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(data)
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        writer.close()


class MemoryHarness:
    """One network in memory for each check."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()

    def transport(self) -> PeerTransport:
        self.network = MemoryNetwork()
        return self.network.transport()

    def url(self) -> str:
        return SCHEME

    async def garbage(self, url: str, data: bytes) -> None:
        self.network.garbage(url, data)


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
@pytest.mark.parametrize(
    "harness", [TcpHarness(), MemoryHarness()], ids=["tcp", "memory"]
)
def test_contract(harness: Harness, check: Check) -> None:
    """Every clause of the contract holds."""
    run(check, harness)
