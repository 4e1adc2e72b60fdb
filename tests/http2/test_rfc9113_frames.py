"""RFC 9113, section 6: each kind of frame.

What is wrong, and what it leads to. The server's machine is under test unless a name
says otherwise.
"""

from __future__ import annotations

import pytest

from revstore_http2 import ErrorCode, Limits
from revstore_http2.codes import PREFACE, FrameType, Setting
from revstore_http2.events import (
    GoingAway,
    PingAnswered,
    Request,
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

ODD = (1 << 32) - 1
MOST = (1 << 31) - 1


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
