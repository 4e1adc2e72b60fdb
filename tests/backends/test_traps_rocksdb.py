"""Traps of RocksDB and rocksdict 0.3.29, each met once and kept shut here.

Tests named ``test_driver_...`` show the driver's fault itself: one that fails after an
upgrade says that a detour has become unnecessary.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import rocksdict

from revstore.errors import CorruptionError, FormatError, PoisonedError, StorageError
from revstore.interfaces.backend import Durability, WriteBatch
from revstore_conformance.backend_harness import contents, read_all, write_pairs
from revstore_rocksdb.backend import FORMAT_ROW, RANGE_ROWS_FEW, RocksdbBackend
from revstore_rocksdb.engine import open_database
from revstore_rocksdb.plugin import RocksdbOptions, make_backend

MIB = 1024 * 1024
ROWS = ("rows",)
CACHE_CAPACITY = "rocksdb.block-cache-capacity"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksdbBackend]:
    """A backend with one keyspace."""
    backend = RocksdbBackend(tmp_path, ROWS, RocksdbOptions())
    yield backend
    backend.close()


class Engine:
    """The engine with some of its methods replaced."""

    def __init__(self, engine: Any, **replaced: Any) -> None:
        self.__dict__.update(replaced, engine=engine)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


def test_driver_snapshot_iterates_over_newest_data(tmp_path: Path) -> None:
    """Snapshot.items and iter ignore the snapshot, only Snapshot[key] reads it."""
    database = open_database(tmp_path, RocksdbOptions())
    database.put(b"a", b"old")
    snapshot = database.snapshot()
    pinned = database.iter()
    database.put(b"a", b"new")
    assert list(snapshot.items()) == [(b"a", b"new")]
    assert snapshot[b"a"] == b"old"
    pinned.seek(b"a")
    assert pinned.value() == b"old"
    del snapshot, pinned
    database.close()


def test_many_reads_are_of_the_snapshot(store: RocksdbBackend) -> None:
    """The engine's call for many keys reads the newest data; ours uses it only while
    that is what the snapshot shows, a deleted and a new key included."""
    keys = [b"%d" % number for number in range(8)]
    write_pairs(store, "rows", [(key, b"old") for key in keys[:6]])
    with store.snapshot() as snapshot:
        expected = [b"old"] * 6 + [None, None]
        assert snapshot.get_many("rows", keys) == expected
        batch = WriteBatch()
        batch.delete("rows", keys[0])
        batch.put("rows", keys[1], b"new")
        batch.put("rows", keys[7], b"new")
        store.write(batch, Durability.ORDERED)
        assert snapshot.get_many("rows", keys) == expected
    with store.snapshot() as snapshot:
        assert snapshot.get_many("rows", keys) == [
            None,
            b"new",
            *[b"old"] * 4,
            None,
            b"new",
        ]


def test_a_failed_read_of_many_says_what_failed(store: RocksdbBackend) -> None:
    """An error of the engine's call for many is met again by the reads one by one."""

    def broken(_rows: object) -> None:
        raise Exception("Corruption: block checksum mismatch")

    keys = [b"%d" % number for number in range(8)]
    write_pairs(store, "rows", [(key, b"value") for key in keys])
    engine = Engine(store._db, get=broken)
    with store.snapshot() as snapshot, mock.patch.object(store, "_db", engine):
        assert snapshot.get_many("rows", keys) == [b"value"] * 8


def damage(directory: Path) -> None:
    """Overwrite the middle of the largest table file."""
    table = max(directory.glob("*.sst"), key=lambda one: one.stat().st_size)
    with table.open("r+b") as file:
        file.seek(table.stat().st_size // 2)
        file.write(b"\xff" * 200)


def test_damage_ends_no_scan_silently(tmp_path: Path) -> None:
    """items() ends at a damaged block as at the end of data; our scans raise."""
    options = RocksdbOptions(compression="none", compression_last="none")
    backend = RocksdbBackend(tmp_path, ROWS, options)
    pairs = [(b"%06d" % number, bytes(100)) for number in range(5000)]
    write_pairs(backend, "rows", pairs)
    backend.compact()
    backend.close()
    damage(tmp_path)
    backend = RocksdbBackend(tmp_path, ROWS, options)
    assert len(list(backend._db.items())) < len(pairs)
    with backend.snapshot() as snapshot:
        for reverse in (False, True):
            with pytest.raises(CorruptionError):
                read_all(snapshot, "rows", reverse=reverse)
        with pytest.raises(CorruptionError):
            snapshot.count("rows", b"", None)
        with pytest.raises(CorruptionError):
            list(snapshot.scan_values("rows", b"", None, chunk=100))
        with pytest.raises(CorruptionError):
            snapshot.get_many("rows", [key for key, _ in pairs])
    assert "checksum" in " ".join(backend.verify())
    backend.close()
    RocksdbBackend(tmp_path, ROWS, options).close()


@pytest.mark.parametrize("bytes_max", [20, 1 << 20])
@pytest.mark.parametrize("last", ["rows", "other"])
def test_a_range_of_values_ends_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, bytes_max: int
) -> None:
    """A stride of values that goes beyond the range, or the data, gives the same rows."""
    monkeypatch.setattr("revstore_rocksdb.snapshot.BLOCK_BYTES_MAX", bytes_max)
    backend = RocksdbBackend(tmp_path, ("rows", "other"), RocksdbOptions())
    pairs = [(b"%02d" % number, b"value %d" % number) for number in range(70)]
    for name in ("rows", last):
        write_pairs(backend, name, pairs)
    with backend.snapshot() as snapshot:
        for end in range(len(pairs) + 1):
            hi = None if end == len(pairs) else pairs[end][0]
            found: list[tuple[bytes, bytes]] = []
            for key, values in snapshot.scan_values("rows", b"", hi, chunk=20):
                first = len(found)
                found += pairs[first : first + len(values)]
                assert (key, values[-1]) == found[-1], (last, end)
                assert values == [value for _, value in found[first:]], (last, end)
                assert len(values) <= (4 if bytes_max == 20 else 20), (last, end)
            assert found == pairs[:end], (last, end)
    backend.close()


def test_missing_key_is_told_from_a_failure(store: RocksdbBackend) -> None:
    """Both are a bare Exception in the driver: one is None here, the other an error."""
    with store.snapshot() as snapshot:
        assert snapshot.get("rows", b"absent") is None

        class Failing:
            def __getitem__(self, key: bytes) -> bytes:
                raise Exception("IO error: disk on fire")

        snapshot._reader = Failing()  # type: ignore[attr-defined] # a private field
        with pytest.raises(StorageError, match="disk on fire"):
            snapshot.get("rows", b"absent")


def test_no_bounds_are_given_to_the_engine() -> None:
    """The driver frees the upper bound and takes the lower for the upper one."""
    package = Path(__file__).parents[2] / "backends" / "revstore_rocksdb"
    for module in package.glob("*.py"):
        text = module.read_text()
        assert "set_iterate" not in text
        assert ".items(" not in text.replace("keyspaces.items(", "").replace(
            "``items()``", ""
        )


def test_stalled_write_is_tried_again(
    store: RocksdbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stall would freeze every thread inside the engine: we wait outside of it."""
    engine = store._db
    refusals = 3
    options: list[bool] = []

    def write(batch: Any, how: Any) -> None:
        nonlocal refusals
        options.append(how.no_slowdown)
        if refusals:
            refusals -= 1
            raise Exception("Result incomplete: Write stall")
        engine.write(batch, how)

    monkeypatch.setattr(store, "_db", Engine(engine, write=write))
    write_pairs(store, "rows", [(b"a", b"v")])
    monkeypatch.setattr(store, "_db", engine)
    assert contents(store, ROWS)["rows"] == [(b"a", b"v")]
    assert store.stats().engine["stalls"] == 3
    assert options == [True] * 4


def test_endless_stall_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that the engine never takes fails instead of waiting for ever."""
    store = RocksdbBackend(tmp_path, ROWS, RocksdbOptions(stall_seconds_max=0))
    engine = store._db

    def refuse(batch: Any, how: Any) -> None:
        raise Exception("Result incomplete: Write stall")

    monkeypatch.setattr(store, "_db", Engine(engine, write=refuse))
    with pytest.raises(StorageError, match="stalled"):
        write_pairs(store, "rows", [(b"a", b"v")])
    with pytest.raises(PoisonedError):
        write_pairs(store, "rows", [(b"a", b"v")])
    monkeypatch.setattr(store, "_db", engine)
    store.close()


def test_sync_goes_through_flush_wal(
    store: RocksdbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A synced write would hold the interpreter lock during fsync; flush_wal does not."""
    engine = store._db
    calls: list[object] = []

    def write(batch: Any, how: Any) -> None:
        calls.append(("write", how.sync))
        engine.write(batch, how)

    def flush_wal(sync: bool) -> None:
        calls.append(("flush_wal", sync))
        engine.flush_wal(sync)

    spy = Engine(engine, write=write, flush_wal=flush_wal)
    monkeypatch.setattr(store, "_db", spy)
    write_pairs(store, "rows", [(b"a", b"")], Durability.ORDERED)
    write_pairs(store, "rows", [(b"a", b"")], Durability.SYNC)
    assert calls == [("write", False), ("write", False), ("flush_wal", True)]


def test_range_with_its_end_first_breaks_nothing(store: RocksdbBackend) -> None:
    """The engine turns such a range delete into a lasting error; it never sees one."""
    batch = WriteBatch()
    batch.delete_range("rows", b"z", b"a")
    batch.delete_range("rows", b"a", b"a")
    store.write(batch, Durability.SYNC)
    write_pairs(store, "rows", [(b"a", b"v")], Durability.SYNC)


def test_ranges_are_deleted_by_row_or_by_tombstone(
    store: RocksdbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small range costs no tombstone; both ways delete the same."""
    pairs = [(b"%04d" % number, b"v") for number in range(RANGE_ROWS_FEW * 3)]
    write_pairs(store, "rows", pairs)

    class Batch:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def delete(self, row: bytes) -> None:
            self.calls.append("delete")

        def delete_range(self, first: bytes, beyond: bytes) -> None:
            self.calls.append("delete_range")

    small, large = Batch(), Batch()
    store._add_range(small, b"\x010000", b"\x01%04d" % RANGE_ROWS_FEW)  # type: ignore[arg-type] # a stand-in
    store._add_range(large, b"\x010000", b"\x01%04d" % (RANGE_ROWS_FEW + 1))  # type: ignore[arg-type] # a stand-in
    assert small.calls == ["delete"] * RANGE_ROWS_FEW
    assert large.calls == ["delete_range"]


def test_close_frees_the_lock_whatever_is_open(tmp_path: Path) -> None:
    """The database stays locked while an iterator lives; close ends them all."""
    backend = RocksdbBackend(tmp_path, ROWS, RocksdbOptions())
    write_pairs(backend, "rows", [(b"%d" % number, b"v") for number in range(99)])
    snapshots = [backend.snapshot() for _ in range(3)]
    scans = [one.scan("rows", b"", None, chunk=2) for one in snapshots]
    for scan in scans:
        next(scan)
    caught = None
    snapshots[0].close()
    try:
        next(scans[0])
    except StorageError as exc:
        caught = exc
    backend.close()
    again = RocksdbBackend(tmp_path, ROWS, RocksdbOptions())
    again.close()
    assert caught is not None


def test_newer_layout_is_refused(tmp_path: Path) -> None:
    """A store with an unknown layout raises FormatError and is left unlocked."""
    make_backend(tmp_path, ROWS, None).close()
    database = open_database(tmp_path, RocksdbOptions())
    database.put(FORMAT_ROW, b"99")
    database.close()
    for _ in range(2):
        with pytest.raises(FormatError, match="newer revstore"):
            make_backend(tmp_path, ROWS, None)


def test_unreadable_files_are_corruption(tmp_path: Path) -> None:
    """Files that the engine does not accept raise CorruptionError."""
    make_backend(tmp_path, ROWS, None).close()
    (tmp_path / "CURRENT").write_text("nonsense\n")
    with pytest.raises(CorruptionError):
        make_backend(tmp_path, ROWS, None)


def test_prefixes_are_kept(tmp_path: Path) -> None:
    """A keyspace keeps its prefix whatever the order of names at a later open."""
    backend = RocksdbBackend(tmp_path, ("b", "a"), RocksdbOptions())
    write_pairs(backend, "a", [(b"k", b"in a")])
    before = dict(backend._prefixes)
    backend.close()
    backend = RocksdbBackend(tmp_path, ("c", "a", "b"), RocksdbOptions())
    assert {name: backend._prefixes[name] for name in before} == before
    assert backend._prefixes["c"] not in before.values()
    assert contents(backend, ("a", "b", "c")) == {
        "a": [(b"k", b"in a")],
        "b": [],
        "c": [],
    }
    backend.close()


def test_old_logs_do_not_pile_up(tmp_path: Path) -> None:
    """Each open starts a log file of the engine; only a few are kept."""
    for _ in range(9):
        make_backend(tmp_path, ROWS, None).close()
    assert len(list(tmp_path.glob("LOG*"))) <= 5


def test_wrong_type_is_no_failure_of_the_engine(store: RocksdbBackend) -> None:
    """A key that is no bytes is the caller's error and does not poison."""
    batch = WriteBatch()
    batch.put("rows", "text", b"v")  # type: ignore[arg-type] # the point
    with pytest.raises(TypeError):
        store.write(batch, Durability.ORDERED)
    write_pairs(store, "rows", [(b"k", b"v")])


def test_driver_opens_an_old_database_with_its_old_options(tmp_path: Path) -> None:
    """Options given for an existing database without its column family are ignored."""
    RocksdbBackend(tmp_path, ROWS, RocksdbOptions()).close()
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(48 * MIB))
    options = rocksdict.Options(raw_mode=True)
    options.set_block_based_table_factory(table)
    driver = rocksdict.Rdict(str(tmp_path), options)
    assert driver.property_int_value(CACHE_CAPACITY) == 8 * MIB
    driver.close()


def test_options_hold_at_every_opening(tmp_path: Path) -> None:
    """An existing store gets the cache that is asked for now.

    It had a cache of 8 MiB after its first reopening, and a random read among three
    million rows took 200 us instead of 8.
    """
    for size in (64 * MIB, 32 * MIB, 128 * MIB):
        store = RocksdbBackend(tmp_path, ROWS, RocksdbOptions(block_cache_bytes=size))
        assert store._db.property_int_value(CACHE_CAPACITY) == size
        store.close()
