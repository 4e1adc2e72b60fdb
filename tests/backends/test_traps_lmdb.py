"""Traps of LMDB and py-lmdb, each met once and kept shut here."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from revstore.errors import (
    CorruptionError,
    FormatError,
    LockedError,
    PoisonedError,
    StorageError,
)
from revstore.interfaces.backend import Durability, WriteBatch
from revstore_conformance.backend_harness import BackendHarness, read_all, write_pairs
from revstore_lmdb.backend import LmdbBackend
from revstore_lmdb.plugin import LmdbOptions, make_backend
from revstore_lmdb.writes import ascends, is_beyond

MIB = 1024 * 1024


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbBackend]:
    """A backend with one keyspace."""
    backend = LmdbBackend(tmp_path, ["rows"], LmdbOptions())
    yield backend
    backend.close()


def test_append_mode_drops_unsorted_keys(tmp_path: Path) -> None:
    """putmulti(append=True) silently stops at a key out of order; we must not use it."""
    with (
        lmdb.open(str(tmp_path), max_dbs=1) as env,
        env.begin(write=True) as txn,
        txn.cursor() as cursor,
    ):
        consumed, _ = cursor.putmulti([(b"b", b""), (b"a", b"")], append=True)
        assert consumed < 2 or [key for key, _ in cursor] == [b"b"]
        assert not is_beyond(cursor, b"a")
        assert not is_beyond(cursor, b"b")
        assert is_beyond(cursor, b"c")
    assert not ascends([b"c", b"c"])
    assert not ascends([b"d", b"c"])
    assert not ascends([b"", b"c"])
    assert not ascends([b"c" * 511])
    assert ascends([b"c", b"d"])


def test_environment_is_never_unsynced(store: LmdbBackend) -> None:
    """sync=False may corrupt the file at a power cut: only the meta page may lag."""
    flags = store._env.flags()
    assert flags["sync"]
    assert not flags["metasync"]
    assert not flags["writemap"]
    assert not flags["map_async"]


def test_sync_level_syncs_the_meta_page(
    store: LmdbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without metasync a commit may be undone: SYNC adds a sync, ORDERED does not."""
    synced: list[bool] = []

    class Spy:
        def __init__(self, env: lmdb.Environment) -> None:
            self.env = env

        def sync(self, force: bool) -> None:
            synced.append(force)
            self.env.sync(force)

        def __getattr__(self, name: str) -> object:
            return getattr(self.env, name)

    monkeypatch.setattr(store, "_env", Spy(store._env))
    write_pairs(store, "rows", [(b"a", b"")], Durability.ORDERED)
    assert synced == []
    write_pairs(store, "rows", [(b"a", b"")], Durability.SYNC)
    assert synced == [True]


def test_other_processes_are_kept_out_by_our_own_lock(store: LmdbBackend) -> None:
    """LMDB lets several processes write to one file; the directory lock does not."""
    directory = store._directory
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from revstore.errors import LockedError
        from revstore_lmdb.plugin import make_backend
        try:
            make_backend(Path({str(directory)!r}), ["rows"], None)
        except LockedError:
            raise SystemExit(7)
        """
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    with pytest.raises(LockedError, match="close that one first"):
        make_backend(directory, ["rows"], None)


def test_lock_is_free_after_a_failed_open(tmp_path: Path) -> None:
    """An open that fails releases the directory, so that the next can succeed."""
    make_backend(tmp_path, ["rows"], None).close()
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(CorruptionError, match="not an LMDB file"):
            make_backend(tmp_path, ["rows"], None)
    (tmp_path / "data.mdb").unlink()
    make_backend(tmp_path, ["rows"], None).close()
    (tmp_path / "format").unlink()
    with pytest.raises(CorruptionError, match="no file 'format'"):
        make_backend(tmp_path, ["rows"], None)


def test_newer_layout_is_refused(tmp_path: Path) -> None:
    """A store with an unknown layout raises FormatError and says what to do."""
    make_backend(tmp_path, ["rows"], None).close()
    (tmp_path / "format").write_text("revstore-lmdb layout 99 engine 0.9\n")
    with pytest.raises(FormatError, match="newer revstore"):
        make_backend(tmp_path, ["rows"], None)


def test_files_of_the_other_engine_are_refused(tmp_path: Path) -> None:
    """LMDB 0.9 and 1.0 have different files; opening with the wrong one says so."""
    make_backend(tmp_path, ["rows"], LmdbOptions(engine="1.0")).close()
    with pytest.raises(FormatError, match="option engine"):
        make_backend(tmp_path, ["rows"], LmdbOptions(engine="0.9"))
    make_backend(tmp_path, ["rows"], LmdbOptions(engine="1.0")).close()


def test_too_many_readers_is_a_clear_error(tmp_path: Path) -> None:
    """MDB_READERS_FULL (default 126) names the option; closing one helps."""
    backend = make_backend(tmp_path, ["rows"], LmdbOptions(readers_max=3))
    held = [backend.snapshot() for _ in range(3)]
    with pytest.raises(StorageError, match="readers_max"):
        backend.snapshot()
    held.pop().close()
    backend.snapshot().close()
    backend.close()


def test_growth_keeps_old_and_new_readers(tmp_path: Path) -> None:
    """set_mapsize ends all read transactions; ours go on at their point in time."""
    backend = make_backend(tmp_path, ["rows"], LmdbOptions(map_bytes=MIB))
    write_pairs(backend, "rows", [(b"a", b"old"), (b"k" * 900, b"long")])
    old = [backend.snapshot(), backend.snapshot()]
    write_pairs(backend, "rows", [(b"a", b"new")])
    recent = backend.snapshot()
    before = backend.stats().engine["map_bytes"]
    for number in range(8):
        pairs = [(b"b%d" % number, bytes(MIB))]
        write_pairs(backend, "rows", pairs)
        if number == 4:
            recent.close()
            recent = backend.snapshot()
    assert int(backend.stats().engine["map_bytes"]) > int(before)
    for one in old:
        assert read_all(one, "rows") == [(b"a", b"old"), (b"k" * 900, b"long")]
        assert one.get("rows", b"a") == b"old"
    assert recent.get("rows", b"a") == b"new"
    assert len(read_all(recent, "rows")) == 2 + 5
    assert list(tmp_path.glob("copy-*"))
    for one in old:
        one.close()
    assert not list(tmp_path.glob("copy-*")) or len(list(tmp_path.glob("copy-*"))) == 1
    backend.close()
    assert not list(tmp_path.glob("copy-*"))


def test_growth_while_other_threads_read(tmp_path: Path) -> None:
    """A read on another thread that meets the growth of the map goes on unharmed."""
    backend = make_backend(tmp_path, ["rows"], LmdbOptions(map_bytes=MIB))
    pairs = [(b"%04d" % number, b"v%d" % number) for number in range(300)]
    write_pairs(backend, "rows", pairs)
    done = threading.Event()
    rounds = [0, 0]
    failures: list[BaseException] = []

    def read(reader: int) -> None:
        try:
            while not done.wait(0.001):
                with backend.snapshot() as snapshot:
                    for _ in range(3):
                        assert read_all(snapshot, "rows", hi=b"a") == pairs
                        assert snapshot.get("rows", b"0042") == b"v42"
                        assert snapshot.count("rows", b"0100", b"0200") == 100
                rounds[reader] += 1
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=read, args=(reader,)) for reader in (0, 1)]
    for thread in threads:
        thread.start()
    map_bytes = {backend.stats().engine["map_bytes"]}
    for number in range(12):
        write_pairs(backend, "rows", [(b"big%d" % number, bytes(MIB))])
        map_bytes.add(backend.stats().engine["map_bytes"])
    deadline = time.monotonic() + 60
    while min(rounds) == 0 and not failures and time.monotonic() < deadline:
        threads[0].join(0.01)
    done.set()
    for thread in threads:
        thread.join()
    backend.close()
    assert failures == []
    assert min(rounds) > 0
    assert len(map_bytes) > 3


def test_limited_address_space(tmp_path: Path) -> None:
    """Where the system refuses a map of 1 TiB a smaller one is taken, and it grows."""
    code = textwrap.dedent(
        f"""
        import resource
        from pathlib import Path
        from revstore.interfaces.backend import Durability, WriteBatch
        from revstore_lmdb.plugin import make_backend
        resource.setrlimit(resource.RLIMIT_AS, (1 << 31, resource.RLIM_INFINITY))
        backend = make_backend(Path({str(tmp_path)!r}), ["rows"], None)
        assert backend.stats().engine["map_bytes"] < 1 << 31
        batch = WriteBatch()
        batch.put("rows", b"key", b"value")
        backend.write(batch, Durability.SYNC)
        backend.close()
        """
    )
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    subprocess.run([sys.executable, "-c", code], check=True)


def test_engine_failure_poisons(
    store: LmdbBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed sync is not tried again: the kernel may have dropped the pages."""

    class Broken:
        def __init__(self, env: lmdb.Environment) -> None:
            self.env = env

        def sync(self, force: bool) -> None:
            raise lmdb.DiskError("mdb_env_sync", 5)

        def __getattr__(self, name: str) -> object:
            return getattr(self.env, name)

    monkeypatch.setattr(store, "_env", Broken(store._env))
    with pytest.raises(StorageError, match="mending the cause") as caught:
        store.sync()
    assert not isinstance(caught.value, PoisonedError)
    for call in (store.sync, store.snapshot, store.compact, store.verify):
        with pytest.raises(PoisonedError):
            call()


def test_keyspace_without_long_keys_has_no_layers(store: LmdbBackend) -> None:
    """Layers exist only while long keys do, and their ids are never used twice."""
    from revstore_lmdb import layers

    space = store._spaces["rows"]

    def entries() -> int:
        with store._env.begin() as txn:
            assert layers.has_layers(txn, space) == (
                txn.stat(space.layers)["entries"] > 1
            )
            return int(txn.stat(space.layers)["entries"])

    write_pairs(store, "rows", [(b"k" * 510, b"direct")])
    assert entries() == 0
    write_pairs(store, "rows", [(b"k" * 511, b"1"), (b"k" * 2000, b"2")])
    assert entries() == 1 + 1 + 3
    batch = WriteBatch()
    batch.delete("rows", b"k" * 2000)
    batch.delete("rows", b"k" * 1999)
    store.write(batch, Durability.ORDERED)
    assert entries() == 1 + 1
    batch = WriteBatch()
    batch.delete_range("rows", b"k" * 510 + b"\x00", None)
    store.write(batch, Durability.ORDERED)
    assert entries() == 1
    write_pairs(store, "rows", [(b"k" * 511, b"1")])
    with store._env.begin() as txn:
        marker = txn.get(b"k" * 510 + b"\x00", None, space.rows)
    assert marker is not None
    assert int.from_bytes(marker, "big") > 3


def test_verify_finds_a_broken_layer(store: LmdbBackend) -> None:
    """verify names a marker whose layer is gone and a layer without a marker."""
    write_pairs(store, "rows", [(b"k" * 600, b"1"), (b"m" * 600, b"2")])
    space = store._spaces["rows"]
    with store._env.begin(write=True) as txn:
        marker = b"k" * 510 + b"\x00"
        layer = txn.get(marker, b"", space.rows)
        txn.delete(marker, db=space.rows)
    assert [f"keyspace rows: layer {layer.hex()} has no marker"] == store.verify()
    with store._env.begin(write=True) as txn:
        txn.put(marker, layer, db=space.rows)
        txn.delete(layer + b"k" * 90, db=space.layers)
    assert [f"keyspace rows: layer {layer.hex()} is empty"] == store.verify()


def test_unclosed_snapshot_frees_its_reader_slot(store: LmdbBackend) -> None:
    """A snapshot that was only dropped does not pin pages for ever."""
    snapshot = store.snapshot()
    assert store._env.info()["num_readers"] == 1
    assert store.stats().engine["snapshots"] == 1
    del snapshot
    assert store.stats().engine["snapshots"] == 0
    assert "no active readers" in store._env.readers()


def test_stale_copies_are_removed_at_open(tmp_path: Path) -> None:
    """A process that died while the map grew leaves no copy behind."""
    (tmp_path / "copy-7").mkdir()
    (tmp_path / "copy-7" / "data.mdb").write_bytes(b"x")
    with BackendHarness("revstore_lmdb.plugin", tmp_path) as harness:
        harness.open(tmp_path)
        assert not list(tmp_path.glob("copy-*"))
