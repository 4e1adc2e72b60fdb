"""Messages between members are the bytes of etcd's raftpb, and nothing else gets in."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from revstore.errors import TransportError
from revstore.interfaces.consensus import Message, MessageType, Snapshot
from revstore.interfaces.peers import Lane
from revstore.peer.backoff import Backoff
from revstore.peer.codec import (
    SENT_TYPES,
    MessageEncoder,
    decode_message,
    encode_message,
    lane_of,
)
from revstore.proto import raft_pb2
from revstore.types import ConfState, Entry, EntryType, SnapshotMeta

NUMBERS = some.integers(0, 2**64 - 1)
IDS = some.lists(NUMBERS, max_size=4).map(tuple)
ENTRIES = some.builds(
    Entry, NUMBERS, NUMBERS, some.binary(max_size=300), some.sampled_from(EntryType)
)
SNAPSHOTS = some.builds(
    Snapshot,
    some.builds(
        SnapshotMeta,
        NUMBERS,
        NUMBERS,
        some.builds(ConfState, IDS, IDS, IDS, IDS, some.booleans()),
    ),
    some.binary(max_size=50),
)


def messages(responses: int = 2) -> some.SearchStrategy[Message]:
    """Messages of every shape that may travel."""
    return some.builds(
        Message,
        type=some.sampled_from(sorted(SENT_TYPES)),
        to=NUMBERS,
        sender=NUMBERS,
        term=NUMBERS,
        log_term=NUMBERS,
        index=NUMBERS,
        entries=some.lists(ENTRIES, max_size=4).map(tuple),
        commit=NUMBERS,
        vote=NUMBERS,
        snapshot=some.none() | SNAPSHOTS,
        reject=some.booleans(),
        reject_hint=NUMBERS,
        context=some.binary(max_size=40),
        responses=some.lists(messages(0), max_size=2).map(tuple)
        if responses
        else some.just(()),
    )


def by_protobuf(message: Message) -> raft_pb2.Message:
    """The same message by the protobuf library, fields as gogoproto fills them."""
    found = raft_pb2.Message(
        type=int(message.type),  # type: ignore[arg-type] # open enum
        to=message.to,
        term=message.term,
        logTerm=message.log_term,
        index=message.index,
        commit=message.commit,
        vote=message.vote,
        reject=message.reject,
        rejectHint=message.reject_hint,
    )
    setattr(found, "from", message.sender)
    for entry in message.entries:
        one = found.entries.add(
            Type=int(entry.type),
            Term=entry.term,
            Index=entry.index,
        )
        if entry.data:
            one.Data = entry.data
    if message.snapshot is not None:
        snapshot = found.snapshot
        if message.snapshot.data:
            snapshot.data = message.snapshot.data
        meta, conf = message.snapshot.meta, message.snapshot.meta.conf_state
        snapshot.metadata.index = meta.index
        snapshot.metadata.term = meta.term
        snapshot.metadata.conf_state.auto_leave = conf.auto_leave
        snapshot.metadata.conf_state.voters.extend(conf.voters)
        snapshot.metadata.conf_state.learners.extend(conf.learners)
        snapshot.metadata.conf_state.voters_outgoing.extend(conf.voters_outgoing)
        snapshot.metadata.conf_state.learners_next.extend(conf.learners_next)
    if message.context:
        found.context = message.context
    for response in message.responses:
        found.responses.append(by_protobuf(response))
    return found


@settings(max_examples=150)
@given(messages())
def test_bytes_are_those_of_protobuf(message: Message) -> None:
    """The encoder writes what protobuf writes when every field that raftpb holds by
    value is set, and the decoder reads it back."""
    found = encode_message(message)
    assert found == by_protobuf(message).SerializeToString()
    assert decode_message(found) == message


@pytest.mark.parametrize("middle", [127, 16_383, 16_384, 2 * 16_384, 2**21, 2**63])
def test_runs_of_entries(middle: int) -> None:
    """Entries whose indexes follow one another over any change of their length in bytes
    are protobuf's bytes, with data of every length around a change."""
    sizes = [0, 1, 117, 127, 128, 16_370, 16_383, 16_384]
    entries = tuple(
        Entry(4, middle - 4 + number, b"x" * size) for number, size in enumerate(sizes)
    )
    message = Message(MessageType.APP, to=2, term=4, entries=entries)
    assert encode_message(message) == by_protobuf(message).SerializeToString()


def test_a_heartbeat_byte_by_byte() -> None:
    """A heartbeat is the bytes that etcd's generated code writes for it."""
    message = Message(MessageType.HEARTBEAT, to=2, sender=1, term=5, commit=300)
    assert encode_message(message).hex(" ") == (
        "08 08 10 02 18 01 20 05 28 00 30 00 40 ac 02 50 00 58 00 68 00"
    )


def test_entries_are_encoded_once_for_all_followers() -> None:
    """Two messages with the same entries share the encoded bytes; others do not."""
    encoder = MessageEncoder()
    entries = tuple(Entry(2, index, b"x" * 100) for index in range(5, 9))

    def blob(chosen: tuple[Entry, ...], to: int) -> bytes:
        message = Message(MessageType.APP, to=to, term=2, entries=chosen)
        found = encoder.encode(message)
        assert decode_message(found) == message
        return encoder._blob

    shared = blob(entries, 2)
    assert blob(entries[:], 3) is shared
    assert blob((*entries,), 4) is shared
    assert blob(entries[1:], 2) is not shared
    assert blob((Entry(3, 5, b"y"), *entries[1:]), 2) is not shared


def test_forwarded_proposals_are_never_mixed_up() -> None:
    """Entries without a place in the log are encoded each time: nothing names them."""
    encoder = MessageEncoder()
    first, last = Entry(0, 0, b"first"), Entry(0, 0, b"last")
    for middle in (b"one", b"two"):
        entries = (first, Entry(0, 0, middle), last)
        message = Message(MessageType.PROP, entries=entries)
        assert decode_message(encoder.encode(message)).entries == entries


@pytest.mark.parametrize("kind", sorted(set(MessageType) - SENT_TYPES))
def test_local_messages_are_refused(kind: MessageType) -> None:
    """A message that only a member itself may make is refused from outside."""
    with pytest.raises(TransportError, match="not for the network"):
        decode_message(encode_message(Message(kind)))


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x08\x63", b"\x10\x02", b"\xff", b"\x08\x03\x3a\x05\x08", b"\x08\x08" * 9],
    ids=["empty", "unknown type", "no type", "garbage", "cut entry", "repeated"],
)
def test_wrong_bytes_are_refused_or_harmless(payload: bytes) -> None:
    """Bytes that are no message raise TransportError and nothing else."""
    try:
        found = decode_message(payload)
    except TransportError:
        return
    assert found.type in SENT_TYPES


@pytest.mark.parametrize("entry", [b"\x10\x01\x18\x01", b"\x08\x09\x10\x01\x18\x01"])
def test_entries_of_unknown_type_are_refused(entry: bytes) -> None:
    """An entry whose type is absent or unknown is not taken for a normal one."""
    payload = b"\x08\x03\x3a" + bytes([len(entry)]) + entry
    with pytest.raises(TransportError, match="no known type"):
        decode_message(payload)


@settings(max_examples=150)
@given(some.binary(max_size=60))
def test_garbage_never_raises_anything_else(payload: bytes) -> None:
    """Any bytes either are a message or raise TransportError."""
    try:
        decode_message(payload)
    except TransportError:
        pass


def test_lanes() -> None:
    """Entries travel on LOG, snapshots on BULK, all else on CONTROL."""
    lanes = {kind: lane_of(Message(kind)) for kind in SENT_TYPES}
    assert lanes.pop(MessageType.APP) is Lane.LOG
    assert lanes.pop(MessageType.PROP) is Lane.LOG
    assert lanes.pop(MessageType.SNAP) is Lane.BULK
    assert set(lanes.values()) == {Lane.CONTROL}


def test_pauses_grow_with_jitter_up_to_a_bound() -> None:
    """Pauses double up to the bound, each between a half and the whole of its step, and
    begin anew after success."""
    backoff = Backoff(0.1, 1.0, Random(7))
    steps = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    pauses = [backoff.next_s() for _ in steps]
    for pause, step in zip(pauses, steps, strict=True):
        assert step / 2 <= pause <= step
    assert len({pause / step for pause, step in zip(pauses, steps, strict=True)}) > 1
    backoff.reset()
    assert backoff.next_s() <= 0.1
    backoff.longest()
    assert backoff.next_s() >= 0.5
    assert [Backoff(0.1, 1.0, Random(7)).next_s()] == pauses[:1]
