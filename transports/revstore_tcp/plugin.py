"""Registers the transport plugin "tcp"."""

from __future__ import annotations

from collections.abc import Callable

from revstore.hookspecs import NoOptions, TransportPlugin, hookimpl
from revstore.interfaces.transport import Transport, TransportCapabilities

CAPABILITIES = TransportCapabilities(
    clients=True,
    peers=True,
    tls=True,
    channel_schemes=("tcp", "tcps"),
    groups_calls=True,
)


def make(options: NoOptions) -> Transport:
    """Make the transport. Raises: nothing."""
    from revstore_tcp.transport import TcpTransport

    return TcpTransport()


@hookimpl
def revstore_register_transport(register: Callable[[TransportPlugin], None]) -> None:
    """Register "tcp"."""
    register(
        TransportPlugin(
            name="tcp",
            summary="A compact framing on plain sockets, for clients and members.",
            capabilities=CAPABILITIES,
            factory=make,
        )
    )
