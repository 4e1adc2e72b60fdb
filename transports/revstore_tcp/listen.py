"""Listening sockets for a protocol, on every URL or on none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Sequence

from revstore.errors import ConfigError
from revstore_tcp.addresses import Address, numeric_host, unix_socket_in_use
from revstore_tcp.limits import HANDSHAKE_TIMEOUT_S

BACKLOG = 512

ACCEPT_TURNS = 4
"""Turns of the loop after which an accepted socket has a protocol."""


class Listener:
    """The sockets of one server."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self._servers: list[asyncio.Server] = []
        self._paths: list[str] = []

    async def open(
        self,
        addresses: Sequence[Address],
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
    ) -> None:
        """Listen on each address.

        Raises:
            ConfigError: one cannot be listened on; none is open then.
        """
        try:
            for address in addresses:
                await self._open_one(address, factory, context if address.tls else None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Listen no more; connections stay. Raises: nothing."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._paths.clear()

    async def settle(self) -> None:
        """After ``close``: let what was being accepted reach its protocol.

        asyncio takes a few turns of the loop from an accepted socket to
        ``connection_made``; before that nobody could close it. Raises: nothing.
        """
        for _ in range(ACCEPT_TURNS):
            await asyncio.sleep(0)

    async def _open_one(
        self,
        address: Address,
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        if address.path:
            if unix_socket_in_use(address.path):
                raise ConfigError(
                    f"cannot listen on {address.url!r}: another server answers"
                )
            try:
                server = await loop.create_unix_server(
                    factory, address.path, backlog=BACKLOG
                )
            except OSError as error:
                raise _cannot_listen(address, error) from error
            self._servers.append(server)
            self._paths.append(address.path)
            self.urls.append(address.url)
            return
        bound = _bind(address)
        try:
            server = await loop.create_server(
                factory,
                sock=bound,
                ssl=context,
                backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if context else None,
            )
        except BaseException:
            bound.close()
            raise
        self._servers.append(server)
        self.urls.append(address.bound_url(server.sockets[0].getsockname()[1]))


def _bind(address: Address) -> socket.socket:
    host = numeric_host(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, for asyncio turns Nagle's delay off only where it is.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setblocking(False)
        # A restart must not wait for old connections; it shares no live port.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, address.port))
    except OSError as error:
        bound.close()
        raise _cannot_listen(address, error) from error
    return bound


def _cannot_listen(address: Address, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(
        f"cannot listen on {address.url!r}: {reason}; the address is in use or not of "
        "this host"
    )
