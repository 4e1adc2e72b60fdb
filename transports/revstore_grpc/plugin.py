"""Registers the transport plugin "grpc"."""

from __future__ import annotations

from collections.abc import Callable

from revstore.hookspecs import NoOptions, TransportPlugin, hookimpl
from revstore.interfaces.transport import Transport, TransportCapabilities

CAPABILITIES = TransportCapabilities(
    clients=True,
    peers=True,
    tls=True,
    channel_schemes=("http", "https", "unix"),
    groups_calls=True,
)


def make(options: NoOptions) -> Transport:
    """Make the transport. Raises: nothing."""
    from revstore_grpc.transport import GrpcTransport

    return GrpcTransport()


@hookimpl
def revstore_register_transport(register: Callable[[TransportPlugin], None]) -> None:
    """Register "grpc"."""
    register(
        TransportPlugin(
            name="grpc",
            summary="gRPC on an HTTP/2 machine of our own: fast, without grpcio.",
            capabilities=CAPABILITIES,
            factory=make,
        )
    )
