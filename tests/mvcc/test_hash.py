"""HashKV: the vectors of etcd, and what it may not cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.mvcc.harness import Harness

from revstore.api import errors
from revstore.errors import ApiError
from revstore.interfaces.backend import Backend
from revstore.mvcc.store import Store, StoreOptions
from revstore.proto import rpc_pb2

FRESH = {
    2: 2587454935,
    3: 1827592406,
    4: 1562576432,
    5: 779336658,
    6: 708197726,
    7: 40959660,
    8: 2203869934,
}
"""By revision, before any compaction, as answered by etcd 3.4.23."""

COMPACTED = {
    (4, 5): 533074032,
    (4, 6): 109716306,
    (4, 7): 2292338640,
    (4, 8): 70112831,
    (6, 7): 1358159769,
    (6, 8): 4215831843,
    (7, 8): 1675033805,
}
"""By compact revision and revision."""


def write_history(store: Store) -> None:
    """Puts, deletes and a transaction: seven revisions."""
    steps: list[list[tuple[bytes, bytes] | bytes]] = [
        [(b"a", b"1")],
        [(b"b", b"2")],
        [b"a"],
        [(b"b", b"3")],
        [(b"c", b"x"), (b"d", b"")],
        [b"c", b"d"],
        [(b"a", b"again")],
    ]
    for changes in steps:
        txn = store.begin()
        for change in changes:
            if isinstance(change, bytes):
                txn.delete_range(change)
            else:
                txn.put(*change)
        txn.commit()


def finish_compaction(store: Store) -> None:
    while store.compaction_pending():
        if not store.compaction_step():
            store.flush()


@pytest.mark.parametrize("flush", [False, True])
def test_hashes_are_those_of_etcd(
    make_backend: Callable[[], Backend], flush: bool
) -> None:
    """All vectors come out, from memory and from each engine, around compactions."""
    backend = make_backend()
    store = Store(backend)
    write_history(store)
    if flush:
        store.flush()
    for revision, expected in FRESH.items():
        assert store.hash_kv(revision).hash == expected
    for compact in (4, 6, 7):
        store.compact(compact)
        for physically in (False, True):
            if physically:
                finish_compaction(store)
            for (at, revision), expected in COMPACTED.items():
                if at == compact:
                    result = store.hash_kv(revision)
                    assert (result.hash, result.compact_revision) == (expected, at)
    store.close()
    backend.close()


def test_zero_asks_for_the_head(store: Store) -> None:
    """HashKV of revision 0 is that of the current revision and says so."""
    write_history(store)
    result = store.hash_kv()
    assert (result.hash, result.hash_revision) == (FRESH[8], 8)


def test_revisions_are_checked(store: Store) -> None:
    """A future revision and a compacted one are refused, the compacted at is not."""
    write_history(store)
    store.compact(5)
    store.hash_kv(5)
    with pytest.raises(ApiError) as caught:
        store.hash_kv(4)
    assert caught.value == errors.COMPACTED
    with pytest.raises(ApiError) as caught:
        store.hash_kv(9)
    assert caught.value == errors.FUTURE_REV


def test_the_hash_of_a_compaction_is_kept(store: Store) -> None:
    """HashKV at a compacted revision answers what it was before, for ten compactions.

    Members compare these hashes to find out whether they hold the same data; that
    works only if a member that compacted earlier still knows the answer.
    """
    for number in range(14):
        txn = store.begin()
        txn.put(b"key", b"%d" % number)
        txn.commit()
    for revision in range(2, 14):
        before = store.hash_kv(revision)
        store.compact(revision)
        finish_compaction(store)
        assert store.hash_kv(revision) == before
    assert store.hash_kv(4).compact_revision == 3
    with pytest.raises(ApiError):
        store.hash_kv(3)


def test_the_hash_of_a_compaction_can_be_left_out(
    make_backend: Callable[[], Backend],
) -> None:
    """With ``compaction_hashes`` off a compaction reads only what changed."""
    backend = make_backend()
    store = Store(backend, StoreOptions(compaction_hashes=False))
    write_history(store)
    store.compact(6)
    finish_compaction(store)
    assert store.hash_kv(6).compact_revision == 6
    assert store.hash_kv(8).hash == COMPACTED[6, 8]
    store.close()
    backend.close()


def test_a_job_is_not_disturbed(store: Store) -> None:
    """A hash taken in steps is that of its start, whatever happens in between."""
    write_history(store)
    job = store.hash_kv_job(7)
    while not job.step(1):
        txn = store.begin()
        txn.put(b"b", b"later")
        txn.commit()
        store.compact(store.revision)
        store.flush()
        store.compaction_step()
    assert job.result.hash == FRESH[7]


def test_a_compaction_keeps_its_own_deletions_in_mind(harness: Harness) -> None:
    """With nothing alive at R, the kept hash of R leaves out what its deletions hide.

    etcd's set of kept revisions then holds the deletions at R while it compacts, and is
    empty, which means "take all", when HashKV is asked before.
    """
    store, model = harness.store, harness.model
    harness.apply("put", rpc_pb2.PutRequest(key=b"a", value=b"v"))
    harness.apply("compact", rpc_pb2.CompactionRequest(revision=2))
    harness.compact_physically()
    harness.apply("delete", rpc_pb2.DeleteRangeRequest(key=b"a"))
    assert store.hash_kv(3).hash == model.hash_kv(3, 2)
    harness.apply("compact", rpc_pb2.CompactionRequest(revision=3))
    harness.compact_physically()
    assert store.hash_kv(3).hash == model.hash_kv(3, 2, compacting=True)
    assert model.hash_kv(3, 2) != model.hash_kv(3, 2, compacting=True)


def test_deletes_on_their_way_do_not_count(store: Store) -> None:
    """Between the last step of a compaction and its flush the hash stays the same."""
    for key in (b"a", b"a", b"b", b"b"):
        txn = store.begin()
        txn.put(key, b"v")
        txn.commit()
    store.compact(4)
    expected = store.hash_kv(5)
    store.flush()
    while store.compaction_pending():
        assert store.compaction_step() or not store.compaction_pending()
    assert store.hash_kv(5) == expected
    store.flush()
    assert store.hash_kv(5) == expected


def test_the_hash_of_everything_sees_every_table(store: Store) -> None:
    """Maintenance.Hash changes with a key and with a row of another part."""
    seen = {store.hash_all()}
    write_history(store)
    seen.add(store.hash_all())
    store.system_put("auth", b"user", b"row")
    seen.add(store.hash_all())
    before = store.hash_all()
    store.flush()
    assert store.hash_all() == before
    assert len(seen) == 3
