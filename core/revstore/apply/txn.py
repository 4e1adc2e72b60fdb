"""Transactions on the store.

Rules of this file:

1. Order: all comparisons of the whole tree against the state before the transaction,
   then all checks on the operations that will run (puts before ranges), then the
   operations. So an error leaves nothing behind, and every member decides alike.
2. Ranges see the transaction's earlier writes unless they name a revision.
3. Inner headers carry the revision only: the one before the transaction until it has
   changed something. A nested transaction's header is present and empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from revstore.apply.kv import check_txn_put, delete_range, put, query_of
from revstore.errors import ApiError
from revstore.mvcc.query import RangeQuery, range_body
from revstore.mvcc.records import decode_kv, messages_field
from revstore.mvcc.store import Store
from revstore.mvcc.write import Put, WriteTxn
from revstore.proto import kv_pb2, rpc_pb2
from revstore.proto.varint import varint
from revstore.types import ApplyResult

_SUCCEEDED = b"\x10\x01"
_EMPTY_HEADER = b"\x0a\x00"

_TARGETS: dict[
    int, tuple[Callable[[kv_pb2.KeyValue], int], Callable[[rpc_pb2.Compare], int]]
] = {
    0: (lambda kv: kv.version, lambda compare: compare.version),
    1: (lambda kv: kv.create_revision, lambda compare: compare.create_revision),
    2: (lambda kv: kv.mod_revision, lambda compare: compare.mod_revision),
    4: (lambda kv: kv.lease, lambda compare: compare.lease),
}
_VALUE = 3
_ABSENT = kv_pb2.KeyValue()


def apply_txn(store: Store, request: rpc_pb2.TxnRequest) -> ApplyResult:
    """Run a transaction.

    Raises:
        ApiError: LEASE_NOT_FOUND, KEY_NOT_FOUND, COMPACTED or FUTURE_REV, before the
            first change; DUPLICATE_KEY if the request was not validated, with all
            changes undone.
        StorageError: the engine failed.
    """
    txn = store.begin()
    if not request.compare:
        result = _put_all(txn, request)
        if result is not None:
            return result
    path = _path(store, request)
    _check_puts(store, txn, request, iter(path))
    _check_ranges(txn, request, iter(path))
    try:
        body = _run(txn, request, iter(path))
    except ApiError:
        txn.abort()
        raise
    return ApplyResult(txn.commit(), body)


def read_txn(store: Store, request: rpc_pb2.TxnRequest) -> ApplyResult:
    """Answer a transaction that ``is_read_only`` holds for.

    Raises:
        ApiError: COMPACTED or FUTURE_REV.
        StorageError: the engine failed.
    """
    return apply_txn(store, request)


def is_read_only(request: rpc_pb2.TxnRequest) -> bool:
    """Whether all operations of both branches are ranges; nesting makes it a write."""
    return all(op.HasField("request_range") for op in _ops(request))


def is_serializable(request: rpc_pb2.TxnRequest) -> bool:
    """Whether a read-only transaction may be answered without a quorum."""
    return all(op.request_range.serializable for op in _ops(request))


def _ops(request: rpc_pb2.TxnRequest) -> Iterator[rpc_pb2.RequestOp]:
    yield from request.success
    yield from request.failure


def _put_all(txn: WriteTxn, request: rpc_pb2.TxnRequest) -> ApplyResult | None:
    """The short way of a transaction that is a list of plain puts; None if it is not."""
    items: list[Put] = []
    for op in request.success:
        if not op.HasField("request_put"):
            return None
        plain = op.request_put
        if plain.lease or plain.prev_kv or plain.ignore_value or plain.ignore_lease:
            return None
        items.append((plain.key, plain.value, 0))
    return _put_items(txn, items) if items else None


def apply_puts(store: Store, items: list[Put]) -> ApplyResult:
    """Run a transaction that only sets keys, as ``apply_txn`` would.

    Raises:
        ApiError: DUPLICATE_KEY if the request was not validated, with all changes
            undone.
        StorageError: the engine failed.
    """
    txn = store.begin()
    if items:
        return _put_items(txn, items)
    return ApplyResult(txn.commit(), _SUCCEEDED)


def _put_items(txn: WriteTxn, items: list[Put]) -> ApplyResult:
    try:
        txn.put_all(items)
    except ApiError:
        txn.abort()
        raise
    response = _response(2, _header(txn.revision))
    field = messages_field(3, [response])
    return ApplyResult(txn.commit(), _SUCCEEDED + field * len(items))


def _path(store: Store, request: rpc_pb2.TxnRequest) -> list[bool]:
    """Which branches are taken, in the order in which they are come by."""
    taken = all(_holds(store, compare) for compare in request.compare)
    path = [taken]
    for op in request.success if taken else request.failure:
        if op.HasField("request_txn"):
            path += _path(store, op.request_txn)
    return path


def _holds(store: Store, compare: rpc_pb2.Compare) -> bool:
    if not compare.range_end:
        row = store.get(compare.key)
        return _holds_for(compare, row)
    query = RangeQuery(compare.key, compare.range_end)
    empty = True
    for chunk in store.range_chunks(query):
        for row in chunk.kvs:
            empty = False
            if not _holds_for(compare, row):
                return False
    return _holds_for(compare, None) if empty else True


def _holds_for(compare: rpc_pb2.Compare, row: bytes | None) -> bool:
    kv = _ABSENT if row is None else decode_kv(row)
    target = compare.target
    order: int
    if target == _VALUE:
        if row is None:
            return False
        order = (kv.value > compare.value) - (kv.value < compare.value)
    elif target in _TARGETS:
        of_row, of_compare = _TARGETS[target]
        order = of_row(kv) - of_compare(compare)
    else:
        order = 0
    result = compare.result
    if result == rpc_pb2.Compare.EQUAL:
        return order == 0
    if result == rpc_pb2.Compare.NOT_EQUAL:
        return order != 0
    if result == rpc_pb2.Compare.GREATER:
        return order > 0
    return order < 0 if result == rpc_pb2.Compare.LESS else True


def _check_puts(
    store: Store, txn: WriteTxn, request: rpc_pb2.TxnRequest, path: Iterator[bool]
) -> None:
    for op in request.success if next(path) else request.failure:
        if op.HasField("request_put"):
            check_txn_put(store, txn, op.request_put)
        elif op.HasField("request_txn"):
            _check_puts(store, txn, op.request_txn, path)


def _check_ranges(
    txn: WriteTxn, request: rpc_pb2.TxnRequest, path: Iterator[bool]
) -> None:
    for op in request.success if next(path) else request.failure:
        if op.HasField("request_range"):
            txn.check_revision(op.request_range.revision)
        elif op.HasField("request_txn"):
            _check_ranges(txn, op.request_txn, path)


def _run(txn: WriteTxn, request: rpc_pb2.TxnRequest, path: Iterator[bool]) -> bytes:
    """Do the operations; returns the response without its header."""
    taken = next(path)
    responses = [
        _run_op(txn, op, path) for op in (request.success if taken else request.failure)
    ]
    body = messages_field(3, responses)
    return _SUCCEEDED + body if taken else body


def _run_op(txn: WriteTxn, op: rpc_pb2.RequestOp, path: Iterator[bool]) -> bytes:
    kind = op.WhichOneof("request")
    if kind == "request_put":
        prev = put(txn, op.request_put)
        body = _header(txn.revision)
        if prev is not None and op.request_put.prev_kv:
            body += messages_field(2, [prev])
        return _response(2, body)
    if kind == "request_range":
        result = txn.range(query_of(op.request_range))
        return _response(1, _header(result.revision) + range_body(result))
    if kind == "request_delete_range":
        body = delete_range(txn, op.request_delete_range)
        head = txn.revision if txn.changed else txn.revision - 1
        return _response(3, _header(head) + body)
    if kind == "request_txn":
        return _response(4, _EMPTY_HEADER + _run(txn, op.request_txn, path))
    return b""


def _header(revision: int) -> bytes:
    """A header field with a revision only."""
    number = b"\x18" + varint(revision)
    return b"\x0a" + varint(len(number)) + number


def _response(field: int, body: bytes) -> bytes:
    """A ResponseOp."""
    return messages_field(field, [body])
