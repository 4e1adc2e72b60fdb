"""A load of calls over the transport "tcp" that costs little itself.

Rules of this file:

1. A fixed number of calls is in flight on each connection; answers start as many new
   ones, in one frame.
2. Requests are made before the load begins. An answer with another status than 0 makes
   the load fail, not look fast.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from itertools import cycle, islice

from revstore_bench.load import RECEIVE_BYTES, TIMEOUT_S, LoadError, LoadReport
from revstore_bench.secure import connect
from revstore_tcp.framing import (
    MAGIC,
    Flag,
    FrameReader,
    FrameWriter,
    RecordType,
    frame,
    record,
    records_of,
)
from revstore_tcp.messages import Hello, Role, write_hello, write_open

DEADLINE_MS = 5_000


class _Line:
    """One connection."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = connect(host, port, TIMEOUT_S, None)
        hello = record(RecordType.HELLO, 0, write_hello(Hello(Role.CLIENT)))
        self.socket.sendall(MAGIC + frame(hello))
        self.reader = FrameReader()
        self.next = 1
        self.begun: dict[int, float] = {}


class TcpFlood:
    """A number of connections that make calls of one method."""

    def __init__(self, host: str, port: int, connections: int) -> None:
        self._lines = [_Line(host, port) for _ in range(connections)]
        self._by_descriptor = {line.socket.fileno(): line for line in self._lines}
        self._poll = select.epoll()
        for descriptor in self._by_descriptor:
            self._poll.register(descriptor, select.EPOLLIN)

    def close(self) -> None:
        """End the connections."""
        self._poll.close()
        for line in self._lines:
            line.socket.close()

    def run(
        self, path: str, messages: Sequence[bytes], calls: int, in_flight: int
    ) -> LoadReport:
        """Make calls.

        Raises:
            LoadError: an answer was not that of a call that went well.
            OSError: a connection failed.
        """
        ready = cycle(
            [write_open(path.encode(), b"", DEADLINE_MS, each) for each in messages]
        )
        latencies: list[float] = []
        left = calls
        begin = time.perf_counter()
        for number, line in enumerate(self._lines):
            total = len(self._lines)
            share = in_flight // total + (number < in_flight % total)
            left -= _start(line, islice(ready, min(share, left)))
        while len(latencies) < calls:
            events = self._poll.poll(TIMEOUT_S)
            if not events:
                raise LoadError("no answer came in time")
            for descriptor, _ in events:
                line = self._by_descriptor[descriptor]
                done = _take(line, latencies)
                if done and left:
                    left -= _start(line, islice(ready, min(done, left)))
        seconds = time.perf_counter() - begin
        return LoadReport(calls, seconds, sorted(latencies))


def _start(line: _Line, payloads: islice[bytes]) -> int:
    writer, begun = FrameWriter(), line.begun
    first = number = line.next
    now = time.perf_counter()
    for payload in payloads:
        writer.add(record(RecordType.OPEN, number, payload, Flag.BODY))
        begun[number] = now
        number += 1
    line.next = number
    if number > first:
        line.socket.sendall(writer.take())
    return number - first


def _take(line: _Line, latencies: list[float]) -> int:
    got = line.socket.recv(RECEIVE_BYTES)
    if not got:
        raise LoadError("the server closed the connection")
    now = time.perf_counter()
    done = 0
    for body in line.reader.feed(got):
        for kind, _, stream, payload in records_of(body):
            if kind == RecordType.END:
                if payload[:4] != b"\0\0\0\0":
                    raise LoadError(f"a call failed: {payload[:200]!r}")
                latencies.append((now - line.begun.pop(stream)) * 1e6)
                done += 1
            elif kind == RecordType.GOAWAY:
                raise LoadError(f"the server goes away: {payload!r}")
    return done
