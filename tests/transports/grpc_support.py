"""Servers of both gRPC transports, and certificates, for their tests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.transports.certificates import Authority

from revstore.errors import ConfigError
from revstore.interfaces.transport import (
    ClientServer,
    Method,
    ServeOptions,
    TlsOptions,
    Transport,
)
from revstore_conformance.transport import PATIENCE_S, table_of, unary
from revstore_grpc.transport import GrpcServer, GrpcTransport

ECHO = unary("/t.S/Echo", lambda call, message: call.reply(message))
LOCAL = "http://127.0.0.1:0"


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine with a bound on its time."""
    asyncio.run(asyncio.wait_for(test, 3 * PATIENCE_S))


class Maker:
    """Makes servers of one transport."""

    def __init__(self, transport: Callable[[], Transport]) -> None:
        self._transport = transport

    @asynccontextmanager
    async def serving(
        self, *methods: Method, **options: Any
    ) -> AsyncIterator[ClientServer]:
        """A server of these methods."""
        chosen = {"urls": [LOCAL], **options}
        table = table_of(*(methods or (ECHO,)))
        server = await self._transport().serve_clients(table, ServeOptions(**chosen))
        try:
            yield server
        finally:
            await server.drain(0)

    async def refusal(self, *urls: str, tls: TlsOptions | None = None) -> str:
        """The message of the error that listening ends with."""
        with pytest.raises(ConfigError) as caught:
            async with self.serving(urls=urls, tls=tls):
                pass
        return str(caught.value)


@asynccontextmanager
async def serving_grpc(
    *methods: Method, routes: Mapping[str, Any] = {}, **options: Any
) -> AsyncIterator[GrpcServer]:
    """A server of these methods, and of these functions for paths of plain HTTP."""
    transport = GrpcTransport()
    for path, function in routes.items():
        transport.http.register(path, function)
    table = table_of(*(methods or (ECHO,)))
    chosen: dict[str, Any] = {"urls": [LOCAL], **options}
    server = await transport.serve_clients(table, ServeOptions(**chosen))
    try:
        yield server
    finally:
        await server.drain(0)


def port_of(server: GrpcServer) -> int:
    """The port of its first address."""
    return int(server.addresses()[0].rpartition(":")[2])


def make_certificates(folder: Path) -> Path:
    """A CA, a server certificate for localhost and one of a client named ann."""
    authority = Authority(folder)
    authority.sign("server", "server", "DNS:localhost,IP:127.0.0.1")
    authority.sign("client", "ann")
    return folder


def tls_options(folder: Path, **changes: Any) -> TlsOptions:
    """TLS with these certificates."""
    found: dict[str, Any] = {
        "cert_file": str(folder / "server.crt"),
        "key_file": str(folder / "server.key"),
        **changes,
    }
    return TlsOptions(**found)


def channel_credentials(folder: Path, client: bool) -> grpc.ChannelCredentials:
    """What a client trusts and shows."""
    authority = (folder / "ca.crt").read_bytes()
    if not client:
        return grpc.ssl_channel_credentials(authority)
    return grpc.ssl_channel_credentials(
        authority,
        (folder / "client.key").read_bytes(),
        (folder / "client.crt").read_bytes(),
    )


async def exchange(
    server: GrpcServer, request: bytes, context: ssl.SSLContext | None = None
) -> bytes:
    """Everything that comes back on a connection of its own, until it is closed."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port_of(server), ssl=context
    )
    writer.write(request)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    await writer.wait_closed()
    return answer


def get(path: str, *more: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request after which the connection is closed."""
    lines = [f"{method} {path} HTTP/{version}", "host: test", *more]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode()
