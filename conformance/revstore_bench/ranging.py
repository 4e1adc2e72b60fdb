"""A range of many keys of a kilobyte: throughput, latency and memory.

Rules of this file:

1. The first answer is compared with what was put, key by key; every later answer with
   the first, byte by byte.
2. Before a measurement the server is started again and all data are read once in small
   pages: the pages of its file are in memory then, and nothing large was ever
   assembled. What its memory peaks at above that is what the ranges take.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from revstore.proto import rpc_pb2
from revstore_bench import host
from revstore_bench.flood import Flood
from revstore_bench.grpc import ask, await_leader, start
from revstore_bench.load import TIMEOUT_S, LoadError, LoadReport
from revstore_bench.model import SEED, Case, Row, Sample, Scale
from revstore_bench.serving import PUT_PATH, RANGE_PATH, Target
from revstore_bench.sides import SIDES, beside, compare, names_in_turn, quantiles
from revstore_bench.wire import Wire

VALUE_BYTES = 1024
PREFIX, PREFIX_END = b"range/", b"range0"
PAGE = 100
TOGETHER = 8
"""Ranges at a time, each on a connection of its own."""


class RangingCase(Case):
    """One member of each, with the same keys."""

    name = "range"

    def __init__(
        self,
        scale: Scale,
        directory: Path,
        flags: Sequence[str],
        keys: int,
        calls: int,
    ) -> None:
        super().__init__(scale, directory)
        self._flags = tuple(flags)
        self._keys, self._calls = keys, calls
        random = Random(SEED)
        self._pairs = [
            (PREFIX + b"%08d" % number, random.randbytes(VALUE_BYTES))
            for number in range(keys)
        ]
        self._targets: dict[str, Target] = {}

    def prepare(self) -> None:
        for name in SIDES:
            self._start(name)
            self._fill(self._targets[name])

    def _start(self, name: str) -> None:
        old = self._targets.pop(name, None)
        if old is not None:
            old.stop()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._targets[name] = start(name, self.directory, self._flags)
        await_leader(self._targets[name])

    def _fill(self, target: Target) -> None:
        messages = [
            rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
            for key, value in self._pairs
        ]
        client = Flood("127.0.0.1", target.port, 1)
        try:
            client.run(PUT_PATH, messages, len(messages), 20)
        finally:
            client.close()

    def settings(self) -> Mapping[str, object]:
        return {"keys": self._keys, "bytes": VALUE_BYTES, "ranges": self._calls}

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        for name in names_in_turn(number):
            self._measure(name, found)
        for figure in ("one_mb_s", "many_mb_s", "extra_mb"):
            compare(found, figure, 0.1)
        return found

    def _measure(self, name: str, found: dict[str, float]) -> None:
        self._start(name)
        target = self._targets[name]
        self._read_pages(target)
        before = host.memory_bytes("VmRSS", target.pid)
        host.reset_peak(target.pid)
        first = ask(target.port, RANGE_PATH, range_request())
        self._check(first)
        for figure, together in (("one", 1), ("many", TOGETHER)):
            cpu, own = host.cpu_seconds_of(target.pid), host.cpu_seconds()
            report = ranges(target.port, together, self._calls, first)
            cpu = host.cpu_seconds_of(target.pid) - cpu
            own = host.cpu_seconds() - own
            found[f"{figure}_mb_s_{name}"] = report.rate * len(first) / 1e6
            found[f"{figure}_cpu_ms_{name}"] = cpu / report.calls * 1e3
            found[f"{figure}_reader_cpu_ms_{name}"] = own / report.calls * 1e3
            quantiles(found, figure, name, report)
            peak = host.memory_bytes("VmHWM", target.pid) - before
            # The first peak is that of one range at a time.
            found[f"{'extra' if figure == 'one' else 'many_extra'}_mb_{name}"] = (
                max(0, peak) / 1e6
            )

    def _read_pages(self, target: Target) -> None:
        wire = Wire("127.0.0.1", target.port)
        try:
            start, got = PREFIX, 0
            while start:
                request = rpc_pb2.RangeRequest(
                    key=start, range_end=PREFIX_END, limit=PAGE
                )
                wire.call(RANGE_PATH, request.SerializeToString())
                answer = rpc_pb2.RangeResponse()
                while not wire.ended:
                    for _, message in wire.messages():
                        answer.ParseFromString(message)
                wire.ended.clear()
                got += len(answer.kvs)
                start = answer.kvs[-1].key + b"\0" if answer.more else b""
        finally:
            wire.close()
        if got != self._keys:
            raise LoadError(f"{got} keys are there instead of {self._keys}")

    def _check(self, message: bytes) -> None:
        answer = rpc_pb2.RangeResponse.FromString(message)
        if [(pair.key, pair.value) for pair in answer.kvs] != self._pairs:
            raise LoadError("a range did not bring what was put")
        if answer.count != self._keys or answer.more:
            raise LoadError(f"a range counted {answer.count} keys")

    def rows(self) -> list[Row]:
        what = f"range of {self._keys} keys of 1 KB"
        one, many = f"{what}, one at a time", f"{what}, {TOGETHER} at a time"
        return [
            beside(one, "one_mb_s", "MB/s", low=1.0),
            beside(f"{one}: p50", "one_p50_ms", "ms"),
            beside(f"{one}: p99", "one_p99_ms", "ms"),
            beside(f"{one}: cpu", "one_cpu_ms", "ms"),
            beside(f"{one}: cpu of the reader", "one_reader_cpu_ms", "ms"),
            beside(f"{one}: extra memory at the peak", "extra_mb", "MB", high=1.0),
            beside(many, "many_mb_s", "MB/s", low=1.0),
            beside(f"{many}: p50", "many_p50_ms", "ms"),
            beside(f"{many}: p99", "many_p99_ms", "ms"),
            beside(f"{many}: cpu", "many_cpu_ms", "ms"),
            beside(f"{many}: cpu of the reader", "many_reader_cpu_ms", "ms"),
            beside(f"{many}: extra memory at the peak", "many_extra_mb", "MB"),
        ]

    def close(self) -> None:
        for target in self._targets.values():
            target.stop()


def range_request() -> bytes:
    """All the keys of the case."""
    return rpc_pb2.RangeRequest(key=PREFIX, range_end=PREFIX_END).SerializeToString()


def ranges(port: int, together: int, calls: int, want: bytes) -> LoadReport:
    """Ranges, some at a time, each of which has to bring ``want``.

    What comes is compared piece by piece and not put together, for that would cost
    as much as serving it.
    Raises: LoadError, OSError.
    """
    body = b"\0" + len(want).to_bytes(4, "big") + want
    calls = max(calls, together)
    wires: dict[int, Wire] = {}
    poll = select.epoll()
    latencies: list[float] = []
    try:
        for _ in range(together):
            wire = Wire("127.0.0.1", port)
            wires[wire.fileno()] = wire
            poll.register(wire.fileno(), select.EPOLLIN)
        begin = time.perf_counter()
        started = dict.fromkeys(wires, begin)
        places = dict.fromkeys(wires, 0)
        for wire in wires.values():
            wire.call(RANGE_PATH, range_request())
        made = together
        while len(latencies) < calls:
            ready = poll.poll(TIMEOUT_S)
            if not ready:
                raise LoadError("no answer came in time")
            for descriptor, _ in ready:
                wire = wires[descriptor]
                for piece in wire.receive().values():
                    if not body.startswith(piece, places[descriptor]):
                        raise LoadError("a range brought something else")
                    places[descriptor] += len(piece)
                if not wire.ended:
                    continue
                if places[descriptor] != len(body):
                    raise LoadError("a range brought only a part")
                wire.ended.clear()
                now = time.perf_counter()
                latencies.append((now - started[descriptor]) * 1e6)
                if made < calls:
                    started[descriptor], places[descriptor] = now, 0
                    wire.call(RANGE_PATH, range_request())
                    made += 1
        seconds = time.perf_counter() - begin
    finally:
        poll.close()
        for wire in wires.values():
            wire.close()
    return LoadReport(len(latencies), seconds, sorted(latencies))
