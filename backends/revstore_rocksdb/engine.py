"""The border to rocksdict, whose errors have no types and whose objects cannot be
left to a forked child.

The traps that shape every call to it:

- Errors are plain ``Exception``; only the text tells a missing key from a broken disk.
- ``Snapshot.items`` and ``Snapshot.iter`` do not read the snapshot but the newest data;
  only ``Snapshot[key]`` does. An iterator is pinned when it is made, so a consistent
  scan needs an iterator made at the moment of the snapshot.
- ``items()`` ends at a damaged block as if that were the end of the data. Only
  ``RdictIter`` has a ``status``, and it must be asked wherever an iterator ends.
- The upper bound of ``ReadOptions`` is not kept alive, and the lower bound sets the
  upper one. No bound is given to the engine at all; keys are compared here.
- ``write`` keeps the interpreter lock, an engine stall and a sync included;
  ``flush_wal`` does not. So writes are neither synced nor allowed to stall.
- A range delete whose end lies before its start breaks the open database for good.
- The database stays locked while an iterator or a snapshot of it is alive.
"""

from __future__ import annotations

import ctypes
import traceback
from pathlib import Path

import rocksdict

from revstore.errors import CorruptionError, LockedError, StorageError
from revstore_rocksdb.plugin import RocksdbOptions

COMPRESSIONS = {
    "none": rocksdict.DBCompressionType.none,
    "lz4": rocksdict.DBCompressionType.lz4,
    "zstd": rocksdict.DBCompressionType.zstd,
}
LOG_BYTES_MAX = 4 * 1024 * 1024
LOGS_MAX = 4
FAMILY = "default"
BLOCK_BYTES = 4 * 1024
"""About what an entry of the cache has."""
METADATA_BLOCK_BYTES = 64 * 1024
"""Size of a part of an index or a filter."""
MEMORY_FILTER_SHARE = 0.03
"""Size of the filter of a table in memory, as a share of the table: some 30 bits a row."""


def open_database(directory: Path, options: RocksdbOptions) -> rocksdict.Rdict:
    """Open or create the database.

    Raises:
        LockedError: it is open elsewhere.
        CorruptionError: the engine does not accept its files.
        StorageError: it cannot be opened for another reason.
    """
    try:
        engine = _engine_options(options)
        # Without the column family by name, an existing database is opened with the
        # options stored in it and a cache of 8 MB, whatever is asked for.
        return rocksdict.Rdict(str(directory), engine, column_families={FAMILY: engine})
    except Exception as exc:
        text = str(exc)
        if "LOCK" in text and ("lock" in text.lower()):
            raise LockedError(
                f"{directory} is open in another process or by another backend; "
                f"close that one first ({text})"
            ) from exc
        raise storage_error(f"{directory} cannot be opened", exc) from exc


def _engine_options(options: RocksdbOptions) -> rocksdict.Options:
    table = rocksdict.BlockBasedOptions()
    # The cache that is not split in shards of one megabyte: those take no filter of a
    # large table, and it would be read from disk for each single get.
    cache = rocksdict.Cache.new_hyper_clock_cache(
        options.block_cache_bytes, BLOCK_BYTES
    )
    table.set_block_cache(cache)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    # In parts, so that a store of any size needs only those parts that are in use.
    table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(METADATA_BLOCK_BYTES)
    table.set_pin_top_level_index_and_filter(True)
    if options.bloom_bits:
        table.set_bloom_filter(options.bloom_bits, False)
    engine = rocksdict.Options(raw_mode=True)
    engine.create_if_missing(True)
    engine.set_block_based_table_factory(table)
    engine.set_write_buffer_size(options.write_buffer_bytes)
    engine.set_max_write_buffer_number(options.write_buffers)
    # Without a filter each read of what is older, or not there, searches the whole
    # list in memory first.
    engine.set_memtable_whole_key_filtering(True)
    engine.set_memtable_prefix_bloom_ratio(MEMORY_FILTER_SHARE)
    engine.set_compression_type(COMPRESSIONS[options.compression]())
    engine.set_bottommost_compression_type(COMPRESSIONS[options.compression_last]())
    engine.set_max_background_jobs(options.background_jobs)
    engine.set_max_open_files(options.open_files_max)
    engine.set_level_compaction_dynamic_level_bytes(True)
    engine.set_wal_recovery_mode(rocksdict.DBRecoveryMode.point_in_time())
    engine.set_keep_log_file_num(LOGS_MAX)
    engine.set_max_log_file_size(LOG_BYTES_MAX)
    engine.set_stats_dump_period_sec(0)
    return engine


def is_absent(exc: Exception) -> bool:
    """Whether an exception of ``Snapshot[key]`` only says that there is no such key."""
    return str(exc) == "key not found"


def is_stall(exc: Exception) -> bool:
    """Whether a write was refused only because the engine is behind with its work."""
    return "Write stall" in str(exc)


def storage_error(what: str, exc: Exception) -> StorageError:
    """The typed error for one of the engine's.

    The frames that met it are cleared: an iterator left in one of them would keep the
    database locked for as long as the caller keeps the error.
    """
    traceback.clear_frames(exc.__traceback__)
    text = f"{what}: {exc}"
    if "Corruption" in text:
        return CorruptionError(text)
    return StorageError(text)


def make_immortal(thing: object) -> None:
    """Never destroy an engine object.

    In a forked child the engine's threads are gone, and a destructor that waits for
    them, or closes files that the parent uses, hangs or crashes.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
