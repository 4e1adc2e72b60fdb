"""What time does to a connection: keepalive in both directions, and draining."""

from __future__ import annotations

from math import inf

import pytest

from revstore_http2 import ErrorCode, Limits
from revstore_http2.codes import PREFACE, FrameType
from revstore_http2.events import ConnectionFailed, Drained, Request
from tests.http2.wire import (
    ACK,
    SINGLE,
    STREAM,
    ClientWire,
    ServerWire,
    call_fields,
    frame,
    ping,
    rst,
)


def _ping_at(wire: ServerWire, now: float) -> bool:
    """Ping, and say whether the connection lives."""
    wire.now = now
    wire.feed(ping())
    return not wire.connection.over


def test_a_client_that_pings_too_often_is_sent_away() -> None:
    """Three pings closer than 5 s to the one before: too_many_pings, as with etcd."""
    wire = ServerWire(Limits(ping_min_interval_s=5))
    wire.start(STREAM)
    assert _ping_at(wire, 0)
    assert _ping_at(wire, 4.9)
    assert _ping_at(wire, 9.8)
    assert not _ping_at(wire, 14.7)
    gone = wire.goaway()
    assert gone.code == ErrorCode.ENHANCE_YOUR_CALM
    assert gone.payload[8:] == b"too_many_pings"


def test_pings_in_time_are_welcome() -> None:
    """Pings at the least interval or above are no strike while a call is open."""
    wire = ServerWire(Limits(ping_min_interval_s=5))
    wire.start(STREAM)
    assert all(_ping_at(wire, 5.0 * turn) for turn in range(100))


def test_pings_of_an_idle_client() -> None:
    """Without an open call pings may come once in two hours, unless it is permitted."""
    wire = ServerWire()
    assert [_ping_at(wire, 10.0 * turn) for turn in range(4)] == [True] * 3 + [False]
    wire = ServerWire(Limits(ping_permit_idle=True))
    assert all(_ping_at(wire, 10.0 * turn) for turn in range(20))


def test_answers_forgive_pings() -> None:
    """Pings that measure while data flows are no strikes (bandwidth estimation)."""
    wire = ServerWire()
    number = wire.start(STREAM)
    for turn in range(100):
        wire.connection.send(number, b"x")
        assert _ping_at(wire, turn * 0.001)


def test_answers_of_the_short_way_forgive_pings() -> None:
    """A unary answer counts as well."""
    wire = ServerWire()
    wire.start(STREAM)
    for turn in range(100):
        number, sent = wire.call(SINGLE)
        wire.feed(sent)
        wire.connection.reply(number, b"x")
        assert _ping_at(wire, turn * 0.001)


def test_a_silent_client_is_asked_and_then_given_up() -> None:
    """After the interval a ping; after the timeout without any input, the end."""
    wire = ServerWire(
        Limits(keepalive_interval_s=60, keepalive_timeout_s=20, tick_interval_s=inf)
    )
    wire.now = 100.0
    wire.start(STREAM)
    assert wire.connection.next_tick() == 160
    wire.connection.tick(159.9)
    assert wire.output() == b""
    wire.connection.tick(160.0)
    (asked,) = wire.frames()
    assert (asked.kind, asked.flags) == (FrameType.PING, 0)
    assert wire.connection.next_tick() == 180
    wire.now = 179.0
    assert wire.feed(frame(FrameType.PING, ACK, 0, asked.payload)) == []
    wire.connection.tick(180.0)
    assert wire.output() == b""
    wire.connection.tick(239.0)
    wire.output()
    events = wire.tick(259.0)
    assert isinstance(events[-1], ConnectionFailed)
    assert wire.connection.next_tick() == inf


def test_no_keepalive_where_none_is_wanted() -> None:
    """An interval of 0 is never; without open calls a client may keep quiet."""
    wire = ServerWire(Limits(keepalive_interval_s=0, tick_interval_s=inf))
    assert wire.connection.next_tick() == inf
    client = ClientWire(
        Limits(keepalive_interval_s=10, keepalive_idle=False, tick_interval_s=inf)
    )
    client.connection.tick(10.0)
    assert client.output() == b""
    assert client.connection.next_tick() == 20
    client.connection.call(SINGLE)
    client.output()
    client.connection.tick(20.0)
    assert client.frames()[-1].kind == FrameType.PING


def test_drain_takes_two_steps() -> None:
    """First all streams are welcome still; when the client has seen it, none is."""
    wire = ServerWire()
    number, sent = wire.call(SINGLE)
    wire.feed(sent)
    wire.connection.drain(0.0)
    first, asked = wire.frames()
    assert (first.kind, first.code) == (FrameType.GOAWAY, ErrorCode.NO_ERROR)
    assert int.from_bytes(first.payload[:4], "big") == (1 << 31) - 1
    # A call that crossed the first step is taken.
    crossing, sent = wire.call(SINGLE)
    assert isinstance(wire.feed(sent)[0], Request)
    wire.feed(frame(FrameType.PING, ACK, 0, asked.payload))
    (second,) = wire.frames()
    assert int.from_bytes(second.payload[:4], "big") == crossing
    late, sent = wire.call(SINGLE)
    assert wire.feed(sent) == []
    wire.connection.reply(number, b"x")
    wire.answer(number)
    assert not wire.connection.over
    wire.connection.reply(crossing, b"y")
    assert wire.connection.over
    assert [type(event) for event in wire.connection.take_pending()] == [Drained]
    wire.answer(crossing)
    assert late


@pytest.mark.parametrize("seen", [False, True])
def test_drain_without_calls(seen: bool) -> None:
    """Without calls draining is over as soon as the client answered, or in time."""
    wire = ServerWire(Limits(drain_timeout_s=5))
    wire.connection.drain(0.0)
    _, asked = wire.frames()
    assert not wire.connection.over
    assert wire.connection.next_tick() == 5
    if seen:
        wire.feed(frame(FrameType.PING, ACK, 0, asked.payload))
    else:
        wire.tick(5.0)
    assert wire.connection.over
    assert wire.goaway().code == ErrorCode.NO_ERROR


def test_drain_and_a_call_that_its_client_ends() -> None:
    """A drained connection is over, too, when its last call is reset."""
    wire = ServerWire()
    streams = [wire.start(STREAM), wire.start(SINGLE)]
    wire.connection.drain(0.0)
    wire.tick(5.0)
    for number in streams:
        assert not wire.connection.over
        wire.feed(rst(number))
    assert wire.connection.over


def test_drain_before_anything_was_said() -> None:
    """A connection whose client has not said a word drains in time."""
    wire = ServerWire(begun=False)
    wire.connection.drain(0.0)
    wire.feed(PREFACE)
    wire.tick(5.0)
    assert wire.connection.over


def test_close() -> None:
    """After close nothing comes and nothing goes."""
    wire = ServerWire()
    number = wire.start(STREAM)
    wire.connection.close(ErrorCode.NO_ERROR, "bye")
    gone = wire.goaway()
    assert gone.payload[8:] == b"bye"
    assert wire.connection.send(number, b"x") == -1
    wire.connection.fail(number, 1, "x")
    wire.connection.reset(number)
    wire.connection.drain(0.0)
    wire.connection.close()
    assert wire.feed(wire.head(3, call_fields())) == []
    assert wire.connection.lost() == []
    assert wire.output() == b""
    assert wire.connection.next_tick() == inf
