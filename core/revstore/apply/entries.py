"""What a normal log entry carries: one InternalRaftRequest (etcd's raft_internal.proto).

Rules of this file:

1. The client's own bytes become the entry: the request is wrapped, never built again.
2. Every entry has a request id in its header, so that a member which forwarded a
   proposal can find its waiter.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message

from revstore.errors import CorruptionError
from revstore.proto.etcdserver_pb2 import Metadata
from revstore.proto.raft_internal_pb2 import InternalRaftRequest
from revstore.proto.varint import varint

HEADER_TAG = varint(100 << 3 | 2)
LOW_BITS = 14
LOW_COUNT = 1 << LOW_BITS

FIELD_TAGS: dict[int, bytes] = {
    field.number: varint(field.number << 3 | 2)
    for field in InternalRaftRequest.DESCRIPTOR.fields
    if field.message_type is not None and field.name not in ("header", "v2")
}
"""Wire tag of each request field, by field number."""


class Decoded(NamedTuple):
    """An entry's request: ``tag`` is its field number in InternalRaftRequest."""

    tag: int
    request: Message | None
    request_id: int
    username: str
    auth_revision: int


@cache
def _low_table() -> list[bytes]:
    return [
        bytes([0x80 | number & 0x7F, 0x80 | number >> 7]) for number in range(LOW_COUNT)
    ]


class RequestEncoder:
    """Wraps requests for the log and numbers them.

    Ids are unique per member and start: the high bits come from ``seed`` (member id and
    start time), the low ones count. The low 14 bits are two ready-made varint bytes, so
    that numbering costs one addition.
    """

    def __init__(self, seed: int) -> None:
        self._high = (seed & ((1 << 63) - 1)) >> LOW_BITS | 1 << (62 - LOW_BITS)
        self._low = 0
        self._table = _low_table()
        self._set_high()

    def _set_high(self) -> None:
        tail = varint(self._high)
        self._id_tail = tail
        self._prefix = HEADER_TAG + varint(3 + len(tail)) + b"\x08"

    def next_id(self) -> int:
        """The id that the next ``encode`` will use."""
        return self._high << LOW_BITS | self._low

    def encode(self, tag: int, payload: bytes) -> bytes:
        """The entry's bytes for a request without a user."""
        low = self._low
        data = b"".join(
            (
                FIELD_TAGS[tag],
                varint(len(payload)),
                payload,
                self._prefix,
                self._table[low],
                self._id_tail,
            )
        )
        self._advance()
        return data

    def encode_for_user(
        self, tag: int, payload: bytes, username: str, auth_revision: int
    ) -> bytes:
        """The entry's bytes for a request of an authenticated user."""
        name = username.encode()
        header = b"".join(
            (
                b"\x08",
                self._table[self._low],
                self._id_tail,
                b"\x12",
                varint(len(name)),
                name,
                b"\x18",
                varint(auth_revision),
            )
        )
        self._advance()
        return b"".join(
            (
                FIELD_TAGS[tag],
                varint(len(payload)),
                payload,
                HEADER_TAG,
                varint(len(header)),
                header,
            )
        )

    def _advance(self) -> None:
        self._low += 1
        if self._low == LOW_COUNT:
            self._low = 0
            self._high += 1
            self._set_high()


def decode(data: bytes) -> Decoded:
    """The request of an entry; ``request`` is None for a kind that is unknown here.

    Raises:
        CorruptionError: the bytes are no InternalRaftRequest.
    """
    try:
        message = InternalRaftRequest.FromString(data)
    except DecodeError as exc:
        raise CorruptionError(
            f"log entry is not an InternalRaftRequest: {exc}"
        ) from exc
    header = message.header
    tag, request = 0, None
    for field, value in message.ListFields():
        if field.number in FIELD_TAGS:
            tag, request = field.number, value
            break
    return Decoded(
        tag,
        request,
        header.ID or message.ID,
        header.username,
        header.auth_revision,
    )


def encode_metadata(member_id: int, cluster_id: int) -> bytes:
    """The metadata record of a write-ahead log."""
    return Metadata(NodeID=member_id, ClusterID=cluster_id).SerializeToString()


def decode_metadata(data: bytes) -> tuple[int, int]:
    """(member id, cluster id) of a write-ahead log's metadata.

    Raises:
        CorruptionError: the bytes are no metadata.
    """
    try:
        message = Metadata.FromString(data)
    except DecodeError as exc:
        raise CorruptionError(f"write-ahead log metadata is damaged: {exc}") from exc
    return message.NodeID, message.ClusterID
