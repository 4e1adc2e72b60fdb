"""Clients that mean harm: each kind is bounded, with the right code and a word for the log."""

from __future__ import annotations

from math import inf

import pytest

from revstore_http2 import ErrorCode, Limits
from revstore_http2.codes import PREFACE, FrameType, Setting
from revstore_http2.events import (
    Cancelled,
    ConnectionFailed,
    MessageReceived,
    Request,
    StreamRefused,
)
from tests.http2.wire import (
    ACK,
    END,
    SINGLE,
    STREAM,
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


def test_rapid_reset() -> None:
    """Streams opened and reset at once: ENHANCE_YOUR_CALM beyond the burst."""
    wire = ServerWire(Limits(resets_burst=50, resets_per_s=10))
    for _ in range(50):
        number = wire.start(STREAM)
        wire.feed(rst(number))
    number = wire.start(STREAM)
    assert wire.must_fail(ErrorCode.ENHANCE_YOUR_CALM, rst(number)).hostile


def test_rapid_reset_of_calls_that_are_answered() -> None:
    """Finished calls pay for resets, time does, too; honest clients are not hit."""
    wire = ServerWire(Limits(resets_burst=5, resets_per_s=1))
    for turn in range(200):
        number, sent = wire.call(SINGLE)
        wire.feed(sent)
        if turn % 2:
            wire.connection.reply(number, b"x")
        else:
            wire.feed(rst(number))
    assert not wire.connection.over
    for _ in range(50):
        wire.now += 1
        wire.feed(rst(wire.start(STREAM)))
    assert not wire.connection.over


def test_rapid_reset_by_the_back_door() -> None:
    """Faults that make the server reset streams are bounded as well."""
    wire = ServerWire(Limits(faults_burst=20, faults_per_s=1))
    events = []
    for _ in range(21):
        number = wire.start(STREAM)
        events += wire.feed(window(number, 0))
    assert isinstance(events[-1], ConnectionFailed)
    assert events[-1].hostile
    assert wire.goaway().code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("part", [b"", b"x", bytes(10_000)])
def test_continuation_flood(part: bytes) -> None:
    """A header block without an end is cut off by its length and by its parts."""
    wire = ServerWire(Limits(header_block_bytes_max=65_536, continuations_max=64))
    wire.feed(wire.head(1, call_fields(), 0))
    flood = [frame(FrameType.CONTINUATION, 0, 1, part)] * 100
    assert wire.must_fail(ErrorCode.ENHANCE_YOUR_CALM, *flood).hostile


def test_header_bomb() -> None:
    """A small block that names a large field a thousand times is refused by its sum."""
    wire = ServerWire(Limits(header_list_bytes_max=16_384))
    large = ("x", "y" * 3000)
    wire.feed(wire.head(wire.number(), call_fields(STREAM, large)))
    number = wire.number()
    block = wire.encoder.encode([*call_fields(), *[large] * 1000])
    assert len(block) < 4096
    wire.feed(frame(1, 4, number, block))
    head = dict(wire.answer(number)[0])
    assert head[":status"] == "431"


@pytest.mark.parametrize(
    "sent",
    [
        ping(b"12345678", ACK),
        frame(FrameType.PRIORITY, 0, 1, bytes(5)),
        frame(0xEE, 0, 0, b""),
        frame(FrameType.SETTINGS, ACK, 0),
        data(1, b""),
        frame(FrameType.GOAWAY, 0, 0, bytes(8)),
    ],
)
def test_floods_of_frames_that_cost_nothing(sent: bytes) -> None:
    """Frames without use are taken up to a rate; beyond, ENHANCE_YOUR_CALM."""
    wire = ServerWire(Limits(controls_burst=100, controls_per_s=50))
    wire.start(STREAM)
    for _ in range(20):
        wire.feed(sent * 40)
        wire.now += 1
    assert not wire.connection.over
    assert wire.must_fail(ErrorCode.ENHANCE_YOUR_CALM, sent * 101).hostile


def test_settings_flood() -> None:
    """SETTINGS have a rate of their own."""
    wire = ServerWire(Limits(settings_burst=10, settings_per_s=1))
    sent = settings((Setting.INITIAL_WINDOW_SIZE, 1)) * 11
    assert wire.must_fail(ErrorCode.ENHANCE_YOUR_CALM, sent).hostile


def test_settings_within_settings() -> None:
    """A parameter that comes a thousand times in one frame is applied once."""
    wire = ServerWire()
    number = wire.start(STREAM)
    pairs = [(Setting.INITIAL_WINDOW_SIZE, size % 7) for size in range(2000)]
    wire.feed(settings(*pairs))
    wire.output()
    wire.connection.send(number, bytes(10))
    assert [len(f.payload) for f in wire.frames() if f.kind == 0] == [1999 % 7]


def test_answers_that_are_not_read() -> None:
    """Answers to pings do not pile up for a client that never reads."""
    limits = Limits(
        controls_queued_max=100, ping_min_interval_s=0, ping_permit_idle=True
    )
    wire = ServerWire(limits)
    wire.connection.pause()
    assert wire.must_fail(ErrorCode.ENHANCE_YOUR_CALM, ping() * 101).hostile
    wire = ServerWire(limits)
    for _ in range(101):
        wire.feed(ping())
        wire.output()
    assert not wire.connection.over


def test_windows_of_zero() -> None:
    """A client that takes nothing fills a bound; the stream that passes it is reset."""
    wire = ServerWire(Limits(queued_bytes_max=100_000))
    wire.feed(settings((Setting.INITIAL_WINDOW_SIZE, 0)))
    numbers = []
    for _ in range(12):
        number, sent = wire.call(SINGLE)
        wire.feed(sent)
        wire.connection.reply(number, bytes(10_000))
        numbers.append(number)
    assert wire.connection.queued_bytes <= 100_000
    resets = wire.resets()
    assert resets == dict.fromkeys(numbers[9:], ErrorCode.ENHANCE_YOUR_CALM)
    events = wire.connection.take_pending()
    assert {type(event) for event in events} <= {StreamRefused, Cancelled}
    # The others are still good.
    wire.feed(window(numbers[0], 20_000))
    assert wire.answer(numbers[0])[1] == message(bytes(10_000))


def test_answers_that_are_never_taken() -> None:
    """A finished answer without credit is dropped in time; one that moves is not, nor
    one that is not finished."""
    wire = ServerWire(
        Limits(stall_timeout_s=100, tick_interval_s=inf, keepalive_interval_s=0)
    )
    wire.feed(settings((Setting.INITIAL_WINDOW_SIZE, 10)))
    numbers = []
    for _ in range(2):
        number, sent = wire.call(SINGLE)
        wire.feed(sent)
        wire.connection.reply(number, bytes(100))
        numbers.append(number)
    stream = wire.start(STREAM)
    wire.connection.send(stream, bytes(100))
    wire.output()
    assert wire.tick(5.0) == []
    assert wire.connection.next_tick() == 105
    wire.feed(window(numbers[0], 10))
    wire.output()
    assert wire.tick(50.0) == []
    (event,) = wire.tick(105.0)
    assert isinstance(event, StreamRefused)
    assert wire.resets() == {numbers[1]: ErrorCode.CANCEL}
    assert wire.connection.next_tick() == 150
    wire.tick(1000.0)
    assert wire.resets() == {numbers[0]: ErrorCode.CANCEL}
    assert wire.connection.open_streams == 1
    assert wire.connection.next_tick() == inf


def test_many_streams_before_the_bound_is_known() -> None:
    """A client that could not know the bound yet loses calls, not its connection."""
    wire = ServerWire(Limits(streams_max=10, faults_burst=5, faults_per_s=1))
    sent = [wire.call(SINGLE)[1] for _ in range(500)]
    wire.feed(*sent)
    assert not wire.connection.over
    assert set(wire.resets().values()) == {ErrorCode.REFUSED_STREAM}
    assert wire.connection.open_streams == 10


def test_one_answer_may_be_of_any_size() -> None:
    """An answer over the bound on what waits is given if nothing else waits."""
    wire = ServerWire(Limits(queued_bytes_max=10_000))
    number, sent = wire.call(SINGLE)
    wire.feed(sent, window(0, 1 << 20), window(number, 1 << 20))
    wire.connection.reply(number, bytes(200_000))
    assert wire.answer(number)[1] == message(bytes(200_000))


def test_a_stalled_stream_holds_up_no_other() -> None:
    """A stream without credit waits alone."""
    wire = ServerWire()
    stalled = wire.start(STREAM)
    wire.connection.send(stalled, bytes(64_000))
    wire.feed(window(0, 10_000_000))
    wire.connection.send(stalled, bytes(1_000_000))
    wire.skip()
    assert wire.connection.waiting(stalled) > 0
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    wire.connection.reply(number, bytes(10_000))
    assert wire.answer(number)[1] == message(bytes(10_000))


def test_replies_wait_for_the_credit_of_the_connection() -> None:
    """Many small answers together keep to the connection's credit."""
    wire = ServerWire()
    calls = [wire.call(SINGLE) for _ in range(10)]
    wire.feed(*(sent for _, sent in calls))
    for number, _ in calls:
        wire.connection.reply(number, bytes(9_995))
    sizes = [len(found.payload) for found in wire.frames() if found.kind == 0]
    assert sum(sizes) == 65_535
    wire.feed(window(0, 100_000))
    sizes += [len(found.payload) for found in wire.frames() if found.kind == 0]
    assert sum(sizes) == 100_000
    assert wire.connection.open_streams == 0


def test_streams_take_turns() -> None:
    """Streams that wait for the connection's credit get frames in turn."""
    wire = ServerWire()
    wire.feed(settings((Setting.INITIAL_WINDOW_SIZE, 1 << 20)))
    numbers = [wire.start(STREAM) for _ in range(3)]
    for number in numbers:
        wire.connection.send(number, bytes(200_000))
    wire.output()
    wire.feed(window(0, 16_384 * 6))
    order = [found.stream_id for found in wire.frames() if found.kind == 0]
    assert sorted(order[:3]) == sorted(order[3:6]) == numbers


def test_the_output_is_bounded_whatever_the_credit() -> None:
    """However large the windows, one turn of the output holds no more than its bound."""
    wire = ServerWire(Limits(output_bytes_max=100_000, queued_bytes_max=1 << 30))
    largest = (1 << 31) - 1
    wire.feed(settings((Setting.INITIAL_WINDOW_SIZE, largest)))
    wire.feed(window(0, largest - 65_535))
    wire.output()
    number = wire.start(STREAM)
    for _ in range(100):
        wire.connection.send(number, bytes(100_000))
    sizes = []
    while pieces := wire.connection.output():
        sizes.append(sum(map(len, pieces)))
    assert max(sizes) < 120_000
    assert sum(sizes) > 10_000_000
    assert wire.connection.queued_bytes == 0


def test_nothing_leaves_while_the_socket_is_full() -> None:
    """Between pause and resume no DATA enters the output, by any command."""
    wire = ServerWire()
    before, sent = wire.call(SINGLE)
    wire.feed(sent)
    wire.connection.reply(before, b"")
    stream = wire.start(STREAM)
    first, sent = wire.call(SINGLE)
    wire.feed(sent)
    wire.skip()
    wire.connection.pause()
    wire.connection.send(stream, b"abc")
    wire.connection.reply(first, b"def")
    wire.feed(window(0, 1000), settings((Setting.INITIAL_WINDOW_SIZE, 70_000)))
    assert FrameType.DATA not in [found.kind for found in wire.frames()]
    wire.connection.resume()
    contents = {f.stream_id: f.payload for f in wire.frames() if f.kind == 0}
    assert contents == {stream: message(b"abc"), first: message(b"def")}


def test_unfinished_messages_are_bounded() -> None:
    """Beyond the windows, credit is lent for whole messages and only up to a bound."""
    limits = Limits(
        message_bytes_max=1_000_000,
        stream_window_bytes=10_000,
        unfinished_bytes_max=3_000_000,
    )
    wire = ServerWire(limits)
    numbers = [wire.start(SINGLE) for _ in range(6)]
    body = message(bytes(1_000_000))
    for number in numbers:
        wire.feed(data(number, body[:10_000]))
    credit = _credit(wire)
    assert credit == dict.fromkeys(numbers[:3], len(body) - 10_000)
    # One that is finished, and one that is given up, each lend to the next.
    wire.feed(rst(numbers[1]))
    assert list(_credit(wire)) == [numbers[3]]
    events = []
    for start in range(10_000, len(body), 16_000):
        part = body[start : start + 16_000]
        events += wire.feed(
            data(numbers[0], part, END if start + 16_000 >= len(body) else 0)
        )
    (event,) = events
    assert isinstance(event, Request)
    assert len(event.message) == 1_000_000
    assert list(_credit(wire)) == [numbers[4]]
    for number in numbers[2:]:
        wire.feed(rst(number))
    wire.output()
    number = wire.start(SINGLE)
    wire.feed(data(number, body[:10_000]))
    assert list(_credit(wire)) == [number]


def _credit(wire: ServerWire) -> dict[int, int]:
    """Credit that was given to streams."""
    return {
        found.stream_id: int.from_bytes(found.payload, "big")
        for found in wire.frames()
        if found.kind == FrameType.WINDOW_UPDATE and found.stream_id
    }


def test_credit_is_renewed() -> None:
    """A long stream of messages never runs out of credit, nor does its connection."""
    limits = Limits(stream_window_bytes=20_000, connection_window_bytes=65_536)
    wire = ServerWire(limits)
    number = wire.start(STREAM)
    credit = {0: 65_536, number: 20_000}
    received = 0
    for size in [7_000, 1, 16_000, 12_000, 0, 50_000] * 20:
        body = message(bytes(size))
        while body:
            room = min(16_384, credit[0], credit[number])
            assert room > 0, "the sender is stuck"
            part, body = body[:room], body[room:]
            events = wire.feed(data(number, part))
            received += sum(isinstance(event, MessageReceived) for event in events)
            credit[0] -= len(part)
            credit[number] -= len(part)
            for found in wire.frames():
                if found.kind == FrameType.WINDOW_UPDATE:
                    credit[found.stream_id] += int.from_bytes(found.payload, "big")
    assert received == 120


@pytest.mark.parametrize("late", [False, True])
def test_credit_is_renewed_on_the_short_way(late: bool) -> None:
    """Whole calls pay for their bytes and get the credit of the connection back."""
    wire = ServerWire(Limits(connection_window_bytes=65_536))
    credit = 65_536
    for _ in range(200):
        number = wire.number()
        head, body = wire.head(number, call_fields()), message(bytes(1000))
        assert credit >= len(body), "the sender is stuck"
        if late:
            wire.feed(head)
            wire.feed(data(number, body, END))
        else:
            wire.feed(head, data(number, body, END))
        credit -= len(body)
        wire.connection.reply(number, b"")
        for found in wire.frames():
            if found.kind == FrameType.WINDOW_UPDATE:
                assert not found.stream_id
                credit += int.from_bytes(found.payload, "big")
    assert credit <= 65_536


def test_held_messages_are_bounded() -> None:
    """What waits in a stream on hold is bounded by credit and by number."""
    wire = ServerWire(Limits(held_messages_max=10, stream_window_bytes=1000))
    number = wire.start(STREAM)
    wire.connection.hold(number)
    wire.feed(data(number, message(b"") * 10))
    assert wire.output() == b""
    wire.feed(data(number, message(b"")))
    assert dict(wire.answer(number)[0])["grpc-status"] == "8"


def test_slow_preface() -> None:
    """A client that does not say what it is goes away in time."""
    wire = ServerWire(Limits(preface_timeout_s=10), begun=False)
    wire.feed(PREFACE[:20])
    assert wire.connection.next_tick() == 10
    assert wire.tick(9.9) == []
    (event,) = wire.tick(10.0)
    assert isinstance(event, ConnectionFailed)
    assert event.hostile
    assert wire.connection.over


@pytest.mark.parametrize("cut", [3, 12])
def test_slow_frames(cut: int) -> None:
    """A frame must be finished in time; one that is gives the next its own time."""
    wire = ServerWire(Limits(frame_timeout_s=30))
    number = wire.start(STREAM)
    sent = data(number, message(b"abc"))
    for _ in range(3):
        wire.feed(sent[:cut])
        assert wire.tick(wire.now + 29) == []
        wire.feed(sent[cut:])
    wire.feed(sent[:cut])
    start = wire.now
    wire.now += 29
    wire.feed(sent[cut : cut + 1])
    (_, event) = wire.tick(start + 30)
    assert isinstance(event, ConnectionFailed)
    assert wire.goaway().code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_shell_that_looks_only_when_it_is_asked_to() -> None:
    """A frame that is never finished is found by ticks alone, a little late at most."""
    wire = ServerWire(Limits(frame_timeout_s=30, tick_interval_s=15))
    due = wire.connection.next_tick()
    wire.now = 20.0
    wire.feed(data(wire.start(STREAM), message(b"abc"))[:12])
    while not wire.connection.over:
        wire.tick(due)
        assert due <= 20 + 30 + 15
        due = wire.connection.next_tick()
    assert wire.goaway().code == ErrorCode.ENHANCE_YOUR_CALM


def test_slow_header_block() -> None:
    """A header block must be finished in time, however alive its sender looks."""
    wire = ServerWire(Limits(frame_timeout_s=30))
    wire.feed(wire.head(1, call_fields(), 0))
    for second in range(1, 30):
        wire.now = float(second)
        wire.feed(frame(FrameType.CONTINUATION, 0, 1, b""))
    (event,) = wire.tick(30.0)
    assert isinstance(event, ConnectionFailed)
    assert wire.goaway().code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_trickle_costs_what_it_weighs() -> None:
    """Single bytes of a frame are not joined again and again."""
    wire = ServerWire()
    number = wire.start(SINGLE)
    sent = data(number, message(bytes(16_000)), END)
    events = []
    for byte in sent:
        events += wire.feed(bytes((byte,)))
        assert len(wire.connection._rest) <= len(sent)
    (event,) = events
    assert isinstance(event, Request)
