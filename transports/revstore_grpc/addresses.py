"""The URLs of this transport."""

from __future__ import annotations

from revstore.net import addresses
from revstore.net.addresses import Address

_FORMS = "use http://HOST:PORT, https://HOST:PORT or unix:///PATH"
_TLS = {"http": False, "https": True}


def parse_listen_url(url: str) -> Address:
    """Read a URL to listen on.

    Raises:
        ConfigError: it is not of a known form; the message shows the forms.
    """
    return addresses.parse_url(url, _TLS, _FORMS, "listen URL")


def parse_url(url: str) -> Address:
    """Read a URL to call.

    Raises:
        ConfigError: it is not of a known form; the message shows the forms.
    """
    return addresses.parse_url(url, _TLS, _FORMS)
