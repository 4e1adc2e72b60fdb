"""Every transport between members keeps their contract: the same cases over each."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import pytest

from revstore.interfaces.peers import Lane, PeerTransport
from revstore.peer.memory import SCHEME, MemoryNetwork
from revstore_conformance.peers import CHECKS, Check, Harness, name_of, run
from revstore_conformance.peers_harness import DEFAULT_CLUSTER
from revstore_grpcio.peer_wire import LANE_PATH, Hello, write_hello
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
        # What is no HTTP/2 the library ends by itself and tells nobody.
        target = urlsplit(url).netloc
        hello = Hello(cluster_id=DEFAULT_CLUSTER, sender=99, to=2, lane=Lane.CONTROL)
        async with grpc.aio.insecure_channel(target) as channel:
            call: Any = channel.stream_stream(LANE_PATH)(metadata=write_hello(hello))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call.write(data)
                while await call.read() is not grpc.aio.EOF:
                    pass


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
    "harness",
    [TcpHarness(), GrpcioHarness(), MemoryHarness()],
    ids=["tcp", "grpcio", "memory"],
)
def test_contract(harness: Harness, check: Check) -> None:
    """Every clause of the contract holds."""
    run(check, harness)
