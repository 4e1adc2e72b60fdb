"""The answers of a real etcd to key-value requests, one after the other.

The requests and answers are those of a conversation with etcd 3.4.23; where 3.6 answers
differently, 3.6 counts.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString

from revstore.api.errors import Code
from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as r
from tests.api.member import FakeMember

RESPONSES: dict[type[Message], tuple[str, type[Message]]] = {
    r.RangeRequest: ("KV/Range", r.RangeResponse),
    r.PutRequest: ("KV/Put", r.PutResponse),
    r.DeleteRangeRequest: ("KV/DeleteRange", r.DeleteRangeResponse),
    r.TxnRequest: ("KV/Txn", r.TxnResponse),
    r.CompactionRequest: ("KV/Compact", r.CompactionResponse),
}


def ask(member: FakeMember, request: Message) -> str:
    """One line of a transcript: the answer as text, without ids and term."""
    path, response = RESPONSES[type(request)]
    try:
        answer: Any = member.call(path, request, response)
    except ApiError as error:
        return f"{Code(error.code).name} {error.message}"
    header = answer.header
    assert (header.cluster_id, header.member_id, header.raft_term) == (0xC1, 0xA1, 2)
    header.cluster_id = header.member_id = header.raft_term = 0
    return MessageToString(answer, as_one_line=True)


def put(key: bytes, value: bytes = b"", **fields: Any) -> r.PutRequest:
    """A PutRequest."""
    return r.PutRequest(key=key, value=value, **fields)


def op(request: Any) -> r.RequestOp:
    """A request as an operation of a transaction."""
    if isinstance(request, r.PutRequest):
        return r.RequestOp(request_put=request)
    if isinstance(request, r.RangeRequest):
        return r.RequestOp(request_range=request)
    if isinstance(request, r.DeleteRangeRequest):
        return r.RequestOp(request_delete_range=request)
    return r.RequestOp(request_txn=request)


def txn(*success: Any, failure: Any = (), compare: Any = ()) -> r.TxnRequest:
    """A TxnRequest."""
    return r.TxnRequest(
        compare=compare, success=map(op, success), failure=map(op, failure)
    )


def get(key: bytes, **fields: Any) -> r.RangeRequest:
    """A RangeRequest."""
    return r.RangeRequest(key=key, **fields)


def delete(key: bytes, **fields: Any) -> r.DeleteRangeRequest:
    """A DeleteRangeRequest."""
    return r.DeleteRangeRequest(key=key, **fields)


EMPTY = "INVALID_ARGUMENT etcdserver: key is not provided"
NOT_FOUND = "INVALID_ARGUMENT etcdserver: key not found"
NO_LEASE = "NOT_FOUND etcdserver: requested lease not found"
DUPLICATE = "INVALID_ARGUMENT etcdserver: duplicate key given in txn request"
TOO_MANY = "INVALID_ARGUMENT etcdserver: too many operations in txn request"
FUTURE = "OUT_OF_RANGE etcdserver: mvcc: required revision is a future revision"
COMPACTED = "OUT_OF_RANGE etcdserver: mvcc: required revision has been compacted"
A2 = (
    'kvs { key: "a" create_revision: 2 mod_revision: 3 version: 2 value: "2" } count: 1'
)
K0 = 'kvs { key: "k0" create_revision: 4 mod_revision: 4 version: 1'
K1 = 'kvs { key: "k1" create_revision: 5 mod_revision: 5 version: 1'
ALL = {"key": b"k", "range_end": b"l"}
BASICS: list[tuple[Message, str]] = [
    (get(b""), EMPTY),
    (put(b""), EMPTY),
    (get(b"a"), "header { revision: 1 }"),
    (put(b"a", b"1"), "header { revision: 2 }"),
    (
        put(b"a", b"2", prev_kv=True),
        'header { revision: 3 } prev_kv { key: "a" create_revision: 2 '
        'mod_revision: 2 version: 1 value: "1" }',
    ),
    (
        put(b"a", b"x", ignore_value=True),
        "INVALID_ARGUMENT etcdserver: value is provided",
    ),
    (
        put(b"a", ignore_lease=True, lease=5),
        "INVALID_ARGUMENT etcdserver: lease is provided",
    ),
    (put(b"missing", ignore_value=True), NOT_FOUND),
    (put(b"a", lease=999), NO_LEASE),
    (get(b"a", revision=99), FUTURE),
    (get(b"a", revision=-1), f"header {{ revision: 3 }} {A2}"),
    (
        get(b"a", revision=2),
        'header { revision: 3 } kvs { key: "a" create_revision: 2 mod_revision: 2 '
        'version: 1 value: "1" } count: 1',
    ),
    (
        get(b"a", sort_order=99),
        "INVALID_ARGUMENT etcdserver: invalid sort option",
    ),
    (
        get(b"a", sort_target=99),
        "INVALID_ARGUMENT etcdserver: invalid sort option",
    ),
    *(
        (put(b"k%d" % i, b"v%d" % (9 - i)), f"header {{ revision: {4 + i} }}")
        for i in range(5)
    ),
    (
        get(**ALL, limit=2, keys_only=True),
        f"header {{ revision: 8 }} {K0} }} {K1} }} more: true count: 5",
    ),
    (
        get(**ALL, limit=2, sort_target=4, keys_only=True),
        'header { revision: 8 } kvs { key: "k2" create_revision: 6 mod_revision: 6 '
        f"version: 1 }} {K1} }} more: true count: 5",
    ),
    (
        get(**ALL, limit=2, sort_target=3),
        f'header {{ revision: 8 }} {K0} value: "v9" }} {K1} value: "v8" }} '
        "more: true count: 5",
    ),
    (get(**ALL, count_only=True), "header { revision: 8 } count: 5"),
    (
        get(**ALL, limit=1, max_mod_revision=5, keys_only=True),
        f"header {{ revision: 8 }} {K0} }} more: true count: 5",
    ),
    (get(b"l", range_end=b"k"), "header { revision: 8 }"),
    (delete(b"none"), "header { revision: 8 }"),
    (delete(b""), EMPTY),
    (
        delete(b"k4", prev_kv=True),
        'header { revision: 9 } deleted: 1 prev_kvs { key: "k4" create_revision: 8 '
        'mod_revision: 8 version: 1 value: "v5" }',
    ),
    (txn(put(b"q"), put(b"q")), DUPLICATE),
    (txn(put(b"q"), delete(b"a", range_end=b"z")), DUPLICATE),
    (
        txn(delete(b"zz"), delete(b"k", range_end=b"l")),
        "header { revision: 10 } succeeded: true responses { response_delete_range { "
        "header { revision: 9 } } } responses { response_delete_range { header { "
        "revision: 10 } deleted: 4 } }",
    ),
    (
        txn(put(b"q"), failure=[put(b"q")]),
        "header { revision: 11 } succeeded: true responses { response_put { header { "
        "revision: 11 } } }",
    ),
    (r.TxnRequest(success=[r.RequestOp()]), NOT_FOUND),
    (txn(), "header { revision: 11 } succeeded: true"),
    (txn(*(get(b"%d" % i) for i in range(129))), TOO_MANY),
    (txn(put(b"q"), txn(put(b"q"))), DUPLICATE),
    (
        txn(txn(put(b"q", b"x"), failure=[put(b"q")])),
        "header { revision: 12 } succeeded: true responses { response_txn { header { "
        "} succeeded: true responses { response_put { header { revision: 12 } } } } }",
    ),
    (txn(get(b"q", revision=99)), FUTURE),
    (
        txn(get(b"q", revision=-1)),
        "header { revision: 12 } succeeded: true responses { response_range { header { "
        'revision: 12 } kvs { key: "q" create_revision: 11 mod_revision: 12 version: 2 '
        'value: "x" } count: 1 } }',
    ),
    (txn(compare=[r.Compare()]), EMPTY),
    (txn(put(b"n", lease=999)), NO_LEASE),
    (txn(put(b"missing", ignore_value=True)), NOT_FOUND),
    (put(b"b", b"0" * 1000), "header { revision: 13 }"),
    (r.CompactionRequest(revision=99), FUTURE),
    (r.CompactionRequest(revision=-1), COMPACTED),
    (r.CompactionRequest(revision=0), "header { revision: 13 }"),
    (r.CompactionRequest(revision=5), "header { revision: 13 }"),
    (r.CompactionRequest(revision=5), COMPACTED),
    (get(b"a", revision=4), COMPACTED),
    (get(b"a", revision=5), f"header {{ revision: 13 }} {A2}"),
    (txn(get(b"a", revision=-1)), COMPACTED),
    (txn(get(b"a", revision=4), put(b"a")), COMPACTED),
    (get(b"b", count_only=True), "header { revision: 13 } count: 1"),
]


def test_transcript(member: FakeMember) -> None:
    """Every request of the conversation gets etcd's answer, text and code included."""
    for number, (request, expected) in enumerate(BASICS):
        found = ask(member, request)
        assert found == expected, f"request {number}: {request}"
