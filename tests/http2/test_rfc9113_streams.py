"""RFC 9113, sections 3 to 5: the beginning, frames as such, streams.

What is wrong, and what it leads to. The server's machine is under test unless a name
says otherwise.
"""

from __future__ import annotations

import pytest

from revstore_http2 import ErrorCode, Limits
from revstore_http2.codes import PREFACE, FrameType, Setting
from revstore_http2.events import (
    Cancelled,
    OtherProtocol,
    Request,
    StreamRefused,
)
from tests.http2.wire import (
    ACK,
    END,
    SINGLE,
    STREAM,
    ClientWire,
    ServerWire,
    call_fields,
    data,
    frame,
    message,
    ping,
    rst,
    settings,
    window,
)


def test_3_4_the_settings_come_first() -> None:
    """3.4: the server's first frame is SETTINGS, the client's preface ends with it."""
    server = ServerWire(begun=False)
    assert server.frames()[0].kind == FrameType.SETTINGS
    client = ClientWire(begun=False)
    sent = client.output()
    assert sent.startswith(PREFACE)
    assert sent[len(PREFACE) + 3] == FrameType.SETTINGS


@pytest.mark.parametrize("role", [ServerWire, ClientWire])
@pytest.mark.parametrize(
    "first", [ping(), data(1, b"x"), frame(4, ACK, 0), frame(99, 0, 0)]
)
def test_3_4_another_first_frame(
    role: type[ServerWire] | type[ClientWire], first: bytes
) -> None:
    """3.4: anything but SETTINGS in the first place is PROTOCOL_ERROR."""
    wire = role(begun=False)
    preface = PREFACE if role is ServerWire else b""
    wire.output()
    wire.must_fail(ErrorCode.PROTOCOL_ERROR, preface, first)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/1.1\r\n",
        b"P" + b"OST /v3/kv/put HTTP/1.1\r\n",
        b"\x16\x03\x01",
        PREFACE[:-1] + b"!",
    ],
)
def test_3_4_other_protocols(sent: bytes) -> None:
    """3.4: what is not the preface is handed back whole, however it was cut."""
    for cut in range(len(sent)):
        wire = ServerWire(begun=False)
        events = wire.feed(sent[:cut]) + wire.feed(sent[cut:])
        given = b"".join(e.data for e in events if isinstance(e, OtherProtocol))
        assert given + (sent[cut:] if len(given) == cut else b"") == sent
        assert wire.connection.over
        assert wire.output() == b""


def test_4_1_unknown_frames_are_ignored() -> None:
    """4.1, 5.5: a frame of an unknown kind changes nothing, reserved bits neither."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE)
    assert wire.feed(frame(0xBB, 0xFF, 7, b"anything"), frame(10, 0, 0)) == []
    reserved = bytearray(sent)
    reserved[5] |= 0x80
    (event,) = wire.feed(bytes(reserved))
    assert isinstance(event, Request)
    assert event.stream_id == number


def test_4_1_unknown_flags_are_ignored() -> None:
    """4.1: flags without a meaning for the kind of frame change nothing."""
    wire = ServerWire()
    number = wire.number()
    head = wire.head(number, call_fields(), 0x04 | 0xD2)
    (event,) = wire.feed(head, data(number, message(b"x"), 0x01 | 0xF6))
    assert isinstance(event, Request)


@pytest.mark.parametrize("kind", range(11))
def test_4_2_frames_that_are_too_large(kind: int) -> None:
    """4.2: a frame over the agreed size is FRAME_SIZE_ERROR, at its header."""
    sent = frame(kind, 0, 1, bytes(16_385))
    ServerWire().must_fail(ErrorCode.FRAME_SIZE_ERROR, sent[:9])
    ServerWire().must_fail(ErrorCode.FRAME_SIZE_ERROR, sent)
    ClientWire().must_fail(ErrorCode.FRAME_SIZE_ERROR, sent)


def test_4_2_the_largest_frame() -> None:
    """4.2: a frame of exactly the agreed size is taken."""
    wire = ServerWire()
    number = wire.start(SINGLE)
    (event,) = wire.feed(data(number, message(bytes(16_379)), END))
    assert isinstance(event, Request)


@pytest.mark.parametrize("block", [b"\xff\xff\xff\xff\xff\xff", b"\x80", b"\xfe"])
def test_4_3_header_blocks_that_are_not_valid(block: bytes) -> None:
    """4.3: a block that cannot be read is COMPRESSION_ERROR, also on a dead stream."""
    wire = ServerWire()
    wire.must_fail(ErrorCode.COMPRESSION_ERROR, frame(1, 4, 1, block))
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.feed(rst(number))
    wire.must_fail(ErrorCode.COMPRESSION_ERROR, frame(1, 5, number, block))
    client = ClientWire()
    number = client.connection.call(SINGLE, b"x")
    client.must_fail(ErrorCode.COMPRESSION_ERROR, frame(1, 5, number, block))


def test_4_3_the_table_stays_in_step() -> None:
    """4.3: blocks of streams that are refused are read all the same."""
    wire = ServerWire(Limits(streams_max=1))
    wire.start(STREAM)
    refused = wire.number()
    token = ("token", "put-into-the-table")
    head = wire.head(refused, call_fields(SINGLE, token))
    wire.must_reset(refused, ErrorCode.REFUSED_STREAM, head)
    wire.feed(rst(1))
    _, sent = wire.call(SINGLE, b"x", token)
    (event,) = wire.feed(sent)
    assert isinstance(event, Request)
    assert event.head.metadata["token"] == "put-into-the-table"


@pytest.mark.parametrize(
    "sent",
    [
        data(1, b"x"),
        data(1, b"", END),
        window(1, 1),
        rst(1),
        data(2, b"x"),
        window(2, 1),
        rst(2),
    ],
)
def test_5_1_frames_on_idle_streams(sent: bytes) -> None:
    """5.1: all but HEADERS and PRIORITY on an idle stream is PROTOCOL_ERROR."""
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, sent)
    ClientWire().must_fail(ErrorCode.PROTOCOL_ERROR, sent)


def test_5_1_data_behind_the_end() -> None:
    """5.1: DATA after END_STREAM is STREAM_CLOSED, and the call is cancelled."""
    for path in (SINGLE, STREAM):
        wire = ServerWire()
        number, sent = wire.call(path)
        wire.feed(sent)
        events = wire.must_reset(number, ErrorCode.STREAM_CLOSED, data(number, b"x"))
        assert [type(event) for event in events] == [StreamRefused, Cancelled]


def test_5_1_headers_behind_the_end() -> None:
    """5.1: HEADERS after END_STREAM is STREAM_CLOSED."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    trailers = wire.head(number, [("a", "b")], 5)
    wire.must_reset(number, ErrorCode.STREAM_CLOSED, trailers)


def test_5_1_frames_behind_a_reset_of_the_client() -> None:
    """5.1: DATA on a stream that the client reset is STREAM_CLOSED, HEADERS as well."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.feed(rst(number))
    wire.must_reset(number, ErrorCode.STREAM_CLOSED, data(number, b"x"))
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.feed(rst(number))
    trailers = wire.head(number, [("a", "b")], 5)
    wire.must_fail(ErrorCode.STREAM_CLOSED, trailers)


def test_5_1_frames_on_closed_streams() -> None:
    """5.1: WINDOW_UPDATE, RST_STREAM and PRIORITY may come late and are ignored."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    wire.connection.reply(number, b"x")
    wire.output()
    priority = frame(FrameType.PRIORITY, 0, number, bytes(5))
    assert wire.feed(window(number, 5), rst(number), priority) == []
    assert wire.output() == b""


def test_5_1_late_frames_of_a_stream_reset_here() -> None:
    """5.1: what the client sent before it saw our reset is passed over."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.connection.reset(number)
    assert wire.resets() == {number: ErrorCode.CANCEL}
    trailers = wire.head(number, [("a", "b")], 5)
    assert wire.feed(data(number, b"late"), window(number, 1), trailers) == []
    assert wire.output() == b""


def test_5_1_1_numbers_of_streams() -> None:
    """5.1.1: a client's streams are odd and grow; a server opens none here."""
    wire = ServerWire()
    wire.must_fail(ErrorCode.PROTOCOL_ERROR, wire.head(2, call_fields()))
    wire = ServerWire()
    wire.feed(wire.head(5, call_fields()))
    wire.must_fail(ErrorCode.STREAM_CLOSED, wire.head(3, call_fields()))
    client = ClientWire()
    head = client.head(2, [(":status", "200")])
    client.must_fail(ErrorCode.PROTOCOL_ERROR, head)


def test_5_1_2_streams_at_once() -> None:
    """5.1.2: one more than allowed is REFUSED_STREAM; when one ends, another may."""
    wire = ServerWire(Limits(streams_max=2, tell_streams_max=True))
    first, second = wire.start(STREAM), wire.start(SINGLE)
    number, sent = wire.call(SINGLE)
    events = wire.must_reset(number, ErrorCode.REFUSED_STREAM, sent)
    assert [type(event) for event in events] == [StreamRefused]
    wire.feed(rst(first))
    number, sent = wire.call(SINGLE)
    assert isinstance(wire.feed(sent)[0], Request)
    assert second


def test_5_1_2_the_bound_is_told() -> None:
    """5.1.2, 6.5.2: the bound on streams is in SETTINGS where it is to be."""
    told = ServerWire(Limits(streams_max=7, tell_streams_max=True), begun=False)
    assert (3).to_bytes(2, "big") + (7).to_bytes(4, "big") in told.output()
    wire = ServerWire(begun=False)
    payload = wire.frames()[0].payload
    keys = [payload[start + 1] for start in range(0, len(payload), 6)]
    assert Setting.MAX_CONCURRENT_STREAMS not in keys


def test_5_2_waiting_data_keeps_its_order() -> None:
    """5.2, 6.9: what waits for credit leaves in order and never over the credit."""
    wire = ServerWire()
    wire.feed(settings((Setting.INITIAL_WINDOW_SIZE, 10)))
    wire.output()
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    body = bytes(range(100))
    wire.connection.reply(number, body)
    content = b""
    for count in (1, 3, 90, 1000):
        frames = [f for f in wire.frames() if f.kind == FrameType.DATA]
        content += b"".join(f.payload for f in frames)
        wire.feed(window(number, count))
    frames = wire.frames()
    content += b"".join(f.payload for f in frames if f.kind == FrameType.DATA)
    assert content == message(body)
    assert frames[-1].flags & END


def test_5_3_1_a_stream_may_not_depend_on_itself_but_nobody_cares() -> None:
    """5.3: priorities are read over, wherever they come."""
    wire = ServerWire()
    number = wire.number()
    block = wire.encoder.encode(call_fields())
    priority = (number).to_bytes(4, "big") + b"\x10"
    head = frame(FrameType.HEADERS, 0x24, number, priority + block)
    idle = frame(FrameType.PRIORITY, 0, 99, priority)
    (event,) = wire.feed(idle, head, data(number, message(b"x"), END))
    assert isinstance(event, Request)


def test_4_2_blocks_larger_than_a_frame() -> None:
    """4.2, 6.10: a block over the client's frame size is sent with CONTINUATION."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    text = "why" * 10_000
    wire.connection.fail(number, 9, "x" * 10_000, pairs=[("large", text)])
    frames = wire.frames()
    assert [found.kind for found in frames] == [1, 9]
    assert [found.flags for found in frames] == [END, 4]
    wire.decoder.max_header_list_size = 1 << 20
    pairs = dict(wire.decode(b"".join(found.payload for found in frames)))
    assert pairs["large"] == text
    assert pairs["grpc-message"] == "x" * 2048
