"""The URLs of this transport, as the operator writes them and as grpcio wants them."""

from __future__ import annotations

from revstore.net import addresses
from revstore.net.addresses import Address, numeric_host

_FORMS = "use http://HOST:PORT, https://HOST:PORT or unix:///PATH"
_TLS = {"http": False, "https": True}


def parse_listen_url(url: str) -> Address:
    """Read a URL to listen on.

    Raises:
        ConfigError: it is not of a known form; the message shows the forms.
    """
    return addresses.parse_url(url, _TLS, _FORMS, "listen URL")


def parse_url(url: str) -> Address:
    """Read the URL of another member; its host need not have an address yet.

    Raises:
        ConfigError: it is not of a known form; the message shows the forms.
    """
    return addresses.parse_url(url, _TLS, _FORMS)


def target_of(address: Address) -> str:
    """What grpcio calls: ``host:port`` or ``unix:path``. Raises: nothing."""
    return _target(address, address.host)


def bind_target_of(address: Address) -> str:
    """What grpcio binds.

    A name can stand for several addresses, and grpcio is content when it could bind one
    of them; one address makes "already in use" an error that is seen.

    Raises:
        ConfigError: the host has no address.
    """
    return _target(address, "" if address.path else numeric_host(address))


def _target(address: Address, host: str) -> str:
    if address.path:
        return f"unix:{address.path}"
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
