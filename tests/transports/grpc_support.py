"""Servers of both gRPC transports, and certificates, for their tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
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
