"""Server credentials from PEM files, checked before anything listens."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from revstore.errors import ConfigError
from revstore.interfaces.transport import TlsOptions


def _read(what: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot read the {what} {path!r}: {reason}") from error


def server_credentials(options: TlsOptions) -> grpc.ServerCredentials:
    """Credentials for a listener.

    Naming a trusted CA makes client certificates mandatory, as in etcd.

    Raises:
        ConfigError: a file cannot be read or used; the message names it.
    """
    certificate = _read("certificate file", options.cert_file)
    key = _read("key file", options.key_file)
    if options.client_cert_auth and not options.trusted_ca_file:
        raise ConfigError(
            "client certificates are required but no trusted CA file is given; "
            "name the CA that signs them"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.cert_file, options.key_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"certificate {options.cert_file!r} and key {options.key_file!r} cannot be "
            f"used together: {error.reason or error}"
        ) from error
    authority = None
    if options.trusted_ca_file:
        authority = _read("trusted CA file", options.trusted_ca_file)
        try:
            context.load_verify_locations(options.trusted_ca_file)
        except ssl.SSLError as error:
            raise ConfigError(
                f"trusted CA file {options.trusted_ca_file!r} holds no certificate: "
                f"{error.reason or error}"
            ) from error
    return grpc.ssl_server_credentials(
        [(key, certificate)],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )
