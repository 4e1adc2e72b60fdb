"""From a caller's arguments to a request, and from a result to a value.

What the synchronous store, the asyncio store and the client have in common.
"""

from __future__ import annotations

from revstore.apply import validate
from revstore.embedded.values import (
    DeleteResult,
    Key,
    PutResult,
    make_delete_result,
    make_put_result,
    make_span,
    make_target,
    to_bytes,
)
from revstore.errors import UsageError
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult


def put_request(key: Key, value: Key, lease: int, prev_kv: bool) -> rpc_pb2.PutRequest:
    """A checked put. Raises: UsageError, ApiError."""
    request = rpc_pb2.PutRequest(
        key=to_bytes(key),
        value=to_bytes(value, "value"),
        lease=lease,
        prev_kv=prev_kv,
    )
    validate.check_put_request(request)
    return request


def put_result(result: ApplyResult) -> PutResult:
    """The outcome of a put."""
    if not result.body:
        return PutResult(result.revision)
    answer = rpc_pb2.PutResponse.FromString(result.body)
    return make_put_result(answer, result.revision)


def delete_request(
    key: Key | None, end: Key | None, prefix: Key | None, prev_kv: bool
) -> rpc_pb2.DeleteRangeRequest:
    """A checked delete of one key, a range or a prefix. Raises: UsageError, ApiError."""
    span = make_target(key, end, prefix)
    request = rpc_pb2.DeleteRangeRequest(
        key=span[0], range_end=span[1], prev_kv=prev_kv
    )
    validate.check_delete_request(request)
    return request


def delete_result(result: ApplyResult) -> DeleteResult:
    """The outcome of a delete."""
    answer = rpc_pb2.DeleteRangeResponse.FromString(result.body)
    return make_delete_result(answer, result.revision)


def grant_request(ttl_s: int, lease_id: int) -> rpc_pb2.LeaseGrantRequest:
    """A lease. Raises: UsageError: the time to live is no whole number."""
    if not isinstance(ttl_s, int):
        raise UsageError(f"a time to live is a whole number of seconds, not {ttl_s!r}")
    return rpc_pb2.LeaseGrantRequest(TTL=ttl_s, ID=lease_id)


def watch_request(
    key: Key | None,
    end: Key | None,
    prefix: Key | None,
    start_revision: int,
    prev_kv: bool,
    puts: bool,
    deletes: bool,
) -> rpc_pb2.WatchCreateRequest:
    """A watch of one key, a range, a prefix or all. Raises: UsageError."""
    span = make_span(key, end, prefix) if key is None else make_target(key, end, prefix)
    kinds = rpc_pb2.WatchCreateRequest
    dropped = [] if puts else [kinds.NOPUT]
    dropped += [] if deletes else [kinds.NODELETE]
    return rpc_pb2.WatchCreateRequest(
        key=span[0],
        range_end=span[1],
        start_revision=start_revision,
        prev_kv=prev_kv,
        filters=dropped,
    )
