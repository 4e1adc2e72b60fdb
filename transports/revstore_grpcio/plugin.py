"""Registers the transport plugin "grpcio"."""

from __future__ import annotations

from collections.abc import Callable

from revstore.errors import PluginError
from revstore.hookspecs import NoOptions, TransportPlugin, hookimpl
from revstore.interfaces.transport import Transport, TransportCapabilities

CAPABILITIES = TransportCapabilities(
    clients=True, peers=True, tls=True, channel_schemes=("http", "https", "unix")
)


def make(options: NoOptions) -> Transport:
    """Make the transport. Raises: PluginError if grpcio is not installed."""
    try:
        from revstore_grpcio.transport import GrpcioTransport
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "grpc":
            raise
        raise PluginError(
            'the transport "grpcio" needs the package grpcio: '
            'pip install "revstore[grpc]"'
        ) from error
    return GrpcioTransport()


@hookimpl
def revstore_register_transport(register: Callable[[TransportPlugin], None]) -> None:
    """Register "grpcio"."""
    register(
        TransportPlugin(
            name="grpcio",
            summary="etcd's gRPC API, and members together, on the grpcio library.",
            capabilities=CAPABILITIES,
            factory=make,
            extra="grpc",
        )
    )
