"""Calling an address: a protocol on a connected socket."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar

from revstore.errors import TransportError
from revstore.interfaces.peers import PeerTls
from revstore.net.addresses import Address
from revstore.net.listen import CLOSE_S
from revstore.net.tls import certificate_fits

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)


async def dial(
    address: Address,
    factory: Callable[[], ProtocolT],
    context: ssl.SSLContext | None,
    server_name: str = "",
) -> ProtocolT:
    """Connect; ``server_name`` is checked in place of the address's host.

    Raises:
        OSError: nobody answers there, or TLS fails.
    """
    loop = asyncio.get_running_loop()
    if address.path:
        _, found = await loop.create_unix_connection(factory, address.path)
        return found
    _, found = await loop.create_connection(
        factory,
        address.host,
        address.port,
        ssl=context if address.tls else None,
        server_hostname=(server_name or address.host) if address.tls else None,
        ssl_shutdown_timeout=CLOSE_S if address.tls else None,
    )
    return found


def check_names(
    transport: asyncio.BaseTransport | None, address: Address, tls: PeerTls | None
) -> None:
    """Judge the certificate of a member that was called.

    The context has checked the chain, and the address only where no names are listed.

    Raises:
        TransportError: it has none of the allowed names.
    """
    if tls is None or transport is None or not address.tls or not tls.allowed_names:
        return
    found = transport.get_extra_info("peercert") or {}
    if not certificate_fits(found, tls.allowed_names, ()):
        raise TransportError(
            f"the certificate of {address.url} has none of the allowed names"
        )
