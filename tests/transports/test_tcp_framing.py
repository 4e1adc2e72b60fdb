"""The framing of the transport "tcp", without any I/O: cuts, garbage, limits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from revstore.errors import ApiError
from revstore_tcp.framing import (
    FRAME,
    MAGIC,
    Assembler,
    Flag,
    FrameReader,
    FrameWriter,
    ProtocolError,
    Record,
    RecordType,
    cut,
    record,
    records_of,
    total_of,
)
from revstore_tcp.limits import (
    FRAME_BODY_MAX,
    FRAME_BODY_TARGET,
    HEAD_BYTES_MAX,
    RECORD_PAYLOAD_MAX,
)
from revstore_tcp.messages import (
    GoAway,
    Hello,
    Role,
    Welcome,
    read_end,
    read_goaway,
    read_hello,
    read_metadata,
    read_number,
    read_open,
    read_welcome,
    write_end,
    write_goaway,
    write_hello,
    write_metadata,
    write_number,
    write_open,
    write_welcome,
)

RECORDS = some.lists(
    some.tuples(
        some.sampled_from(sorted(RecordType)),
        some.integers(0, 2**32 - 1),
        some.binary(max_size=200),
    ),
    max_size=6,
)


def framed(records: list[tuple[RecordType, int, bytes]]) -> bytes:
    """Frames of these records."""
    writer = FrameWriter()
    for kind, stream, payload in records:
        writer.add(record(kind, stream, payload))
    return writer.take()


def read(reader: FrameReader, data: bytes) -> list[Record]:
    """The records that are complete with these bytes."""
    return [one for body in reader.feed(data) for one in records_of(body)]


@settings(max_examples=100)
@given(some.lists(RECORDS, max_size=4), some.data())
def test_pieces_of_any_size_give_the_same_records(
    batches: list[list[tuple[RecordType, int, bytes]]], data: some.DataObject
) -> None:
    """However the bytes are cut on their way, the same records come out."""
    whole = MAGIC + b"".join(framed(batch) for batch in batches)
    expected = [
        (kind, 0, stream, payload)
        for batch in batches
        for kind, stream, payload in batch
    ]
    reader = FrameReader(greeting=True)
    found: list[Record] = []
    at = 0
    while at < len(whole):
        size = data.draw(some.integers(1, len(whole) - at))
        found += read(reader, whole[at : at + size])
        at += size
    assert found == expected


def test_a_cut_at_every_position() -> None:
    """Cut at any single position, a stream of frames gives all its records, and before
    the cut none that is not complete."""
    whole = MAGIC + b"".join(
        framed([(RecordType.MESSAGE, number, bytes([number]) * number)])
        for number in range(6)
    )
    expected = read(FrameReader(greeting=True), whole)
    assert len(expected) == 6
    for position in range(len(whole) + 1):
        reader = FrameReader(greeting=True)
        first = read(reader, whole[:position])
        assert first == expected[: len(first)]
        assert first + read(reader, whole[position:]) == expected


def test_byte_by_byte() -> None:
    """Single bytes give the same records as one piece."""
    whole = framed([(RecordType.OPEN, 1, b"abc"), (RecordType.PING, 0, b"")])
    reader = FrameReader()
    found = [one for byte in whole for one in read(reader, bytes([byte]))]
    assert found == read(FrameReader(), whole)


@settings(max_examples=150)
@given(some.data())
def test_a_flipped_bit_is_never_taken(data: some.DataObject) -> None:
    """One wrong bit anywhere loses the frame or the connection; it never gives other
    records."""
    batches: list[list[tuple[RecordType, int, bytes]]] = [
        [(RecordType.MESSAGE, 1, b"first"), (RecordType.MESSAGE, 2, b"second")],
        [(RecordType.END, 1, b"third")],
    ]
    whole = b"".join(framed(batch) for batch in batches)
    expected = read(FrameReader(), whole)
    position = data.draw(some.integers(0, len(whole) * 8 - 1))
    broken = bytearray(whole)
    broken[position // 8] ^= 1 << position % 8
    reader = FrameReader()
    try:
        found = read(reader, bytes(broken))
    except ProtocolError:
        assert reader.failed
    else:
        assert found == expected[: len(found)]
        assert len(found) < len(expected)


@settings(max_examples=150)
@given(some.binary(max_size=300))
def test_garbage_raises_one_error_and_stays_failed(data: bytes) -> None:
    """Bytes of no sender either wait for more or raise ProtocolError, for good."""
    reader = FrameReader()
    try:
        read(reader, data)
    except ProtocolError:
        pass
    if reader.failed:
        with pytest.raises(ProtocolError, match="failed before"):
            reader.feed(framed([(RecordType.PING, 0, b"")]))


@settings(max_examples=100)
@given(some.binary(max_size=200))
def test_garbage_inside_a_good_frame(body: bytes) -> None:
    """A frame with a right checksum and no records in it raises ProtocolError, or holds
    records that fill it exactly."""
    try:
        found = records_of(body)
    except ProtocolError:
        return
    assert sum(10 + len(payload) for _, _, _, payload in found) == len(body)


@pytest.mark.parametrize("length", [0, FRAME_BODY_MAX + 1, 0xFFFF_FFFF])
def test_frames_over_the_limit(length: int) -> None:
    """A frame that announces nothing, or too much, is refused before it is held."""
    with pytest.raises(ProtocolError, match="over the limit"):
        FrameReader().feed(FRAME.pack(length, 0))


def test_a_record_over_the_limit() -> None:
    """A record longer than the limit is refused though its frame is not."""
    body = record(RecordType.MESSAGE, 1, bytes(RECORD_PAYLOAD_MAX + 1))
    assert len(body) <= FRAME_BODY_MAX
    with pytest.raises(ProtocolError, match="record of"):
        records_of(body)


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (b"RVS\x02", "version 2"),
        (b"GET ", "does not speak"),
        (b"\x16\x03\x01\x02", "does not speak"),
    ],
)
def test_other_protocols_are_told_apart(greeting: bytes, reason: str) -> None:
    """A caller of another version, or of another protocol, is told so."""
    with pytest.raises(ProtocolError, match=reason):
        FrameReader(greeting=True).feed(greeting)


def test_frames_are_as_few_as_the_limits_allow() -> None:
    """Small records share one frame; no frame is longer than a reader takes."""
    writer = FrameWriter()
    for number in range(100):
        writer.add(record(RecordType.MESSAGE, number, b"small"))
    assert len(FrameReader().feed(writer.take())) == 1
    for number in range(10):
        writer.add(record(RecordType.MESSAGE, number, bytes(RECORD_PAYLOAD_MAX)))
    bodies = FrameReader().feed(writer.take())
    assert [number for body in bodies for _, _, number, _ in records_of(body)] == list(
        range(10)
    )
    assert all(FRAME_BODY_TARGET <= len(body) <= FRAME_BODY_MAX for body in bodies)
    assert writer.take() == b""
    assert writer.size == 0


SIZES = some.sampled_from(
    [0, 1, 65_531, 65_532, 65_535, 65_536, 65_537, 131_068, 131_069, 200_000]
)


@settings(max_examples=30)
@given(some.lists(SIZES, min_size=1, max_size=4), some.randoms(use_true_random=False))
def test_long_payloads_are_cut_and_put_together(
    sizes: list[int], random: object
) -> None:
    """A payload of any length comes out whole, also with others' parts between."""
    pending = {
        stream: list(cut(RecordType.MESSAGE, stream, bytes([stream]) * size))
        for stream, size in enumerate(sizes, 1)
    }
    assembler = Assembler()
    found: dict[int, bytes] = {}
    while any(pending.values()):
        stream = random.choice([one for one, parts in pending.items() if parts])  # type: ignore[attr-defined] # a Random
        (one,) = records_of(pending[stream].pop(0))
        whole = assembler.add(*one)
        if whole is not None:
            found[stream] = whole[3]
            assert not whole[1] & Flag.MORE
    assert found == {
        stream: bytes([stream]) * size for stream, size in enumerate(sizes, 1)
    }
    assert assembler.bytes_held == 0


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([(4, 1, b"")], "no length"),
        ([(4, 1, b"\0\0\0\5ab"), (5, 0, b"cde")], "another type"),
        ([(4, 1, b"\0\0\0\5ab"), (4, 1, b"")], "empty"),
        ([(4, 1, b"\0\0\0\5ab"), (4, 0, b"cdef")], "longer"),
        ([(4, 1, b"\0\0\0\5ab"), (4, 0, b"cd")], "shorter"),
    ],
)
def test_parts_that_do_not_fit(
    parts: list[tuple[int, int, bytes]], reason: str
) -> None:
    """Parts that break what the first one announced are refused."""
    assembler = Assembler()
    *first, (kind, flags, payload) = parts
    for one in first:
        assert assembler.add(one[0], one[1], 7, one[2]) is None
    with pytest.raises(ProtocolError, match=reason):
        assembler.add(kind, flags, 7, payload)


def test_announced_lengths_are_what_is_counted() -> None:
    """Held memory is counted as announced, so that a bound on it holds at once."""
    assembler = Assembler()
    (first, *_) = cut(RecordType.MESSAGE, 3, bytes(500_000))
    (one,) = records_of(first)
    assert total_of(one[3]) == 500_000
    assert assembler.add(*one) is None
    assert assembler.holds(3)
    assert assembler.bytes_held == 500_000
    assembler.drop(3)
    assembler.drop(3)
    assert assembler.bytes_held == 0


TEXT = some.text(max_size=30)


@settings(max_examples=60)
@given(
    some.dictionaries(TEXT.map(str.lower), TEXT, max_size=4), some.binary(max_size=50)
)
def test_open_round_trip(metadata: dict[str, str], message: bytes) -> None:
    """Path, metadata, deadline and message come out as they went in; the transport's
    own names cannot be sent."""
    path = b"/etcdserverpb.KV/Put"
    payload = write_open(path, write_metadata(metadata), 1500, message)
    head = read_open(payload)
    assert (head.timeout_ms, head.path) == (1500, path)
    assert payload[head.message_at :] == message
    kept: dict[str, str] = {}
    for name, value in metadata.items():
        if not name.startswith(":"):
            kept.setdefault(name.lower(), value)
    assert read_metadata(head.metadata) == kept


def test_metadata_that_is_not_text() -> None:
    """Bytes that are not UTF-8 reach the service as surrogate escapes."""
    raw = b"\0\x12\0\2client-api-version\xff\xfe"
    assert read_metadata(raw) == {"client-api-version": "\udcff\udcfe"}
    assert write_metadata(read_metadata(raw)) == raw


@pytest.mark.parametrize(
    ("code", "text"), [(0, ""), (8, "too large"), (2, ""), (14, "x" * 70_000)]
)
def test_end_round_trip(code: int, text: str) -> None:
    """Status and text come out as they went in; a text over its limit is cut."""
    if code == 0:
        assert read_end(write_end(None) + b"answer") == b"answer"
        return
    found = read_end(write_end(ApiError(code, text)))
    assert found == ApiError(code, text[:60_000])


def test_other_payloads_round_trip() -> None:
    """Hello, welcome, credit and goaway come out as they went in, and take more bytes
    behind what is known."""
    hello = Hello(Role.MEMBER, 2, 2**64 - 1, 3, 4)
    assert read_hello(write_hello(hello) + b"later") == hello
    welcome = Welcome(1, 2**63, 2_000_000, 9)
    assert read_welcome(write_welcome(welcome) + b"later") == welcome
    assert read_number(write_number(123_456)) == 123_456
    assert read_goaway(write_goaway(GoAway.DRAIN, "bye")) == (0, "bye")


@pytest.mark.parametrize(
    ("reader", "payload"),
    [
        (read_hello, write_hello(Hello(Role.CLIENT))),
        (read_welcome, write_welcome(Welcome())),
        (read_open, write_open(b"/a/b", write_metadata({"a": "b"}), 1, b"")),
        (read_end, write_end(ApiError(5, "gone"))),
        (read_number, write_number(1)),
        (read_goaway, write_goaway(GoAway.PINGS, "too many")),
        (read_metadata, write_metadata({"name": "value"})),
    ],
)
def test_payloads_cut_at_every_position(reader: object, payload: bytes) -> None:
    """A payload that is cut off anywhere raises ProtocolError."""
    for size in range(1 if reader is read_metadata else 0, len(payload)):
        with pytest.raises(ProtocolError):
            reader(payload[:size])  # type: ignore[operator] # one of the read functions
    reader(payload)  # type: ignore[operator] # one of the read functions


def test_a_head_over_the_limit() -> None:
    """Path and metadata over their limit are refused."""
    payload = write_open(b"p", b"m" * HEAD_BYTES_MAX, 0, b"")
    with pytest.raises(ProtocolError, match="over the limit"):
        read_open(payload)


def test_an_unknown_role_is_refused() -> None:
    """HELLO of a role that this version does not know is refused."""
    with pytest.raises(ProtocolError, match="role 9"):
        read_hello(b"\x09" + write_hello(Hello(Role.CLIENT))[1:])
