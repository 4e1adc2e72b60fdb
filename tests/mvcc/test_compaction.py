"""Compaction: what it forgets, what it keeps, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.mvcc.harness import Harness, open_backend

from revstore.api import errors
from revstore.errors import ApiError
from revstore.interfaces.backend import Backend, Pair, Snapshot
from revstore.mvcc.query import RangeQuery
from revstore.mvcc.store import Store, StoreOptions
from revstore.mvcc.tables import INDEX, LOG
from revstore.proto import rpc_pb2

ALL = RangeQuery(b"\x00", b"\x00")


def put(store: Store, *keys: bytes, value: bytes = b"v") -> int:
    txn = store.begin()
    for key in keys:
        txn.put(key, value)
    return txn.commit()


def delete(store: Store, key: bytes, end: bytes = b"") -> int:
    txn = store.begin()
    txn.delete_range(key, end)
    return txn.commit()


def finish(store: Store) -> None:
    for _ in range(10_000):
        if not store.compaction_pending():
            break
        if not store.compaction_step():
            store.flush()
    assert not store.compaction_pending()
    store.flush()


def log_rows(backend: Backend, keyspace: str = LOG) -> int:
    with backend.snapshot() as snapshot:
        return snapshot.count(keyspace, b"", None)


class CountingSnapshot(Snapshot):
    """Counts the rows that are read."""

    def __init__(self, inner: Snapshot, counts: dict[str, int]) -> None:
        self.inner = inner
        self.counts = counts

    def get(self, keyspace: str, key: bytes) -> bytes | None:
        self.counts["rows"] += 1
        return self.inner.get(keyspace, key)

    def get_many(self, keyspace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        self.counts["rows"] += len(keys)
        return self.inner.get_many(keyspace, keys)

    def scan(
        self, keyspace: str, lo: bytes, hi: bytes | None, **options: Any
    ) -> Iterator[list[Pair]]:
        for pairs in self.inner.scan(keyspace, lo, hi, **options):
            self.counts["rows"] += len(pairs)
            yield pairs

    def close(self) -> None:
        self.inner.close()


def test_a_compacted_revision_is_refused_at_once(store: Store) -> None:
    """From the moment of compaction, reads below it answer COMPACTED, at it they work."""
    put(store, b"a")
    put(store, b"a", value=b"2")
    put(store, b"a", value=b"3")
    store.compact(3)
    with pytest.raises(ApiError) as caught:
        store.get(b"a", 2)
    assert caught.value == errors.COMPACTED
    with pytest.raises(ApiError):
        store.range(RangeQuery(b"a", revision=2))
    with pytest.raises(ApiError):
        next(store.range_chunks(RangeQuery(b"a", revision=2)))
    with pytest.raises(ApiError):
        store.events(2, 10, 10)
    assert store.range(RangeQuery(b"a", revision=3)).count == 1


@pytest.mark.parametrize(
    ("revision", "error"),
    [(-1, "COMPACTED"), (0, None), (4, None), (5, "FUTURE_REV")],
)
def test_compactions_are_checked(
    store: Store, revision: int, error: str | None
) -> None:
    """A fresh store refuses -1 and what is to come, and takes 0 and the head."""
    for _ in range(3):
        put(store, b"a")
    if error is None:
        store.compact(revision)
        assert store.compact_revision == revision
        error = "COMPACTED"
    with pytest.raises(ApiError) as caught:
        store.compact(revision)
    assert caught.value == getattr(errors, error)


def test_a_deletion_at_the_compacted_revision_stays_for_watchers(
    make_backend: Callable[[], Backend],
) -> None:
    """A watch from the compacted revision must see the DELETE there.

    etcd up to 3.5.15 removed it (issues 18089 and 19179): a client that resumed at the
    revision it had been told about missed the deletion for good.
    """
    backend = make_backend()
    store = Store(backend)
    put(store, b"a")
    revision = delete(store, b"a")
    put(store, b"b")
    store.compact(revision)
    finish(store)
    events, _ = store.events(revision, 1, 1)
    assert [(event.key, event.deleted) for event in events] == [(b"a", True)]
    assert log_rows(backend) == 2
    store.compact(store.revision)
    finish(store)
    assert log_rows(backend) == log_rows(backend, INDEX) == 1
    store.close()
    backend.close()


def test_the_revision_never_goes_back(make_backend: Callable[[], Backend]) -> None:
    """A crash while compacting everything leaves the revision where it was.

    etcd before 3.5.13 took the newest remaining row for the current revision (issues
    17780 and 16693): with the newest change compacted away, revisions were given out
    twice.
    """
    backend = make_backend()
    store = Store(backend, StoreOptions(compaction_batch_limit=1))
    put(store, b"a", b"b", b"c")
    revision = delete(store, b"a", b"\x00")
    store.compact(revision)
    store.flush()
    for _ in range(3):
        store.compaction_step()
        store.flush()
        store.close()
        store = Store(backend)
        assert (store.revision, store.compact_revision) == (revision, revision)
    finish(store)
    assert put(store, b"d") == revision + 1
    store.close()
    backend.close()


def test_an_unfinished_compaction_goes_on_after_a_crash(tmp_path: Path) -> None:
    """Steps already flushed are kept, the rest is done after reopening."""
    harness = Harness(
        lambda: open_backend("lmdb", tmp_path),
        Random(1),
        StoreOptions(compaction_batch_limit=3, compaction_hashes=False),
    )
    for number in range(30):
        request = rpc_pb2.PutRequest(key=b"%d" % (number % 4), value=b"v")
        harness.apply("put", request)
    harness.apply("compact", rpc_pb2.CompactionRequest(revision=25))
    harness.flush()
    for _ in range(4):
        assert harness.store.compaction_step()
        harness.flush()
        harness.crash(reopen=True)
        assert harness.store.compaction_pending()
    harness.compact_physically()
    harness.check_tables()
    harness.check_hashes()
    harness.close()


def test_work_is_bounded_by_what_changed(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction reads the changes since the last one, not the store."""
    options = StoreOptions(compaction_hashes=False)
    store = Store(harness.backend, options)
    for number in range(3000):
        put(store, b"%06d" % number)
    store.compact(store.revision)
    finish(store)
    put(store, b"000001", value=b"2")
    delete(store, b"000002")
    store.flush()
    store.close()
    counts = {"rows": 0}
    snapshot = harness.backend.snapshot
    monkeypatch.setattr(
        harness.backend, "snapshot", lambda: CountingSnapshot(snapshot(), counts)
    )
    store = Store(harness.backend, options)
    store.compact(store.revision)
    finish(store)
    assert counts["rows"] < 20
    assert log_rows(harness.backend) == 3000


def test_a_step_is_bounded(tmp_path: Path) -> None:
    """One step looks at no more rows than the batch limit says."""
    backend = open_backend("memory", tmp_path)
    store = Store(backend, StoreOptions(compaction_batch_limit=10))
    for number in range(100):
        put(store, b"key", value=b"%d" % number)
    store.compact(store.revision)
    store.flush()
    steps = 0
    while store.compaction_step():
        steps += 1
    assert steps >= 100 // 10
    store.close()
    backend.close()


def test_a_reader_keeps_what_it_needs(store: Store, harness: Harness) -> None:
    """A range in progress gets its revision to the end although that is compacted."""
    for key in (b"a", b"b", b"c", b"d"):
        put(store, key, value=b"old")
    chunks = store.range_chunks(ALL, rows=1)
    rows = next(chunks).kvs
    for key in (b"a", b"b", b"c", b"d"):
        put(store, key, value=b"new")
    delete(store, b"c")
    store.compact(store.revision)
    store.flush()
    while store.compaction_step():
        store.flush()
    assert store.compaction_pending(), "waits for the reader"
    for chunk in chunks:
        rows += chunk.kvs
    assert [row[-3:] for row in rows] == [b"old"] * 4
    finish(store)
    assert log_rows(harness.backend) == 4


def test_an_abandoned_reader_does_not_block_compaction(store: Store) -> None:
    """Closing the iterator, or dropping it, gives its protection up."""
    put(store, b"a", b"b")
    chunks = store.range_chunks(ALL, rows=1)
    next(chunks)
    put(store, b"a", b"b")
    store.compact(store.revision)
    store.flush()
    while store.compaction_step():
        store.flush()
    assert store.compaction_pending()
    del chunks
    finish(store)


def test_many_versions_of_one_key_are_left_by_seeking(store: Store) -> None:
    """A key with thousands of versions reads right at old revisions, beside others."""
    put(store, b"a", b"z")
    for number in range(2500):
        put(store, b"m", value=b"%d" % number)
    delete(store, b"m")
    store.flush()
    for revision in (2, 3, 1500, 2502, 2503):
        found = store.range(RangeQuery(b"\x00", b"\x00", revision=revision))
        values = {row[2:3]: row[row.rindex(b"*") + 2 :] for row in found.kvs}
        middle = b"%d" % (revision - 3)
        expected = {b"a": b"v", b"m": middle, b"z": b"v"}
        if revision in (2, 2503):
            del expected[b"m"]
        assert values == expected, revision
        assert found.count == len(expected)
