"""Messages between members as bytes: raftpb.Message, the bytes that etcd writes.

Rules of this file:

1. gogoproto's rules for proto2 hold: fields that raftpb holds by value are always
   present, in the order of their numbers; bytes that are empty are left out.
2. The entries of a message are most of its bytes. They are encoded once and the result
   is kept, since the next message carries the same ones to the next follower.
3. What is decoded comes from the network: a type that is unknown, or that no member
   may send to another, is refused here. Behind ``decode_message`` the type is one of
   ``SENT_TYPES`` and all numbers are unsigned 64-bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from revstore.errors import TransportError
from revstore.interfaces.consensus import Message, MessageType, Snapshot
from revstore.interfaces.peers import Lane
from revstore.proto import raft_pb2
from revstore.proto.varint import varint
from revstore.types import ConfState, Entry, EntryType, SnapshotMeta

SENT_TYPES = frozenset(
    {
        MessageType.PROP,
        MessageType.APP,
        MessageType.APP_RESP,
        MessageType.VOTE,
        MessageType.VOTE_RESP,
        MessageType.SNAP,
        MessageType.HEARTBEAT,
        MessageType.HEARTBEAT_RESP,
        MessageType.TRANSFER_LEADER,
        MessageType.TIMEOUT_NOW,
        MessageType.READ_INDEX,
        MessageType.READ_INDEX_RESP,
        MessageType.PRE_VOTE,
        MessageType.PRE_VOTE_RESP,
    }
)
"""The types that travel; the others are between a machine and its own shell."""

_LANES = {
    MessageType.APP: Lane.LOG,
    MessageType.PROP: Lane.LOG,
    MessageType.SNAP: Lane.BULK,
}
_SENT = {int(kind): kind for kind in SENT_TYPES}
_ENTRY_TYPES = tuple(EntryType)
_SMALL = [varint(number) for number in range(1 << 14)]
_PAIR = [bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(1 << 14)]
"""Two continued varint bytes: 14 bits in front of a longer number."""
HEADS_MAX = 1024
_ACCEPTED = b"\x50\x00\x58\x00"
"""Fields reject and rejectHint of most messages."""
_NO_VOTE = b"\x68\x00"
_parse = raft_pb2.Message.FromString


def lane_of(message: Message) -> Lane:
    """The lane a message belongs to: entries LOG, snapshots BULK, else CONTROL.

    Raises: nothing.
    """
    return _LANES.get(message.type, Lane.CONTROL)


class MessageEncoder:
    """Encodes the messages of one member; remembers the entries it encoded last.

    The memory is keyed by the first and the last entry, as objects: both are of this
    member's log, and a log that has the same last entry has the same ones before it
    (the log matching property).
    """

    __slots__ = ("_blob", "_count", "_first", "_heads", "_last")

    def __init__(self) -> None:
        self._first: Entry | None = None
        self._last: Entry | None = None
        self._count = 0
        self._blob = b""
        self._heads: dict[tuple[MessageType, int, int], bytes] = {}
        """Type, addressee and sender as bytes: ids are long, and always the same."""

    def encode(self, message: Message) -> bytes:
        """The bytes of a message. Raises: nothing."""
        route = message.type, message.to, message.sender
        head = self._heads.get(route)
        if head is None:
            head = self._head(*route)
        term, log_term, index = message.term, message.log_term, message.index
        parts = [
            head,
            _SMALL[term] if term < 16384 else varint(term),
            b"\x28",
            _SMALL[log_term] if log_term < 16384 else varint(log_term),
            b"\x30",
            _SMALL[index] if index < 16384 else varint(index),
        ]
        if message.entries:
            parts.append(self._entries(message.entries))
        parts += (b"\x40", varint(message.commit))
        if message.snapshot is not None:
            body = encode_snapshot(message.snapshot)
            parts += (b"\x4a", varint(len(body)), body)
        if message.reject:
            parts += (b"\x50\x01\x58", varint(message.reject_hint))
        else:
            hint = message.reject_hint
            parts.append(b"\x50\x00\x58" + varint(hint) if hint else _ACCEPTED)
        if message.context:
            parts += (b"\x62", varint(len(message.context)), message.context)
        parts.append(b"\x68" + varint(message.vote) if message.vote else _NO_VOTE)
        for response in message.responses:
            body = encode_message(response)
            parts += (b"\x72", varint(len(body)), body)
        return b"".join(parts)

    def _head(self, kind: MessageType, to: int, sender: int) -> bytes:
        head = b"".join(
            (
                b"\x08",
                varint(kind),
                b"\x10",
                varint(to),
                b"\x18",
                varint(sender),
                b"\x20",
            )
        )
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        self._heads[kind, to, sender] = head
        return head

    def _entries(self, entries: Sequence[Entry]) -> bytes:
        first, last = entries[0], entries[-1]
        if (
            first is self._first
            and last is self._last
            and len(entries) == self._count
            # Forwarded proposals have no place in a log yet: nothing names them.
            and last.index
        ):
            return self._blob
        blob = encode_entries(entries)
        self._first, self._last, self._count = first, last, len(entries)
        self._blob = blob
        return blob


def encode_message(message: Message) -> bytes:
    """The bytes of one message, without memory of others. Raises: nothing."""
    return MessageEncoder().encode(message)


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """Entries as the repeated field 7 of raftpb.Message. Raises: nothing."""
    parts: list[bytes] = []
    term = kind = high = -1
    head = high_bytes = b""
    for entry in entries:
        if entry.term != term or entry.type != kind:
            term, kind = entry.term, entry.type
            head = b"\x08" + varint(kind) + b"\x10" + varint(term) + b"\x18"
        index = entry.index
        if index >> 14 != high:
            high = index >> 14
            high_bytes = varint(high)
        # Indexes follow one another: all but their low 14 bits is known already.
        start = head + (_PAIR[index & 0x3FFF] + high_bytes if high else varint(index))
        data = entry.data
        if data:
            length = len(data)
            start += b'"' + (_SMALL[length] if length < 16384 else varint(length))
            length += len(start)
        else:
            length = len(start)
        parts.append(
            b"\x3a" + (_SMALL[length] if length < 16384 else varint(length)) + start
        )
        if data:
            parts.append(data)
    return b"".join(parts)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The bytes of raftpb.Snapshot. Raises: nothing."""
    conf = _encode_conf_state(snapshot.meta.conf_state)
    meta = b"".join(
        (
            b"\x0a",
            varint(len(conf)),
            conf,
            b"\x10",
            varint(snapshot.meta.index),
            b"\x18",
            varint(snapshot.meta.term),
        )
    )
    data = snapshot.data
    start = b"\x0a" + varint(len(data)) + data if data else b""
    return start + b"\x12" + varint(len(meta)) + meta


def _encode_conf_state(conf: ConfState) -> bytes:
    parts = [b"\x08" + varint(member) for member in conf.voters]
    parts += [b"\x10" + varint(member) for member in conf.learners]
    parts += [b"\x18" + varint(member) for member in conf.voters_outgoing]
    parts += [b"\x20" + varint(member) for member in conf.learners_next]
    parts.append(b"\x28\x01" if conf.auto_leave else b"\x28\x00")
    return b"".join(parts)


def decode_message(payload: bytes) -> Message:
    """The message in bytes from another member.

    Raises:
        TransportError: the bytes are no message that a member may send.
    """
    try:
        found = _parse(payload)
    except DecodeError as error:
        raise TransportError(
            f"{len(payload)} bytes are no raft message: {error}"
        ) from error
    return _message_of(found)


def _message_of(found: raft_pb2.Message) -> Message:
    # An unknown number of an enumeration is kept aside by protobuf and reads as 0,
    # which for the type of a message is one that no member may send, and is therefore
    # refused like an absent one.
    kind = _SENT.get(found.type)
    if kind is None:
        raise TransportError(
            f"a raft message of type {found.type} or of an unknown one is not for "
            "the network"
        )
    return Message(
        kind,
        found.to,
        getattr(found, "from"),
        found.term,
        found.logTerm,
        found.index,
        _entries_of(found.entries) if found.entries else (),
        found.commit,
        found.vote,
        _snapshot_of(found.snapshot) if found.HasField("snapshot") else None,
        found.reject,
        found.rejectHint,
        found.context,
        tuple(_message_of(each) for each in found.responses),
    )


def _entries_of(found: Sequence[raft_pb2.Entry]) -> tuple[Entry, ...]:
    entries = []
    for each in found:
        kind = each.Type
        if not kind and not each.HasField("Type"):
            raise TransportError(f"raft entry {each.Index} has no known type")
        entries.append(Entry(each.Term, each.Index, each.Data, _ENTRY_TYPES[kind]))
    return tuple(entries)


def _snapshot_of(found: raft_pb2.Snapshot) -> Snapshot:
    meta = found.metadata
    conf = meta.conf_state
    return Snapshot(
        SnapshotMeta(
            meta.index,
            meta.term,
            ConfState(
                tuple(conf.voters),
                tuple(conf.learners),
                tuple(conf.voters_outgoing),
                tuple(conf.learners_next),
                conf.auto_leave,
            ),
        ),
        found.data,
    )
