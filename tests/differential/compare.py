"""Answers made comparable: without ids, terms and orders that nobody promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as rpc

TTL_TOLERANCE_S = 120
"""The lifetimes that are granted differ by far more."""

STABLE_SORT_MAX = 12
"""Up to this many elements Go's sort keeps the order of equal ones."""

SORT_KEYS: dict[int, Callable[[Any], Any]] = {
    rpc.RangeRequest.VERSION: lambda kv: kv.version,
    rpc.RangeRequest.CREATE: lambda kv: kv.create_revision,
    rpc.RangeRequest.MOD: lambda kv: kv.mod_revision,
    rpc.RangeRequest.VALUE: lambda kv: kv.value,
}


def plain(answer: Any) -> Any:
    """An answer without what only one member knows."""
    if isinstance(answer, ApiError):
        return answer
    header = getattr(answer, "header", None)
    if header is not None and answer.HasField("header"):
        header.ClearField("cluster_id")
        header.ClearField("member_id")
        header.ClearField("raft_term")
    if isinstance(answer, rpc.LeaseTimeToLiveResponse):
        keys = sorted(answer.keys)
        del answer.keys[:]
        answer.keys.extend(keys)
    if isinstance(answer, rpc.LeaseLeasesResponse):
        leases = sorted(answer.leases, key=lambda lease: lease.ID)
        del answer.leases[:]
        answer.leases.extend(leases)
    return answer


def difference(request: Message, expected: Any, got: Any) -> str | None:
    """What is unequal, or None; both answers are ``plain``."""
    if isinstance(expected, ApiError) or isinstance(got, ApiError):
        same = (
            isinstance(expected, ApiError)
            and isinstance(got, ApiError)
            and (expected.code, expected.message) == (got.code, got.message)
        )
        return None if same else _both(expected, got)
    if isinstance(expected, rpc.LeaseTimeToLiveResponse):
        if abs(expected.TTL - got.TTL) > TTL_TOLERANCE_S:
            return _both(expected, got)
        expected.TTL = got.TTL
    if isinstance(request, rpc.RangeRequest):
        settle_ties(request, expected, got)
    elif isinstance(request, rpc.TxnRequest):
        _settle_txn(request, expected, got)
    return None if expected == got else _both(expected, got)


def _both(expected: Any, got: Any) -> str:
    return f"  etcd:     {_text(expected)}\n  revstore: {_text(got)}"


def _text(answer: Any) -> str:
    if isinstance(answer, ApiError):
        return f"error {answer.code} {answer.message}"
    text = " ".join(str(answer).split())
    return text if len(text) < 3000 else f"{text[:3000]}..."


def settle_ties(request: rpc.RangeRequest, expected: Any, got: Any) -> None:
    """Give rows that sort equal the same order on both sides.

    Go's sort leaves their order open for more than a few rows. What a limit leaves of
    the last group may then be any rows of it: only what they are sorted by counts.
    """
    sort_key = SORT_KEYS.get(request.sort_target)
    if sort_key is None or expected.count <= STABLE_SORT_MAX:
        return
    if request.keys_only and request.sort_target == rpc.RangeRequest.VALUE:
        _forget_rows(expected, got)
        return
    rows, others = list(expected.kvs), list(got.kvs)
    if list(map(sort_key, rows)) != list(map(sort_key, others)):
        return
    if expected.more and rows:
        last = sort_key(rows[-1])
        rows = [row for row in rows if sort_key(row) != last]
        others = [row for row in others if sort_key(row) != last]
    for answer, found in ((expected, rows), (got, others)):
        order = {
            value: at for at, value in enumerate(dict.fromkeys(map(sort_key, found)))
        }
        found.sort(key=lambda row: (order[sort_key(row)], row.key))
        del answer.kvs[:]
        answer.kvs.extend(found)


def _forget_rows(expected: Any, got: Any) -> None:
    """The order is by values that the answer does not show."""
    if expected.more or len(expected.kvs) != len(got.kvs):
        if len(expected.kvs) == len(got.kvs):
            del expected.kvs[:], got.kvs[:]
        return
    for answer in (expected, got):
        rows = sorted(answer.kvs, key=lambda row: row.key)
        del answer.kvs[:]
        answer.kvs.extend(rows)


def _settle_txn(request: rpc.TxnRequest, expected: Any, got: Any) -> None:
    branch = request.success if expected.succeeded else request.failure
    if len(expected.responses) != len(branch) or len(got.responses) != len(branch):
        return
    for op, left, right in zip(branch, expected.responses, got.responses, strict=True):
        if left.WhichOneof("response") != right.WhichOneof("response"):
            return
        if op.HasField("request_range"):
            settle_ties(op.request_range, left.response_range, right.response_range)
        elif op.HasField("request_txn"):
            _settle_txn(op.request_txn, left.response_txn, right.response_txn)
