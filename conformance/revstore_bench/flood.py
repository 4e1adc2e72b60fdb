"""A load of gRPC calls on many connections, with headers as Go clients send them.

``load`` sends the same header block with each call, which no client with deadlines
does: grpc-go sends what is left of the deadline, and inserts it into the table of
header compression each time. Here every call has a block of its own, in the Huffman
code, and the connections send them in step with their tables.

Rules of this file:

1. A fixed number of calls is in flight, spread over the connections; an answer starts
   the next call on the same connection.
2. What can be made before the load begins is: the blocks, the frame heads, the
   messages. All messages have one length, so that heads and messages fit in any pairing.
3. A call counts when its stream ends with a message and no reset. A server that
   answers with an error and no message makes the load fail, not look fast.
"""

from __future__ import annotations

import select
import ssl
import time
from collections.abc import Sequence
from random import Random
from struct import Struct

from revstore_bench.load import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RECEIVE_BYTES,
    SETTINGS,
    TIMEOUT_S,
    WINDOW,
    WINDOW_BYTES,
    LoadError,
    LoadReport,
    control,
    frame,
)
from revstore_bench.secure import connect
from revstore_http2.hpack import Encoder

DEADLINE_US = 5_000_000
USER_AGENT = b"grpc-go/1.26.0"

_HEAD = Struct(">HBBBI")
_WORD = Struct(">I")


def make_heads(
    path: str, authority: str, count: int, message_bytes: int
) -> list[bytes]:
    """What each call of a connection begins with: all but its message."""
    encoder = Encoder(varying=frozenset(), huffman_code=True)
    random = Random(message_bytes)
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"content-type", b"application/grpc"),
        (b"user-agent", USER_AGENT),
        (b"te", b"trailers"),
    ]
    prefix = b"\0" + _WORD.pack(message_bytes)
    size = len(prefix) + message_bytes
    heads = []
    for number in range(count):
        left = b"%du" % (DEADLINE_US - random.randrange(10, 9000))
        block = encoder.encode([*fields, (b"grpc-timeout", left)])
        stream = 2 * number + 1
        data = _HEAD.pack(size >> 8, size & 0xFF, DATA, END_STREAM, stream)
        heads.append(frame(HEADERS, END_HEADERS, stream, block) + data + prefix)
    return heads


class _Line:
    """One connection."""

    __slots__ = ("buffer", "received", "room", "sent", "socket", "started")

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self.socket = connect(host, port, TIMEOUT_S, context)
        settings = frame(SETTINGS, 0, 0, b"\x00\x04" + _WORD.pack((1 << 31) - 1))
        grow = frame(WINDOW, 0, 0, _WORD.pack(WINDOW_BYTES))
        self.socket.sendall(PREFACE + settings + grow)
        self.buffer = b""
        self.room = 65_535
        self.received = 0
        self.sent = 0
        """Calls made so far."""
        self.started: list[float] = []
        """When each was; negative once its message has come."""


class Flood:
    """A number of connections that make calls of one method."""

    def __init__(
        self,
        host: str,
        port: int,
        connections: int,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """With a context it speaks TLS. Raises: OSError."""
        self._authority = f"{host}:{port}"
        self._lines = [_Line(host, port, context) for _ in range(connections)]
        self.cipher = self._lines[0].socket.cipher
        """What TLS agreed on, in words."""
        self._by_descriptor = {line.socket.fileno(): line for line in self._lines}
        self._poll = select.epoll()
        for descriptor in self._by_descriptor:
            self._poll.register(descriptor, select.EPOLLIN)
        self._latencies: list[float] = []
        self._used = False
        self.body_bytes = 0
        """Of all answers so far, so that one can see that they hold something."""

    def close(self) -> None:
        """End the connections."""
        self._poll.close()
        for line in self._lines:
            line.socket.close()

    def run(
        self, path: str, messages: Sequence[bytes], calls: int, in_flight: int
    ) -> LoadReport:
        """Make calls; each connection takes its messages from another place.

        Raises:
            LoadError: an answer was not that of a call that went well.
            OSError: a connection failed.
        """
        if self._used:
            raise LoadError("a flood runs once: its header tables have moved on")
        self._used = True
        lines, total = self._lines, len(self._lines)
        if not total <= in_flight <= calls:
            raise LoadError("each connection needs a call in flight")
        if len({len(one) for one in messages}) != 1:
            raise LoadError("all messages must have one length")
        each = calls // total
        heads = make_heads(path, self._authority, each, len(messages[0]))
        offsets = {
            id(line): number * len(messages) // total
            for number, line in enumerate(lines)
        }
        begin = time.perf_counter()
        for number, line in enumerate(lines):
            share = in_flight // total + (number < in_flight % total)
            self._start(line, min(share, each), heads, messages, offsets[id(line)])
        todo = each * total
        latencies = self._latencies
        while len(latencies) < todo:
            ready = self._poll.poll(TIMEOUT_S)
            if not ready:
                raise LoadError("no answer came in time")
            for descriptor, _ in ready:
                line = self._by_descriptor[descriptor]
                done = self._read(line)
                if done and line.sent < each:
                    count = min(done, each - line.sent)
                    self._start(line, count, heads, messages, offsets[id(line)])
        seconds = time.perf_counter() - begin
        return LoadReport(todo, seconds, sorted(latencies))

    def _start(
        self,
        line: _Line,
        count: int,
        heads: Sequence[bytes],
        messages: Sequence[bytes],
        offset: int,
    ) -> None:
        first = line.sent
        line.sent = first + count
        number = len(messages)
        pieces = []
        for call in range(first, first + count):
            pieces.append(heads[call])
            pieces.append(messages[(offset + call) % number])
        line.room -= count * (len(messages[0]) + 5)
        if line.room < 0:
            raise LoadError("the server gives credit too slowly for this load")
        line.started += [time.perf_counter()] * count
        line.socket.sendall(b"".join(pieces))

    def _read(self, line: _Line) -> int:
        """Take what came; returns how many calls it ended."""
        got = line.socket.recv(RECEIVE_BYTES)
        if not got:
            raise LoadError("the server closed the connection")
        buffer = line.buffer + got if line.buffer else got
        now = time.perf_counter()
        latencies, started = self._latencies, line.started
        before = len(latencies)
        at, end, body_bytes = 0, len(buffer), 0
        unpack = _HEAD.unpack_from
        while end - at >= 9:
            high, low, kind, flags, stream = unpack(buffer, at)
            size = high << 8 | low
            if end - at < 9 + size:
                break
            if kind == HEADERS:
                if flags & END_STREAM:
                    since = started[stream >> 1]
                    if since > 0.0:
                        raise LoadError(f"no message: {buffer[at : at + 9 + size]!r}")
                    latencies.append((now + since) * 1e6)
            elif kind == DATA:
                line.received += size
                body_bytes += size
                started[stream >> 1] = -abs(started[stream >> 1])
                if flags & END_STREAM:
                    latencies.append((now + started[stream >> 1]) * 1e6)
            else:
                answer, credit = control(kind, flags, buffer[at + 9 : at + 9 + size])
                line.room += credit
                if answer:
                    line.socket.sendall(answer)
            at += 9 + size
        line.buffer = buffer[at:]
        self.body_bytes += body_bytes
        if line.received >= WINDOW_BYTES // 2:
            line.socket.sendall(frame(WINDOW, 0, 0, _WORD.pack(line.received)))
            line.received = 0
        return len(latencies) - before
