"""What a key-value request must look like, whatever the store holds.

Rules of this file:

1. Pure functions of the request; each raises the ApiError that etcd answers with.
2. In a transaction every operation is checked like its top-level twin, at every depth.
3. A key may be put once in a branch, and no key that a branch puts may lie in a range
   that it deletes, nested branches included. The two branches of one transaction may
   share keys; for the enclosing branch both count.
4. Deviation: a delete to the end of the key space (range_end ``00``) covers the keys it
   deletes. etcd's interval tree takes it for an empty range and lets a key be put and
   deleted in one revision.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from revstore.api import errors
from revstore.proto import rpc_pb2

_ORDERS = frozenset(rpc_pb2.RangeRequest.SortOrder.values())
_TARGETS = frozenset(rpc_pb2.RangeRequest.SortTarget.values())

Span = tuple[bytes, bytes]
"""Key and range_end of a delete."""


def check_range_request(request: rpc_pb2.RangeRequest) -> None:
    """Check a Range.

    Raises:
        ApiError: EMPTY_KEY or INVALID_SORT_OPTION.
    """
    if not request.key:
        raise errors.EMPTY_KEY.fresh()
    if request.sort_order not in _ORDERS or request.sort_target not in _TARGETS:
        raise errors.INVALID_SORT_OPTION.fresh()


def check_put_request(request: rpc_pb2.PutRequest) -> None:
    """Check a Put.

    Raises:
        ApiError: EMPTY_KEY, VALUE_PROVIDED or LEASE_PROVIDED.
    """
    if not request.key:
        raise errors.EMPTY_KEY.fresh()
    if request.ignore_value and request.value:
        raise errors.VALUE_PROVIDED.fresh()
    if request.ignore_lease and request.lease:
        raise errors.LEASE_PROVIDED.fresh()


def check_delete_request(request: rpc_pb2.DeleteRangeRequest) -> None:
    """Check a DeleteRange.

    Raises:
        ApiError: EMPTY_KEY.
    """
    if not request.key:
        raise errors.EMPTY_KEY.fresh()


def check_txn_request(request: rpc_pb2.TxnRequest, max_ops: int) -> None:
    """Check a transaction and everything nested in it.

    Raises:
        ApiError: TOO_MANY_OPS, EMPTY_KEY, KEY_NOT_FOUND (an operation without content),
            DUPLICATE_KEY, or what the operations' own checks raise.
    """
    _check_shape(request, max_ops)
    _changes(request.success)
    _changes(request.failure)


def _check_shape(request: rpc_pb2.TxnRequest, max_ops: int) -> None:
    ops = max(len(request.compare), len(request.success), len(request.failure))
    if ops > max_ops:
        raise errors.TOO_MANY_OPS.fresh()
    for compare in request.compare:
        if not compare.key:
            raise errors.EMPTY_KEY.fresh()
    for branch in (request.success, request.failure):
        for op in branch:
            kind = op.WhichOneof("request")
            if kind == "request_put":
                check_put_request(op.request_put)
            elif kind == "request_range":
                check_range_request(op.request_range)
            elif kind == "request_delete_range":
                check_delete_request(op.request_delete_range)
            elif kind == "request_txn":
                _check_shape(op.request_txn, max_ops - ops)
            else:
                raise errors.KEY_NOT_FOUND.fresh()


def _changes(
    branch: Iterable[rpc_pb2.RequestOp],
) -> tuple[set[bytes], list[Span]]:
    """The keys that a branch puts and the ranges that it deletes, checked."""
    puts: set[bytes] = set()
    deletes: list[Span] = []
    nested: list[rpc_pb2.TxnRequest] = []
    for op in branch:
        kind = op.WhichOneof("request")
        if kind == "request_put":
            key = op.request_put.key
            if key in puts:
                raise errors.DUPLICATE_KEY.fresh()
            puts.add(key)
        elif kind == "request_delete_range":
            delete = op.request_delete_range
            deletes.append((delete.key, delete.range_end))
        elif kind == "request_txn":
            nested.append(op.request_txn)
    _check_covered(puts, deletes)
    for txn in nested:
        inner_puts, inner_deletes = _changes_of_txn(txn)
        if not puts.isdisjoint(inner_puts):
            raise errors.DUPLICATE_KEY.fresh()
        _check_covered(inner_puts, deletes)
        _check_covered(puts, inner_deletes)
        puts |= inner_puts
        deletes += inner_deletes
    return puts, deletes


def _changes_of_txn(txn: rpc_pb2.TxnRequest) -> tuple[set[bytes], list[Span]]:
    """The changes of both branches, of which only one will run."""
    puts, deletes = _changes(txn.success)
    other_puts, other_deletes = _changes(txn.failure)
    return puts | other_puts, deletes + other_deletes


def _check_covered(puts: set[bytes], deletes: list[Span]) -> None:
    if not puts or not deletes:
        return
    ordered = sorted(puts)
    for key, end in deletes:
        if not end:
            covered = key in puts
        else:
            first = bisect_left(ordered, key)
            covered = first < len(ordered) and (end == b"\x00" or ordered[first] < end)
        if covered:
            raise errors.DUPLICATE_KEY.fresh()
