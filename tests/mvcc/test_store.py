"""The store's own promises: revisions, transactions, flushing, recovery."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.mvcc.harness import Harness

from revstore.api import errors
from revstore.errors import (
    ApiError,
    CorruptionError,
    FormatError,
    PoisonedError,
    StorageError,
    UsageError,
)
from revstore.interfaces.backend import Backend, Durability, WriteBatch
from revstore.mvcc.query import RangeQuery
from revstore.mvcc.records import decode_kv
from revstore.mvcc.store import Store, StoreOptions
from revstore.mvcc.tables import LEASE, LEASE_KEY, META, lease_key_prefix

ALL = RangeQuery(b"\x00", b"\x00")


def put(store: Store, key: bytes, value: bytes = b"v", lease: int = 0) -> int:
    txn = store.begin()
    txn.put(key, value, lease)
    return txn.commit()


def test_a_fresh_store_is_at_revision_one(store: Store) -> None:
    """The first change gets revision 2, and compaction never happened."""
    assert (store.revision, store.compact_revision) == (1, -1)
    assert put(store, b"a") == 2


def test_a_row_tells_its_life(store: Store) -> None:
    """Creation and version begin anew after a deletion."""
    for value in (b"1", b"2"):
        put(store, b"a", value)
    txn = store.begin()
    txn.delete_range(b"a")
    txn.commit()
    put(store, b"a", b"3")
    row = store.get(b"a")
    assert row is not None
    kv = decode_kv(row)
    assert (kv.create_revision, kv.mod_revision, kv.version) == (5, 5, 1)
    old = store.get(b"a", 3)
    assert old is not None
    kv = decode_kv(old)
    assert (kv.create_revision, kv.mod_revision, kv.version) == (2, 3, 2)
    assert store.get(b"a", 4) is None


def test_versions_count_beyond_a_byte(store: Store) -> None:
    """The version is right where its varint grows."""
    for _ in range(300):
        put(store, b"a")
    row = store.get(b"a")
    assert row is not None
    assert decode_kv(row).version == 300


def test_nothing_changed_means_no_revision(store: Store) -> None:
    """A transaction without changes leaves the revision alone."""
    txn = store.begin()
    assert txn.delete_range(b"a", b"z") == []
    assert txn.put_all([]) == []
    assert txn.commit() == 1


def test_a_transaction_shares_one_revision(store: Store) -> None:
    """Changes count their subs from 0; the events carry what was there before."""
    put(store, b"b", b"old")
    store.drain_events()
    txn = store.begin()
    txn.put(b"a", b"1")
    txn.delete_range(b"b")
    assert store.revision == 2
    assert txn.commit() == 3
    first, second = store.drain_events()
    assert (first.revision, first.sub, first.prev) == (3, 0, None)
    assert (second.revision, second.sub, second.deleted) == (3, 1, True)
    assert second.prev is not None
    assert decode_kv(second.prev).value == b"old"
    assert store.drain_events() == []


def test_events_wait_to_be_drained(store: Store) -> None:
    """Events not fetched before a flush are there after it, in order, once."""
    put(store, b"a")
    store.drain_events()
    put(store, b"b")
    job = store.begin_flush()
    assert job is not None
    put(store, b"c")
    job.run()
    store.end_flush(job)
    store.flush()
    put(store, b"d")
    assert [event.key for event in store.drain_events()] == [b"b", b"c", b"d"]
    assert store.drain_events() == []


@pytest.mark.parametrize("flushed", [False, True])
def test_an_aborted_transaction_leaves_nothing(store: Store, flushed: bool) -> None:
    """After abort every read is as before: rows, leases, counts and events."""
    store.system_put(LEASE, lease_key_prefix(7), b"")
    store.system_put(LEASE, lease_key_prefix(8), b"")
    put(store, b"a", b"1", 7)
    put(store, b"b", b"2", 7)
    if flushed:
        store.flush()
    store.drain_events()
    before = store.range(ALL)
    txn = store.begin()
    txn.put(b"a", b"other", 8)
    txn.put(b"new", b"3", 8)
    txn.delete_range(b"b")
    txn.abort()
    assert store.range(ALL) == before
    assert store.range(RangeQuery(b"\x00", b"\x00", count_only=True)).count == 2
    assert store.lease_keys(7) == [b"a", b"b"]
    assert store.lease_keys(8) == []
    assert store.drain_events() == []
    assert put(store, b"c") == 4
    store.flush()
    assert store.range(ALL).count == 3


@pytest.mark.parametrize("first", ["put", "delete"])
def test_a_key_changes_once_per_revision(store: Store, first: str) -> None:
    """A second change of a key in one transaction is refused."""
    put(store, b"a")
    txn = store.begin()
    if first == "put":
        txn.put(b"a", b"2")
        with pytest.raises(ApiError) as caught:
            txn.delete_range(b"", b"\x00")
        assert caught.value == errors.DUPLICATE_KEY
    else:
        txn.delete_range(b"a")
    with pytest.raises(ApiError) as caught:
        txn.put(b"a", b"3")
    assert caught.value == errors.DUPLICATE_KEY
    txn.abort()


def test_the_empty_key_is_a_key(store: Store) -> None:
    """A store below the API's checks takes the empty key, too."""
    put(store, b"", b"1")
    put(store, b"", b"2")
    store.flush()
    assert store.get(b"") is not None
    assert store.range(RangeQuery(b"", b"\x00")).count == 1
    txn = store.begin()
    assert txn.delete_count(b"") == 1
    txn.commit()
    assert store.get(b"") is None


def test_long_deletes_do_not_keep_what_they_removed(store: Store) -> None:
    """Events of a range delete carry old rows up to a megabyte; the rest is looked up."""
    for number in range(40):
        put(store, b"%02d" % number, b"v" * 100_000)
    store.drain_events()
    txn = store.begin()
    assert txn.delete_count(b"\x00", b"\x00") == 40
    revision = txn.commit()
    events = store.drain_events()
    assert len(events) == 40
    assert events[0].prev is None or len(events[0].prev) > 100_000
    assert sum(len(event.prev or b"") for event in events) <= 1 << 20
    assert store.get(b"39", revision - 1) is not None


def test_revisions_to_come_are_refused(store: Store) -> None:
    """Reads beyond the head answer FUTURE_REV."""
    put(store, b"a")
    for read in (
        lambda: store.get(b"a", 3),
        lambda: store.range(RangeQuery(b"a", revision=3)),
        lambda: next(store.range_chunks(RangeQuery(b"a", revision=3))),
    ):
        with pytest.raises(ApiError) as caught:
            read()
        assert caught.value == errors.FUTURE_REV


def test_chunks_do_not_sort(store: Store) -> None:
    """Chunks come in key order; anything else is refused when asked for."""
    for query in (RangeQuery(b"a", order=2), RangeQuery(b"a", min_create=1)):
        with pytest.raises(UsageError):
            store.range_chunks(query)


def test_effects_and_applied_index_are_one(
    make_backend: Callable[[], Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever flush a crash goes back to, applied index and data belong together.

    etcd 3.5.0 to 3.5.2 committed them apart (issue 13766): after a crash entries were
    applied twice or never, and members diverged.
    """
    backend = make_backend()
    store = Store(backend)
    batches: list[set[str]] = []
    write = backend.write

    def recorded(batch: WriteBatch, durability: Durability) -> None:
        batches.append({name for name, part in batch.keyspaces.items() if part.puts})
        write(batch, durability)

    monkeypatch.setattr(backend, "write", recorded)
    for index in range(1, 20):
        put(store, b"counter", b"%d" % index)
        store.set_applied(index, 3)
        if index % 3 == 0:
            store.flush(sync=False)
        again = Store(backend)
        row = again.get(b"counter")
        value = 0 if row is None else int(decode_kv(row).value)
        assert again.applied_index == value == again.revision - 1
        assert again.applied_term == (3 if value else 0)
        again.close()
    assert all(META in names for names in batches)
    store.close()
    backend.close()


def test_a_flush_runs_beside_reads_and_writes(store: Store) -> None:
    """What is frozen stays readable, new writes go on, the result is the sum."""
    put(store, b"a", b"1")
    put(store, b"b", b"1")
    job = store.begin_flush()
    assert job is not None
    assert store.begin_flush() is None
    put(store, b"a", b"2")
    txn = store.begin()
    txn.delete_range(b"b")
    txn.commit()
    put(store, b"c", b"3")
    expected = store.range(ALL).kvs
    old = [store.range(RangeQuery(b"\x00", b"\x00", revision=r)).kvs for r in (2, 3, 4)]
    job.run()
    store.end_flush(job)
    assert store.range(ALL).kvs == expected
    store.flush()
    assert store.range(ALL).kvs == expected
    again = [
        store.range(RangeQuery(b"\x00", b"\x00", revision=r)).kvs for r in (2, 3, 4)
    ]
    assert again == old
    assert [decode_kv(row).key for row in expected] == [b"a", b"c"]


def test_flushes_are_asked_for(harness: Harness) -> None:
    """A flush is due after enough events, enough bytes, or a while; not without work."""
    options = StoreOptions(
        flush_events=3,
        flush_bytes=10_000,
        flush_interval_s=1.0,
        overlay_events_max=5,
        overlay_bytes_max=1 << 20,
    )
    store = Store(harness.backend, options)
    assert not store.needs_flush(0.0)
    put(store, b"a")
    assert not store.needs_flush(5.0)
    assert not store.needs_flush(5.9)
    assert store.needs_flush(6.0)
    store.flush()
    put(store, b"a", b"v" * 20_000)
    assert store.needs_flush(6.0)
    store.flush()
    for _ in range(3):
        put(store, b"a")
    assert store.needs_flush(6.0)
    assert not store.overloaded()
    job = store.begin_flush()
    assert job is not None
    for _ in range(3):
        put(store, b"a")
    assert store.overloaded(), "what is being flushed counts"
    job.run()
    store.end_flush(job)
    assert not store.overloaded()
    store.set_applied(9, 1)
    store.flush()
    assert not store.needs_flush(100.0)
    store.close()


def test_bookkeeping_counts_for_overload_only(harness: Harness) -> None:
    """A flush is due by bytes of rows; overloaded means all that is held in memory."""
    options = StoreOptions(flush_bytes=1000, overlay_bytes_max=1000)
    store = Store(harness.backend, options)
    for _ in range(5):
        put(store, b"a")
    assert not store.needs_flush(0.0)
    assert store.overloaded()
    store.close()


def test_durable_means_synced(make_backend: Callable[[], Backend]) -> None:
    """The durable index follows synced flushes only, and only engines that keep data."""
    backend = make_backend()
    persistent = backend.capabilities.persistent
    store = Store(backend)
    put(store, b"a")
    store.set_applied(4, 1)
    store.flush(sync=False)
    assert store.durable_index == 0
    store.flush(sync=True)
    assert store.durable_index == (4 if persistent else 0)
    put(store, b"a")
    store.set_applied(6, 1)
    job = store.begin_flush(sync=True)
    assert job is not None
    job.run()
    store.end_flush(job)
    assert store.durable_index == (6 if persistent else 0)
    store.close()
    backend.close()


def test_a_failed_flush_poisons_the_store(
    store: Store, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed write reads go on, and no write is tried again until reopened."""

    def broken(batch: WriteBatch, durability: Durability) -> None:
        raise StorageError("no space left")

    put(store, b"a")
    with monkeypatch.context() as patch:
        patch.setattr(harness.backend, "write", broken)
        with pytest.raises(StorageError, match="no space left"):
            store.flush()
    put(store, b"b")
    with pytest.raises(PoisonedError, match="reopen"):
        store.begin_flush()
    assert store.range(ALL).count == 2


def test_only_the_running_job_can_be_ended(store: Store) -> None:
    """A job is ended once, and flush refuses to overtake it."""
    put(store, b"a")
    job = store.begin_flush()
    assert job is not None
    with pytest.raises(UsageError):
        store.flush()
    job.run()
    store.end_flush(job)
    with pytest.raises(UsageError):
        store.end_flush(job)


def test_newer_formats_and_damage_are_refused(harness: Harness) -> None:
    """META of a newer revstore gives FormatError, anything else CorruptionError."""
    for row, error in (
        (b'{"format": 99, "shape": []}', FormatError),
        (b"\x00garbage", CorruptionError),
        (b'{"format": 1, "revision": "x"}', CorruptionError),
    ):
        batch = WriteBatch()
        batch.put(META, b"state", row)
        harness.backend.write(batch, Durability.VOLATILE)
        with pytest.raises(error):
            Store(harness.backend)
    batch = WriteBatch()
    batch.delete(META, b"state")
    harness.backend.write(batch, Durability.VOLATILE)


def test_rows_of_other_parts_are_layered_too(store: Store) -> None:
    """System rows are visible at once, through flushes, and sorted with deletions."""
    store.system_put(LEASE, b"b", b"1")
    store.flush()
    store.system_put(LEASE, b"a", b"2")
    job = store.begin_flush()
    assert job is not None
    store.system_delete(LEASE, b"b")
    store.system_put(LEASE, b"c", b"3")
    assert store.system_get(LEASE, b"b") is None
    assert store.system_get(LEASE, b"a") == b"2"
    assert store.system_scan(LEASE, b"a") == [(b"a", b"2"), (b"c", b"3")]
    assert store.system_scan(LEASE, b"b", b"c") == []
    job.run()
    store.end_flush(job)
    store.flush()
    assert store.system_scan(LEASE) == [(b"a", b"2"), (b"c", b"3")]


def test_leases_follow_their_keys(store: Store) -> None:
    """A put moves or detaches a lease, a delete detaches it; negative ids work."""
    for lease in (-3, 7):
        store.system_put(LEASE, lease_key_prefix(lease), b"")
    put(store, b"a", lease=-3)
    put(store, b"b", lease=-3)
    put(store, b"long" + b"v" * 200, b"v" * 300, lease=-3)
    store.flush()
    put(store, b"a", lease=7)
    put(store, b"b")
    assert store.lease_keys(-3) == [b"long" + b"v" * 200]
    assert store.lease_keys(7) == [b"a"]
    txn = store.begin()
    txn.delete_range(b"\x00", b"\x00")
    txn.commit()
    assert store.lease_keys(-3) == store.lease_keys(7) == []
    store.flush()
    assert store.system_scan(LEASE_KEY) == []
    assert store.lease_exists(-3)
    assert not store.lease_exists(8)


def test_history_comes_in_whole_revisions(store: Store) -> None:
    """Events are cut at revision borders only, whether in memory or in the engine."""
    for _ in range(4):
        txn = store.begin()
        txn.put_all([(b"%d" % number, b"v" * 50, 0) for number in range(5)])
        txn.commit()
        if store.revision == 3:
            store.flush()
    events, following = store.events(1, 100, 1)
    assert ([event.revision for event in events], following) == ([2] * 5, 3)
    events, following = store.events(2, 2, 10**6)
    assert ([event.revision for event in events], following) == ([2] * 5 + [3] * 5, 4)
    events, following = store.events(3, 100, 10**6)
    assert (len(events), following) == (15, 6)
    assert store.events(6, 100, 10**6) == ([], 6)


def test_closing_twice_is_allowed(store: Store) -> None:
    """A closed store can be closed again."""
    store.close()
    store.close()
