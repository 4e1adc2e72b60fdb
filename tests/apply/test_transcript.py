"""A session with etcd, answer by answer.

The expected answers were seen on etcd 3.4.23 and hold for later versions; the one call
that 3.6 refuses and 3.4 does not is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.text_format import MessageToString

from revstore.apply import kv, txn, validate
from revstore.errors import ApiError
from revstore.mvcc.store import Store
from revstore.mvcc.tables import KEYSPACES
from revstore.proto import rpc_pb2
from revstore_memory.backend import MemoryBackend

NONE = rpc_pb2.RangeRequest.NONE
ASCEND = rpc_pb2.RangeRequest.ASCEND
DESCEND = rpc_pb2.RangeRequest.DESCEND
VALUE = rpc_pb2.RangeRequest.VALUE


def get(key: bytes = b"", end: bytes = b"", **fields: Any) -> rpc_pb2.RangeRequest:
    return rpc_pb2.RangeRequest(key=key, range_end=end, **fields)


def put(key: bytes = b"", value: bytes = b"", **fields: Any) -> rpc_pb2.PutRequest:
    return rpc_pb2.PutRequest(key=key, value=value, **fields)


def delete(
    key: bytes = b"", end: bytes = b"", **fields: Any
) -> rpc_pb2.DeleteRangeRequest:
    return rpc_pb2.DeleteRangeRequest(key=key, range_end=end, **fields)


def op(request: Any) -> rpc_pb2.RequestOp:
    names = {
        rpc_pb2.RangeRequest: "request_range",
        rpc_pb2.PutRequest: "request_put",
        rpc_pb2.DeleteRangeRequest: "request_delete_range",
        rpc_pb2.TxnRequest: "request_txn",
    }
    made = rpc_pb2.RequestOp()
    if request is not None:
        getattr(made, names[type(request)]).CopyFrom(request)
    return made


def then(
    *success: Any,
    given: Sequence[rpc_pb2.Compare] = (),
    otherwise: Sequence[Any] = (),
) -> rpc_pb2.TxnRequest:
    return rpc_pb2.TxnRequest(
        compare=given,
        success=[op(request) for request in success],
        failure=[op(request) for request in otherwise],
    )


def compare(**fields: Any) -> rpc_pb2.Compare:
    return rpc_pb2.Compare(**fields)


def compact(revision: int) -> rpc_pb2.CompactionRequest:
    return rpc_pb2.CompactionRequest(revision=revision, physical=True)


SESSION: list[tuple[Any, str]] = [
    (get(), "3: etcdserver: key is not provided"),
    (put(), "3: etcdserver: key is not provided"),
    (get(b"a"), "1"),
    (put(b"a", b"1"), "2"),
    (
        put(b"a", b"2", prev_kv=True),
        '3 prev_kv { key: "a" create_revision: 2 mod_revision: 2 version: 1 value: "1" }',
    ),
    (put(b"a", b"2", ignore_value=True), "3: etcdserver: value is provided"),
    (put(b"a", lease=4, ignore_lease=True), "3: etcdserver: lease is provided"),
    (put(b"zz", ignore_value=True), "3: etcdserver: key not found"),
    (put(b"a", lease=77), "5: etcdserver: requested lease not found"),
    (
        get(b"a", revision=100),
        "11: etcdserver: mvcc: required revision is a future revision",
    ),
    (
        get(b"a", revision=-5),
        '3 kvs { key: "a" create_revision: 2 mod_revision: 3 version: 2 value: "2" } count: 1',
    ),
    (
        get(b"a", revision=2),
        '3 kvs { key: "a" create_revision: 2 mod_revision: 2 version: 1 value: "1" } count: 1',
    ),
    # 3.4 ignores it
    (get(b"a", sort_order=9), "3: etcdserver: invalid sort option"),
    (put(b"k0", b"v9"), "4"),
    (put(b"k1", b"v8"), "5"),
    (put(b"k2", b"v7"), "6"),
    (put(b"k3", b"v6"), "7"),
    (put(b"k4", b"v5"), "8"),
    (
        get(b"k", b"l", limit=2, keys_only=True),
        '8 kvs { key: "k0" create_revision: 4 mod_revision: 4 version: 1 } kvs { key: "k1" create_revision: 5 mod_revision: 5 version: 1 } more: true count: 5',
    ),
    (
        get(b"k", b"l", limit=2, sort_target=3),
        '8 kvs { key: "k0" create_revision: 4 mod_revision: 4 version: 1 value: "v9" } kvs { key: "k1" create_revision: 5 mod_revision: 5 version: 1 value: "v8" } more: true count: 5',
    ),
    (
        get(b"k", b"l", limit=2, sort_order=DESCEND, keys_only=True),
        '8 kvs { key: "k4" create_revision: 8 mod_revision: 8 version: 1 } kvs { key: "k3" create_revision: 7 mod_revision: 7 version: 1 } more: true count: 5',
    ),
    (
        get(b"k", b"l", limit=1, max_mod_revision=6, keys_only=True),
        '8 kvs { key: "k0" create_revision: 4 mod_revision: 4 version: 1 } more: true count: 5',
    ),
    (get(b"k", b"l", count_only=True, limit=1), "8 count: 5"),
    (get(b"z", b"a"), "8"),
    (
        get(b"k", b"l", limit=-1, keys_only=True),
        '8 kvs { key: "k0" create_revision: 4 mod_revision: 4 version: 1 } kvs { key: "k1" create_revision: 5 mod_revision: 5 version: 1 } kvs { key: "k2" create_revision: 6 mod_revision: 6 version: 1 } kvs { key: "k3" create_revision: 7 mod_revision: 7 version: 1 } kvs { key: "k4" create_revision: 8 mod_revision: 8 version: 1 } count: 5',
    ),
    (delete(b"nope"), "8"),
    (delete(), "3: etcdserver: key is not provided"),
    (
        delete(b"k4", prev_kv=True),
        '9 deleted: 1 prev_kvs { key: "k4" create_revision: 8 mod_revision: 8 version: 1 value: "v5" }',
    ),
    (then(put(b"q"), put(b"q")), "3: etcdserver: duplicate key given in txn request"),
    (
        then(put(b"q"), delete(b"a", b"z")),
        "3: etcdserver: duplicate key given in txn request",
    ),
    (
        then(delete(b"q"), delete(b"a0", b"z")),
        "10 succeeded: true responses { response_delete_range { header { revision: 9 } } } responses { response_delete_range { header { revision: 10 } deleted: 4 } }",
    ),
    (
        then(put(b"q", b"x"), otherwise=[put(b"q")]),
        "11 succeeded: true responses { response_put { header { revision: 11 } } }",
    ),
    (then(None), "3: etcdserver: key not found"),
    (then(), "11 succeeded: true"),
    (
        then(*(put(b"q%d" % n) for n in range(129))),
        "3: etcdserver: too many operations in txn request",
    ),
    (
        then(put(b"q"), then(put(b"q"))),
        "3: etcdserver: duplicate key given in txn request",
    ),
    (
        then(then(put(b"q", b"x"), otherwise=[put(b"q")])),
        "12 succeeded: true responses { response_txn { header { } succeeded: true responses { response_put { header { revision: 12 } } } } }",
    ),
    (
        then(put(b"q"), get(b"q"), delete(b"q", prev_kv=True), get(b"q")),
        "3: etcdserver: duplicate key given in txn request",
    ),
    (
        then(get(b"q", revision=1000)),
        "11: etcdserver: mvcc: required revision is a future revision",
    ),
    (
        then(get(b"q", revision=-1)),
        '12 succeeded: true responses { response_range { header { revision: 12 } kvs { key: "q" create_revision: 11 mod_revision: 12 version: 2 value: "x" } count: 1 } }',
    ),
    (
        then(get(b"a"), given=[compare(key=b"k", range_end=b"l", target=1, result=1)]),
        "12",
    ),
    (
        then(get(b"a"), given=[compare(target=1, result=1)]),
        "3: etcdserver: key is not provided",
    ),
    (then(get(b"a"), given=[compare(key=b"none", target=3, value=b"")]), "12"),
    (
        then(get(b"a"), given=[compare(key=b"a", target=9)]),
        '12 succeeded: true responses { response_range { header { revision: 12 } kvs { key: "a" create_revision: 2 mod_revision: 3 version: 2 value: "2" } count: 1 } }',
    ),
    (
        then(
            put(b"n1"),
            then(
                put(b"n2"),
                given=[compare(key=b"n1", version=0)],
                otherwise=[put(b"n3")],
            ),
        ),
        "13 succeeded: true responses { response_put { header { revision: 13 } } } responses { response_txn { header { } succeeded: true responses { response_put { header { revision: 13 } } } } }",
    ),
    (then(put(b"n1", lease=99)), "5: etcdserver: requested lease not found"),
    (then(put(b"n1"), put(b"n99", ignore_value=True)), "3: etcdserver: key not found"),
    (
        then(put(b"n77"), then()),
        "14 succeeded: true responses { response_put { header { revision: 14 } } } responses { response_txn { header { } succeeded: true } }",
    ),
    (compact(1000), "11: etcdserver: mvcc: required revision is a future revision"),
    (compact(-1), "11: etcdserver: mvcc: required revision has been compacted"),
    (compact(0), "14"),
    (compact(5), "14"),
    (compact(5), "11: etcdserver: mvcc: required revision has been compacted"),
    (
        get(b"a", revision=4),
        "11: etcdserver: mvcc: required revision has been compacted",
    ),
    (
        get(b"a", revision=5),
        '14 kvs { key: "a" create_revision: 2 mod_revision: 3 version: 2 value: "2" } count: 1',
    ),
    (
        then(get(b"q", revision=-1)),
        "11: etcdserver: mvcc: required revision has been compacted",
    ),
]

SORTS_AND_TXNS: list[tuple[Any, str]] = [
    (put(b"k0", b"v9"), "2"),
    (put(b"k1", b"v8"), "3"),
    (put(b"k2", b"v7"), "4"),
    (put(b"k3", b"v6"), "5"),
    (put(b"k4", b"v5"), "6"),
    (
        get(b"k", b"l", limit=2, sort_target=VALUE),
        '6 kvs { key: "k2" create_revision: 4 mod_revision: 4 version: 1 value: "v7" } kvs { key: "k1" create_revision: 3 mod_revision: 3 version: 1 value: "v8" } more: true count: 5',
    ),
    (
        get(b"k", b"l", limit=2, sort_target=VALUE, sort_order=ASCEND),
        '6 kvs { key: "k4" create_revision: 6 mod_revision: 6 version: 1 value: "v5" } kvs { key: "k3" create_revision: 5 mod_revision: 5 version: 1 value: "v6" } more: true count: 5',
    ),
    (
        get(b"k", b"l", limit=2, sort_target=VALUE, sort_order=DESCEND),
        '6 kvs { key: "k0" create_revision: 2 mod_revision: 2 version: 1 value: "v9" } kvs { key: "k1" create_revision: 3 mod_revision: 3 version: 1 value: "v8" } more: true count: 5',
    ),
    (
        get(b"k", b"l", sort_target=VALUE, keys_only=True),
        '6 kvs { key: "k4" create_revision: 6 mod_revision: 6 version: 1 } kvs { key: "k3" create_revision: 5 mod_revision: 5 version: 1 } kvs { key: "k2" create_revision: 4 mod_revision: 4 version: 1 } kvs { key: "k1" create_revision: 3 mod_revision: 3 version: 1 } kvs { key: "k0" create_revision: 2 mod_revision: 2 version: 1 } count: 5',
    ),
    (
        get(b"k", b"l", limit=2, sort_target=VALUE, max_mod_revision=100),
        '6 kvs { key: "k4" create_revision: 6 mod_revision: 6 version: 1 value: "v5" } kvs { key: "k3" create_revision: 5 mod_revision: 5 version: 1 value: "v6" } more: true count: 5',
    ),
    (get(b"k", b"l", count_only=True, keys_only=True), "6 count: 5"),
    (then(given=[compare(key=b"k1", target=9, result=3)]), "6"),
    (then(given=[compare(key=b"k1", target=0, result=9)]), "6 succeeded: true"),
    (then(given=[compare(key=b"none", target=0, result=0)]), "6 succeeded: true"),
    (
        then(given=[compare(key=b"k1", target=0, result=1, mod_revision=77)]),
        "6 succeeded: true",
    ),
    (
        then(
            put(b"q", b"new"),
            get(b"q"),
            delete(b"k0", b"k3", prev_kv=True),
            get(b"k", b"l", count_only=True),
            get(b"k1", revision=3),
            put(b"k9", prev_kv=True),
        ),
        '7 succeeded: true responses { response_put { header { revision: 7 } } } responses { response_range { header { revision: 7 } kvs { key: "q" create_revision: 7 mod_revision: 7 version: 1 value: "new" } count: 1 } } responses { response_delete_range { header { revision: 7 } deleted: 3 prev_kvs { key: "k0" create_revision: 2 mod_revision: 2 version: 1 value: "v9" } prev_kvs { key: "k1" create_revision: 3 mod_revision: 3 version: 1 value: "v8" } prev_kvs { key: "k2" create_revision: 4 mod_revision: 4 version: 1 value: "v7" } } } responses { response_range { header { revision: 7 } count: 2 } } responses { response_range { header { revision: 7 } kvs { key: "k1" create_revision: 3 mod_revision: 3 version: 1 value: "v8" } count: 1 } } responses { response_put { header { revision: 7 } } }',
    ),
    (
        then(then(get(b"q"))),
        '7 succeeded: true responses { response_txn { header { } succeeded: true responses { response_range { header { revision: 7 } kvs { key: "q" create_revision: 7 mod_revision: 7 version: 1 value: "new" } count: 1 } } } }',
    ),
    (
        then(
            put(b"fresh"),
            then(
                put(b"saw-none"),
                given=[compare(key=b"fresh", version=0)],
                otherwise=[put(b"saw-one")],
            ),
        ),
        "8 succeeded: true responses { response_put { header { revision: 8 } } } responses { response_txn { header { } succeeded: true responses { response_put { header { revision: 8 } } } } }",
    ),
    (
        then(delete(b"fresh"), put(b"z1")),
        "9 succeeded: true responses { response_delete_range { header { revision: 9 } deleted: 1 } } responses { response_put { header { revision: 9 } } }",
    ),
    (
        then(put(b"z2"), get(b"z2", revision=10)),
        "11: etcdserver: mvcc: required revision is a future revision",
    ),
    (
        then(put(b"newk"), then(put(b"newk2", ignore_value=True))),
        "3: etcdserver: key not found",
    ),
]


def answer(store: Store, request: Any) -> str:
    """Revision and response, or the error's code and text."""
    try:
        if isinstance(request, rpc_pb2.RangeRequest):
            validate.check_range_request(request)
            result = kv.apply_range(store, request)
            response: Any = rpc_pb2.RangeResponse.FromString(result.body)
        elif isinstance(request, rpc_pb2.PutRequest):
            validate.check_put_request(request)
            result = kv.apply_put(store, request)
            response = rpc_pb2.PutResponse.FromString(result.body)
        elif isinstance(request, rpc_pb2.DeleteRangeRequest):
            validate.check_delete_request(request)
            result = kv.apply_delete_range(store, request)
            response = rpc_pb2.DeleteRangeResponse.FromString(result.body)
        elif isinstance(request, rpc_pb2.TxnRequest):
            validate.check_txn_request(request, 128)
            result = txn.apply_txn(store, request)
            response = rpc_pb2.TxnResponse.FromString(result.body)
        else:
            result = kv.apply_compaction(store, request)
            response = rpc_pb2.CompactionResponse.FromString(result.body)
    except ApiError as exc:
        return f"{exc.code}: {exc.message}"
    text = MessageToString(response, as_one_line=True)
    return f"{result.revision} {text}".strip()


@pytest.mark.parametrize("flush", [False, True], ids=["overlay", "flushed"])
@pytest.mark.parametrize("session", [SESSION, SORTS_AND_TXNS], ids=["kv", "sort-txn"])
def test_every_answer_is_that_of_etcd(
    session: list[tuple[Any, str]], flush: bool
) -> None:
    """Each request of the session gets etcd's answer, read from memory or engine."""
    store = Store(MemoryBackend(KEYSPACES))
    for number, (request, expected) in enumerate(session):
        assert answer(store, request) == expected, (number, request)
        if flush:
            store.flush()
    store.close()
