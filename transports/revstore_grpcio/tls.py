"""Server credentials from PEM files, checked before anything listens.

A certificate is replaced without a restart: each handshake uses the files of that
moment; files that cannot be used then change nothing.
"""

from __future__ import annotations

import grpc

from revstore.errors import ConfigError
from revstore.interfaces.transport import TlsOptions
from revstore.net.tls import CertificateFiles, read_pem, server_context


def server_credentials(options: TlsOptions) -> grpc.ServerCredentials:
    """Credentials for a listener.

    Naming a trusted CA makes client certificates mandatory, as in etcd.

    Raises:
        ConfigError: a file cannot be read or used; the message names it.
    """
    # grpcio would say nothing of use about a bad file.
    server_context(options)
    certificate = read_pem("certificate file", options.cert_file)
    key = read_pem("key file", options.key_file)
    authority = None
    if options.trusted_ca_file:
        authority = read_pem("trusted CA file", options.trusted_ca_file)
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
            certificate = read_pem("certificate file", files.cert_file)
            key = read_pem("key file", files.key_file)
        except ConfigError:
            return None  # Replaced again between two looks.
        return grpc.ssl_server_certificate_configuration(
            [(key, certificate)], root_certificates=self._authority
        )
