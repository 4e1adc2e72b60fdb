"""A load of gRPC calls from one thread that costs little itself.

A client library in Python takes as long for a call as the server does, so it would
measure itself. This one speaks the few frames of HTTP/2 that unary calls need (RFC
9113): each request is one ready-made header block and one message, each answer is
counted at the frame that ends its stream.

Rules of this file:

1. A fixed number of calls is in flight; an answer starts the next call.
2. A call counts when its stream ends with a message and no reset. A server that
   answers with an error and no message makes the load fail, not look fast.
3. Both windows of flow control are respected, pings and settings acknowledged.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from struct import Struct

import msgspec

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
WINDOW_BYTES = 1 << 30
RECEIVE_BYTES = 1 << 18
TIMEOUT_S = 60.0

_HEAD = Struct(">HBBBI")
_WORD = Struct(">I")


class LoadError(Exception):
    """The server did not answer as it should."""


class LoadReport(msgspec.Struct, frozen=True):
    """What a load found."""

    calls: int
    seconds: float
    latencies_us: list[float]
    """Of each call, sorted."""

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds

    def quantile(self, part: float) -> float:
        """The latency that this part of the calls does not exceed."""
        position = min(len(self.latencies_us) - 1, int(self.calls * part))
        return self.latencies_us[position]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def header_block(path: str, authority: str) -> bytes:
    """Request headers in HPACK, never indexed, so that the same bytes always serve."""

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\x10" + bytes((len(name),)) + name + bytes((len(value),)) + value

    def named(index: int, value: bytes) -> bytes:
        return bytes((index, len(value))) + value

    return b"".join(
        (
            b"\x83\x86",
            named(0x04, path.encode()),
            named(0x01, authority.encode()),
            literal(b"content-type", b"application/grpc"),
            literal(b"te", b"trailers"),
        )
    )


def control(kind: int, flags: int, payload: bytes) -> tuple[bytes, int]:
    """What a frame about the connection asks to be sent back, and the credit it gives.

    Raises:
        LoadError: the server goes away, or reset a stream.
    """
    if kind == SETTINGS and not flags & ACK:
        return frame(SETTINGS, ACK, 0, b""), 0
    if kind == PING and not flags & ACK:
        return frame(PING, ACK, 0, payload), 0
    if kind == WINDOW:
        # Requests are far smaller than a stream's window: only the connection's can
        # run out, and stream updates come after their stream has ended.
        return b"", _WORD.unpack(payload)[0] & 0x7FFFFFFF
    if kind == GOAWAY:
        raise LoadError(f"the server goes away: {payload[8:]!r}")
    if kind == RESET:
        raise LoadError("the server reset a stream")
    return b"", 0


class LoadClient:
    """One connection that makes calls of one method."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self._socket = socket.create_connection((host, port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = header_block(path, f"{host}:{port}")
        self._next_stream = 1
        self._room = 65_535
        self._received = 0
        self._began: dict[int, int] = {}
        self._with_message: set[int] = set()
        self._latencies: list[float] = []
        self._out: list[bytes] = []
        settings = frame(SETTINGS, 0, 0, b"\x00\x04" + _WORD.pack((1 << 31) - 1))
        grow = frame(WINDOW, 0, 0, _WORD.pack(WINDOW_BYTES))
        self._socket.sendall(PREFACE + settings + grow)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def run(
        self, messages: Callable[[], Iterator[bytes]], calls: int, in_flight: int
    ) -> LoadReport:
        """Make calls; ``messages`` gives the serialized requests, one for each.

        Raises:
            LoadError: an answer was not that of a call that went well.
            OSError: the connection failed.
        """
        source = messages()
        todo = calls
        self._latencies = []
        buffer = b""
        begin = time.perf_counter()
        while len(self._latencies) < calls:
            while todo and len(self._began) < in_flight:
                message = next(source)
                if self._room < len(message) + 5:
                    break
                self._start(message)
                todo -= 1
            if self._out:
                self._socket.sendall(b"".join(self._out))
                self._out.clear()
            got = self._socket.recv(RECEIVE_BYTES)
            if not got:
                raise LoadError("the server closed the connection")
            buffer = self._take(buffer + got if buffer else got)
        seconds = time.perf_counter() - begin
        return LoadReport(calls, seconds, sorted(self._latencies))

    def _start(self, message: bytes) -> None:
        stream = self._next_stream
        self._next_stream = stream + 2
        size = len(message) + 5
        self._room -= size
        body = b"\0" + _WORD.pack(len(message)) + message
        self._out.append(
            frame(HEADERS, END_HEADERS, stream, self._headers)
            + frame(DATA, END_STREAM, stream, body)
        )
        self._began[stream] = time.perf_counter_ns()

    def _take(self, buffer: bytes) -> bytes:
        """Handle the whole frames of a buffer; returns the rest."""
        at = 0
        end = len(buffer)
        unpack = _HEAD.unpack_from
        while end - at >= 9:
            high, low, kind, flags, stream = unpack(buffer, at)
            size = high << 8 | low
            if end - at < 9 + size:
                break
            body = at + 9
            at = body + size
            if kind == DATA:
                self._received += size
                self._with_message.add(stream)
            elif kind != HEADERS:
                answer, credit = control(kind, flags, buffer[body:at])
                self._room += credit
                if answer:
                    self._out.append(answer)
            if flags & END_STREAM and kind in (DATA, HEADERS):
                self._finish(stream)
        if self._received >= WINDOW_BYTES // 2:
            self._out.append(frame(WINDOW, 0, 0, _WORD.pack(self._received)))
            self._received = 0
        return buffer[at:]

    def _finish(self, stream: int) -> None:
        begin = self._began.pop(stream)
        if stream not in self._with_message:
            raise LoadError("a call ended without an answer")
        self._with_message.remove(stream)
        self._latencies.append((time.perf_counter_ns() - begin) / 1000)
