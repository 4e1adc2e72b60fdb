"""The transport "grpc" and its plain HTTP, for tests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from tests.transports.server_support import ECHO

from revstore.interfaces.transport import (
    Method,
    ServeOptions,
)
from revstore_conformance.transport import PATIENCE_S, table_of
from revstore_grpc.transport import GrpcServer, GrpcTransport

LOCAL = "http://127.0.0.1:0"


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
