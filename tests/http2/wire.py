"""The other side of a connection, by hand: frames to write and frames to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import hpack
import msgspec

from revstore_http2 import ClientConnection, Connection, Limits, ServerConnection
from revstore_http2.codes import PREFACE, ErrorCode, Flag, FrameType
from revstore_http2.events import ConnectionFailed, Event, Route

SINGLE, STREAM, REFUSED = "/t.S/Single", "/t.S/Stream", "/t.S/Refused"
ROUTES = {
    SINGLE: Route("single", single=True),
    STREAM: Route("stream"),
    REFUSED: Route(refusal=(12, "unknown method Refused for service t.S")),
}
END, ACK = Flag.END_STREAM, Flag.ACK
HEADERS_DONE = Flag.END_HEADERS

Pair = tuple[str, str]


def route(path: str) -> Route:
    """The routes that tests use."""
    return ROUTES.get(path, Route(refusal=(12, f"no {path}")))


class Frame(msgspec.Struct, frozen=True):
    """A frame that was read."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        return int.from_bytes(
            self.payload[-4:][:4] if self.kind == 3 else self.payload[4:8]
        )


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """The bytes of a frame, right or wrong."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream_id.to_bytes(4, "big") + payload


def frames_of(data: bytes) -> list[Frame]:
    """All frames in bytes that hold nothing else."""
    found = []
    position = 0
    while position < len(data):
        assert len(data) - position >= 9, "a frame is cut off"
        length = int.from_bytes(data[position : position + 3], "big")
        end = position + 9 + length
        assert end <= len(data), "a frame is cut off"
        stream_id = int.from_bytes(data[position + 5 : position + 9], "big")
        kind, flags = data[position + 3], data[position + 4]
        found.append(Frame(kind, flags, stream_id, data[position + 9 : end]))
        position = end
    return found


def message(body: bytes, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return bytes((compressed,)) + len(body).to_bytes(4, "big") + body


def settings(*values: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    body = b"".join(k.to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in values)
    return frame(FrameType.SETTINGS, 0, 0, body)


def window(stream_id: int, count: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, count.to_bytes(4, "big"))


def rst(stream_id: int, code: int = ErrorCode.CANCEL) -> bytes:
    """A RST_STREAM frame."""
    return frame(FrameType.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))


def ping(payload: bytes = b"12345678", flags: int = 0) -> bytes:
    """A PING frame."""
    return frame(FrameType.PING, flags, 0, payload)


def data(stream_id: int, body: bytes, flags: int = 0) -> bytes:
    """A DATA frame."""
    return frame(FrameType.DATA, flags, stream_id, body)


class Wire:
    """A connection under test, and what passes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.now = 0.0
        self.events: list[Event] = []
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()

    def feed(self, *pieces: bytes) -> list[Event]:
        """Let bytes arrive in one piece; returns the events."""
        found = self.connection.receive(b"".join(pieces), self.now)
        self.events += found
        return found

    def tick(self, now: float) -> list[Event]:
        """Let time pass; returns the events."""
        self.now = now
        found = self.connection.tick(now)
        self.events += found
        return found

    def output(self) -> bytes:
        """All that the machine has to send."""
        pieces: list[bytes] = []
        while found := self.connection.output():
            pieces += found
        return b"".join(pieces)

    def frames(self) -> list[Frame]:
        """The same as frames."""
        return frames_of(self.output())

    def skip(self) -> None:
        """Take the output and look at it no further than a client must."""
        for found in self.frames():
            if found.kind == FrameType.HEADERS:
                self.decode(found.payload)

    def decode(self, block: bytes) -> list[Pair]:
        """The fields of a block of the machine; each block once and in order."""
        pairs = cast("Iterable[tuple[Any, Any]]", self.decoder.decode(block))
        return [(str(name), str(value)) for name, value in pairs]

    def head(
        self, stream_id: int, fields: Sequence[Pair], flags: int = HEADERS_DONE
    ) -> bytes:
        """A HEADERS frame."""
        return frame(FrameType.HEADERS, flags, stream_id, self.encoder.encode(fields))

    def goaway(self) -> Frame:
        """The GOAWAY that the machine must have sent last."""
        frames = self.frames()
        assert frames, "nothing was sent"
        assert frames[-1].kind == FrameType.GOAWAY, frames[-1]
        return frames[-1]

    def resets(self) -> dict[int, int]:
        """Stream and code of each RST_STREAM in the output."""
        return {
            found.stream_id: found.code
            for found in self.frames()
            if found.kind == FrameType.RST_STREAM
        }

    def must_fail(self, code: ErrorCode, *pieces: bytes) -> ConnectionFailed:
        """Bytes that must end the connection with a code."""
        events = self.feed(*pieces)
        failed = [event for event in events if isinstance(event, ConnectionFailed)]
        assert failed, f"the connection goes on: {events}"
        assert failed[0].code == code, failed[0]
        assert self.goaway().code == code
        assert self.connection.over
        assert self.feed(b"anything") == []
        return failed[0]

    def must_reset(
        self, stream_id: int, code: ErrorCode, *pieces: bytes
    ) -> list[Event]:
        """Bytes that must end one stream with a code, and nothing else."""
        events = self.feed(*pieces)
        assert self.resets().get(stream_id) == code, events
        assert not self.connection.over
        return events


def call_fields(path: str = SINGLE, *more: Pair) -> list[Pair]:
    """The fields of a call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "127.0.0.1:2379"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]


class ServerWire(Wire):
    """A server's machine, with the client by hand."""

    connection: ServerConnection

    def __init__(self, limits: Limits | None = None, *, begun: bool = True) -> None:
        super().__init__(ServerConnection(route, limits, now=0.0))
        self.next_stream = 1
        if begun:
            self.feed(PREFACE, settings(), frame(FrameType.SETTINGS, ACK, 0))
            self.output()

    def number(self) -> int:
        """A new stream's number."""
        self.next_stream += 2
        return self.next_stream - 2

    def call(self, path: str, body: bytes = b"x", *more: Pair) -> tuple[int, bytes]:
        """A whole call with one message: its number and its bytes."""
        number = self.number()
        head = self.head(number, call_fields(path, *more))
        return number, head + data(number, message(body), END)

    def start(self, path: str = STREAM, *more: Pair) -> int:
        """Start a call and leave it open; returns its number."""
        number = self.number()
        self.feed(self.head(number, call_fields(path, *more)))
        return number

    def answer(self, stream_id: int) -> tuple[list[Pair], bytes, list[Pair]]:
        """Head, content and trailers of a whole answer; takes the output."""
        return answer_of(self, self.frames(), stream_id)


def answer_of(
    wire: Wire, frames: Iterable[Frame], stream_id: int
) -> tuple[list[Pair], bytes, list[Pair]]:
    """Head, content and trailers of one stream among frames."""
    blocks: list[list[Pair]] = []
    content = b""
    ended = False
    for found in frames:
        if found.kind == FrameType.HEADERS:
            pairs = wire.decode(found.payload)
        if found.stream_id != stream_id or ended:
            continue
        if found.kind == FrameType.DATA:
            content += found.payload
        elif found.kind == FrameType.HEADERS:
            blocks.append(pairs)
        ended = found.kind in (0, 1) and bool(found.flags & END)
    assert ended, f"the answer of {stream_id} does not end"
    head = blocks[0]
    return head, content, blocks[1] if len(blocks) > 1 else []


class ClientWire(Wire):
    """A client's machine, with the server by hand."""

    connection: ClientConnection

    def __init__(self, limits: Limits | None = None, *, begun: bool = True) -> None:
        super().__init__(ClientConnection("h:1", limits, now=0.0))
        if begun:
            self.feed(settings(), frame(FrameType.SETTINGS, ACK, 0))
            sent = self.output()
            assert sent.startswith(PREFACE)
