"""Against an independent implementation: python-hyper's h2 at the other end."""

from __future__ import annotations

from random import Random
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from revstore_http2 import ClientConnection, Limits, ServerConnection
from revstore_http2.events import (
    CallEnded,
    Cancelled,
    ConnectionFailed,
    HalfClosed,
    MessageReceived,
    Request,
    ResponseStarted,
    StreamStarted,
    Writable,
)
from tests.http2.wire import SINGLE, STREAM, call_fields, message, route

SIZES = (0, 1, 5, 100, 5000, 70_000, 300_000)
LIMITS = Limits(
    message_bytes_max=300_000,
    stream_window_bytes=40_000,
    connection_window_bytes=100_000,
    unfinished_bytes_max=700_000,
    output_bytes_max=50_000,
    stream_high_bytes=100_000,
    stream_low_bytes=50_000,
)
TURNS_MAX = 20_000
"""A run that needs more hangs."""


def messages_in(content: bytes) -> list[bytes]:
    """The messages in the content of a stream, which must be whole."""
    found = []
    position = 0
    while position < len(content):
        assert content[position] == 0
        length = int.from_bytes(content[position + 1 : position + 5], "big")
        found.append(content[position + 5 : position + 5 + length])
        position += 5 + length
        assert position <= len(content), "a message is cut off"
    return found


class Pipe:
    """Bytes on their way, which arrive in pieces of any size."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._waiting = b""

    def put(self, data: bytes) -> None:
        """Send."""
        self._waiting += data

    def get(self) -> bytes:
        """What arrives now, maybe nothing."""
        size = self._random.choice((0, 1, 10, 100, 5000, 100_000))
        found, self._waiting = self._waiting[:size], self._waiting[size:]
        return found

    def __bool__(self) -> bool:
        return bool(self._waiting)


class H2Client:
    """Many calls at once over h2, of which each message is echoed."""

    def __init__(self, random: Random, calls: int) -> None:
        self.random = random
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.to_send: dict[int, bytes] = {}
        self.expected: dict[int, list[bytes]] = {}
        self.content: dict[int, bytes] = {}
        self.heads: dict[int, dict[str, str]] = {}
        self.trailers: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.unacknowledged: list[tuple[int, int]] = []
        self.calls = calls
        self.settled = False
        """Whether the newest settings were acknowledged."""

    def act(self) -> None:
        """One step of a client that does things in any order."""
        random = self.random
        match random.randrange(6):
            case 0 if self.calls:
                self.calls -= 1
                self._call()
            case 1 if self.settled and random.random() < 0.1:
                # One at a time: h2 takes the answer to the first for that to all.
                self.settled = False
                codes = h2.settings.SettingCodes
                if random.random() < 0.5:
                    window = random.choice((100, 200_000))
                    self.h2.update_settings({codes.INITIAL_WINDOW_SIZE: window})
                else:
                    size = random.choice((0, 100, 4096))
                    self.h2.update_settings({codes.HEADER_TABLE_SIZE: size})
            case 2:
                for size, number in self.unacknowledged:
                    self.h2.acknowledge_received_data(size, number)
                self.unacknowledged.clear()
            case _:
                if self.to_send:
                    self._send(random.choice(sorted(self.to_send)))

    def _call(self) -> None:
        random = self.random
        number = self.h2.get_next_available_stream_id()
        single = random.random() < 0.5
        count = 1 if single else random.randrange(4)
        bodies = [random.randbytes(random.choice(SIZES)) for _ in range(count)]
        fields = call_fields(SINGLE if single else STREAM)
        if random.random() < 0.5:
            fields.append(("grpc-timeout", f"{random.randrange(10**8)}u"))
        self.h2.send_headers(number, fields)
        self.to_send[number] = b"".join(map(message, bodies))
        self.expected[number] = bodies
        self.content[number] = b""

    def _send(self, number: int) -> None:
        rest = self.to_send[number]
        room = min(
            self.h2.local_flow_control_window(number),
            self.h2.max_outbound_frame_size,
            self.random.choice((10, 1000, 100_000)),
        )
        if room <= 0 and rest:
            return
        part, rest = rest[:room], rest[room:]
        padding = None
        if self.random.random() < 0.1 and len(part) + 20 < room:
            padding = 10
        self.h2.send_data(number, part, end_stream=not rest, pad_length=padding)
        self.to_send[number] = rest
        if not rest:
            del self.to_send[number]

    def take(self, data: bytes) -> None:
        """What arrived from the server."""
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]  # text
            elif isinstance(event, h2.events.TrailersReceived):
                self.trailers[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]  # text
            elif isinstance(event, h2.events.DataReceived):
                self.content[event.stream_id] += event.data
                size = event.flow_controlled_length
                self.unacknowledged.append((size, event.stream_id))
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.SettingsAcknowledged):
                self.settled = True
            else:
                bad = h2.events.StreamReset | h2.events.ConnectionTerminated
                assert not isinstance(event, bad), event

    @property
    def done(self) -> bool:
        """Whether every call was answered to its end."""
        return not self.calls and self.ended == set(self.expected)


def _serve(server: ServerConnection, events: list[Any], held: set[int]) -> None:
    for event in events:
        bad = Cancelled | ConnectionFailed
        assert not isinstance(event, bad), event
        if isinstance(event, Request):
            server.reply(event.stream_id, event.message)
        elif isinstance(event, MessageReceived):
            waiting = server.send(event.stream_id, event.message)
            assert waiting >= 0
            if waiting >= LIMITS.stream_high_bytes:
                server.hold(event.stream_id)
                held.add(event.stream_id)
        elif isinstance(event, Writable):
            if event.stream_id in held:
                held.discard(event.stream_id)
                _serve(server, server.release(event.stream_id), held)
        elif isinstance(event, HalfClosed):
            server.finish(event.stream_id)
        else:
            assert isinstance(event, StreamStarted), event


def serve_h2(seed: int) -> None:
    """Our server under an h2 client until all calls are done."""
    random = Random(seed)
    client = H2Client(random, random.randrange(1, 15))
    server = ServerConnection(route, LIMITS, now=0.0)
    there, back = Pipe(random), Pipe(random)
    held: set[int] = set()
    for _ in range(TURNS_MAX):
        if client.done and not there and not back:
            break
        client.act()
        there.put(client.h2.data_to_send())
        _serve(server, server.receive(there.get(), 0.0), held)
        if random.random() < 0.1:
            server.pause()
        elif random.random() < 0.5:
            _serve(server, server.resume(), held)
        while pieces := server.output():
            back.put(b"".join(pieces))
        _serve(server, server.take_pending(), held)
        client.take(back.get())
    assert client.done, f"seed {seed}: {len(client.ended)} of {len(client.expected)}"
    for number, bodies in client.expected.items():
        assert messages_in(client.content[number]) == bodies, f"seed {seed}"
        head = client.heads[number]
        assert head[":status"] == "200"
        assert head["content-type"] == "application/grpc"
        status = client.trailers.get(number, head)
        assert status["grpc-status"] == "0", f"seed {seed}"
    assert server.open_streams == 0
    assert server.queued_bytes == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_a_client_of_h2(seed: int) -> None:
    """Whatever an h2 client does, its calls are answered, within its credit."""
    serve_h2(seed)


class H2Server:
    """Echoes each message over h2, and ends when the client does."""

    def __init__(self, random: Random) -> None:
        self.random = random
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.to_send: dict[int, bytes] = {}
        self.finished: set[int] = set()
        self.unacknowledged: list[tuple[int, int]] = []
        self.heads: dict[int, dict[str, str]] = {}
        self.window = 65_535
        self.settled = False

    def act(self) -> None:
        """One step in any order."""
        random = self.random
        if random.random() < 0.3:
            for size, number in self.unacknowledged:
                self.h2.acknowledge_received_data(size, number)
            self.unacknowledged.clear()
        if self.settled and random.random() < 0.02:
            # Only upwards: below 0 h2 takes an empty frame for one too many (6.9.2).
            self.settled = False
            key = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
            self.window += random.choice((1, 50_000))
            self.h2.update_settings({key: self.window})
        if not self.to_send:
            return
        number = random.choice(sorted(self.to_send))
        rest = self.to_send[number]
        room = min(
            self.h2.local_flow_control_window(number),
            self.h2.max_outbound_frame_size,
            random.choice((10, 1000, 100_000)),
        )
        if rest and room > 0:
            self.h2.send_data(number, rest[:room])
            self.to_send[number] = rest = rest[room:]
        if not rest and number in self.finished:
            del self.to_send[number]
            trailers = [("grpc-status", "0"), ("seen", self.heads[number][":path"])]
            self.h2.send_headers(number, trailers, end_stream=True)

    def take(self, data: bytes) -> None:
        """What arrived from the client."""
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self.heads[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]  # text
                head = [(":status", "200"), ("content-type", "application/grpc")]
                self.h2.send_headers(event.stream_id, head)
                self.to_send[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                self.to_send[event.stream_id] += event.data
                size = event.flow_controlled_length
                self.unacknowledged.append((size, event.stream_id))
            elif isinstance(event, h2.events.StreamEnded):
                self.finished.add(event.stream_id)
            elif isinstance(event, h2.events.SettingsAcknowledged):
                self.settled = True
            else:
                bad = h2.events.StreamReset | h2.events.ConnectionTerminated
                assert not isinstance(event, bad), event


def call_h2(seed: int) -> None:
    """Our client over an h2 server until all calls are done."""
    random = Random(seed)
    server = H2Server(random)
    client = ClientConnection("h:1", LIMITS, now=0.0)
    there, back = Pipe(random), Pipe(random)
    calls = random.randrange(1, 15)
    sent: dict[int, list[bytes]] = {}
    left: dict[int, list[bytes]] = {}
    found: dict[int, list[bytes]] = {}
    ends: dict[int, CallEnded] = {}
    for _ in range(TURNS_MAX):
        if not calls and set(ends) == set(sent):
            break
        if calls and random.random() < 0.2 and client.can_call:
            calls -= 1
            bodies = [
                random.randbytes(random.choice(SIZES))
                for _ in range(random.randrange(4))
            ]
            if random.random() < 0.5:
                bodies = [random.randbytes(random.choice(SIZES))]
                number = client.call(SINGLE, bodies[0], timeout_s=random.random())
                left[number] = []
            else:
                number = client.call(STREAM, pairs=[("n", str(calls))])
                left[number] = list(bodies)
            sent[number], found[number] = bodies, []
        for number, rest in left.items():
            if rest and random.random() < 0.3:
                client.send(number, rest.pop(0))
            elif not rest:
                client.half_close(number)
        while pieces := client.output():
            there.put(b"".join(pieces))
        server.take(there.get())
        server.act()
        back.put(server.h2.data_to_send())
        for event in client.receive(back.get(), 0.0):
            if isinstance(event, MessageReceived):
                found[event.stream_id].append(event.message)
            elif isinstance(event, CallEnded):
                ends[event.stream_id] = event
            else:
                assert isinstance(event, ResponseStarted | Writable), event
    assert found == sent, f"seed {seed}"
    assert set(ends) == set(sent), f"seed {seed}"
    for number, end in ends.items():
        assert (end.code, end.pairs) == (0, (("seen", server.heads[number][":path"]),))
    assert client.open_streams == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_a_server_of_h2(seed: int) -> None:
    """Whatever an h2 server does, our calls reach it and its answers us."""
    call_h2(seed)


def test_ours_at_both_ends() -> None:
    """The two roles speak with each other."""
    server = ServerConnection(route, LIMITS, now=0.0)
    client = ClientConnection("h:1", LIMITS, now=0.0)
    random = Random(1)
    expected = {}
    for _ in range(50):
        body = random.randbytes(random.choice(SIZES[:-1]))
        expected[client.call(SINGLE, body, timeout_s=1.0)] = body
    found: dict[int, bytes] = {}
    codes = set()
    for _ in range(1000):
        while pieces := client.output():
            _serve(server, server.receive(b"".join(pieces), 0.0), set())
        events = []
        while pieces := server.output():
            events += client.receive(b"".join(pieces), 0.0)
        for event in events:
            if isinstance(event, MessageReceived):
                found[event.stream_id] = event.message
            elif isinstance(event, CallEnded):
                codes.add(event.code)
    assert found == expected
    assert codes == {0}
