"""Where revstore answers otherwise than etcd 3.4.23, and why: the one list.

A rule looks at an operation and at etcd's answer to it and says what revstore has to
answer. Each counts how often it was needed; a run in which one was never needed fails,
because then either the difference is gone or the run does not show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from revstore.api import errors
from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as rpc
from tests.differential.ops import TXN_OPS_MAX

DIFFERENCES = {
    "sort option": (
        "3.6 refuses unknown sort orders and targets with InvalidSortOption; 3.4.23 "
        "ignores an unknown order and crashes on an unknown target"
    ),
    "twice in one revision": (
        "a key that a branch puts may not lie in a range that it deletes; etcd's check "
        "misses deletes to the end of the key space and those of a later sibling"
    ),
    "hash revision": "3.6 says in hash_revision which revision was hashed",
    "hash at the compact revision": (
        "3.6 hashes the compacted revision, too, and remembers the hashes of the last "
        "compactions; 3.4.23 answers Compacted"
    ),
    "negative hash revision": (
        "a negative revision of HashKV means the current one, as it does for Range; "
        "etcd then hashes nothing at all"
    ),
    "negative watch": (
        "3.6 refuses a negative start revision before it makes a watcher; 3.4.23 makes "
        "one and takes the number as it comes"
    ),
    "progress beside a future watch": (
        "3.6 answers a progress request only when every watcher of the stream has "
        "begun; 3.4.23 answers at once"
    ),
    "kept tombstone": (
        "3.6 keeps a deletion at the compacted revision, so that a watch from there "
        "sees it; 3.4.23 removes it"
    ),
    "id of an ended watch": (
        "the id of a watcher that a compaction has ended is free again; etcd keeps it "
        "taken, and answers a cancel of it once more"
    ),
    "nested puts without space": (
        "puts in nested transactions need room, too, since 2026's patches (#22139)"
    ),
    "alarm header": "the answer to Alarm has a header since 3.5",
    "range stream": "RangeStream is of 3.7; it stands beside etcd's Range",
    "range stream sort": "RangeStream knows key order only, as in 3.7",
}
"""Name -> reason."""

ORDERS = frozenset(rpc.RangeRequest.SortOrder.values())
TARGETS = frozenset(rpc.RangeRequest.SortTarget.values())
CUSTOM_SORT = "RangeStream does not support custom sort orders"
REVISION_FILTER = "RangeStream does not support revision filters"


class Differences:
    """The rules, with their counts."""

    def __init__(self) -> None:
        self.used: Counter[str] = Counter()
        self.no_space = False
        """Whether the alarm is up."""

    def use(self, name: str) -> None:
        """Count a difference. Raises: KeyError if it is not in the list."""
        assert name in DIFFERENCES, name
        self.used[name] += 1

    def unused(self) -> list[str]:
        """The differences that never showed."""
        return [name for name in DIFFERENCES if not self.used[name]]

    def not_for_etcd(self, request: Message) -> ApiError | None:
        """The answer of revstore to a request that etcd 3.4.23 must not get."""
        if (
            isinstance(request, rpc.RangeRequest)
            and request.key
            and not valid_sort(request)
        ):
            self.use("sort option")
            return errors.INVALID_SORT_OPTION
        if isinstance(request, rpc.TxnRequest):
            if not all(map(valid_sort, ranges(request))):
                self.use("sort option")
                return errors.INVALID_SORT_OPTION
            if self.no_space and not puts(request) and puts(request, nested=True):
                self.use("nested puts without space")
                return errors.NO_SPACE
            twice = admitted_by_etcd(request) and not admitted(request)
            if twice and sound(request, TXN_OPS_MAX):
                self.use("twice in one revision")
                return errors.DUPLICATE_KEY
        return None

    def for_etcd(self, request: Message) -> Message:
        """What etcd gets in place of a request that it understands otherwise."""
        if isinstance(request, rpc.HashKVRequest) and request.revision < 0:
            self.use("negative hash revision")
            return rpc.HashKVRequest()
        return request

    def expected(self, request: Message, answer: Any, head: int) -> Any:
        """What revstore has to answer where etcd answers so."""
        if isinstance(request, rpc.HashKVRequest) and not isinstance(answer, ApiError):
            self.use("hash revision")
            answer.hash_revision = max(request.revision, 0) or head
        if isinstance(answer, rpc.AlarmResponse):
            self.use("alarm header")
            answer.header.revision = head
        return answer

    def compacted_hash(self, known: rpc.HashKVResponse, compacted: int) -> list[Any]:
        """What revstore may answer to HashKV at a revision that was compacted.

        ``known`` is etcd's answer from before that. Hashes of compactions are kept for
        a while; without one the compacted revision itself is hashed again.
        """
        self.use("hash at the compact revision")
        if known.hash_revision == compacted:
            return [known]
        return [known, errors.COMPACTED]

    def range_stream(self, request: rpc.RangeRequest, answer: Any) -> Any:
        """What RangeStream has to answer where etcd's Range answers so."""
        self.use("range stream")
        if not request.key:
            return answer
        if not valid_sort(request):
            return errors.INVALID_SORT_OPTION
        custom = request.sort_order != rpc.RangeRequest.NONE and (
            request.sort_order != rpc.RangeRequest.ASCEND
            or request.sort_target != rpc.RangeRequest.KEY
        )
        if custom:
            self.use("range stream sort")
            return ApiError(errors.Code.UNIMPLEMENTED, CUSTOM_SORT)
        if any(
            (
                request.min_mod_revision,
                request.max_mod_revision,
                request.min_create_revision,
                request.max_create_revision,
            )
        ):
            self.use("range stream sort")
            return ApiError(errors.Code.UNIMPLEMENTED, REVISION_FILTER)
        return answer

    def history_from(self, start: int, compacted: int, events: list[Any]) -> list[Any]:
        """Events that both sides owe a watcher that began at ``start``."""
        if start != compacted or not events:
            return events
        kept = [
            event
            for event in events
            if event.kv.mod_revision != compacted or event.type != event.DELETE
        ]
        if len(kept) < len(events):
            self.use("kept tombstone")
        return kept


def valid_sort(request: rpc.RangeRequest) -> bool:
    """Whether the sort options are known numbers."""
    return request.sort_order in ORDERS and request.sort_target in TARGETS


def ranges(txn: rpc.TxnRequest) -> Iterable[rpc.RangeRequest]:
    """All ranges of a transaction, nested ones too."""
    for op in (*txn.success, *txn.failure):
        if op.HasField("request_range"):
            yield op.request_range
        elif op.HasField("request_txn"):
            yield from ranges(op.request_txn)


def sound(txn: rpc.TxnRequest, ops_max: int) -> bool:
    """Whether a transaction has no fault that comes before keys changed twice."""
    ops = max(len(txn.compare), len(txn.success), len(txn.failure))
    if ops > ops_max or not all(compare.key for compare in txn.compare):
        return False
    for op in (*txn.success, *txn.failure):
        kind = op.WhichOneof("request")
        if kind == "request_txn":
            if not sound(op.request_txn, ops_max - ops):
                return False
        elif kind is None or not getattr(op, kind).key:
            return False
        put = op.request_put
        if (put.ignore_value and put.value) or (put.ignore_lease and put.lease):
            return False
    return True


def puts(txn: rpc.TxnRequest, *, nested: bool = False) -> bool:
    """Whether a transaction has a put in a branch of its own, or in any."""
    return any(
        op.HasField("request_put") or (nested and puts(op.request_txn, nested=True))
        for op in (*txn.success, *txn.failure)
    )


Span = tuple[bytes, bytes]


def admitted(txn: rpc.TxnRequest) -> bool:
    """Whether no branch puts a key twice or puts what it deletes: the rule itself."""
    try:
        for branch in (txn.success, txn.failure):
            _collect(branch, etcd=False)
    except _DuplicateError:
        return False
    return True


def admitted_by_etcd(txn: rpc.TxnRequest) -> bool:
    """The same as etcd's interval tree sees it."""
    try:
        for branch in (txn.success, txn.failure):
            _collect(branch, etcd=True)
    except _DuplicateError:
        return False
    return True


class _DuplicateError(Exception):
    pass


def _collect(
    branch: Iterable[rpc.RequestOp], *, etcd: bool
) -> tuple[set[bytes], list[Span]]:
    """Puts and deletes of a branch, nested ones too.

    The operations of the branch itself are one part, each nested transaction is one
    more; within a nested one only its own branches were to be checked. By the rule no
    part may put what another deletes; etcd looks at deletes of earlier parts only, and
    takes the branch's own puts last and its own deletes first.
    """
    own_puts: list[bytes] = []
    own_spans: list[Span] = []
    parts: list[tuple[set[bytes], list[Span]]] = []
    for op in branch:
        if op.HasField("request_delete_range"):
            delete = op.request_delete_range
            own_spans.append((delete.key, delete.range_end))
        elif op.HasField("request_put"):
            own_puts.append(op.request_put.key)
        elif op.HasField("request_txn"):
            puts, spans = _collect(op.request_txn.success, etcd=etcd)
            more_puts, more_spans = _collect(op.request_txn.failure, etcd=etcd)
            parts.append((puts | more_puts, spans + more_spans))
    if len(set(own_puts)) < len(own_puts):
        raise _DuplicateError
    parts = [(set(), own_spans), *parts, (set(own_puts), [])]
    all_puts: set[bytes] = set()
    for at, (puts, _) in enumerate(parts):
        others = parts[:at] if etcd else parts[:at] + parts[at + 1 :]
        spans = [span for _, found in others for span in found]
        if puts & all_puts or any(_covered(key, spans, etcd=etcd) for key in puts):
            raise _DuplicateError
        all_puts |= puts
    return all_puts, [span for _, found in parts for span in found]


def _covered(key: bytes, spans: Iterable[Span], *, etcd: bool) -> bool:
    for start, end in spans:
        if not end:
            if key == start:
                return True
        elif key >= start and (key < end or (end == b"\x00" and not etcd)):
            return True
    return False
