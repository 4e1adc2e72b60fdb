"""TLS contexts from PEM files, checked before anything listens or calls.

Rules of this file:

1. A file that cannot be used is an error before anything listens or calls.
2. Certificates are replaced without a restart: each new connection uses the files of
   that moment (etcd re-reads them on every handshake). Files that cannot be used then
   change nothing. The trusted CAs are those of the start, as in etcd.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from revstore import logs
from revstore.errors import ConfigError
from revstore.interfaces.channel import ChannelTls
from revstore.interfaces.peers import PeerTls
from revstore.interfaces.transport import TlsOptions

LOG = logs.get(__name__)


class CertificateFiles:
    """A certificate and its key, and whether somebody has replaced them (rule 2)."""

    def __init__(self, cert_file: str, key_file: str) -> None:
        self.cert_file = cert_file
        self.key_file = key_file
        self._stamp = self._look()

    def replaced(self) -> bool:
        """Whether there is another pair since the last call, and it can be used.

        Says in the log what it found, once. Raises: nothing.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            # A pair that does not fit would take the good one away.
            scratch = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            load_pair(scratch, self.cert_file, self.key_file)
        except ConfigError as exc:
            LOG.error("the certificate in use is kept", error=f"{exc}")
            return False
        LOG.info("the certificate was replaced", file=self.cert_file)
        return True

    def _look(self) -> object:
        found = []
        for path in (self.cert_file, self.key_file):
            try:
                facts = os.stat(path)
            except OSError:
                return None
            found.append((facts.st_mtime_ns, facts.st_size, facts.st_ino))
        return found


class FileContext(ssl.SSLContext):
    """A context whose certificate and key are those in two files (rule 2)."""

    _files: CertificateFiles | None = None

    def use(self, cert_file: str, key_file: str) -> None:
        """Show this certificate from now on.

        Raises:
            ConfigError: a file cannot be read or used; the message names it.
        """
        self._files = CertificateFiles(cert_file, key_file)
        load_pair(self, cert_file, key_file)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """See ``ssl.SSLContext``; what begins every connection of an event loop."""
        files = self._files
        if files is not None and files.replaced():
            with suppress(ConfigError):  # Replaced again between two looks.
                load_pair(self, files.cert_file, files.key_file)
        return super().wrap_bio(*args, **kwargs)


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """TLS for clients. Naming a trusted CA makes client certificates mandatory.

    Raises:
        ConfigError: a file cannot be read or used; the message names it.
    """
    if options.client_cert_auth and not options.trusted_ca_file:
        raise ConfigError(
            "client certificates are required but no trusted CA file is given; "
            "name the CA that signs them"
        )
    context = FileContext(ssl.PROTOCOL_TLS_SERVER)
    context.use(options.cert_file, options.key_file)
    if options.trusted_ca_file:
        _load_authority(context, options.trusted_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    trusted_ca_file: str = "", cert_file: str = "", key_file: str = ""
) -> ssl.SSLContext:
    """TLS of a client; without a CA file the system's are trusted.

    Raises:
        ConfigError: a file cannot be read or used; the message names it.
    """
    context = FileContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusted_ca_file:
        _load_authority(context, trusted_ca_file)
    else:
        context.load_default_certs()
    if cert_file:
        context.use(cert_file, key_file)
    return context


def channel_context(tls: ChannelTls) -> ssl.SSLContext:
    """TLS of a client's channel.

    Raises:
        ConfigError: a file cannot be read or used; the message names it.
    """
    context = client_context(tls.trusted_ca_file, tls.cert_file, tls.key_file)
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def peer_contexts(options: PeerTls) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS between members, (answering, calling): both sides show certificates.

    With an allow list names are checked against it and not against the address.

    Raises:
        ConfigError: a file cannot be read or used; the message names it.
    """
    if not options.trusted_ca_file:
        raise ConfigError(
            "members prove themselves by certificates; name the trusted CA file"
        )
    answering = FileContext(ssl.PROTOCOL_TLS_SERVER)
    calling = FileContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (answering, calling):
        context.use(options.cert_file, options.key_file)
        _load_authority(context, options.trusted_ca_file)
    answering.verify_mode = ssl.CERT_REQUIRED
    if options.allowed_names:
        calling.check_hostname = False
        calling.verify_mode = ssl.CERT_REQUIRED
    return answering, calling


def names_of(certificate: Mapping[str, Any]) -> Iterator[str]:
    """Common names and alternative names of a verified certificate. Raises: nothing."""
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                yield str(value)
    for _, value in certificate.get("subjectAltName", ()):
        yield str(value)


def common_name(certificate: Mapping[str, Any] | None) -> str:
    """The first common name of a verified certificate, empty without. Raises: nothing."""
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


def certificate_fits(
    certificate: Mapping[str, Any], allowed: Sequence[str], hosts: Sequence[str]
) -> bool:
    """Whether a member may show this certificate.

    With ``allowed`` names, one of them must be in it. Else an alternative name must be
    one of ``hosts``, the places where the member is known to be. Raises: nothing.
    """
    if allowed:
        return not set(allowed).isdisjoint(names_of(certificate))
    wanted = {_canonical(host) for host in hosts}
    found = (_canonical(str(name)) for _, name in certificate.get("subjectAltName", ()))
    return any(name in wanted or _wildcard(name, wanted) for name in found)


def misfit(
    tls: PeerTls | None, certificate: Mapping[str, Any] | None, hosts: Sequence[str]
) -> str:
    """Why a calling member may not show this certificate; empty if it may.

    Without TLS there is none, and nothing to object to. Raises: nothing.
    """
    if tls is None or certificate is None:
        return ""
    if certificate_fits(certificate, tls.allowed_names, hosts):
        return ""
    what = "an allowed name" if tls.allowed_names else "its address"
    return f"the certificate is not valid for {what}"


def _canonical(host: str) -> str:
    try:
        return str(ip_address(host.strip()))
    except ValueError:
        return host.lower().rstrip(".")


def _wildcard(name: str, hosts: set[str]) -> bool:
    if not name.startswith("*."):
        return False
    return any(host.partition(".")[2] == name[2:] for host in hosts)


def load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    """Have a context show a certificate.

    Raises:
        ConfigError: a file cannot be read or used; the message names it.
    """
    for what, path in (("certificate file", cert_file), ("key file", key_file)):
        read_pem(what, path)
    try:
        context.load_cert_chain(cert_file, key_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"certificate {cert_file!r} and key {key_file!r} cannot be "
            f"used together: {error.reason or error}"
        ) from error


def _load_authority(context: ssl.SSLContext, path: str) -> None:
    read_pem("trusted CA file", path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(
            f"trusted CA file {path!r} holds no certificate: {error.reason or error}"
        ) from error


def read_pem(what: str, path: str) -> bytes:
    """What is in a file.

    Raises:
        ConfigError: it cannot be read; the message says ``what`` it is and names it.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot read the {what} {path!r}: {reason}") from error
