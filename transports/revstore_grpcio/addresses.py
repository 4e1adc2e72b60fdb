"""Listen URLs, as the operator writes them and as grpcio wants them."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import msgspec

from revstore.errors import ConfigError

_FORMS = "use http://HOST:PORT, https://HOST:PORT or unix:///PATH"


class ListenAddress(msgspec.Struct, frozen=True):
    """One parsed listen URL."""

    url: str
    scheme: str
    """``http``, ``https`` or ``unix``."""
    target: str
    """What grpcio binds: ``host:port`` or ``unix:path``."""
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def tls(self) -> bool:
        """Whether the listener needs a certificate."""
        return self.scheme == "https"

    def bound_url(self, port: int) -> str:
        """The URL with the port that was really bound."""
        if self.scheme == "unix":
            return self.url
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{port}"


def parse_listen_url(url: str) -> ListenAddress:
    """Read a listen URL.

    Raises:
        ConfigError: it is not of a known form; the message shows the forms.
    """
    if url.startswith("unix://"):
        path = _path_of(url)
        return ListenAddress(url=url, scheme="unix", target=f"unix:{path}", path=path)
    scheme, host, port = _parts_of(url)
    numeric = _numeric_host(url, host)
    target = f"[{numeric}]:{port}" if ":" in numeric else f"{numeric}:{port}"
    return ListenAddress(url=url, scheme=scheme, target=target, host=host, port=port)


class PeerAddress(msgspec.Struct, frozen=True):
    """Where another member is called."""

    url: str
    target: str
    """What grpcio calls: ``host:port`` or ``unix:path``."""
    tls: bool = False
    host: str = ""
    port: int = 0


def parse_peer_url(url: str) -> PeerAddress:
    """Read the URL of another member; its host need not have an address yet.

    Raises:
        ConfigError: it is not of a known form; the message shows the forms.
    """
    if url.startswith("unix://"):
        return PeerAddress(url=url, target=f"unix:{_path_of(url)}")
    scheme, host, port = _parts_of(url)
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return PeerAddress(
        url=url, target=target, tls=scheme == "https", host=host, port=port
    )


def unix_socket_in_use(path: str) -> bool:
    """Whether something answers at a socket's path; grpcio would take it over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _path_of(url: str) -> str:
    path = url.removeprefix("unix://")
    if not path:
        raise ConfigError(f"URL {url!r} has no path; {_FORMS}")
    return path


def _parts_of(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"URL {url!r}: {error}; {_FORMS}") from error
    if parts.scheme not in ("http", "https"):
        raise ConfigError(f"URL {url!r} has no known scheme; {_FORMS}")
    if parts.path not in ("", "/") or parts.query or parts.username:
        raise ConfigError(f"URL {url!r} has more than host and port; {_FORMS}")
    if not host:
        raise ConfigError(f"URL {url!r} has no host; {_FORMS}")
    if port is None:
        raise ConfigError(f"URL {url!r} has no port; {_FORMS}")
    return parts.scheme, host, port


def _numeric_host(url: str, host: str) -> str:
    # A name can stand for several addresses, and grpcio is content when it could bind
    # one of them; one address makes "already in use" an error that is seen.
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"listen URL {url!r}: no address for {host!r}") from error
    addresses = [str(entry[4][0]) for entry in found]
    return next((one for one in addresses if ":" not in one), addresses[0])
