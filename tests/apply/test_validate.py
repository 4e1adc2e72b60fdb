"""The checks that need no store."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from revstore.api import errors
from revstore.apply import validate
from revstore.errors import ApiError
from revstore.proto import rpc_pb2

Op = rpc_pb2.RequestOp


def put(key: bytes) -> Op:
    return Op(request_put=rpc_pb2.PutRequest(key=key))


def delete(key: bytes, end: bytes = b"") -> Op:
    return Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key, range_end=end))


def txn(success: Sequence[Op] = (), failure: Sequence[Op] = ()) -> Op:
    return Op(request_txn=rpc_pb2.TxnRequest(success=success, failure=failure))


def refusal(op: Op, max_ops: int = 128) -> ApiError | None:
    """What the transaction inside an op is refused with."""
    try:
        validate.check_txn_request(op.request_txn, max_ops)
    except ApiError as exc:
        return exc
    return None


def nest(depth: int) -> Op:
    op = txn([put(b"a")])
    for _ in range(depth):
        op = txn([op])
    return op


@pytest.mark.parametrize(
    ("op", "refused"),
    [
        (txn([put(b"a"), put(b"a")]), True),
        (txn([put(b"a")], [put(b"a")]), False),
        (txn([put(b"a"), delete(b"a")]), True),
        (txn([put(b"a"), delete(b"a")][::-1]), True),
        (txn([put(b"b"), delete(b"a", b"b")]), False),
        (txn([put(b"b"), delete(b"a", b"c")]), True),
        (txn([put(b"b"), delete(b"c", b"a")]), False),
        (txn([delete(b"a", b"z"), delete(b"a")]), False),
        (txn([put(b"a"), txn([put(b"a")])]), True),
        (txn([txn([put(b"a")]), put(b"a")]), True),
        (txn([txn([put(b"a")], [put(b"a")])]), False),
        (txn([txn([put(b"a")], [put(b"a")]), put(b"a")]), True),
        (txn([delete(b"a", b"z"), txn([], [put(b"b")])]), True),
        (txn([put(b"b"), txn([], [txn([delete(b"a", b"z")])])]), True),
        (txn([txn([put(b"a")]), txn([put(b"a")])]), True),
        (txn([txn([delete(b"a")], [put(b"a")])]), False),
        (txn([put(b"b"), delete(b"a", b"\x00")]), True),
        (txn([put(b"a"), delete(b"b", b"\x00")]), False),
        (txn([txn([put(b"a")]), txn([delete(b"a")])]), True),
    ],
)
def test_a_key_is_put_once_and_not_deleted(op: Op, refused: bool) -> None:
    """In what may run together a key is put once, and not where it is deleted."""
    assert refusal(op) == (errors.DUPLICATE_KEY if refused else None)


def test_the_number_of_operations_is_bounded_through_nesting() -> None:
    """Each level may have what the levels above have left."""
    many = [put(b"%d" % number) for number in range(5)]
    assert refusal(txn(many), 5) is None
    assert refusal(txn(many), 4) == errors.TOO_MANY_OPS
    assert refusal(txn([], many), 4) == errors.TOO_MANY_OPS
    assert refusal(txn([txn(many)]), 6) is None
    assert refusal(txn([txn(many)]), 5) == errors.TOO_MANY_OPS
    assert refusal(nest(3), 4) is None
    assert refusal(nest(3), 3) == errors.TOO_MANY_OPS
    compares = [rpc_pb2.Compare(key=b"a")] * 3
    crowded = Op(request_txn=rpc_pb2.TxnRequest(compare=compares))
    assert refusal(crowded, 2) == errors.TOO_MANY_OPS


@pytest.mark.parametrize(
    ("op", "error"),
    [
        (put(b""), errors.EMPTY_KEY),
        (delete(b""), errors.EMPTY_KEY),
        (Op(request_range=rpc_pb2.RangeRequest()), errors.EMPTY_KEY),
        (Op(), errors.KEY_NOT_FOUND),
        (
            Op(request_put=rpc_pb2.PutRequest(key=b"a", value=b"v", ignore_value=True)),
            errors.VALUE_PROVIDED,
        ),
        (
            Op(request_put=rpc_pb2.PutRequest(key=b"a", lease=1, ignore_lease=True)),
            errors.LEASE_PROVIDED,
        ),
        (
            Op(
                request_range=rpc_pb2.RangeRequest(
                    key=b"a",
                    sort_target=9,  # type: ignore[arg-type]  # out of range on purpose
                )
            ),
            errors.INVALID_SORT_OPTION,
        ),
    ],
)
def test_operations_are_checked_at_every_depth(op: Op, error: ApiError) -> None:
    """A nested operation is refused with what its own call would be refused with."""
    assert refusal(txn([op])) == error
    assert refusal(txn([], [op])) == error
    assert refusal(txn([txn([txn([], [op])])])) == error


def test_comparisons_need_a_key() -> None:
    """A comparison without a key is refused, nested ones too."""
    bare = Op(request_txn=rpc_pb2.TxnRequest(compare=[rpc_pb2.Compare()]))
    assert refusal(bare) == errors.EMPTY_KEY
    assert refusal(txn([bare])) == errors.EMPTY_KEY
