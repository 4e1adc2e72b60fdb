"""The backend "lmdb": a B+tree in a memory map, the default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from revstore.errors import PluginError
from revstore.hookspecs import BackendPlugin, hookimpl
from revstore.interfaces.backend import Backend, BackendCapabilities, Durability

CAPABILITIES = BackendCapabilities(
    durability_max=Durability.SYNC,
    persistent=True,
    checkpoint=True,
    verify=True,
    # A page that holds several of a flush's random keys is written once for them all.
    flush_bytes=16 << 20,
    compact=False,
)


class LmdbOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the backend "lmdb"; the defaults suit every store."""

    map_bytes: int = 1 << 40
    """Address space taken at open, in bytes; neither memory nor disk. Where the
    system refuses it, smaller sizes are tried, and a full map grows by itself."""
    readers_max: int = 2048
    """How many snapshots can be open at once."""
    engine: Literal["0.9", "1.0"] = "0.9"
    """The LMDB engine and so its file format. Files of one engine cannot be opened
    by the other."""


def make_backend(directory: Path, keyspaces: Sequence[str], options: Any) -> Backend:
    """Open or create the store in ``directory``.

    Raises:
        PluginError: the driver is not installed.
        LockedError: it is open elsewhere.
        FormatError: it was written by a newer revstore or by another engine.
        CorruptionError: the engine does not accept its files.
        StorageError: it cannot be opened for another reason.
    """
    try:
        from revstore_lmdb.backend import LmdbBackend
    except ModuleNotFoundError as exc:
        if exc.name != "lmdb":
            raise
        raise PluginError(
            "the backend lmdb needs py-lmdb: pip install 'revstore[lmdb]'"
        ) from exc
    return LmdbBackend(directory, keyspaces, options or LmdbOptions())


@hookimpl
def revstore_register_backend(register: Callable[[BackendPlugin], None]) -> None:
    """Register "lmdb"."""
    register(
        BackendPlugin(
            name="lmdb",
            summary="a B+tree in a memory map: fast reads, one synced write a batch",
            capabilities=CAPABILITIES,
            factory=make_backend,
            options=LmdbOptions,
            extra="lmdb",
        )
    )
