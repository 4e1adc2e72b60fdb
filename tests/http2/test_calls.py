"""Calls of all kinds over the server's machine."""

from __future__ import annotations

import gzip

import pytest

from revstore_http2 import Limits
from revstore_http2.codes import ErrorCode, FrameType
from revstore_http2.events import (
    Cancelled,
    HalfClosed,
    MessageReceived,
    Request,
    StreamStarted,
    Writable,
)
from tests.http2.wire import (
    END,
    REFUSED,
    SINGLE,
    STREAM,
    ServerWire,
    answer_of,
    call_fields,
    data,
    frames_of,
    message,
    rst,
    window,
)


def test_a_whole_call_is_one_event() -> None:
    """A call with one message that arrives in one piece gives one event with all."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE, b"hello", ("token", "abc"), ("grpc-timeout", "5S"))
    (event,) = wire.feed(sent)
    assert isinstance(event, Request)
    assert (event.stream_id, event.message, event.timeout_s) == (number, b"hello", 5.0)
    assert event.head.path == SINGLE
    assert event.head.route.target == "single"
    assert event.head.metadata["token"] == "abc"
    assert "grpc-timeout" not in event.head.metadata


def test_heads_that_say_the_same_are_one_object() -> None:
    """Calls whose heads differ in nothing but the deadline share what was read."""
    wire = ServerWire()
    heads = []
    for timeout in ("4999870u", "4999871u", "12m"):
        _, sent = wire.call(SINGLE, b"x", ("grpc-timeout", timeout))
        (event,) = wire.feed(sent)
        assert isinstance(event, Request)
        heads.append(event.head)
    assert heads[0] is heads[1] is heads[2]


def test_a_good_answer() -> None:
    """A reply is a head, one message and trailers with status 0, again and again."""
    wire = ServerWire()
    for turn in range(4):
        number, sent = wire.call(SINGLE)
        wire.feed(sent)
        wire.connection.reply(number, b"body%d" % turn)
        head, content, trailers = wire.answer(number)
        assert head == [(":status", "200"), ("content-type", "application/grpc")]
        assert content == message(b"body%d" % turn)
        assert trailers == [("grpc-status", "0")]
    assert wire.connection.open_streams == 0


def test_the_short_way_is_taken() -> None:
    """From the second answer on a reply is made of constant pieces (its speed)."""
    wire = ServerWire()
    for _ in range(2):
        number, sent = wire.call(SINGLE)
        wire.feed(sent)
        wire.connection.reply(number, b"x")
    assert wire.connection._quick_max == 16_384
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    wire.connection.output()
    wire.connection.reply(number, b"body")
    assert len(wire.connection.output()) == 3


def test_replies_in_any_order() -> None:
    """Calls of one read are answered in the order the shell likes."""
    wire = ServerWire()
    calls = [wire.call(SINGLE, b"%d" % turn) for turn in range(5)]
    wire.feed(*(sent for _, sent in calls))
    for number, _ in reversed(calls):
        wire.connection.reply(number, b"to %d" % number)
    frames = wire.frames()
    for number, _ in calls:
        wire.decoder = type(wire.decoder)()
        _, content, _ = answer_of(wire, frames, number)
        assert content == message(b"to %d" % number)


def test_an_empty_message_is_a_message() -> None:
    """Nothing is lost between an empty message and none."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE, b"")
    (event,) = wire.feed(sent)
    assert isinstance(event, Request)
    assert event.message == b""
    wire.connection.reply(number, b"")
    assert wire.answer(number)[1] == message(b"")


@pytest.mark.parametrize("late", [False, True])
def test_a_message_in_parts(late: bool) -> None:
    """The parts of a message may come in any number of frames; the end may be alone."""
    wire = ServerWire()
    number = wire.number()
    body = bytes(range(256)) * 300
    wire.feed(wire.head(number, call_fields()))
    events = []
    sent = message(body)
    for start in range(0, len(sent), 10_000):
        part = sent[start : start + 10_000]
        last = start + 10_000 >= len(sent) and not late
        events += wire.feed(data(number, part, END if last else 0))
    if late:
        assert events == []
        events += wire.feed(data(number, b"", END))
    (event,) = events
    assert isinstance(event, Request)
    assert event.message == body
    wire.connection.reply(number, b"ok")
    assert wire.answer(number)[1] == message(b"ok")


def test_heads_before_messages() -> None:
    """Heads of several calls may come before their messages; each is one event."""
    wire = ServerWire()
    numbers = [wire.number() for _ in range(4)]
    heads = [wire.head(number, call_fields()) for number in numbers]
    bodies = [data(number, message(b"%d" % number), END) for number in numbers]
    events = wire.feed(*heads, *bodies[:2])
    events += wire.feed(*bodies[2:])
    assert [(event.stream_id, event.message) for event in events] == [  # type: ignore[union-attr]  # all requests
        (number, b"%d" % number) for number in numbers
    ]
    assert wire.connection.open_streams == 4


def test_a_stream_both_ways() -> None:
    """A streaming call gives its start, its messages, and the end of its input."""
    wire = ServerWire()
    number = wire.start(STREAM, ("hasleader", "true"))
    (event,) = wire.events[-1:]
    assert isinstance(event, StreamStarted)
    assert event.head.metadata["hasleader"] == "true"
    one, two = message(b"one"), message(b"two")
    events = wire.feed(data(number, one + two[:3]), data(number, two[3:], END))
    assert [type(event) for event in events] == [
        MessageReceived,
        MessageReceived,
        HalfClosed,
    ]
    assert wire.connection.send(number, b"a") == 0
    assert wire.connection.send(number, b"b") == 0
    wire.connection.finish(number)
    _, content, trailers = wire.answer(number)
    assert content == message(b"a") + message(b"b")
    assert trailers == [("grpc-status", "0")]
    assert wire.connection.send(number, b"late") == -1
    assert wire.output() == b""


def test_an_answer_before_the_end_of_the_question() -> None:
    """An answer that comes early is followed by RST_STREAM with NO_ERROR (8.1)."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.connection.fail(number, 11, "far out")
    frames = wire.frames()
    assert frames[-1].kind == FrameType.RST_STREAM
    assert frames[-1].code == ErrorCode.NO_ERROR
    # What the client sent before it knew is passed over.
    assert wire.feed(data(number, message(b"late"))) == []
    assert wire.feed(wire.head(number, [("a", "b")], 5)) == []
    assert wire.output() == b""


def test_an_error_is_trailers_only() -> None:
    """An error without messages is one block, its text percent-encoded."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    wire.connection.fail(number, 9, "50 % gr\u00f6\u00dfer\n", b"\x01\x02")
    head, content, trailers = wire.answer(number)
    assert content == b""
    assert trailers == []
    assert dict(head) == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "9",
        "grpc-message": "50 %25 gr%C3%B6%C3%9Fer%0A",
        "grpc-status-details-bin": "AQI",
    }


def test_an_error_after_messages() -> None:
    """An error behind messages comes in the trailers."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.connection.send(number, b"one")
    wire.connection.fail(number, 11, "far out", pairs=[("x-bin", b"\0"), ("y", "z")])
    _, content, trailers = wire.answer(number)
    assert content == message(b"one")
    assert trailers == [
        ("grpc-status", "11"),
        ("grpc-message", "far out"),
        ("x-bin", "AA"),
        ("y", "z"),
    ]


def test_metadata_of_the_answer() -> None:
    """Metadata may come before the first message, once."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.connection.send_head(number, [("a", "b"), ("c-bin", b"\xff")])
    wire.connection.send_head(number, [("again", "no")])
    wire.connection.send(number, b"m")
    wire.connection.finish(number, [("t", "u")])
    head, _, trailers = wire.answer(number)
    assert head[2:] == [("a", "b"), ("c-bin", "/w")]
    assert trailers[-1] == ("t", "u")


def test_a_path_that_is_refused() -> None:
    """A path that its route refuses is answered without an event."""
    wire = ServerWire()
    number, sent = wire.call(REFUSED)
    assert wire.feed(sent) == []
    head = dict(wire.answer(number)[0])
    assert head["grpc-status"] == "12"
    assert head["grpc-message"] == "unknown method Refused for service t.S"
    assert wire.connection.open_streams == 0


def test_a_client_that_gives_up() -> None:
    """RST_STREAM cancels a call that was given and not answered, and no other."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    (event,) = wire.feed(rst(number))
    assert isinstance(event, Cancelled)
    wire.connection.reply(number, b"into the void")
    wire.connection.fail(number, 1, "into the void")
    assert wire.output() == b""
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    wire.connection.reply(number, b"in time")
    assert wire.feed(rst(number)) == []


def test_a_call_that_breaks_off_before_its_message() -> None:
    """Of a single call that never became whole the shell hears nothing."""
    wire = ServerWire()
    for part in (b"", message(b"hello")[:7]):
        number = wire.number()
        head = wire.head(number, call_fields())
        assert wire.feed(head, data(number, part), rst(number)) == []
    assert wire.connection.open_streams == 0


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no message in a call that takes one"),
        (message(b"a") * 2, "more than one message in a call that takes one"),
        (message(b"abc")[:-1], "unexpected EOF"),
        (b"\0\0\0", "unexpected EOF"),
        (
            message(b"abc", 1),
            "grpc: compressed flag set with identity or empty encoding",
        ),
        (message(b"abc", 7), "grpc: received unexpected payload format 7"),
    ],
)
def test_single_calls_with_other_than_one_message(content: bytes, text: str) -> None:
    """A single call needs one whole message; else it fails with INTERNAL."""
    wire = ServerWire()
    number = wire.number()
    head = wire.head(number, call_fields())
    assert wire.feed(head, data(number, content, END)) == []
    found = dict(wire.answer(number)[0])
    assert (found["grpc-status"], found["grpc-message"]) == ("13", text)
    assert wire.connection.open_streams == 0


@pytest.mark.parametrize("path", [SINGLE, STREAM])
def test_a_message_that_is_too_large(path: str) -> None:
    """A message over the bound is refused at its prefix, in gRPC's own words."""
    wire = ServerWire(Limits(message_bytes_max=100))
    number = wire.number()
    head = wire.head(number, call_fields(path))
    events = wire.feed(head, data(number, message(b"x" * 101)[:20]))
    cancelled = [event for event in events if isinstance(event, Cancelled)]
    assert len(cancelled) == (path == STREAM)
    frames = wire.frames()
    found = dict(answer_of(wire, frames, number)[0])
    assert found["grpc-status"] == "8"
    text = "grpc: received message larger than max (101 vs. 100)"
    assert found["grpc-message"] == text
    assert frames[-1].kind == FrameType.RST_STREAM
    number, sent = wire.call(path, b"y" * 100)
    assert wire.feed(sent)


def test_compressed_messages() -> None:
    """gzip is taken, and bounded by what comes out of it."""
    wire = ServerWire(Limits(message_bytes_max=1000))
    encoding = ("grpc-encoding", "gzip")
    for body, good in ((b"z" * 1000, True), (b"z" * 1001, False)):
        number = wire.number()
        head = wire.head(number, call_fields(SINGLE, encoding))
        sent = data(number, message(gzip.compress(body), 1), END)
        events = wire.feed(head, sent)
        if good:
            (event,) = events
            assert isinstance(event, Request)
            assert event.message == body
            wire.connection.reply(number, b"")
            wire.answer(number)
        else:
            assert events == []
            assert dict(wire.answer(number)[0])["grpc-status"] == "8"
    for bad in (b"not gzip", gzip.compress(b"abc")[:-9]):
        number = wire.number()
        head = wire.head(number, call_fields(SINGLE, encoding))
        assert wire.feed(head, data(number, message(bad, 1), END)) == []
        assert dict(wire.answer(number)[0])["grpc-status"] == "13"


def test_a_compression_that_is_not_known() -> None:
    """An unknown compression is UNIMPLEMENTED, and the known ones are named."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE, b"x", ("grpc-encoding", "snappy"))
    assert wire.feed(sent) == []
    found = dict(wire.answer(number)[0])
    assert found["grpc-status"] == "12"
    text = 'grpc: Decompressor is not installed for grpc-encoding "snappy"'
    assert found["grpc-message"] == text
    assert found["grpc-accept-encoding"] == "identity,gzip"


def test_hold_and_release() -> None:
    """A stream on hold gives no messages; release gives them all, and the end."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.connection.hold(number)
    sent = [data(number, message(b"%d" % turn)) for turn in range(3)]
    assert wire.feed(*sent, data(number, b"", END)) == []
    events = wire.connection.release(number)
    assert [e.message for e in events[:3] if isinstance(e, MessageReceived)] == [
        b"0",
        b"1",
        b"2",
    ]
    assert isinstance(events[3], HalfClosed)
    assert wire.connection.release(number) == []


def test_a_stream_that_is_not_read_turns_writable_again() -> None:
    """Beyond the bound ``send`` says how much waits, and ``Writable`` follows once."""
    limits = Limits(stream_high_bytes=100_000, stream_low_bytes=50_000)
    wire = ServerWire(limits)
    number = wire.start(STREAM)
    waiting = 0
    while waiting < limits.stream_high_bytes:
        waiting = wire.connection.send(number, bytes(10_000))
        assert waiting >= 0
    assert wire.connection.waiting(number) == waiting == wire.connection.queued_bytes
    wire.output()
    more = window(0, 10_005) + window(number, 10_005)
    grown = [wire.feed(more) for _ in range(12)]
    assert [type(event) for events in grown for event in events] == [Writable]
    assert wire.connection.waiting(number) == wire.connection.queued_bytes
    wire.feed(rst(number))
    assert wire.connection.queued_bytes == 0


def test_a_stream_that_ends_is_not_told_of_room() -> None:
    """After the shell's own end of a stream no ``Writable`` comes any more."""
    wire = ServerWire(Limits(stream_high_bytes=1000, stream_low_bytes=500))
    for end in ("finish", "reset"):
        number = wire.start(STREAM)
        wire.connection.pause()
        assert wire.connection.send(number, bytes(2000)) >= 1000
        wire.connection.resume()
        wire.connection.pause()
        assert wire.connection.send(number, bytes(2000)) >= 1000
        wire.connection._paused = False
        wire.connection._pump()
        assert wire.connection.pending
        getattr(wire.connection, end)(number)
        assert wire.connection.take_pending() == []
        wire.connection.resume()
        wire.output()


def test_a_small_message_does_not_overtake_a_large_one() -> None:
    """What is sent between two takings of the output comes behind what waits."""
    wire = ServerWire(Limits(output_bytes_max=1000))
    number = wire.start(STREAM)
    wire.connection.send(number, b"large" * 10_000)
    out = wire.connection.output()
    wire.connection.send(number, b"small")
    wire.connection.finish(number)
    out += [wire.output()]
    frames = frames_of(b"".join(out))
    _, content, _ = answer_of(wire, frames, number)
    assert content == message(b"large" * 10_000) + message(b"small")
