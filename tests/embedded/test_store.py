"""The embedded store, as a program uses it."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import revstore
from revstore import ApiError, Compare, Delete, EventType, Get, Put, Txn
from revstore import aio as revstore_aio
from revstore.api import errors
from revstore.embedded import store as store_module
from revstore.embedded.shell import EmbeddedShell
from revstore.errors import (
    ConfigError,
    FormatError,
    LockedError,
    PluginError,
    PoisonedError,
    Unavailable,
    UsageError,
)
from revstore.types import Entry
from revstore_wal.log import SegmentWal

BACKENDS = ("memory", "lmdb", "rocksdb")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn."""
    return str(request.param)


@pytest.fixture
def store(tmp_path: Path, backend: str) -> Iterator[revstore.EmbeddedStore]:
    """An open store."""
    with revstore.open(tmp_path / "data", backend=backend) as opened:
        yield opened


def test_put_get_delete(store: revstore.EmbeddedStore) -> None:
    """Revisions, versions and previous pairs are those of etcd."""
    assert store.put("a", "1").revision == 2
    again = store.put(b"a", b"2", prev_kv=True)
    assert again.revision == 3
    assert again.prev is not None
    assert again.prev.value == b"1"
    pair = store.get("a")
    assert pair is not None
    assert (pair.create_revision, pair.mod_revision, pair.version) == (2, 3, 2)
    old = store.get("a", revision=2)
    assert old is not None
    assert old.value == b"1"
    gone = store.delete("a", prev_kv=True)
    assert (gone.revision, gone.deleted, gone.prev[0].value) == (4, 1, b"2")
    assert store.get("a") is None
    assert store.delete("a").revision == 4


def test_ranges(store: revstore.EmbeddedStore) -> None:
    """Spans, prefixes, limits, reverse order and counts."""
    for number in range(25):
        store.put(f"k{number:02}", str(number))
    store.put("other", "x")
    assert [kv.key for kv in store.range("k03", "k06")] == [b"k03", b"k04", b"k05"]
    assert sum(1 for _ in store.range(prefix="k")) == 25
    assert store.count(prefix="k") == 25
    assert store.count() == 26
    last = [kv.key for kv in store.range(prefix="k", reverse=True, limit=2)]
    assert last == [b"k24", b"k23"]
    assert [kv.value for kv in store.range(prefix="k", limit=1, keys_only=True)] == [
        b""
    ]
    with pytest.raises(UsageError, match="not both"):
        store.range("a", prefix="b")


def test_a_range_is_one_revision_while_writes_go_on(
    store: revstore.EmbeddedStore,
) -> None:
    """An iterator that was begun does not see writes, deletes or compactions made later."""
    for number in range(2500):
        if number % 100 == 0:
            store.put_many((f"k{i:05}", b"old") for i in range(number, number + 100))
    rows = store.range(prefix="k")
    first = next(rows)
    revision = store.revision
    store.delete(prefix="k02")
    store.put("k01999", "new")
    store.put("k000000", "new")
    store.compact(revision + 1)
    rest = list(rows)
    assert first.key == b"k00000"
    assert len(rest) == 2499
    assert {kv.value for kv in rest} == {b"old"}


def test_transactions(store: revstore.EmbeddedStore) -> None:
    """Both branches, nested ones, and answers in the order of the operations."""
    created = store.txn(
        compare=[Compare.version("a", "=", 0)],
        success=[Put("a", "1"), Get(key="a"), Txn(success=[Put("b", "2")])],
        failure=[Get(key="a")],
    )
    assert created.succeeded
    assert created.revision == 2
    put, got, nested = created.answers
    assert isinstance(put, revstore.PutResult)
    assert isinstance(got, revstore.RangeAnswer)
    assert got.kvs[0].value == b"1"
    assert isinstance(nested, revstore.TxnResult)
    again = store.txn(
        compare=[Compare.value("a", "!=", "1")],
        success=[Put("a", "2")],
        failure=[Delete(prefix="")],
    )
    assert not again.succeeded
    gone = again.answers[0]
    assert isinstance(gone, revstore.DeleteResult)
    assert gone.deleted == 2
    with pytest.raises(ApiError) as raised:
        store.txn(success=[Put("a", "1"), Put("a", "2")])
    assert raised.value == errors.DUPLICATE_KEY
    with pytest.raises(UsageError, match="unknown operator"):
        Compare.version("a", "==", 0)


def test_watch_history_then_live(store: revstore.EmbeddedStore) -> None:
    """A watch delivers history first, then what happens, each change once."""
    store.put("a", "1")
    store.put("b", "2")
    with store.watch(prefix="", start_revision=2, prev_kv=True) as watcher:
        store.delete("a")
        seen = [watcher.next_event(10.0) for _ in range(3)]
        assert [(e.type, e.key, e.revision) for e in seen if e] == [
            (EventType.PUT, b"a", 2),
            (EventType.PUT, b"b", 3),
            (EventType.DELETE, b"a", 4),
        ]
        deleted = seen[2]
        assert deleted is not None
        assert deleted.prev is not None
        assert deleted.prev.value == b"1"
        assert watcher.next_event(0.0) is None


def test_a_watch_of_compacted_history_says_where_to_go_on(
    store: revstore.EmbeddedStore,
) -> None:
    """The error carries the revision from which history is there."""
    for number in range(5):
        store.put("a", str(number))
    store.compact(5)
    with store.watch("a", start_revision=2) as watcher:
        with pytest.raises(revstore.WatchCanceled) as raised:
            watcher.next_event(10.0)
        assert raised.value.compact_revision == 5


def test_a_reader_that_waits_is_woken_by_a_write(
    store: revstore.EmbeddedStore,
) -> None:
    """A thread blocked in a watch gets the event of another thread's write."""
    watcher = store.watch("a")
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(e.value for e in watcher))
    reader.start()
    store.put("a", "1")
    store.put("a", "2")
    last = store.watch("a", start_revision=3)
    assert last.next_event(10.0) is not None
    last.close()
    watcher_deadline = 1000
    while len(seen) < 2 and watcher_deadline:
        watcher_deadline -= 1
        reader.join(0.01)
    watcher.close()
    reader.join()
    assert seen == [b"1", b"2"]


def test_leases(store: revstore.EmbeddedStore) -> None:
    """Keys of a lease go with it; keeping alive what is gone says 0."""
    with store.lease(60) as lease:
        store.put("a", "1", lease=lease.id)
        assert lease.keep_alive() == 60
        assert store.get("a") is not None
    assert store.get("a") is None
    assert lease.keep_alive() == 0
    with pytest.raises(ApiError) as raised:
        store.put("a", "1", lease=99)
    assert raised.value == errors.LEASE_NOT_FOUND


def test_threads_share_one_store(store: revstore.EmbeddedStore) -> None:
    """Writers in several threads each get their own revision, none is lost."""
    revisions: list[int] = []

    def write(name: int) -> None:
        revisions.extend(
            store.put(f"{name}-{number}", "x").revision for number in range(50)
        )

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(revisions) == list(range(2, 202))
    assert store.count() == 200


def test_a_writer_leaves_nothing_to_the_housekeeping(tmp_path: Path) -> None:
    """The housekeeping thread is not asked to sync what its caller syncs itself.

    It once was, and took turns with the writer at the disk: half the rate of puts.
    """
    shell = EmbeddedShell()
    with mock.patch.object(store_module, "EmbeddedShell", return_value=shell):
        opened = revstore.open(tmp_path / "data", backend="memory")
    with opened:
        with shell.lock:
            shell._pump_wanted = False
        for number in range(10):
            opened.put(b"key", b"%d" % number)
            with shell.lock:
                assert not shell._pump_wanted


def test_everything_is_there_after_reopening(tmp_path: Path, backend: str) -> None:
    """The backend is remembered, and revision, data and hash are the same."""
    with revstore.open(tmp_path / "d", backend=backend) as store:
        for number in range(100):
            store.put(f"k{number}", "v" * number)
        store.delete(prefix="k5")
        wanted = store.hash_kv()
        revision = store.revision
    with revstore.open(tmp_path / "d") as store:
        assert store.revision == revision
        assert store.hash_kv() == wanted


def test_one_member_on_raft_is_as_one_on_solo(tmp_path: Path) -> None:
    """The consensus of a single member can be exchanged at each start."""
    for turn, consensus in enumerate(("raft", "solo", "raft", "raft", "solo")):
        with revstore.open(tmp_path / "d", consensus=consensus) as store:
            assert store.revision == 1 + 10 * turn
            for number in range(10):
                store.put(f"k{number}", consensus)
            assert store.count() == 10


def test_one_opener_at_a_time(tmp_path: Path) -> None:
    """A second store on an open directory is refused, and says what to do."""
    with (
        revstore.open(tmp_path / "d"),
        pytest.raises(LockedError, match="open in another process"),
    ):
        revstore.open(tmp_path / "d")
    revstore.open(tmp_path / "d").close()


def test_bad_arguments_say_what_to_do(tmp_path: Path) -> None:
    """Unknown settings, backends and types are refused in words."""
    with pytest.raises(UsageError, match="unknown setting colour"):
        revstore.open(tmp_path / "a", colour="red")
    with pytest.raises(PluginError, match="lmbd"):
        revstore.open(tmp_path / "b", backend="lmbd")
    with pytest.raises(ConfigError, match="no_such"):
        revstore.open(tmp_path / "c", backend="lmdb", backend_options={"no_such": 1})
    with revstore.open(tmp_path / "d") as store:
        with pytest.raises(UsageError, match="bytes or str"):
            store.put(1, "x")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="must not be empty"):
            store.get("")
        with pytest.raises(ApiError) as raised:
            store.put("", "x")
        assert raised.value == errors.EMPTY_KEY


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A directory of a newer revstore is not touched."""
    revstore.open(tmp_path / "d").close()
    manifest = tmp_path / "d" / "revstore.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(FormatError, match="upgrade revstore"):
        revstore.open(tmp_path / "d")


def test_a_directory_of_etcd_is_refused(tmp_path: Path) -> None:
    """A folder that etcd made is not mistaken for an empty one."""
    (tmp_path / "d" / "member" / "snap").mkdir(parents=True)
    with pytest.raises(ConfigError, match="not made by revstore"):
        revstore.open(tmp_path / "d")


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """After close every call raises; closing again is allowed."""
    store = revstore.open(tmp_path / "d")
    watcher = store.watch("a")
    rows = store.range()
    store.close()
    store.close()
    assert watcher.next_event(1.0) is None
    with pytest.raises(Unavailable):
        store.put("a", "1")
    with pytest.raises(Unavailable):
        store.get("a")
    assert list(rows) == []


_FORK = """
import os, sys, revstore
from revstore.errors import Unavailable
store = revstore.open(sys.argv[1])
child = os.fork()
if child == 0:
    try:
        store.put("a", "1")
    except Unavailable as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
store.close()
"""


def test_a_forked_child_may_not_use_the_store(tmp_path: Path) -> None:
    """A fork shares files but not locks, so the child is refused."""
    # A process of its own: the threads of other libraries in this one (grpcio's) may
    # hold locks that a forked child then waits for without end.
    command = [sys.executable, "-W", "ignore", "-c", _FORK, str(tmp_path / "d")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True
    )
    assert "fork" in done.stdout


def test_the_directory_is_private(tmp_path: Path) -> None:
    """Only the owner may look into a data directory."""
    revstore.open(tmp_path / "d").close()
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "d" / "member").stat().st_mode & 0o777 == 0o700


def test_the_same_from_asyncio(tmp_path: Path, backend: str) -> None:
    """The asyncio store has the same data, and many puts in flight at once."""

    async def session() -> None:
        async with await revstore_aio.open(tmp_path / "d", backend=backend) as store:
            results = await asyncio.gather(
                *(store.put(f"k{number}", "v") for number in range(200))
            )
            assert sorted(r.revision for r in results) == list(range(2, 202))
            pair = await store.get("k7")
            assert pair is not None
            assert len([kv async for kv in store.range(prefix="k")]) == 200
            async with store.watch("k7", start_revision=2) as watcher:
                event = await watcher.next_event()
                assert event is not None
                assert event.key == b"k7"
            await store.compact(store.revision)
            lease = await store.grant(60)
            assert await store.keep_alive(lease) == 60
            await store.revoke(lease)
            with pytest.raises(ApiError):
                await store.revoke(lease)
            answer = await store.txn(success=[Put("x", "y")])
            assert answer.revision == 202

    asyncio.run(session())
    with revstore.open(tmp_path / "d") as again:
        assert again.count(prefix="k") == 200
        assert again.revision == 202


def test_the_asyncio_store_keeps_no_watcher_that_is_closed(tmp_path: Path) -> None:
    """Each watch that was ever opened stayed in memory until the store was closed."""

    async def session() -> None:
        async with await revstore_aio.open(tmp_path / "d", backend="memory") as store:
            async with store.watch("a") as watcher:
                gone = weakref.ref(watcher)
            del watcher
            gc.collect()
            assert gone() is None
            kept = store.watch("a")
        assert await kept.next_event() is None

    asyncio.run(session())


def test_the_asyncio_store_refuses_like_the_other(tmp_path: Path) -> None:
    """A lease of half seconds, and a watch of what is compacted, with what to do."""

    async def session() -> None:
        async with await revstore_aio.open(tmp_path / "d", backend="memory") as store:
            with pytest.raises(UsageError, match="whole number of seconds"):
                await store.grant(1.5)  # type: ignore[arg-type]  # that is the point
            for number in range(5):
                await store.put("a", str(number))
            await store.compact(5)
            async with store.watch("a", start_revision=2) as watcher:
                with pytest.raises(revstore.WatchCanceled, match="or later") as raised:
                    await watcher.next_event()
                assert raised.value.compact_revision == 5

    asyncio.run(session())


def test_a_log_that_cannot_be_replayed_is_refused(tmp_path: Path) -> None:
    """Opening waited for ever when an entry in the log stopped the member."""
    with revstore.open(tmp_path / "data") as store:
        store.put(b"k", b"v")
    wal = SegmentWal(tmp_path / "data" / "member" / "wal", b"", threaded=False)
    wal.append(None, [Entry(9, wal.last_index() + 1, b"\xff\xff")])
    wal.sync()
    wal.close()
    for _ in range(2):
        with pytest.raises(PoisonedError, match="cannot be replayed: log entry"):
            revstore.open(tmp_path / "data")
