"""The frames between members over gRPC: every message comes out as it went in, and
nothing else comes in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from revstore.interfaces.peers import Lane
from revstore.peer.lanes.limits import (
    PEER_BATCH_BYTES_TARGET,
    PEER_BATCH_MESSAGES_MAX,
    PEER_FRAME_BYTES_MAX,
    PEER_PIECE_BYTES,
)
from revstore.peer.lanes.wire import (
    Accepted,
    Credit,
    Finish,
    Hello,
    Inbox,
    Messages,
    Open,
    Outbox,
    Part,
    Ping,
    Pong,
    ProtocolError,
    Refused,
    encode,
    read_answer,
    read_chunk,
    read_hello,
    read_lane,
    read_pong,
    write_hello,
)

READERS = (read_lane, read_pong, read_chunk, read_answer)
EVERY_FRAME = (
    Messages([b"", b"x"]),
    Part(5, b"x"),
    Ping(7),
    Pong(7),
    Open(b"meta"),
    Finish(2**32 - 1, 2**63 - 1),
    Credit(1),
    Accepted(b"answer"),
    Refused("reason"),
)
EDGES = [
    0,
    1,
    PEER_BATCH_BYTES_TARGET - 1,
    PEER_BATCH_BYTES_TARGET,
    PEER_PIECE_BYTES,
    PEER_PIECE_BYTES + 1,
    2 * PEER_PIECE_BYTES,
    2 * PEER_PIECE_BYTES + 1,
]


@settings(max_examples=60)
@given(sizes=some.lists(some.sampled_from(EDGES) | some.integers(0, 2000), max_size=12))
def test_messages_come_out_as_they_went_in(sizes: list[int]) -> None:
    """Messages of all lengths leave in frames within the limit and arrive whole, once,
    in order; the count of bytes that wait ends at zero."""
    sent = [b"%07d" % number * (size // 7 + 1) for number, size in enumerate(sizes)]
    sent = [payload[:size] for payload, size in zip(sent, sizes, strict=True)]
    outbox, inbox = Outbox(), Inbox(3 * PEER_PIECE_BYTES)
    for payload in sent:
        outbox.add(payload)
    assert outbox.held_bytes == sum(sizes)
    got: list[bytes] = []
    while (data := outbox.next_frame()) is not None:
        assert len(data) <= PEER_FRAME_BYTES_MAX
        frame = read_lane(data)
        assert not isinstance(frame, Ping)
        got += inbox.payloads(frame)
    assert got == sent
    assert inbox.idle
    assert (len(outbox), outbox.held_bytes) == (0, 0)


def test_short_messages_share_a_frame() -> None:
    """Frames close at their size and at their count of messages."""
    outbox = Outbox()
    for _ in range(PEER_BATCH_MESSAGES_MAX + 1):
        outbox.add(b"")
    frames = []
    while (data := outbox.next_frame()) is not None:
        frames.append(read_lane(data))
    assert frames == [Messages([b""] * PEER_BATCH_MESSAGES_MAX), Messages([b""])]


def test_what_was_dropped_is_gone() -> None:
    """After a lane was cleared in the middle of a long message the next one is whole."""
    outbox = Outbox()
    outbox.add(bytes(3 * PEER_PIECE_BYTES))
    outbox.add(b"x")
    outbox.next_frame()
    assert outbox.held_bytes == 3 * PEER_PIECE_BYTES + 1
    assert outbox.clear() == 2
    assert outbox.held_bytes == 0
    outbox.add(bytes(2 * PEER_PIECE_BYTES))
    frame = read_lane(outbox.next_frame() or b"")
    assert frame == Part(2 * PEER_PIECE_BYTES, bytes(PEER_PIECE_BYTES))


@settings(max_examples=200)
@given(data=some.binary(max_size=60), which=some.integers(0, len(READERS) - 1))
def test_any_bytes_are_a_frame_or_refused(data: bytes, which: int) -> None:
    """Bytes are a frame that may come there, or a ProtocolError; never anything else."""
    try:
        READERS[which](data)
    except ProtocolError:
        pass


@settings(max_examples=200)
@given(
    frame=some.sampled_from(EVERY_FRAME),
    at=some.integers(0, 30),
    value=some.integers(0, 255),
    which=some.integers(0, len(READERS) - 1),
)
def test_a_frame_with_a_wrong_byte(
    frame: object, at: int, value: int, which: int
) -> None:
    """A frame with any byte changed is read as another one or refused."""
    data = bytearray(encode(frame))
    data[at % len(data)] = value
    try:
        READERS[which](bytes(data))
    except ProtocolError:
        pass


def test_each_frame_has_its_place() -> None:
    """Each frame is read where it belongs and refused everywhere else."""
    places = {
        read_lane: (Messages, Part, Ping),
        read_pong: (Pong,),
        read_chunk: (Messages, Part, Open, Finish),
        read_answer: (Credit, Accepted, Refused),
    }
    for read, kinds in places.items():
        for frame in EVERY_FRAME:
            if isinstance(frame, kinds):
                assert read(encode(frame)) == frame
            else:
                with pytest.raises(ProtocolError):
                    read(encode(frame))


@given(
    some.builds(
        Hello,
        cluster_id=some.integers(0, 2**64 - 1),
        sender=some.integers(0, 2**64 - 1),
        to=some.integers(0, 2**64 - 1),
        lane=some.sampled_from(Lane),
        link=some.integers(0, 2**64 - 1),
    )
)
def test_hello(hello: Hello) -> None:
    """Who calls whom is read as it was written."""
    assert read_hello(write_hello(hello)) == hello
