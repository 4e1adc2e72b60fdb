"""Transactions: all or nothing, the same on every member."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from tests.mvcc.generate import Generator

from revstore.api import errors
from revstore.apply import kv, txn
from revstore.errors import ApiError
from revstore.mvcc.records import decode_kv
from revstore.mvcc.store import Store
from revstore.mvcc.tables import KEYSPACES, LEASE, lease_key_prefix
from revstore.proto import rpc_pb2
from revstore_memory.backend import MemoryBackend


@pytest.fixture
def store() -> Iterator[Store]:
    """A store with keys a and b."""
    made = Store(MemoryBackend(KEYSPACES))
    for key in (b"a", b"b"):
        kv.apply_put(made, rpc_pb2.PutRequest(key=key, value=b"1"))
    yield made
    made.close()


def put(key: bytes, value: bytes = b"x", **fields: int) -> rpc_pb2.RequestOp:
    request = rpc_pb2.PutRequest(key=key, value=value, lease=fields.pop("lease", 0))
    for name, flag in fields.items():
        setattr(request, name, bool(flag))
    return rpc_pb2.RequestOp(request_put=request)


def get(key: bytes, revision: int = 0, serializable: bool = False) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(
        request_range=rpc_pb2.RangeRequest(
            key=key, revision=revision, serializable=serializable
        )
    )


def delete(key: bytes, end: bytes = b"") -> rpc_pb2.RequestOp:
    request = rpc_pb2.DeleteRangeRequest(key=key, range_end=end)
    return rpc_pb2.RequestOp(request_delete_range=request)


def nested(*ops: rpc_pb2.RequestOp) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(success=ops))


def state(store: Store) -> tuple[int, int, int]:
    return store.revision, store.hash_kv().hash, store.hash_all()


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (put(b"c", lease=99), errors.LEASE_NOT_FOUND),
        (put(b"c", b"", ignore_value=1), errors.KEY_NOT_FOUND),
        (put(b"c", ignore_lease=1), errors.KEY_NOT_FOUND),
        (get(b"a", revision=4), errors.FUTURE_REV),
        (get(b"a", revision=1), errors.COMPACTED),
        (put(b"w"), errors.DUPLICATE_KEY),
        (delete(b"w"), errors.DUPLICATE_KEY),
    ],
    ids=["lease", "value", "ignore-lease", "future", "compacted", "put", "delete"],
)
@pytest.mark.parametrize("deep", [False, True])
def test_an_error_leaves_nothing_behind(
    store: Store, bad: rpc_pb2.RequestOp, error: ApiError, deep: bool
) -> None:
    """Whatever fails, at whatever depth, the store is as before and goes on.

    etcd panicked or applied one half when an operation failed after the first write
    (issues 14110, 14211, 18799, 20059), and missed the checks of nested puts (pull
    requests 21681 and 21685).
    """
    store.compact(2)
    before = state(store)
    op = nested(nested(bad)) if deep else bad
    request = rpc_pb2.TxnRequest(success=[put(b"w"), delete(b"a"), op])
    with pytest.raises(ApiError) as caught:
        txn.apply_txn(store, request)
    assert caught.value == error
    assert state(store) == before
    assert store.drain_events()[2:] == []
    kv.apply_put(store, rpc_pb2.PutRequest(key=b"w"))
    assert store.revision == 4


def test_all_members_decide_alike_on_compacted_revisions(store: Store) -> None:
    """The outcome is the same for a member that has deleted the rows and one that not.

    etcd up to 3.6 lets the proposer fail such a transaction and the others apply it
    (issue 18667).
    """
    request = rpc_pb2.TxnRequest(success=[put(b"w"), get(b"a", revision=2)])
    outcomes = []
    for physically in (False, True):
        member = Store(MemoryBackend(KEYSPACES))
        for key in (b"a", b"a", b"a"):
            kv.apply_put(member, rpc_pb2.PutRequest(key=key))
        member.compact(3)
        while physically and member.compaction_pending():
            if not member.compaction_step():
                member.flush()
        with pytest.raises(ApiError) as caught:
            txn.apply_txn(member, request)
        outcomes.append((caught.value, member.revision, member.get(b"w")))
        member.close()
    assert outcomes == [(errors.COMPACTED, 4, None)] * 2


@pytest.mark.parametrize(
    ("revision", "compacted", "error"),
    [
        (-1, False, None),
        (-2, False, errors.COMPACTED),
        (-1, True, errors.COMPACTED),
        (2, True, errors.COMPACTED),
        (3, True, None),
    ],
)
def test_negative_revisions_are_pinned(
    store: Store, revision: int, compacted: bool, error: ApiError | None
) -> None:
    """A range in a transaction takes -1 for "now" until the first compaction.

    etcd compares with the compact revision, which is -1 before the first one, and says
    nothing about it (issue 13871). A range of its own takes any negative number.
    """
    if compacted:
        store.compact(3)
    request = rpc_pb2.TxnRequest(success=[get(b"a", revision=revision)])
    if error is None:
        txn.apply_txn(store, request)
    else:
        with pytest.raises(ApiError) as caught:
            txn.apply_txn(store, request)
        assert caught.value == error
    alone = rpc_pb2.RangeRequest(key=b"a", revision=min(revision, -1))
    assert kv.apply_range(store, alone).body


def test_plain_puts_take_the_short_way_with_the_same_answer(store: Store) -> None:
    """A list of plain puts answers byte for byte as the general way does."""
    ops = [put(b"a"), put(b"n"), put(b"o", b"")]
    short = txn.apply_txn(store, rpc_pb2.TxnRequest(success=ops))
    twin = Store(MemoryBackend(KEYSPACES))
    for key in (b"a", b"b"):
        kv.apply_put(twin, rpc_pb2.PutRequest(key=key, value=b"1"))
    always = rpc_pb2.Compare(key=b"a", target=rpc_pb2.Compare.VALUE, value=b"1")
    long = txn.apply_txn(twin, rpc_pb2.TxnRequest(compare=[always], success=ops))
    assert short == long
    assert state(store) == state(twin)
    items = [(b"a", b"2", 0), (b"p", b"3", 0)]
    many = txn.apply_txn(
        twin, rpc_pb2.TxnRequest(success=[put(key, value) for key, value, _ in items])
    )
    assert txn.apply_puts(store, items) == many
    assert state(store) == state(twin)
    empty = txn.apply_txn(twin, rpc_pb2.TxnRequest())
    assert txn.apply_puts(store, []) == empty
    twin.close()


def test_read_only_means_ranges_at_the_top(store: Store) -> None:
    """Nesting or any write makes a write; both branches count."""
    reads = rpc_pb2.TxnRequest(success=[get(b"a")], failure=[get(b"b")])
    assert txn.is_read_only(reads)
    assert txn.is_read_only(rpc_pb2.TxnRequest())
    for op in (put(b"a"), delete(b"a"), nested(get(b"a")), rpc_pb2.RequestOp()):
        assert not txn.is_read_only(rpc_pb2.TxnRequest(failure=[op]))
    assert not txn.is_serializable(reads)
    local = get(b"a", serializable=True)
    assert txn.is_serializable(rpc_pb2.TxnRequest(success=[local], failure=[local]))
    result = txn.read_txn(store, reads)
    assert result.revision == store.revision == 3


def test_a_wide_comparison_stops_at_the_first_key_that_fails(store: Store) -> None:
    """Every key of a compared range must hold; an empty range is one absent key."""

    def holds(end: bytes, **fields: int) -> bool:
        compare = rpc_pb2.Compare(key=b"a", range_end=end, **fields)  # type: ignore[arg-type]  # numbers for enums
        result = txn.apply_txn(store, rpc_pb2.TxnRequest(compare=[compare]))
        return rpc_pb2.TxnResponse.FromString(result.body).succeeded

    greater, create = 1, 1
    assert holds(b"\x00", target=create, result=greater, create_revision=1)
    assert not holds(b"\x00", target=create, result=greater, create_revision=2)
    assert holds(b"aa", target=create, result=greater, create_revision=1)
    assert holds(b"A", target=create, result=0, create_revision=0)
    assert not holds(b"A", target=3, result=3)


def test_keeping_value_or_lease(store: Store) -> None:
    """ignore_value and ignore_lease take from the old row what they do not get."""
    store.system_put(LEASE, lease_key_prefix(7), b"")
    kv.apply_put(store, rpc_pb2.PutRequest(key=b"a", value=b"kept", lease=7))
    kv.apply_put(store, rpc_pb2.PutRequest(key=b"a", value=b"new", ignore_lease=True))
    row = store.get(b"a")
    assert row is not None
    assert (decode_kv(row).value, decode_kv(row).lease) == (b"new", 7)
    kv.apply_put(store, rpc_pb2.PutRequest(key=b"a", ignore_value=True))
    row = store.get(b"a")
    assert row is not None
    assert (decode_kv(row).value, decode_kv(row).lease) == (b"new", 0)


@pytest.mark.parametrize("seed", range(5))
def test_unchecked_requests_do_no_harm(seed: int) -> None:
    """Requests that no validation has seen give an answer or an ApiError, never more.

    Unknown enum numbers and absent parts trapped etcd 3.4 (Range with sort_target 9).
    """
    random = Random(seed)
    make = Generator(random, [b"", b"a", b"b", b"c"])
    store = Store(MemoryBackend(KEYSPACES))
    for _ in range(150):
        request = make.any_txn(store.revision)
        for op in request.success:
            op.request_range.sort_target = random.choice([0, 9])  # type: ignore[assignment]  # out of range on purpose
        for compare in request.compare:
            compare.target = random.choice([0, 9, -1])  # type: ignore[assignment]  # the same
            compare.result = random.choice([0, 9])  # type: ignore[assignment]  # the same
        if random.random() < 0.2:
            request.success.add()
        before = state(store)
        try:
            txn.apply_txn(store, request)
        except ApiError:
            assert state(store) == before, (seed, request)
        if random.random() < 0.2:
            store.flush()
    store.close()
