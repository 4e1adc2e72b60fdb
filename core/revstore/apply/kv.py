"""Range, Put, DeleteRange and Compact on the store.

Rules of this file:

1. Deterministic: the answer depends on request and store only, and an error is raised
   before the first change.
2. Requests have been checked (``validate``); what cannot be checked without the store
   is checked here. A request that slipped through unchecked does no harm.
3. Bodies are response messages without their header (see ``ApplyResult``).
"""

from __future__ import annotations

from revstore.api import errors
from revstore.mvcc.query import RangeQuery, range_body
from revstore.mvcc.records import decode_kv, lease_of, messages_field
from revstore.mvcc.store import Store
from revstore.mvcc.write import WriteTxn
from revstore.proto import rpc_pb2
from revstore.proto.varint import varint
from revstore.types import ApplyResult


def apply_range(store: Store, request: rpc_pb2.RangeRequest) -> ApplyResult:
    """Answer a Range from the store as it is.

    Raises:
        ApiError: COMPACTED or FUTURE_REV.
        StorageError: the engine failed.
    """
    if not request.range_end and request.revision <= 0 and not _special(request):
        row = store.get(request.key)
        if row is None:
            return ApplyResult(store.revision)
        return ApplyResult(store.revision, messages_field(2, [row]) + b"\x20\x01")
    result = store.range(query_of(request))
    return ApplyResult(result.revision, range_body(result))


def _special(request: rpc_pb2.RangeRequest) -> bool:
    """Whether the answer is not simply the row."""
    return bool(
        request.count_only
        or request.keys_only
        or request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def apply_put(store: Store, request: rpc_pb2.PutRequest) -> ApplyResult:
    """Put a key.

    Raises:
        ApiError: LEASE_NOT_FOUND, or KEY_NOT_FOUND for an ignore flag on an absent key.
        StorageError: the engine failed.
    """
    txn = store.begin()
    if request.lease or request.ignore_value or request.ignore_lease:
        check_put(store, txn, request)
        prev = put(txn, request)
    else:
        prev = txn.put(request.key, request.value)
    revision = txn.commit()
    if prev is not None and request.prev_kv:
        return ApplyResult(revision, b"\x12" + varint(len(prev)) + prev)
    return ApplyResult(revision)


def apply_delete_range(
    store: Store, request: rpc_pb2.DeleteRangeRequest
) -> ApplyResult:
    """Delete a key or a range of keys.

    Raises:
        StorageError: the engine failed.
    """
    txn = store.begin()
    body = delete_range(txn, request)
    return ApplyResult(txn.commit(), body)


def apply_compaction(store: Store, request: rpc_pb2.CompactionRequest) -> ApplyResult:
    """Compact; physical work is scheduled.

    Raises:
        ApiError: COMPACTED or FUTURE_REV.
    """
    store.compact(request.revision)
    return ApplyResult(store.revision)


def query_of(request: rpc_pb2.RangeRequest) -> RangeQuery:
    """The query that a RangeRequest stands for."""
    return RangeQuery(
        request.key,
        request.range_end,
        request.limit,
        request.revision,
        request.sort_order,
        request.sort_target,
        request.keys_only,
        request.count_only,
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    )


def check_put(store: Store, txn: WriteTxn, request: rpc_pb2.PutRequest) -> None:
    """What a put on its own needs from the store: first its lease, then its key.

    Raises:
        ApiError: LEASE_NOT_FOUND or KEY_NOT_FOUND.
        StorageError: the engine failed.
    """
    _check_lease(store, request)
    _check_previous(txn, request)


def check_txn_put(store: Store, txn: WriteTxn, request: rpc_pb2.PutRequest) -> None:
    """What a put of a transaction needs from before it: first its key, as in etcd.

    Raises:
        ApiError: KEY_NOT_FOUND or LEASE_NOT_FOUND.
        StorageError: the engine failed.
    """
    _check_previous(txn, request)
    _check_lease(store, request)


def _check_lease(store: Store, request: rpc_pb2.PutRequest) -> None:
    if request.lease and not store.lease_exists(request.lease):
        raise errors.LEASE_NOT_FOUND.fresh()


def _check_previous(txn: WriteTxn, request: rpc_pb2.PutRequest) -> None:
    if (request.ignore_value or request.ignore_lease) and txn.get(request.key) is None:
        raise errors.KEY_NOT_FOUND.fresh()


def put(txn: WriteTxn, request: rpc_pb2.PutRequest) -> bytes | None:
    """Do a checked put; returns the row that was there.

    Raises:
        ApiError: DUPLICATE_KEY; the transaction must be aborted.
        StorageError: the engine failed.
    """
    key, value, lease = request.key, request.value, request.lease
    if request.ignore_value or request.ignore_lease:
        row = txn.get(key)
        if row is not None:
            if request.ignore_value:
                value = decode_kv(row).value
            if request.ignore_lease:
                lease = lease_of(row)
    return txn.put(key, value, lease)


def delete_range(txn: WriteTxn, request: rpc_pb2.DeleteRangeRequest) -> bytes:
    """Delete; returns the fields ``deleted`` and ``prev_kvs`` of the response.

    Raises:
        ApiError: DUPLICATE_KEY; the transaction must be aborted.
        StorageError: the engine failed.
    """
    if not request.prev_kv:
        count = txn.delete_count(request.key, request.range_end)
        return b"\x10" + varint(count) if count else b""
    rows = txn.delete_range(request.key, request.range_end)
    if not rows:
        return b""
    return b"\x10" + varint(len(rows)) + messages_field(3, rows)
