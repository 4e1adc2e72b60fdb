"""Server credentials from PEM files, checked before anything listens.

A certificate is replaced without a restart: each handshake uses the files of that
moment; files that cannot be used then change nothing.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from revstore.errors import ConfigError
from revstore.interfaces.transport import TlsOptions
from revstore.net.tls import CertificateFiles


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
    configuration = grpc.ssl_server_certificate_configuration(
        [(key, certificate)], root_certificates=authority
    )
    return grpc.dynamic_ssl_server_credentials(
        configuration,
        _Fetcher(options, authority),  # type: ignore[arg-type] # None: no change
        require_client_authentication=authority is not None,
    )


class _Fetcher:
    """Asked before each handshake; answers with the files if they have changed.

    grpc calls it in its own threads, one call at a time.
    """

    def __init__(self, options: TlsOptions, authority: bytes | None) -> None:
        self._files = CertificateFiles(options.cert_file, options.key_file)
        self._authority = authority

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        files = self._files
        if not files.replaced():
            return None
        try:
            certificate = _read("certificate file", files.cert_file)
            key = _read("key file", files.key_file)
        except ConfigError:
            return None  # Replaced again between two looks.
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=self._authority
        )
