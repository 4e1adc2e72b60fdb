"""Binding the addresses of a grpcio server."""

from __future__ import annotations

from typing import Any

import grpc

from revstore.errors import ConfigError
from revstore.net.addresses import Address, unix_socket_in_use
from revstore_grpcio.addresses import bind_target_of


def bind(
    server: Any, address: Address, credentials: grpc.ServerCredentials | None
) -> str:
    """Let a server listen at an address; returns the URL with its real port.

    Raises:
        ConfigError: the address is in use or not of this host.
    """
    # grpcio would take the path of another server over.
    if address.path and unix_socket_in_use(address.path):
        raise ConfigError(f"cannot listen on {address.url!r}: another server answers")
    target = bind_target_of(address)
    try:
        if address.tls:
            port = server.add_secure_port(target, credentials)
        else:
            port = server.add_insecure_port(target)
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {address.url!r}: the address is in use or not of this "
            "host"
        ) from error
    return address.bound_url(port)
