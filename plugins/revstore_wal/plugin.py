"""Registers the write-ahead log "segment"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from revstore.hookspecs import WalPlugin, hookimpl
from revstore.interfaces.wal import Wal, WalCapabilities
from revstore_wal.options import SegmentOptions


def _open(directory: Path, metadata: bytes, threaded: bool, options: Any) -> Wal:
    from revstore_wal.log import open_wal

    return open_wal(directory, metadata, threaded, options)


@hookimpl
def revstore_register_wal(register: Callable[[WalPlugin], None]) -> None:
    """Register ``segment``."""
    register(
        WalPlugin(
            name="segment",
            summary="Preallocated segments in etcd's format, group commit, CRC-32C.",
            capabilities=WalCapabilities(persistent=True),
            factory=_open,
            options=SegmentOptions,
        )
    )
