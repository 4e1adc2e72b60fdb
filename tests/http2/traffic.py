"""Long traffic of a client and of a server, and a shell that answers it."""

from __future__ import annotations

from random import Random

import hpack

from revstore_http2 import ServerConnection
from revstore_http2.codes import PREFACE, FrameType, Setting
from revstore_http2.events import (
    Event,
    HalfClosed,
    HttpRequest,
    MessageReceived,
    Request,
    StreamStarted,
)
from tests.http2.wire import (
    ACK,
    END,
    REFUSED,
    SINGLE,
    STREAM,
    call_fields,
    data,
    frame,
    message,
    ping,
    rst,
    settings,
    window,
)


def client_traffic(seed: int, calls: int, resets: bool = False) -> list[bytes]:
    """Frames of an honest client, each a piece; calls overlap."""
    random = Random(seed)
    encoder = hpack.Encoder()
    waiting: list[list[bytes]] = []
    pieces = [PREFACE, settings((Setting.INITIAL_WINDOW_SIZE, 100)), frame(4, ACK, 0)]
    pieces.append(window(0, 1_000_000))
    for call in range(calls):
        rest = _call(random, encoder, 2 * call + 1, resets)
        # Header blocks must leave in the order in which they were encoded.
        while rest and rest[0][3] in (FrameType.HEADERS, FrameType.CONTINUATION):
            pieces.append(rest.pop(0))
        waiting.append(rest)
        for _ in range(random.randrange(4)):
            found = random.choice(waiting)
            if found:
                pieces.append(found.pop(0))
        if random.random() < 0.2:
            pieces.append(random.choice((ping(), frame(77, 1, 5, b"?"), window(0, 9))))
    for found in waiting:
        pieces += found
    return pieces


def _call(
    random: Random, encoder: hpack.Encoder, number: int, resets: bool
) -> list[bytes]:
    path = random.choice((SINGLE, SINGLE, SINGLE, STREAM, REFUSED))
    fields = call_fields(path)
    if random.random() < 0.7:
        fields.append(("grpc-timeout", f"{random.randrange(10**6)}u"))
    if random.random() < 0.2:
        fields.append(("token", str(random.randrange(3))))
    block = encoder.encode(fields)
    if random.random() < 0.2:
        pieces = [frame(1, 0, number, block[:5]), frame(9, 4, number, block[5:])]
    elif random.random() < 0.2:
        pieces = [frame(1, 0x2C, number, b"\x03" + bytes(5) + block + bytes(3))]
    else:
        pieces = [frame(1, 4, number, block)]
    body = message(random.randbytes(random.choice((0, 3, 40, 300))))
    if path == STREAM:
        body = body * random.randrange(3)
    cut = random.randrange(len(body) + 1)
    if random.random() < 0.3:
        pieces += data(number, body[:cut]), window(number, 50), data(number, body[cut:])
        pieces.append(data(number, b"", END))
    else:
        pieces.append(data(number, body, END))
    if resets and random.random() < 0.1:
        pieces[-1:] = [rst(number)]
    else:
        pieces.append(window(number, 100_000))
    return pieces


class Shell:
    """Answers what a server's machine gives, and keeps what it was given."""

    def __init__(self) -> None:
        self.calls: dict[int, list[object]] = {}
        """By stream, what was said of it."""
        self.others: list[Event] = []

    def handle(self, server: ServerConnection, events: list[Event]) -> None:
        """Act on events."""
        for event in events:
            number = getattr(event, "stream_id", None)
            if number is None:
                self.others.append(event)
                continue
            said = self.calls.setdefault(number, [])
            said.append(type(event).__name__)
            if isinstance(event, Request):
                said += event.message, event.timeout_s, event.head.metadata.get("token")
                if number % 5:
                    server.reply(number, event.message)
                else:
                    server.fail(number, 9, "no")
            elif isinstance(event, StreamStarted):
                said += event.timeout_s, event.head.metadata.get("token")
                server.send_head(number)
            elif isinstance(event, MessageReceived):
                said.append(event.message)
                server.send(number, event.message)
            elif isinstance(event, HalfClosed):
                server.finish(number)
            elif isinstance(event, HttpRequest):
                server.respond(number, 404, [], event.body)


def exchange(server: ServerConnection, pieces: list[bytes]) -> tuple[Shell, bytes]:
    """Feed pieces one by one and answer; returns what was said and all the output."""
    shell = Shell()
    out: list[bytes] = []
    for piece in pieces:
        shell.handle(server, server.receive(piece, 0.0))
        while found := server.output():
            out += found
    shell.handle(server, server.take_pending())
    return shell, b"".join(out)
