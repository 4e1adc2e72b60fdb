"""What the library hands to its users, and what it takes from them.

Rules of this file:

1. Keys and values are bytes; a str is encoded as UTF-8 for convenience.
2. Values are frozen: they may be shared between threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from revstore.errors import UsageError
from revstore.mvcc.query import RangeQuery
from revstore.proto import kv_pb2, rpc_pb2

Key = bytes | str


def to_bytes(text: Key, what: str = "key") -> bytes:
    """A key or value as bytes.

    Raises:
        UsageError: it is neither bytes nor str.
    """
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytearray | memoryview):
        return bytes(text)
    raise UsageError(f"a {what} must be bytes or str, not {type(text).__name__}")


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """A pair as of some revision (mvccpb.KeyValue)."""

    key: bytes
    value: bytes
    create_revision: int
    """Revision at which the key's present life began."""
    mod_revision: int
    """Revision of the last change."""
    version: int
    """Number of puts in the present life; 0 only in a delete event."""
    lease: int = 0
    """Lease that the key is attached to, 0 for none."""


def make_pair(pair: kv_pb2.KeyValue) -> KeyValue:
    """A pair of the API as a value."""
    return KeyValue(
        pair.key,
        pair.value,
        pair.create_revision,
        pair.mod_revision,
        pair.version,
        pair.lease,
    )


_parse = kv_pb2.KeyValue.FromString


def decode_pair(key: bytes, row: bytes) -> KeyValue:
    """The stored row of a key as a value.

    Not by ``make_pair``, since a read has one each time.
    """
    pair = _parse(row)
    return KeyValue(
        key,
        pair.value,
        pair.create_revision,
        pair.mod_revision,
        pair.version,
        pair.lease,
    )


def decode_pairs(rows: Sequence[bytes]) -> list[KeyValue]:
    """Stored rows as values; for many, cheaper than one call each."""
    return [
        KeyValue(
            pair.key,
            pair.value,
            pair.create_revision,
            pair.mod_revision,
            pair.version,
            pair.lease,
        )
        for pair in map(_parse, rows)
    ]


class EventType(StrEnum):
    """What happened to a key."""

    PUT = "put"
    DELETE = "delete"


class WatchEvent(msgspec.Struct, frozen=True, gc=False):
    """One change, as a watch reports it."""

    type: EventType
    kv: KeyValue
    """For a delete: the key and the revision of the delete, nothing else."""
    prev: KeyValue | None = None
    """The pair before the change, if it was asked for and is not compacted."""

    @property
    def key(self) -> bytes:
        """The key that changed."""
        return self.kv.key

    @property
    def value(self) -> bytes:
        """The new value; empty for a delete."""
        return self.kv.value

    @property
    def revision(self) -> int:
        """The revision of the change."""
        return self.kv.mod_revision


class PutResult(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a put."""

    revision: int
    prev: KeyValue | None = None


class DeleteResult(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a delete; ``revision`` moved only if ``deleted`` is not 0."""

    revision: int
    deleted: int
    prev: tuple[KeyValue, ...] = ()


class RangeAnswer(msgspec.Struct, frozen=True):
    """One result inside a transaction."""

    kvs: tuple[KeyValue, ...]
    count: int
    more: bool


class TxnResult(msgspec.Struct, frozen=True):
    """The outcome of a transaction: one answer for each operation of the branch."""

    succeeded: bool
    revision: int
    answers: tuple[PutResult | DeleteResult | RangeAnswer | TxnResult, ...]


class HashAnswer(msgspec.Struct, frozen=True):
    """Checksum of the history up to a revision; equal on every equal store."""

    hash: int
    revision: int
    compact_revision: int


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys with a prefix, in etcd's form."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return b"\x00"
    return stripped[:-1] + bytes([stripped[-1] + 1])


def make_span(
    key: Key | None, end: Key | None, prefix: Key | None
) -> tuple[bytes, bytes]:
    """(key, range_end) in etcd's form from what a caller gave.

    Nothing at all means every key; ``prefix`` excludes the other two.

    Raises:
        UsageError: the combination makes no sense.
    """
    if prefix is not None:
        if key is not None or end is not None:
            raise UsageError("give a prefix, or a key and an end, not both")
        start = to_bytes(prefix, "prefix")
        return (start, prefix_end(start)) if start else (b"\x00", b"\x00")
    if key is None:
        if end is None:
            return b"\x00", b"\x00"
        return b"\x00", to_bytes(end, "end")
    return to_bytes(key), b"\x00" if end is None else to_bytes(end, "end")


def make_target(
    key: Key | None, end: Key | None, prefix: Key | None
) -> tuple[bytes, bytes]:
    """As ``make_span``, but a key alone is that key, and nothing at all is refused.

    Raises:
        UsageError: nothing is given, or the combination makes no sense.
    """
    if end is None and prefix is None:
        if key is None:
            raise UsageError("give a key, a range or a prefix; prefix=b'' is all")
        return to_bytes(key), b""
    return make_span(key, end, prefix)


def make_put_result(answer: rpc_pb2.PutResponse, revision: int) -> PutResult:
    """A put's response as a value."""
    prev = make_pair(answer.prev_kv) if answer.HasField("prev_kv") else None
    return PutResult(revision, prev)


def make_delete_result(
    answer: rpc_pb2.DeleteRangeResponse, revision: int
) -> DeleteResult:
    """A delete's response as a value."""
    prevs = tuple(make_pair(pair) for pair in answer.prev_kvs)
    return DeleteResult(revision, answer.deleted, prevs)


def decode_txn(message: rpc_pb2.TxnResponse, revision: int) -> TxnResult:
    """A transaction's response as a value."""
    answers: list[PutResult | DeleteResult | RangeAnswer | TxnResult] = []
    for op in message.responses:
        kind = op.WhichOneof("response")
        if kind == "response_put":
            answers.append(make_put_result(op.response_put, revision))
        elif kind == "response_delete_range":
            answers.append(make_delete_result(op.response_delete_range, revision))
        elif kind == "response_range":
            found = op.response_range
            pairs = tuple(make_pair(pair) for pair in found.kvs)
            answers.append(RangeAnswer(pairs, found.count, found.more))
        else:
            answers.append(decode_txn(op.response_txn, revision))
    return TxnResult(message.succeeded, revision, tuple(answers))


def make_query(
    span: tuple[bytes, bytes], revision: int, limit: int, keys_only: bool, reverse: bool
) -> RangeQuery:
    """A query in key order, or the reverse."""
    return RangeQuery(
        key=span[0],
        end=span[1],
        limit=limit,
        revision=revision,
        order=2 if reverse else 0,
        keys_only=keys_only,
    )
