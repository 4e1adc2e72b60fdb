"""Servers of every transport, and certificates, for their tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.transports.certificates import Authority

from revstore.errors import ConfigError
from revstore.interfaces.channel import Channel
from revstore.interfaces.transport import (
    ClientServer,
    Method,
    ServeOptions,
    TlsOptions,
    Transport,
)
from revstore_conformance.transport import PATIENCE_S, table_of, unary
from revstore_grpcio.client import GrpcioClient

ECHO = unary("/t.S/Echo", lambda call, message: call.reply(message))


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine with a bound on its time."""
    asyncio.run(asyncio.wait_for(test, 3 * PATIENCE_S))


class Maker:
    """Makes servers of one transport, and channels to them."""

    def __init__(
        self,
        transport: Callable[[], Transport],
        scheme: str = "http",
        channel: Callable[[str], Channel] = GrpcioClient,
    ) -> None:
        self.scheme = scheme
        self.channel = channel
        self._transport = transport

    @property
    def local(self) -> str:
        """Any port of this host."""
        return f"{self.scheme}://127.0.0.1:0"

    @asynccontextmanager
    async def serving(
        self, *methods: Method, **options: Any
    ) -> AsyncIterator[ClientServer]:
        """A server of these methods."""
        chosen = {"urls": [self.local], **options}
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
