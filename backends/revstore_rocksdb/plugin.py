"""The backend "rocksdb": a log-structured merge tree."""

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
    compact=True,
)


class RocksdbOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the backend "rocksdb"; sizes in bytes.

    The engine's memory is about ``write_buffer_bytes`` * ``write_buffers`` +
    ``block_cache_bytes``, and the same write buffers again for each old snapshot that
    is kept open.
    """

    write_buffer_bytes: int = 32 * 1024 * 1024
    """Size at which the table in memory is written to a file."""
    write_buffers: int = 2
    """How many such tables there can be, the ones being written out included."""
    block_cache_bytes: int = 64 * 1024 * 1024
    """Cache of file blocks, indexes and filters included."""
    compression: Literal["none", "lz4", "zstd"] = "lz4"
    """Compression of all levels but the last."""
    compression_last: Literal["none", "lz4", "zstd"] = "zstd"
    """Compression of the last level, where most of the data is."""
    bloom_bits: int = 10
    """Bits of Bloom filter for each key; 0 for none."""
    background_jobs: int = 2
    """Threads that write out tables and merge files."""
    open_files_max: int = 256
    """How many table files are kept open."""
    stall_seconds_max: int = 120
    """How long a write waits for the engine to catch up before it fails."""


def make_backend(directory: Path, keyspaces: Sequence[str], options: Any) -> Backend:
    """Open or create the store in ``directory``.

    Raises:
        PluginError: the driver is not installed.
        LockedError: it is open elsewhere.
        FormatError: it was written by a newer revstore.
        CorruptionError: the engine does not accept its files.
        StorageError: it cannot be opened for another reason.
    """
    try:
        from revstore_rocksdb.backend import RocksdbBackend
    except ModuleNotFoundError as exc:
        if exc.name != "rocksdict":
            raise
        raise PluginError(
            "the backend rocksdb needs rocksdict: pip install 'revstore[rocksdb]'"
        ) from exc
    return RocksdbBackend(directory, keyspaces, options or RocksdbOptions())


@hookimpl
def revstore_register_backend(register: Callable[[BackendPlugin], None]) -> None:
    """Register "rocksdb"."""
    register(
        BackendPlugin(
            name="rocksdb",
            summary="a log-structured merge tree: small on disk, cheap random writes",
            capabilities=CAPABILITIES,
            factory=make_backend,
            options=RocksdbOptions,
            extra="rocksdb",
        )
    )
