"""Traffic that begins well and goes wrong, with a shell that does as it likes."""

from __future__ import annotations

from random import Random
from typing import Any

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revstore_http2 import ClientConnection, Connection, Limits, ServerConnection
from revstore_http2.codes import PREFACE, ErrorCode
from revstore_http2.events import (
    CallEnded,
    Cancelled,
    Event,
    Request,
    StreamRefused,
    StreamStarted,
)
from revstore_http2.stream import EMPTY
from tests.http2.traffic import client_traffic
from tests.http2.wire import (
    ACK,
    SINGLE,
    STREAM,
    data,
    frame,
    frames_of,
    message,
    ping,
    route,
    rst,
    window,
)
from tests.http2.wire import settings as settings_frame

SMALL = Limits(
    message_bytes_max=400,
    stream_window_bytes=500,
    connection_window_bytes=65_535,
    unfinished_bytes_max=20_000,
    streams_max=20,
    held_messages_max=5,
    stream_high_bytes=1000,
    stream_low_bytes=500,
    queued_bytes_max=20_000,
    output_bytes_max=2000,
    header_list_bytes_max=2000,
    header_block_bytes_max=3000,
    plain_http=True,
)
"""So that bounds are met."""


def mutated(pieces: list[bytes], random: Random) -> list[bytes]:
    """Pieces with something done to them."""
    found = list(pieces)
    for _ in range(random.randrange(6)):
        at = random.randrange(1, len(found))
        piece = bytearray(found[at])
        match random.randrange(8):
            case 0 if piece:
                piece[random.randrange(len(piece))] ^= 1 << random.randrange(8)
            case 1 if piece:
                piece[random.randrange(min(9, len(piece)))] = random.randrange(256)
            case 2:
                start = random.randrange(len(piece) + 1)
                del piece[start : start + random.randrange(20)]
            case 3:
                start = random.randrange(len(piece) + 1)
                piece[start:start] = random.randbytes(random.randrange(20))
            case 4:
                piece *= random.randrange(5)
            case 5:
                other = random.randrange(1, len(found))
                found[at], found[other] = found[other], found[at]
                continue
            case 6:
                size = random.choice((0, 4, 5, 6, 8, 30, 500))
                kind, flags = random.randrange(12), random.randrange(256)
                number = random.choice((0, 1, 2, 3, 5, 9, 99))
                piece += frame(kind, flags, number, random.randbytes(size))
            case _:
                piece = bytearray()
        found[at] = bytes(piece)
    return found


def check(connection: Connection) -> None:
    """What always holds inside."""
    any_connection: Any = connection
    streams = [s for s in any_connection._streams.values() if s is not None]
    limits = connection.limits
    assert sum(stream.queued for stream in streams) == connection.queued_bytes
    assert all(sum(map(len, s.queue)) - s.sent == s.queued for s in streams)
    alone = sum(1 for stream in streams if stream.queued) <= 1
    assert connection.queued_bytes <= limits.queued_bytes_max or alone
    assert not EMPTY
    if not connection.over:
        lent = sum(stream.reserved for stream in streams)
        assert lent + any_connection._unfinished_left == limits.unfinished_bytes_max
    wanting = {s.stream_id for s in streams if s.wanted}
    assert set(any_connection._wanting) == wanting
    waiting = {s.stream_id for s in streams if s.ending is not None and s.queue}
    if isinstance(connection, ServerConnection):
        assert set(any_connection._finishing) == waiting
    for stream in streams:
        assert stream.credit >= 0
        assert len(stream.held) <= limits.held_messages_max
        assert (
            len(stream.body) <= max(limits.message_bytes_max, limits.body_bytes_max) + 5
        )
        if stream.queue and stream.send_window > 0:
            assert stream.ready
    assert (
        any_connection._rest_size <= limits.frame_bytes_max + 9
        or not any_connection._rest
    )
    if connection.over:
        assert not connection.open_streams


class Watch:
    """Holds the events against their rules."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self.ended: set[int] = set()

    def see(self, events: list[Event]) -> list[int]:
        """Check events; returns the streams that want something."""
        active = []
        for event in events:
            number = getattr(event, "stream_id", None)
            if number is None or isinstance(event, StreamRefused):
                continue
            if isinstance(event, Request | StreamStarted) or "Http" in str(type(event)):
                assert number not in self.open | self.ended
                self.open.add(number)
            else:
                assert number in self.open, (number, event)
            if isinstance(event, Cancelled | CallEnded):
                self.end(number)
            active.append(number)
        return active

    def end(self, number: int) -> None:
        """The stream is over for its shell."""
        self.open.discard(number)
        self.ended.add(number)


def _act(server: ServerConnection, watch: Watch, number: int, random: Random) -> None:
    """Something that a shell may do with a stream, or with the connection."""
    match random.randrange(12):
        case 0 | 1 | 2:
            server.reply(number, random.randbytes(random.choice((0, 10, 700))))
            watch.end(number)
        case 3:
            server.fail(number, random.randrange(17), "f\u00e4il", b"d")
            watch.end(number)
        case 4:
            server.reset(number, ErrorCode.CANCEL)
            watch.end(number)
        case 5 | 6:
            server.send(number, random.randbytes(random.choice((0, 3, 900))))
        case 7:
            server.send_head(number, [("a", "b")])
        case 8:
            server.hold(number)
        case 9:
            server.respond(number, 200, [("x", "y")], b"body")
            watch.end(number)
        case 10:
            server.finish(number)
            watch.end(number)
        case _:
            random.choice((server.pause, lambda: None))()


def _run(seed: int) -> ServerConnection:
    random = Random(seed)
    server = ServerConnection(route, SMALL, now=0.0)
    watch = Watch()
    pieces = mutated(client_traffic(seed, random.randrange(1, 25), True), random)
    sent = b"".join(pieces)
    position, now = 0, 0.0
    out = b""
    while position < len(sent) and not server.over:
        size = random.choice((1, 9, 40, 400, 4000))
        events = server.receive(sent[position : position + size], now)
        position += size
        for number in watch.see(events):
            if number in watch.open:
                _act(server, watch, number, random)
        watch.open -= {e.stream_id for e in server.pending if isinstance(e, Cancelled)}
        check(server)
        match random.randrange(12):
            case 0:
                watch.see(server.resume())
            case 1:
                for number in list(watch.open):
                    watch.see(server.release(number))
            case 2:
                now += random.choice((0.1, 3.0, 25.0, 130.0))
                watch.see(server.tick(now))
            case 3 if random.random() < 0.1:
                server.drain(now)
        if random.random() < 0.8:
            while found := server.output():
                out += b"".join(found)
        check(server)
    server.lost()
    while found := server.output():
        out += b"".join(found)
    assert server.over
    check(server)
    _readable(out)
    return server


def _readable(out: bytes) -> None:
    """What was sent is whole frames, and header blocks that can be read."""
    decoder = hpack.Decoder()
    for found in frames_of(out):
        assert len(found.payload) <= 16_384
        if found.kind == 1:
            assert found.flags & 4
            decoder.decode(found.payload)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_server_under_mutated_traffic(seed: int) -> None:
    """No exception, no event against the rules, no bound crossed, good output."""
    _run(seed)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_a_server_under_noise(noise: bytes, size: int) -> None:
    """Any bytes behind the preface lead to nothing but events and an end."""
    server = ServerConnection(route, SMALL, now=0.0)
    server.receive(PREFACE + settings_frame(), 0.0)
    for start in range(0, len(noise), size):
        server.receive(noise[start : start + size], 0.0)
        check(server)
    server.tick(1e6)
    assert server.over


def _client_run(seed: int) -> None:
    random = Random(seed)
    client = ClientConnection("h:1", SMALL, now=0.0)
    encoder = hpack.Encoder()
    watch = Watch()
    pieces = [settings_frame((3, 30)), frame(4, ACK, 0), window(0, 10_000)]
    for number in range(1, random.randrange(3, 40), 2):
        head = [(":status", "200"), ("content-type", "application/grpc")]
        pieces.append(frame(1, 4, number, encoder.encode(head)))
        pieces.append(data(number, message(random.randbytes(random.choice((0, 390))))))
        if random.random() < 0.8:
            end = [("grpc-status", str(random.randrange(3))), ("grpc-message", "%41")]
            pieces.append(frame(1, 5, number, encoder.encode(end)))
        else:
            pieces.append(random.choice((rst(number), window(number, 5), ping())))
    # Nothing was put before the first call: the first piece may be hit as well.
    sent = b"".join(mutated([b"", *pieces], random))
    position = 0
    while position < len(sent) and not client.over:
        while client.can_call and random.random() < 0.7:
            body = random.randbytes(random.choice((0, 50, 2000)))
            single = random.random() < 0.7
            number = client.call(SINGLE if single else STREAM, body if single else None)
            watch.open.add(number)
            if not single:
                client.send(number, body)
                if random.random() < 0.5:
                    client.half_close(number)
        if watch.open and random.random() < 0.1:
            number = random.choice(sorted(watch.open))
            client.reset(number)
            watch.end(number)
        size = random.choice((1, 30, 500))
        watch.see(client.receive(sent[position : position + size], 0.0))
        position += size
        check(client)
        if random.random() < 0.8:
            while client.output():
                pass
    watch.see(client.lost())
    assert not watch.open, "a call without an end"
    check(client)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_client_under_mutated_traffic(seed: int) -> None:
    """For a client it is the same, and every call gets its end."""
    _client_run(seed)


@pytest.mark.parametrize("seed", range(40))
def test_a_server_under_mutated_traffic_of_fixed_seeds(seed: int) -> None:
    """The same with seeds that never change: replay one with this test's name."""
    _run(seed)
