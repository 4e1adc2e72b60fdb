"""Puts at a fixed pace, from a process of its own.

``python -m revstore_bench.pacer PORT PER_SECOND COUNT KEY`` writes "ready", reads the
time of the first put from its input, in seconds of the monotonic clock, makes the puts,
and writes what it found as JSON.

Rules of this file:

1. A put is sent when it is due, whether or not earlier ones were answered, and its
   latency counts from when it was due: a server that stalls cannot hide it by slowing
   the load down.
2. The value of a put tells its number, see ``value_of``; the keys go round.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time

import msgspec

from revstore.proto import rpc_pb2
from revstore_bench.load import TIMEOUT_S, LoadError, LoadReport
from revstore_bench.model import VALUE_BYTES
from revstore_bench.serving import PUT_PATH
from revstore_bench.wire import Wire

KEYS = 1000
START_S = 0.2
"""Between "ready" and the first put."""


def due_at(start: float, number: int, per_second: float) -> float:
    """When a put is due."""
    return start + number / per_second


def value_of(number: int) -> bytes:
    """The value of a put; ``NUMBER`` finds it again."""
    return (b"<%08d>" % number).ljust(VALUE_BYTES, b".")


def request(prefix: bytes, number: int) -> bytes:
    """The put of a number."""
    key = prefix + b"%06d" % (number % KEYS)
    return rpc_pb2.PutRequest(key=key, value=value_of(number)).SerializeToString()


def pace(
    wire: Wire, prefix: bytes, start: float, per_second: float, count: int
) -> LoadReport:
    """Make the puts. Raises: LoadError, OSError."""
    messages = [request(prefix, number) for number in range(count)]
    due = [due_at(start, number, per_second) for number in range(count)]
    poll = select.epoll()
    poll.register(wire.fileno(), select.EPOLLIN)
    numbers: dict[int, int] = {}
    latencies: list[float] = []
    sent, heard = 0, time.monotonic()
    try:
        while len(latencies) < count:
            now = time.monotonic()
            while sent < count and due[sent] <= now and wire.room > len(messages[0]):
                numbers[wire.call(PUT_PATH, messages[sent])] = sent
                sent += 1
            wait = due[sent] - now if sent < count else TIMEOUT_S
            if poll.poll(max(wait, 0.0005)):
                wire.receive()
                heard = time.monotonic()
                over, wire.ended = wire.ended, []
                latencies += [heard - due[numbers.pop(stream)] for stream in over]
            elif numbers and time.monotonic() - heard > TIMEOUT_S:
                raise LoadError("no answer to a put came in time")
    finally:
        poll.close()
    seconds = time.monotonic() - start
    return LoadReport(count, seconds, sorted(1e6 * one for one in latencies))


class Pacer:
    """The process, for those who start it."""

    def __init__(self, port: int, per_second: float, count: int, prefix: bytes) -> None:
        """Returns when it is ready. Raises: LoadError."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "revstore_bench.pacer"),
                *(str(port), str(per_second), str(count), prefix.decode()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.stop()
            raise LoadError("the process that makes puts did not start")

    def go(self) -> float:
        """Have it begin; returns when the first put is due."""
        start = time.monotonic() + START_S
        assert self._process.stdin is not None
        self._process.stdin.write(b"%r\n" % start)
        self._process.stdin.flush()
        return start

    def report(self) -> LoadReport:
        """What it found; waits for its end. Raises: LoadError."""
        out, _ = self._process.communicate(timeout=2 * TIMEOUT_S)
        if self._process.returncode:
            raise LoadError("the process that makes puts failed")
        return msgspec.json.decode(out, type=LoadReport)

    def stop(self) -> None:
        """End it if it still runs."""
        self._process.kill()
        self._process.communicate()


def main() -> int:
    """See the module."""
    port, per_second, count = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    wire = Wire("127.0.0.1", port)
    try:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        start = float(sys.stdin.readline())
        report = pace(wire, sys.argv[4].encode(), start, per_second, count)
    finally:
        wire.close()
    sys.stdout.buffer.write(msgspec.json.encode(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
