"""The URLs of this transport."""

from __future__ import annotations

from revstore.net import addresses
from revstore.net.addresses import Address

_FORMS = "use tcp://HOST:PORT, tcps://HOST:PORT (TLS) or unix:///PATH"
_TLS = {"tcp": False, "http": False, "tcps": True, "https": True}
"""Schemes; http and https are taken because etcd's flags are written so."""

__all__ = ["Address", "parse_url"]


def parse_url(url: str) -> Address:
    """Read a URL.

    Raises:
        ConfigError: it is not of a known form; the message shows the forms.
    """
    return addresses.parse_url(url, _TLS, _FORMS)
