"""TLS between members: each side proves itself to the other (P-07).

The library checks certificates, with two gaps that are filled here:

1. Who answers must be valid for the name that was called; an allow list is something
   else. So a member with an allow list looks at the other's certificate first, by a
   connection of its own, checks chain and names, and then tells the library to trust
   that very certificate and nothing else.
2. Of who calls, only the chain is checked; the names are looked at by
   ``revstore.net.tls.misfit``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import grpc

from revstore.errors import ConfigError, TransportError
from revstore.interfaces.peers import PeerTls
from revstore.interfaces.transport import TlsOptions
from revstore.net.addresses import Address
from revstore.net.tls import (
    CertificateFiles,
    certificate_fits,
    client_context,
    load_pair,
    names_of,
    read_pem,
)


class Calling:
    """How this member proves itself when it calls."""

    def __init__(self, options: PeerTls) -> None:
        """Raises: ConfigError: a file cannot be read or used; the message names it."""
        if not options.trusted_ca_file:
            raise ConfigError(
                "members prove themselves by certificates; name the trusted CA file"
            )
        self._context = client_context(options.trusted_ca_file)
        load_pair(self._context, options.cert_file, options.key_file)
        self._allowed = tuple(options.allowed_names)
        self._certificate = read_pem("certificate file", options.cert_file)
        self._key = read_pem("key file", options.key_file)
        self._authority = read_pem("trusted CA file", options.trusted_ca_file)
        self._context.check_hostname = False
        self._context.set_alpn_protocols(["h2"])
        self._files = CertificateFiles(options.cert_file, options.key_file)

    def _refresh(self) -> None:
        """Show what is in the files now (``revstore.net.tls``, rule 2)."""
        files = self._files
        if not files.replaced():
            return
        with suppress(ConfigError):  # Replaced again between two looks.
            load_pair(self._context, files.cert_file, files.key_file)
            certificate = read_pem("certificate file", files.cert_file)
            self._key = read_pem("key file", files.key_file)
            self._certificate = certificate

    async def credentials(
        self, address: Address
    ) -> tuple[grpc.ChannelCredentials, str]:
        """Credentials for a channel, and the name to check instead of the address.

        Raises:
            TransportError: the member's certificate has none of the allowed names.
            OSError: the member cannot be reached.
        """
        self._refresh()
        if not self._allowed:
            return self._trusting(self._authority), ""
        found, certificate = await self._look(address)
        if not certificate_fits(found, self._allowed, ()):
            raise TransportError(
                f"the certificate of {address.url} has none of the allowed names"
            )
        return self._trusting(certificate), _checkable_name(found)

    def _trusting(self, authority: bytes) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(authority, self._key, self._certificate)

    async def _look(self, address: Address) -> tuple[Mapping[str, Any], bytes]:
        _, writer = await asyncio.open_connection(
            address.host, address.port, ssl=self._context, server_hostname=address.host
        )
        try:
            session = writer.get_extra_info("ssl_object")
            found = session.getpeercert() or {}
            certificate = ssl.DER_cert_to_PEM_cert(session.getpeercert(True) or b"")
        finally:
            writer.transport.abort()
        return found, certificate.encode()


def answering_options(options: PeerTls) -> TlsOptions:
    """The same files for the library's server. Raises: nothing."""
    return TlsOptions(
        cert_file=options.cert_file,
        key_file=options.key_file,
        trusted_ca_file=options.trusted_ca_file,
        client_cert_auth=True,
    )


def _checkable_name(certificate: Mapping[str, Any]) -> str:
    """A name for which the library will find the certificate valid."""
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "IP Address"):
            return str(value).replace("*.", "any.", 1)
    return next(names_of(certificate), "")


def certificate_of_caller(context: Any) -> Mapping[str, Any] | None:
    """The certificate of a call as the ssl module would give it, None without TLS.

    The library does not say of which kind an alternative name is. Raises: nothing.
    """
    found = context.auth_context()
    if "x509_pem_cert" not in found:
        return None
    common = _texts(found.get("x509_common_name", ()))
    alternative = _texts(found.get("x509_subject_alternative_name", ()))
    return {
        "subject": [[("commonName", name)] for name in common],
        "subjectAltName": [("", name) for name in alternative],
    }


def _texts(values: Iterable[bytes]) -> list[str]:
    return [value.decode("utf-8", "replace") for value in values]
