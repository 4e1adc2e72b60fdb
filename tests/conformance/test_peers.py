"""Every transport between members keeps their contract: the same cases over each."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlsplit

import pytest

from revstore.interfaces import peers as interface
from revstore.interfaces.peers import (
    PeerHandler,
    PeerOptions,
    Peers,
    PeerTransport,
)
from revstore.peer.memory import SCHEME, MemoryNetwork
from revstore.plugin.manager import PluginManager
from revstore_conformance import peers, peers_streams
from revstore_conformance.peers import CHECKS, Check, Harness, name_of, run
from revstore_grpc.transport import GrpcTransport
from revstore_grpcio.transport import GrpcioTransport
from revstore_tcp.transport import TcpTransport


async def end_of_garbage(url: str, data: bytes) -> None:
    """Send bytes to an address and wait until the connection is ended there."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(data)
    try:
        await reader.read()
    except ConnectionResetError:
        pass
    writer.close()


class TcpHarness:
    """Loopback sockets."""

    def transport(self) -> PeerTransport:
        return TcpTransport()

    def url(self) -> str:
        return "tcp://127.0.0.1:0"

    async def garbage(self, url: str, data: bytes) -> None:
        await end_of_garbage(url, data)


class GrpcioHarness:
    """Loopback sockets, gRPC."""

    def transport(self) -> PeerTransport:
        return GrpcioTransport()

    def url(self) -> str:
        return "http://127.0.0.1:0"

    async def garbage(self, url: str, data: bytes) -> None:
        await end_of_garbage(url, data)


class GrpcHarness(GrpcioHarness):
    """Loopback sockets, gRPC on our own machine."""

    def transport(self) -> PeerTransport:
        return GrpcTransport()


class MixedTransport(GrpcTransport):
    """Members with odd ids on grpcio, the others on our own machine."""

    def __init__(self) -> None:
        super().__init__()
        self._other = GrpcioTransport()

    async def join(self, options: PeerOptions, handler: PeerHandler) -> Peers:
        if options.member_id % 2:
            return await self._other.join(options, handler)
        return await super().join(options, handler)


class MixedHarness(GrpcHarness):
    """Two implementations of one protocol."""

    def transport(self) -> PeerTransport:
        return MixedTransport()


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


HARNESSES: dict[str, Harness] = {
    "tcp": TcpHarness(),
    "grpcio": GrpcioHarness(),
    "grpc": GrpcHarness(),
    "mixed": MixedHarness(),
    "memory": MemoryHarness(),
}


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
@pytest.mark.parametrize("harness", HARNESSES.values(), ids=HARNESSES)
def test_contract(harness: Harness, check: Check) -> None:
    """Every clause of the contract holds."""
    run(check, harness)


def test_no_check_is_left_out() -> None:
    """Every check that is written is in the list of checks, once."""
    written = {
        function
        for module in (peers, peers_streams)
        for name, function in vars(module).items()
        if name.startswith("check_")
    }
    assert written == set(CHECKS)
    assert len(CHECKS) == len(set(CHECKS))


def test_every_clause_has_a_check() -> None:
    """Every clause of the contract is named by a check."""
    clauses = re.findall(r"^(P-\d\d) ", interface.__doc__ or "", re.MULTILINE)
    assert clauses == [f"P-{number:02}" for number in range(1, len(clauses) + 1)]
    named = " ".join(check.__doc__ or "" for check in CHECKS)
    assert [clause for clause in clauses if clause not in named] == []


def test_every_transport_runs_every_case(request: pytest.FixtureRequest) -> None:
    """The same cases are collected for every transport, and none of them is skipped or
    expected to fail."""
    module = request.node.getparent(pytest.Module)
    assert module is not None
    found: dict[str, list[str]] = {}
    for item in module.collect():
        if isinstance(item, pytest.Function) and item.originalname == "test_contract":
            transport, _, case = item.callspec.id.partition("-")
            found.setdefault(transport, []).append(case)
            marks = {mark.name for mark in item.iter_markers()}
            assert marks <= {"parametrize"}, item.name
    names = [name_of(check) for check in CHECKS]
    assert found == dict.fromkeys(HARNESSES, names)


def test_no_transport_is_left_out() -> None:
    """Every shipped transport that connects members is tested here."""
    plugins = PluginManager()
    shipped = {
        name
        for name in plugins.names("transport")
        if plugins.find("transport", name).capabilities.peers
    }
    assert shipped <= set(HARNESSES)
    assert {"tcp", "grpc", "grpcio"} <= shipped
