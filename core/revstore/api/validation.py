"""Checks of request fields that need no state: URLs and versions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from revstore.api import errors

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def check_peer_urls(urls: Iterable[str]) -> tuple[str, ...]:
    """The URLs of a member, sorted, if they are what etcd takes.

    Raises:
        ApiError: MEMBER_BAD_URLS.
    """
    found = tuple(sorted(urls))
    if not found or not all(is_peer_url(url) for url in found):
        raise errors.MEMBER_BAD_URLS.fresh()
    return found


def is_peer_url(url: str) -> bool:
    """Whether a URL is ``http(s)://host:port`` without a path, or a unix socket."""
    if url != url.strip():
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme in ("unix", "unixs"):
        return bool(parts.netloc or parts.path)
    if parts.scheme not in ("http", "https"):
        return False
    return bool(parts.hostname) and port is not None and not parts.path


def parse_version(text: str) -> tuple[int, int]:
    """Major and minor of ``X.Y`` or ``X.Y.Z``.

    Raises:
        ApiError: WRONG_DOWNGRADE_VERSION_FORMAT.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise errors.WRONG_DOWNGRADE_VERSION_FORMAT.fresh()
    return int(match[1]), int(match[2])
