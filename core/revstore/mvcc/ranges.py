"""From rows in key order to the answer of a Range: etcd's filters, sort and limit.

Rules of this file:

1. The order is etcd's: fetch, filter, sort, cut, blank. How much is fetched depends on
   the order as requested, so sort_order NONE with a target other than KEY and a limit
   sorts the first limit + 1 keys only. That is what etcd answers.
2. ``count`` is taken before filters and limit.
3. Equal sort keys keep key order (etcd leaves their order open).
"""

from __future__ import annotations

from collections.abc import Callable

from revstore.mvcc.layers import Layers
from revstore.mvcc.query import (
    SORT_ASCEND,
    SORT_DESCEND,
    SORT_NONE,
    TARGET_CREATE,
    TARGET_KEY,
    TARGET_MOD,
    TARGET_VALUE,
    TARGET_VERSION,
    RangeQuery,
    RangeResult,
    bounds,
)
from revstore.mvcc.records import decode_kv, strip_value
from revstore.proto.kv_pb2 import KeyValue

_SortKey = Callable[[KeyValue], int | bytes]

_SORT_KEYS: dict[int, _SortKey] = {
    TARGET_VERSION: lambda kv: kv.version,
    TARGET_CREATE: lambda kv: kv.create_revision,
    TARGET_MOD: lambda kv: kv.mod_revision,
    TARGET_VALUE: lambda kv: kv.value,
}


def run_range(
    layers: Layers, query: RangeQuery, revision: int | None, head: int
) -> RangeResult:
    """Answer a query at a checked revision (None: the head).

    Raises:
        StorageError: the engine failed.
    """
    if not query.end:
        return _run_single(layers, query, revision, head)
    span = bounds(query.key, query.end)
    if span is None:
        return RangeResult([], False, 0, head)
    lo, hi = span
    if query.count_only:
        return RangeResult([], False, layers.count(lo, hi, revision), head)
    limit = max(query.limit, 0)
    filtered = bool(
        query.min_mod or query.max_mod or query.min_create or query.max_create
    )
    if query.order != SORT_NONE or filtered:
        rows, resume = layers.page(lo, hi, revision)
        count = len(rows)
    else:
        rows, resume = layers.page(lo, hi, revision, limit + 1 if limit else 0)
        count = len(rows)
        if resume is not None:
            count += layers.count(resume, hi, revision)
    if filtered:
        rows = [row for row in rows if _passes(query, row)]
    if query.order != SORT_NONE or query.target != TARGET_KEY:
        rows = _sort(rows, query)
    more = bool(limit) and len(rows) > limit
    if more:
        del rows[limit:]
    if query.keys_only:
        rows = [strip_value(row) for row in rows]
    return RangeResult(rows, more, count, head)


def _run_single(
    layers: Layers, query: RangeQuery, revision: int | None, head: int
) -> RangeResult:
    key = query.key
    row = layers.get(key) if revision is None else layers.get_at(key, revision)
    if row is None:
        return RangeResult([], False, 0, head)
    if query.count_only or not _passes(query, row):
        return RangeResult([], False, 1, head)
    return RangeResult([strip_value(row) if query.keys_only else row], False, 1, head)


def _passes(query: RangeQuery, row: bytes) -> bool:
    if not (query.min_mod or query.max_mod or query.min_create or query.max_create):
        return True
    kv = decode_kv(row)
    return not (
        (query.min_mod and kv.mod_revision < query.min_mod)
        or (query.max_mod and kv.mod_revision > query.max_mod)
        or (query.min_create and kv.create_revision < query.min_create)
        or (query.max_create and kv.create_revision > query.max_create)
    )


def _sort(rows: list[bytes], query: RangeQuery) -> list[bytes]:
    """Sort rows that are in key order."""
    descend = query.order == SORT_DESCEND
    sort_key = _SORT_KEYS.get(query.target)
    if sort_key is None:
        # By key, or a target that no version knows: key order.
        return rows[::-1] if descend else rows
    if query.order not in (SORT_NONE, SORT_ASCEND, SORT_DESCEND):
        return rows
    # Python's reverse sort keeps equal elements in their order.
    keyed = [(sort_key(decode_kv(row)), row) for row in rows]
    keyed.sort(key=lambda pair: pair[0], reverse=descend)
    return [row for _, row in keyed]
