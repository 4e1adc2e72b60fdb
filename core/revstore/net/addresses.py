"""URLs to listen on and to call, as the operator writes them and as sockets want them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from revstore.errors import ConfigError


class Address(msgspec.Struct, frozen=True):
    """One parsed URL."""

    url: str
    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False
    """Whether the connection is encrypted."""

    def bound_url(self, port: int) -> str:
        """The URL with the port that was really bound."""
        if self.path:
            return self.url
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{port}"


def parse_url(
    url: str, schemes: Mapping[str, bool], forms: str, what: str = "URL"
) -> Address:
    """Read a URL. ``schemes`` says which there are and whether they are encrypted.

    Raises:
        ConfigError: it is not of a known form; the message shows the ``forms``.
    """
    if url.startswith("unix://"):
        path = url.removeprefix("unix://")
        if not path:
            raise ConfigError(f"{what} {url!r} has no path; {forms}")
        return Address(url=url, scheme="unix", path=path)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        # As the resolver does; where it is asked, the error would have no URL.
        (host or "").encode("idna")
    except ValueError as error:
        raise ConfigError(f"{what} {url!r}: {error}; {forms}") from error
    scheme = parts.scheme
    if scheme not in schemes:
        raise ConfigError(f"{what} {url!r} has no known scheme; {forms}")
    if parts.path not in ("", "/") or parts.query or parts.username:
        raise ConfigError(f"{what} {url!r} has more than host and port; {forms}")
    if not host:
        raise ConfigError(f"{what} {url!r} has no host; {forms}")
    if port is None:
        raise ConfigError(f"{what} {url!r} has no port; {forms}")
    return Address(url, scheme, host, port, tls=schemes[scheme])


def numeric_host(address: Address) -> str:
    """One address to listen on: a name that stands for two would need two ports.

    Raises:
        ConfigError: the name has none.
    """
    try:
        found = socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(
            f"URL {address.url!r}: no address for {address.host!r}"
        ) from error
    hosts = [str(entry[4][0]) for entry in found]
    return next((one for one in hosts if ":" not in one), hosts[0])


def unix_socket_in_use(path: str) -> bool:
    """Whether something answers at a socket's path. Raises: nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def name_of(found: object) -> str:
    """How logs write the other side, which a socket tells (``peername``).

    Raises: nothing.
    """
    if isinstance(found, tuple):
        host, port = found[0], found[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{found or ''}"
