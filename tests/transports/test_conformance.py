"""The transport contract over every transport that serves clients."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from revstore.api.inprocess import (
    DirectCall,
    DirectStream,
    InProcessServer,
    InProcessTransport,
)
from revstore.errors import ApiError
from revstore.interfaces.transport import ClientServer, ServeOptions, Transport
from revstore_conformance.transport import (
    CHECKS,
    Check,
    Client,
    ClientStream,
    Harness,
    name_of,
)
from revstore_grpc.client import GrpcChannel
from revstore_grpc.transport import GrpcTransport
from revstore_grpcio.client import GrpcioClient
from revstore_grpcio.transport import GrpcioTransport
from revstore_tcp.client import TcpChannel
from revstore_tcp.transport import TcpTransport


class GrpcioHarness:
    """grpcio on a port of its own."""

    def transport(self) -> Transport:
        return GrpcioTransport()

    def options(self) -> ServeOptions:
        return ServeOptions(urls=["http://127.0.0.1:0"])

    async def connect(self, server: ClientServer) -> Client:
        return GrpcioClient(server.addresses()[0])


class GrpcHarness:
    """Our own gRPC on a port of its own, called by itself."""

    def transport(self) -> Transport:
        return GrpcTransport()

    def options(self) -> ServeOptions:
        return ServeOptions(urls=["http://127.0.0.1:0"])

    async def connect(self, server: ClientServer) -> Client:
        return GrpcChannel(server.addresses()[0])


class GrpcServerHarness(GrpcHarness):
    """Our own gRPC called by grpcio."""

    async def connect(self, server: ClientServer) -> Client:
        return GrpcioClient(server.addresses()[0])


class GrpcClientHarness(GrpcioHarness):
    """grpcio called by our own gRPC."""

    async def connect(self, server: ClientServer) -> Client:
        return GrpcChannel(server.addresses()[0])


class TcpHarness:
    """The compact framing on a port of its own."""

    def transport(self) -> Transport:
        return TcpTransport()

    def options(self) -> ServeOptions:
        return ServeOptions(urls=["tcp://127.0.0.1:0"])

    async def connect(self, server: ClientServer) -> Client:
        return TcpChannel(server.addresses()[0])


class DirectClientStream:
    """The client's end of an in-process stream."""

    def __init__(self, stream: DirectStream) -> None:
        self._stream = stream
        self._event = asyncio.Event()
        stream.on_event = self._event.set

    async def send(self, message: bytes) -> None:
        self._stream.push(message)

    async def half_close(self) -> None:
        self._stream.half_close()

    async def receive(self) -> bytes | None:
        while (message := self._stream.take()) is None:
            if self._stream.over:
                if self._stream.error is not None:
                    raise self._stream.error.fresh()
                return None
            self._event.clear()
            await self._event.wait()
        return message

    async def cancel(self) -> None:
        self._stream.cancel()


class DirectClient:
    """An in-process client with the shape of a remote one."""

    def __init__(self, server: InProcessServer) -> None:
        self._server = server

    async def unary(
        self, path: str, message: bytes, metadata: Mapping[str, str] = {}
    ) -> bytes:
        done = asyncio.Event()

        def on_done(_: DirectCall) -> None:
            done.set()

        call = self._server.invoke(path, message, metadata, on_done)
        if call.outcome is None:
            await done.wait()
        return call.result()

    async def server_stream(
        self, path: str, message: bytes, metadata: Mapping[str, str] = {}
    ) -> ClientStream:
        stream = self._server.open_stream(path, metadata)
        stream.push(message)
        return DirectClientStream(stream)

    async def bidi_stream(
        self, path: str, metadata: Mapping[str, str] = {}
    ) -> ClientStream:
        return DirectClientStream(self._server.open_stream(path, metadata))

    async def close(self) -> None:
        pass


class DirectHarness:
    """No transport between."""

    def transport(self) -> Transport:
        return InProcessTransport()

    def options(self) -> ServeOptions:
        return ServeOptions(urls=())

    async def connect(self, server: ClientServer) -> Client:
        assert isinstance(server, InProcessServer)
        return DirectClient(server)


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
@pytest.mark.parametrize(
    "harness",
    [
        GrpcHarness(),
        GrpcServerHarness(),
        GrpcClientHarness(),
        GrpcioHarness(),
        TcpHarness(),
        DirectHarness(),
    ],
    ids=["grpc", "grpc-grpcio", "grpcio-grpc", "grpcio", "tcp", "inprocess"],
)
def test_contract(harness: Harness, check: Check) -> None:
    """Every clause of the contract holds."""
    asyncio.run(_run(check, harness))


async def _run(check: Check, harness: Harness) -> None:
    await check(harness)


def test_unanswered_call_has_no_result() -> None:
    """Asking an in-process call for its result too early is an error of the caller."""
    with pytest.raises(LookupError):
        DirectCall().result()
    call = DirectCall()
    call.fail(ApiError(3, "no"))
    with pytest.raises(ApiError, match="no"):
        call.result()
