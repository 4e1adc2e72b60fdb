"""RFC 9113, section by section: what is wrong, and what it leads to.

The server's machine is under test unless a name says otherwise.
"""

from __future__ import annotations

import hpack
import pytest

from revstore_http2 import ErrorCode, Limits
from revstore_http2.codes import PREFACE, FrameType, Setting
from revstore_http2.events import (
    Cancelled,
    GoingAway,
    OtherProtocol,
    PingAnswered,
    Request,
    StreamRefused,
)
from tests.http2.wire import (
    ACK,
    END,
    SINGLE,
    STREAM,
    ClientWire,
    Pair,
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

ODD = (1 << 32) - 1
MOST = (1 << 31) - 1


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


def test_6_1_data_on_no_stream() -> None:
    """6.1: DATA on stream 0 is PROTOCOL_ERROR."""
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, data(0, b"x"))


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd", b"\xff" + bytes(100)])
def test_6_1_padding_that_does_not_fit(payload: bytes) -> None:
    """6.1, 6.2: padding as long as its frame is PROTOCOL_ERROR."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.must_fail(ErrorCode.PROTOCOL_ERROR, frame(0, 0x08, number, payload))
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, frame(1, 0x0C, 1, payload))


@pytest.mark.parametrize("pad", [0, 1, 255])
def test_6_1_padding_is_taken_away(pad: int) -> None:
    """6.1, 6.2: padding is no content, but it is paid for with credit (6.9.1)."""
    wire = ServerWire()
    number = wire.number()
    block = wire.encoder.encode(call_fields())
    padding = bytes(pad)
    head = frame(1, 0x0C, number, bytes((pad,)) + block + padding)
    body = frame(0, 0x09, number, bytes((pad,)) + message(b"abc") + padding)
    (event,) = wire.feed(head, body)
    assert isinstance(event, Request)
    assert event.message == b"abc"


def test_6_2_headers_on_no_stream() -> None:
    """6.2: HEADERS on stream 0 is PROTOCOL_ERROR."""
    wire = ServerWire()
    wire.must_fail(ErrorCode.PROTOCOL_ERROR, wire.head(0, call_fields()))


def test_6_2_headers_too_short_for_their_flags() -> None:
    """6.2: HEADERS without room for its priority is FRAME_SIZE_ERROR."""
    ServerWire().must_fail(ErrorCode.FRAME_SIZE_ERROR, frame(1, 0x24, 1, bytes(4)))


@pytest.mark.parametrize(
    "other",
    [
        ping(),
        settings(),
        data(1, b"x"),
        frame(FrameType.CONTINUATION, 4, 3),
        frame(99, 0, 0),
        window(0, 1),
        frame(FrameType.HEADERS, 4, 1),
    ],
)
def test_6_2_frames_inside_of_a_header_block(other: bytes) -> None:
    """6.2, 6.10: nothing but CONTINUATION of its stream may follow a part of a block."""
    wire = ServerWire()
    head = wire.head(1, call_fields(), 0)
    wire.must_fail(ErrorCode.PROTOCOL_ERROR, head, other)


def test_6_3_priority() -> None:
    """6.3: PRIORITY on stream 0 is PROTOCOL_ERROR; of another size, a stream's fault."""
    priority = FrameType.PRIORITY
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, frame(priority, 0, 0, bytes(5)))
    wire = ServerWire()
    number = wire.start(STREAM)
    sent = frame(priority, 0, number, bytes(4))
    wire.must_reset(number, ErrorCode.FRAME_SIZE_ERROR, sent)


def test_6_4_rst_stream() -> None:
    """6.4: RST_STREAM needs 4 bytes and a stream that was opened."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.must_fail(ErrorCode.FRAME_SIZE_ERROR, frame(3, 0, number, bytes(3)))
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, rst(0))


def test_6_5_settings_are_acknowledged() -> None:
    """6.5, 6.5.3: each SETTINGS is acknowledged, unknown parameters are ignored."""
    for wire in (ServerWire(), ClientWire()):
        wire.feed(settings((0xABCD, ODD), (Setting.MAX_CONCURRENT_STREAMS, 0)))
        (answer,) = wire.frames()
        assert (answer.kind, answer.flags, answer.payload) == (4, ACK, b"")


def test_6_5_3_settings_are_acknowledged_before_they_are_used() -> None:
    """6.5.3: what a larger window lets go comes behind the acknowledgement.

    Story: grpc's C core counted DATA against the old window until the answer came.
    """
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.connection.send(number, bytes(60_000))
    wire.connection.send(number, bytes(20_000))
    wire.feed(window(0, 100_000))
    wire.output()
    wire.feed(settings((Setting.INITIAL_WINDOW_SIZE, 100_000)))
    assert [found.kind for found in wire.frames()][:2] == [4, 0]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(4, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(4, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(4, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(4, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (settings((Setting.ENABLE_PUSH, 2)), ErrorCode.PROTOCOL_ERROR),
        (
            settings((Setting.INITIAL_WINDOW_SIZE, MOST + 1)),
            ErrorCode.FLOW_CONTROL_ERROR,
        ),
        (settings((Setting.MAX_FRAME_SIZE, 16_383)), ErrorCode.PROTOCOL_ERROR),
        (settings((Setting.MAX_FRAME_SIZE, 1 << 24)), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_6_5_settings_that_are_wrong(sent: bytes, code: ErrorCode) -> None:
    """6.5, 6.5.2: what SETTINGS may not be, for either role."""
    ServerWire().must_fail(code, sent)
    ClientWire().must_fail(code, sent)


def test_6_5_2_a_server_may_not_push_here() -> None:
    """6.5.2: ENABLE_PUSH of 1 from a server is PROTOCOL_ERROR; a client may say it."""
    ClientWire().must_fail(ErrorCode.PROTOCOL_ERROR, settings((Setting.ENABLE_PUSH, 1)))
    wire = ServerWire()
    assert wire.feed(settings((Setting.ENABLE_PUSH, 1))) == []
    assert not wire.connection.over


def test_6_5_2_a_smaller_table_together_with_new_room() -> None:
    """6.5.2: what new room lets go keeps to the smaller table of the same SETTINGS."""
    wire = ServerWire()
    wire.feed(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    wire.output()
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    wire.connection.reply(number, b"x")
    frames = wire.frames()
    both = (Setting.INITIAL_WINDOW_SIZE, 100), (Setting.HEADER_TABLE_SIZE, 0)
    wire.feed(settings(*both))
    wire.decode(frames[0].payload)
    wire.decoder.max_allowed_table_size = 0
    assert wire.decode(wire.frames()[-1].payload) == [("grpc-status", "0")]


@pytest.mark.parametrize("size", [0, 100, 4095])
def test_6_5_2_a_smaller_table_of_the_client(size: int) -> None:
    """6.5.2, 4.3.1: a smaller table is acknowledged in the next block and kept to."""
    for before in range(3):
        wire = ServerWire()
        for turn in range(before + 3):
            if turn == before:
                wire.feed(settings((Setting.HEADER_TABLE_SIZE, size)))
                wire.output()
                wire.decoder.max_allowed_table_size = size
            number, sent = wire.call(SINGLE)
            wire.feed(sent)
            wire.connection.reply(number, b"x")
            head, _, trailers = wire.answer(number)
            assert head == [(":status", "200"), ("content-type", "application/grpc")]
            assert trailers == [("grpc-status", "0")]


def test_6_5_2_larger_frames_are_used() -> None:
    """6.5.2: a larger MAX_FRAME_SIZE of the client is made use of."""
    wire = ServerWire()
    large = (Setting.MAX_FRAME_SIZE, 1 << 20), (Setting.INITIAL_WINDOW_SIZE, 1 << 20)
    wire.feed(settings(*large), window(0, 1 << 20))
    wire.output()
    number = wire.start(STREAM)
    wire.connection.send(number, bytes(500_000))
    assert [len(f.payload) for f in wire.frames() if f.kind == 0] == [500_005]


def test_6_5_3_settings_that_are_not_acknowledged() -> None:
    """6.5.3: without an acknowledgement in time the connection ends."""
    wire = ServerWire(Limits(settings_timeout_s=20), begun=False)
    wire.feed(PREFACE, settings())
    assert wire.tick(19.9) == []
    assert wire.connection.next_tick() == 20.0
    wire.tick(20.0)
    assert wire.goaway().code == ErrorCode.SETTINGS_TIMEOUT


def test_6_6_push_promise() -> None:
    """6.6, 8.4: PUSH_PROMISE is PROTOCOL_ERROR in either direction."""
    promise = frame(FrameType.PUSH_PROMISE, 4, 1, bytes(8))
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, promise)
    ClientWire().must_fail(ErrorCode.PROTOCOL_ERROR, promise)


def test_6_7_ping() -> None:
    """6.7: PING is answered with its own payload; an answer is not answered."""
    wire = ServerWire()
    wire.feed(ping(b"abcdefgh"))
    (answer,) = wire.frames()
    assert (answer.kind, answer.flags, answer.payload) == (6, ACK, b"abcdefgh")
    wire.connection.ping(b"question")
    assert wire.frames()[0].payload == b"question"
    (event,) = wire.feed(ping(b"question", ACK))
    assert isinstance(event, PingAnswered)
    assert wire.output() == b""


def test_6_7_ping_that_is_wrong() -> None:
    """6.7: PING on a stream is PROTOCOL_ERROR, of another size FRAME_SIZE_ERROR."""
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, frame(6, 0, 1, bytes(8)))
    ServerWire().must_fail(ErrorCode.FRAME_SIZE_ERROR, frame(6, 0, 0, bytes(7)))


def test_6_8_goaway() -> None:
    """6.8: GOAWAY is told; on a stream or too short it is an error."""
    wire = ServerWire()
    (event,) = wire.feed(frame(7, 0, 0, bytes(4) + bytes(3) + b"\x0bwhy"))
    assert isinstance(event, GoingAway)
    assert (event.code, event.reason) == (ErrorCode.ENHANCE_YOUR_CALM, "why")
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, frame(7, 0, 1, bytes(8)))
    ServerWire().must_fail(ErrorCode.FRAME_SIZE_ERROR, frame(7, 0, 0, bytes(7)))


def test_6_8_goaway_names_the_last_stream() -> None:
    """6.8: our GOAWAY says which streams were looked at."""
    wire = ServerWire()
    for _ in range(3):
        wire.start(STREAM)
    wire.feed(data(0, b""))
    assert int.from_bytes(wire.goaway().payload[:4], "big") == 5


def test_6_9_window_update_that_is_wrong() -> None:
    """6.9: of another size FRAME_SIZE_ERROR; by 0 PROTOCOL_ERROR, of what it is for."""
    ServerWire().must_fail(ErrorCode.FRAME_SIZE_ERROR, frame(8, 0, 0, bytes(3)))
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, window(0, 0))
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.must_reset(number, ErrorCode.PROTOCOL_ERROR, window(number, 0))


def test_6_9_1_windows_that_are_too_large() -> None:
    """6.9.1: a window over 2^31-1 is FLOW_CONTROL_ERROR of what it belongs to."""
    ServerWire().must_fail(ErrorCode.FLOW_CONTROL_ERROR, window(0, MOST))
    for path in (STREAM, SINGLE):
        wire = ServerWire()
        number, sent = wire.call(path)
        wire.feed(sent)
        code = ErrorCode.FLOW_CONTROL_ERROR
        wire.must_reset(number, code, window(number, MOST))
    wire = ServerWire()
    assert wire.feed(window(0, MOST - 65_535)) == []
    assert not wire.connection.over


def test_6_9_1_a_client_that_sends_beyond_its_credit() -> None:
    """6.9.1: DATA beyond a stream's credit is FLOW_CONTROL_ERROR of the stream."""
    wire = ServerWire(Limits(stream_window_bytes=1000))
    number = wire.start(STREAM)
    wire.connection.hold(number)
    wire.feed(data(number, message(bytes(900))))
    assert wire.output() == b""
    sent = data(number, message(bytes(91)))
    wire.must_reset(number, ErrorCode.FLOW_CONTROL_ERROR, sent)


def test_6_9_1_beyond_the_credit_of_the_connection() -> None:
    """6.9.1: DATA beyond the connection's credit ends the connection."""
    limits = Limits(
        connection_window_bytes=100_000,
        stream_window_bytes=1 << 20,
        message_bytes_max=1 << 20,
    )
    wire = ServerWire(limits)
    number = wire.start(STREAM)
    body = message(bytes(200_000))
    sent = [data(number, body[s : s + 16_384]) for s in range(0, len(body), 16_384)]
    wire.must_fail(ErrorCode.FLOW_CONTROL_ERROR, *sent)


def test_6_9_2_the_start_of_windows_changes() -> None:
    """6.9.2: a new INITIAL_WINDOW_SIZE moves all windows, also below 0."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.connection.send(number, bytes(1000))
    wire.feed(settings((Setting.INITIAL_WINDOW_SIZE, 500)))
    wire.output()
    wire.connection.send(number, bytes(10))
    assert wire.output() == b""
    wire.feed(window(number, 505))
    assert wire.output() == b"", "the window is 0, not more"
    wire.feed(window(number, 15))
    assert len(wire.frames()[0].payload) == 15
    wire.feed(window(number, 600))
    over = settings((Setting.INITIAL_WINDOW_SIZE, MOST))
    wire.must_fail(ErrorCode.FLOW_CONTROL_ERROR, over)


def test_6_10_continuation() -> None:
    """6.10: a block in any number of parts is the block; one that begins it is not."""
    wire = ServerWire()
    number = wire.number()
    block = wire.encoder.encode(call_fields())
    parts = [block[start : start + 7] for start in range(0, len(block), 7)]
    sent = [frame(1, 0, number, parts[0])]
    sent += [frame(9, 0, number, part) for part in parts[1:]]
    sent += [frame(9, 4, number, b""), data(number, message(b"x"), END)]
    (event,) = wire.feed(*sent)
    assert isinstance(event, Request)
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, frame(9, 4, 1))
    ServerWire().must_fail(ErrorCode.PROTOCOL_ERROR, frame(9, 4, 0))


def test_7_unknown_error_codes() -> None:
    """7: an unknown error code is as good as any."""
    wire = ServerWire()
    number = wire.start(STREAM)
    (event,) = wire.feed(rst(number, 0xDEADBEEF))
    assert isinstance(event, Cancelled)


def test_8_1_trailers_of_a_client() -> None:
    """8.1: trailers end the client's side; they must, and hold no pseudo-headers."""
    wire = ServerWire()
    number = wire.number()
    head = wire.head(number, call_fields())
    trailers = wire.head(number, [("x", "y")], 5)
    (event,) = wire.feed(head, data(number, message(b"x")), trailers)
    assert isinstance(event, Request)
    for fields, flags in (([("x", "y")], 4), ([(":path", "/")], 5)):
        wire = ServerWire()
        number = wire.start(STREAM)
        sent = wire.head(number, fields, flags)
        wire.must_reset(number, ErrorCode.PROTOCOL_ERROR, sent)


def test_8_1_1_content_length() -> None:
    """8.1.1: content must be as long as content-length says."""
    for length, good in ((6, True), (5, False), (7, False)):
        wire = ServerWire()
        number, sent = wire.call(SINGLE, b"x", ("content-length", str(length)))
        if good:
            assert isinstance(wire.feed(sent)[0], Request)
        else:
            wire.must_reset(number, ErrorCode.PROTOCOL_ERROR, sent)


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("8.2.1", [*call_fields(), ("Upper", "x")]),
        ("8.2.1", [*call_fields(), ("sp ace", "x")]),
        ("8.2.1", [*call_fields(), ("", "x")]),
        ("8.2.1", [*call_fields(), ("a", "nul\0")]),
        ("8.2.1", [*call_fields(), ("a", "line\n")]),
        ("8.2.1", [*call_fields(), ("a", "line\r")]),
        ("8.2.1", [*call_fields(), ("a", " x")]),
        ("8.2.1", [*call_fields(), ("a", "x\t")]),
        ("8.2.2", [*call_fields(), ("connection", "close")]),
        ("8.2.2", [*call_fields(), ("keep-alive", "1")]),
        ("8.2.2", [*call_fields(), ("proxy-connection", "x")]),
        ("8.2.2", [*call_fields(), ("transfer-encoding", "chunked")]),
        ("8.2.2", [*call_fields(), ("upgrade", "h2c")]),
        ("8.2.2", [*call_fields(), ("te", "gzip")]),
        ("8.3", [*call_fields(), (":late", "x")]),
        ("8.3", [*call_fields(), (":path", "/late")]),
        ("8.3", [(":status", "200"), *call_fields()]),
        ("8.3", [(":path", "/twice"), *call_fields()]),
        ("8.3.1", call_fields()[1:]),
        ("8.3.1", [call_fields()[0], *call_fields()[2:]]),
        ("8.3.1", [*call_fields()[:2], *call_fields()[3:]]),
        ("8.3.1", call_fields("")),
        ("8.3.1", call_fields("no/slash")),
        ("8.1.1", [*call_fields(), ("content-length", "x")]),
        ("8.1.1", [*call_fields(), ("content-length", "1"), ("content-length", "2")]),
        ("8.5", [(":method", "CONNECT"), (":authority", "x:1")]),
    ],
)
def test_8_malformed_requests(section: str, fields: list[Pair]) -> None:
    """8.2, 8.3: a malformed request is PROTOCOL_ERROR of its stream."""
    for path_in_parts in (False, True):
        wire = ServerWire()
        number = wire.number()
        if path_in_parts:
            block = wire.encoder.encode(fields)
            sent = frame(1, 0, number, block[:1]) + frame(9, 4, number, block[1:])
        else:
            sent = wire.head(number, fields)
        events = wire.must_reset(
            number, ErrorCode.PROTOCOL_ERROR, sent, data(number, message(b"x"), END)
        )
        assert [type(event) for event in events] == [StreamRefused], section


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("content-type", "application/grpc")],
        [(":status", "2x0")],
        [(":status", "200"), (":status", "200")],
        [("a", "b"), (":status", "200")],
    ],
)
def test_8_malformed_responses(fields: list[Pair]) -> None:
    """8.3.2: a malformed response ends its call with an error and PROTOCOL_ERROR."""
    client = ClientWire()
    number = client.connection.call(SINGLE, b"x")
    client.output()
    block = hpack.Encoder().encode(fields)
    events = client.must_reset(
        number, ErrorCode.PROTOCOL_ERROR, frame(1, 4, number, block)
    )
    assert [getattr(event, "code", None) for event in events] == [1, 13]
    assert client.connection.can_call


def test_10_5_1_a_header_list_that_is_too_large() -> None:
    """10.5.1: a header list over the bound is answered 431; others go on."""
    wire = ServerWire(Limits(header_list_bytes_max=500))
    number, sent = wire.call(SINGLE, b"x", ("a", "b" * 500))
    assert wire.feed(sent) == []
    head = dict(wire.answer(number)[0])
    assert head[":status"] == "431"
    assert head["grpc-status"] == "8"
    _, sent = wire.call(SINGLE)
    assert isinstance(wire.feed(sent)[0], Request)


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
