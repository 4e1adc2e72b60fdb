"""Versions: of revstore, and of the etcd API that it speaks."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

ETCD_API_VERSION = "3.6.14"
"""The etcd release whose behaviour is followed; clients decide features by it."""

DATA_FORMAT = 1
"""Number of the data directory's layout."""


def revstore_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("revstore")
    except PackageNotFoundError:
        return "unknown"
