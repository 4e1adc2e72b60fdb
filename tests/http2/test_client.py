"""The client's machine, with a server by hand."""

from __future__ import annotations

import gzip

import pytest

from revstore.errors import Unavailable, UsageError
from revstore_http2 import ErrorCode, Limits
from revstore_http2.codes import FrameType, Setting
from revstore_http2.events import (
    CallEnded,
    CallsAllowed,
    ConnectionFailed,
    Event,
    GoingAway,
    MessageReceived,
    ResponseStarted,
)
from tests.http2.wire import (
    END,
    SINGLE,
    STREAM,
    ClientWire,
    Pair,
    data,
    frame,
    message,
    rst,
    settings,
    window,
)

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


def _answer(wire: ClientWire, number: int, *bodies: bytes) -> bytes:
    content = b"".join(data(number, message(body)) for body in bodies)
    return wire.head(number, HEAD) + content + wire.head(number, OK, 5)


def _end(events: list[Event]) -> CallEnded:
    (found,) = [event for event in events if isinstance(event, CallEnded)]
    return found


def test_a_call_as_it_is_sent() -> None:
    """A call with one message is a head and DATA that ends the stream."""
    wire = ClientWire()
    number = wire.connection.call(
        SINGLE, b"hi", timeout_s=2.5, pairs=[("token", "t"), ("x-bin", b"\xff")]
    )
    head, content = wire.frames()
    fields = dict(wire.decode(head.payload))
    assert fields.pop("user-agent")
    assert fields == {
        ":method": "POST",
        ":scheme": "http",
        ":path": SINGLE,
        ":authority": "h:1",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-accept-encoding": "identity,gzip",
        "token": "t",
        "x-bin": "/w",
        "grpc-timeout": "2500000u",
    }
    assert (content.stream_id, content.flags) == (number, END)
    assert content.payload == message(b"hi")


def test_a_call_as_it_is_answered() -> None:
    """A good answer is its start, its message, and an end with status 0."""
    wire = ClientWire()
    for body in (b"one", b"two", b""):
        number = wire.connection.call(SINGLE, b"x")
        events = wire.feed(_answer(wire, number, body))
        assert [type(event) for event in events] == [
            ResponseStarted,
            MessageReceived,
            CallEnded,
        ]
        assert _end(events).code == 0
    assert wire.connection.open_streams == 0


def test_a_stream_both_ways() -> None:
    """Messages go while answers come; the half-close is the end of this side alone."""
    wire = ClientWire()
    number = wire.connection.call(STREAM)
    assert wire.connection.send(number, b"a") == 0
    wire.feed(wire.head(number, HEAD), data(number, message(b"r")))
    wire.connection.half_close(number)
    assert wire.connection.send(number, b"late") == -1
    frames = wire.frames()
    assert [found.flags & END for found in frames] == [0, 0, END]
    events = wire.feed(data(number, message(b"s")), wire.head(number, OK, 5))
    assert [type(event) for event in events] == [MessageReceived, CallEnded]
    assert wire.output() == b""


def test_large_messages_wait_for_credit() -> None:
    """A message over the credit leaves in parts, the end behind its last."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, bytes(200_000))
    sent = [found for found in wire.frames() if found.kind == 0]
    assert sum(len(found.payload) for found in sent) == 65_535
    wire.feed(window(0, 200_000), window(number, 200_000))
    sent += wire.frames()
    assert b"".join(found.payload for found in sent) == message(bytes(200_000))
    assert [found.flags for found in sent if found.flags] == [END]


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        (
            [*HEAD, ("grpc-status", "5"), ("grpc-message", "no%20%C3%B6")],
            5,
            "no \u00f6",
        ),
        ([*HEAD, ("grpc-status", "zwei")], 2, ""),
        (HEAD, 2, "the server sent no grpc-status"),
        ([(":status", "503")], 14, None),
        ([(":status", "404")], 12, None),
        ([(":status", "401")], 16, None),
        ([(":status", "418")], 2, None),
        ([(":status", "415"), ("grpc-status", "13"), ("grpc-message", "x")], 13, "x"),
    ],
)
def test_answers_without_messages(
    fields: list[Pair], code: int, text: str | None
) -> None:
    """A gRPC status counts before the HTTP status, which has its own meaning."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    end = _end(wire.feed(wire.head(number, fields, 5)))
    assert end.code == code
    assert text is None or end.text == text


def test_an_http_error_with_a_body() -> None:
    """The body of an answer that is not gRPC is not waited for."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    end = _end(wire.feed(wire.head(number, [(":status", "502")])))
    assert end.code == 14
    assert wire.resets() == {number: ErrorCode.CANCEL}
    assert wire.feed(data(number, b"<html>", END)) == []


def test_details_and_metadata() -> None:
    """Details, metadata of the head and of the trailers arrive."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    events = wire.feed(
        wire.head(number, [*HEAD, ("a-bin", "AAE")]),
        wire.head(
            number,
            [("grpc-status", "9"), ("grpc-status-details-bin", "AQI="), ("t", "u")],
            5,
        ),
    )
    (started, end) = events
    assert isinstance(started, ResponseStarted)
    assert started.pairs == (("a-bin", b"\0\1"),)
    assert isinstance(end, CallEnded)
    assert (end.details, end.pairs) == (b"\1\2", (("t", "u"),))


@pytest.mark.parametrize(
    ("code", "status", "unprocessed"),
    [
        (ErrorCode.REFUSED_STREAM, 14, True),
        (ErrorCode.CANCEL, 1, False),
        (ErrorCode.ENHANCE_YOUR_CALM, 8, False),
        (ErrorCode.INADEQUATE_SECURITY, 7, False),
        (ErrorCode.INTERNAL_ERROR, 13, False),
        (0xDEAD, 13, False),
    ],
)
def test_a_server_that_resets(code: int, status: int, unprocessed: bool) -> None:
    """Each code of a reset has its status; a refused call may be made again."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    end = _end(wire.feed(rst(number, code)))
    assert (end.code, end.unprocessed) == (status, unprocessed)


def test_a_server_that_goes_away() -> None:
    """Calls above the last stream end as unprocessed, the others go on; then it is over."""
    wire = ClientWire()
    first = wire.connection.call(SINGLE, b"x")
    second = wire.connection.call(SINGLE, b"x")
    gone = first.to_bytes(4, "big") + bytes(4) + b"maintenance"
    events = wire.feed(frame(FrameType.GOAWAY, 0, 0, gone))
    assert isinstance(events[0], GoingAway)
    end = _end(events)
    assert (end.stream_id, end.code, end.unprocessed) == (second, 14, True)
    assert not wire.connection.can_call
    with pytest.raises(Unavailable):
        wire.connection.call(SINGLE, b"x")
    assert not wire.connection.over
    assert _end(wire.feed(_answer(wire, first, b"y"))).code == 0
    assert wire.connection.over


def test_streams_at_once() -> None:
    """The server's bound is kept to, and the shell hears when there is room again."""
    wire = ClientWire()
    wire.feed(settings((Setting.MAX_CONCURRENT_STREAMS, 2)))
    numbers = [wire.connection.call(SINGLE, b"x") for _ in range(2)]
    assert not wire.connection.can_call
    events = wire.feed(_answer(wire, numbers[0], b"y"))
    assert isinstance(events[-1], CallsAllowed)
    assert wire.connection.can_call
    wire.connection.call(SINGLE, b"x")
    assert not wire.connection.can_call
    (event,) = wire.feed(settings((Setting.MAX_CONCURRENT_STREAMS, 3)))
    assert isinstance(event, CallsAllowed)


def test_a_connection_that_breaks() -> None:
    """Every open call ends with UNAVAILABLE, once."""
    wire = ClientWire()
    numbers = {wire.connection.call(STREAM) for _ in range(3)}
    events = wire.connection.lost("broken pipe")
    assert {e.stream_id for e in events if isinstance(e, CallEnded)} == numbers
    assert {e.code for e in events if isinstance(e, CallEnded)} == {14}
    assert wire.connection.lost() == []
    assert not wire.connection.can_call


def test_a_server_that_does_not_speak_http2() -> None:
    """Anything else than HTTP/2 ends the connection and its calls."""
    wire = ClientWire(begun=False)
    wire.connection.call(SINGLE, b"x")
    events = wire.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert [type(event) for event in events] == [CallEnded, ConnectionFailed]


def test_a_call_that_the_shell_gives_up() -> None:
    """After reset nothing more is said of a call."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    wire.connection.reset(number)
    assert wire.resets() == {number: ErrorCode.CANCEL}
    assert wire.feed(_answer(wire, number, b"late")) == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (message(bytes(101))[:10], 8),
        (message(gzip.compress(bytes(1000)), 1), 13),
        (b"\0\0\0", None),
    ],
    ids=["too long", "too long when unpacked", "cut off"],
)
def test_messages_that_are_wrong(content: bytes, code: int | None) -> None:
    """Bounds and forms of messages hold for answers, too."""
    wire = ClientWire(Limits(message_bytes_max=100))
    number = wire.connection.call(SINGLE, b"x")
    events = wire.feed(wire.head(number, HEAD), data(number, content))
    if code is None:
        events = wire.feed(wire.head(number, OK, 5))
    assert _end(events).code == (code or 13)
    assert number in wire.resets()


def test_compressed_answers() -> None:
    """Answers by gzip are taken."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    events = wire.feed(
        wire.head(number, [*HEAD, ("grpc-encoding", "gzip")]),
        data(number, message(gzip.compress(b"abc"), 1)),
    )
    assert isinstance(events[1], MessageReceived)
    assert events[1].message == b"abc"


def test_an_answer_without_trailers() -> None:
    """DATA that ends the stream is no end of a call: INTERNAL."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    sent = wire.head(number, HEAD) + data(number, message(b"x"), END)
    assert _end(wire.feed(sent)).code == 13


def test_informational_heads() -> None:
    """A head of 1xx comes before the answer's own (8.1)."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    assert wire.feed(wire.head(number, [(":status", "103"), ("link", "x")])) == []
    assert _end(wire.feed(_answer(wire, number, b"y"))).code == 0


def test_data_before_the_head() -> None:
    """DATA before any head is a fault of the stream (8.1)."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    events = wire.must_reset(number, ErrorCode.PROTOCOL_ERROR, data(number, b"x"))
    assert _end(events).code == 13


def test_messages_on_hold_come_before_the_end() -> None:
    """What was held back is given before the call's end."""
    wire = ClientWire()
    number = wire.connection.call(STREAM)
    wire.connection.hold(number)
    sent = wire.head(number, HEAD) + data(number, message(b"a") + message(b"b"))
    assert [type(event) for event in wire.feed(sent)] == [ResponseStarted]
    events = wire.feed(wire.head(number, OK, 5))
    assert [type(event) for event in events] == [
        MessageReceived,
        MessageReceived,
        CallEnded,
    ]


@pytest.mark.parametrize(
    "pair",
    [
        ("sp ace", "x"),
        (":path", "x"),
        ("grpc-timeout", "1S"),
        ("a", "\u00f6"),
        ("a", "line\n"),
        ("a", b"bytes"),
        ("", "x"),
    ],
)
def test_metadata_that_cannot_be_sent(pair: tuple[str, str | bytes]) -> None:
    """What would break the protocol is refused before anything is sent."""
    wire = ClientWire()
    with pytest.raises(UsageError):
        wire.connection.call(SINGLE, b"x", pairs=[pair])
    assert wire.output() == b""


def test_a_server_with_a_smaller_table() -> None:
    """A smaller table is acknowledged in the next block (4.3.1)."""
    wire = ClientWire()
    wire.feed(settings((Setting.HEADER_TABLE_SIZE, 0)))
    wire.output()
    wire.decoder.max_allowed_table_size = 0
    for _ in range(2):
        wire.connection.call(SINGLE, b"x")
        head = wire.frames()[0]
        assert (":path", SINGLE) in wire.decode(head.payload)


def test_ping_of_the_shell() -> None:
    """A ping of the shell has 8 bytes that are not the machine's own."""
    wire = ClientWire()
    for payload in (b"short", b"\0keepaly"):
        with pytest.raises(UsageError):
            wire.connection.ping(payload)
    assert wire.output() == b""


def test_a_header_list_that_is_too_large() -> None:
    """A head over the bound ends its call alone (10.5.1)."""
    wire = ClientWire(Limits(header_list_bytes_max=300))
    number = wire.connection.call(SINGLE, b"x")
    end = _end(wire.feed(wire.head(number, [*HEAD, ("a", "b" * 300)])))
    assert end.code == 8
    number = wire.connection.call(SINGLE, b"x")
    assert _end(wire.feed(_answer(wire, number, b"y"))).code == 0


@pytest.mark.parametrize("fields", [[("x-bin", "%%%")], [("grpc-encoding", "snappy")]])
def test_heads_that_cannot_be_read(fields: list[Pair]) -> None:
    """Metadata that is not base64 and unknown compressions end the call."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    sent = wire.head(number, [*HEAD, *fields])
    events = wire.must_reset(number, ErrorCode.PROTOCOL_ERROR, sent)
    assert _end(events).code == 13


def test_trailers_that_do_not_end() -> None:
    """Trailers without END_STREAM are a fault of their stream (8.1)."""
    wire = ClientWire()
    number = wire.connection.call(SINGLE, b"x")
    wire.feed(wire.head(number, HEAD))
    sent = wire.head(number, OK)
    assert _end(wire.must_reset(number, ErrorCode.PROTOCOL_ERROR, sent)).code == 13


def test_heads_are_kept_up_to_a_bound() -> None:
    """Calls with ever new metadata do not fill the memory."""
    wire = ClientWire()
    for number in range(1000):
        found = wire.connection.call(SINGLE, b"x", pairs=[("n", str(number))])
        wire.connection.reset(found)
        wire.output()
    assert len(wire.connection._heads) <= 256


def test_a_whole_message_on_hold() -> None:
    """A frame with exactly one message is held as any other."""
    wire = ClientWire()
    number = wire.connection.call(STREAM)
    wire.feed(wire.head(number, HEAD))
    wire.connection.hold(number)
    assert wire.feed(data(number, message(b"a"))) == []
    (event,) = wire.connection.release(number)
    assert isinstance(event, MessageReceived)
    assert event.message == b"a"


def test_a_part_that_looks_like_a_message() -> None:
    """The rest of a message is never taken for a message, whatever it looks like."""
    wire = ClientWire()
    number = wire.connection.call(STREAM)
    inner = message(b"looks whole")
    whole = message(b"first" + inner)
    wire.feed(wire.head(number, HEAD), data(number, whole[: -len(inner)]))
    (event,) = wire.feed(data(number, inner))
    assert isinstance(event, MessageReceived)
    assert event.message == b"first" + inner


@pytest.mark.parametrize("whole", [False, True])
def test_credit_is_renewed(whole: bool) -> None:
    """A server that sends for ever never runs out of credit."""
    limits = Limits(stream_window_bytes=20_000, connection_window_bytes=65_536)
    wire = ClientWire(limits)
    number = wire.connection.call(STREAM, b"x")
    wire.output()
    credit = {0: 65_536, number: 20_000}
    wire.feed(wire.head(number, HEAD))
    sent = message(bytes(5000))
    for _ in range(100):
        assert min(credit.values()) >= len(sent), "the sender is stuck"
        for part in (sent,) if whole else (sent[:7], sent[7:]):
            wire.feed(data(number, part))
        for key in credit:
            credit[key] -= len(sent)
        for found in wire.frames():
            assert found.kind == FrameType.WINDOW_UPDATE
            credit[found.stream_id] += int.from_bytes(found.payload, "big")
    assert credit[0] <= 65_536
    assert credit[number] <= 20_000


def test_room_is_told_once() -> None:
    """``CallsAllowed`` comes once for each time that there was no room."""
    wire = ClientWire()
    wire.feed(settings((Setting.MAX_CONCURRENT_STREAMS, 2)))
    numbers = [wire.connection.call(SINGLE, b"x") for _ in range(2)]
    assert not wire.connection.can_call
    told = [
        event
        for number in numbers
        for event in wire.feed(_answer(wire, number, b"y"))
        if isinstance(event, CallsAllowed)
    ]
    assert len(told) == 1
