"""Many watchers on one prefix while puts come at a fixed pace.

Rules of this file:

1. A stream has a hundred watchers, as those of etcd's own benchmark have. Streams have
   connections of their own and are read by one thread, which looks for the numbers that
   the puts carry and for nothing else; so the server is measured and not the reader.
2. Before the load every watcher is checked: each event of some puts has to come to each
   watcher once, in order. Under load every number has to come on every stream exactly
   as often as it has watchers. Anything else fails the case.
3. The latency of an event counts from when its put was due. The puts come from another
   process and do not wait for the watchers: a server that cannot deliver as fast as it
   is told falls behind, and the latencies show it.
"""

from __future__ import annotations

import re
import select
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from revstore.proto import rpc_pb2
from revstore_bench import host
from revstore_bench.grpc import ask, await_leader, start
from revstore_bench.load import TIMEOUT_S, LoadError
from revstore_bench.model import Case, Row, Sample, Scale
from revstore_bench.pacer import Pacer, due_at, request
from revstore_bench.serving import PUT_PATH, Target
from revstore_bench.sides import SIDES, beside, compare, names_in_turn
from revstore_bench.wire import Wire

WATCH_PATH = "/etcdserverpb.Watch/Watch"
PREFIX, PREFIX_END = b"watched/", b"watched0"
PER_STREAM = 100
CHECKED_PUTS = 3
NUMBER = re.compile(rb"<(\d{8})>")
CARRY_BYTES = 9
"""Less than a number with its brackets has: so none is found twice."""


class Watching(msgspec.Struct, frozen=True):
    """What watchers of one server found."""

    events: int
    seconds: float
    """From the first put to the last event."""
    p50_ms: float
    p99_ms: float
    reader_cpu_s: float


class Reader:
    """The watchers of one server."""

    def __init__(self, port: int, watchers: int) -> None:
        """Returns once they all watch. Raises: LoadError, OSError."""
        count = max(1, watchers // PER_STREAM)
        self.per_stream = watchers // count
        self.watchers = count * self.per_stream
        self._wires: dict[int, Wire] = {}
        self._poll = select.epoll()
        create = rpc_pb2.WatchRequest(
            create_request=rpc_pb2.WatchCreateRequest(key=PREFIX, range_end=PREFIX_END)
        ).SerializeToString()
        try:
            for _ in range(count):
                wire = Wire("127.0.0.1", port)
                self._wires[wire.fileno()] = wire
                self._poll.register(wire.fileno(), select.EPOLLIN)
                stream = wire.open(WATCH_PATH, create)
                wire.send(stream, [create] * (self.per_stream - 1))
            made = 0
            while made < self.watchers:
                for _, message in self._responses():
                    if not message.created or message.canceled:
                        raise LoadError(f"no watcher was made: {message}")
                    made += 1
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connections."""
        self._poll.close()
        for wire in self._wires.values():
            wire.close()

    def _ready(self) -> list[int]:
        ready = self._poll.poll(TIMEOUT_S)
        if not ready:
            raise LoadError("not every event came")
        return [descriptor for descriptor, _ in ready]

    def _responses(self) -> list[tuple[int, rpc_pb2.WatchResponse]]:
        return [
            (descriptor, rpc_pb2.WatchResponse.FromString(message))
            for descriptor in self._ready()
            for _, message in self._wires[descriptor].messages()
        ]

    def check(self, port: int) -> None:
        """Every watcher hears of some puts, once and in order.

        Raises: LoadError, OSError.
        """
        want = [request(PREFIX, number) for number in range(CHECKED_PUTS)]
        for message in want:
            ask(port, PUT_PATH, message)
        heard: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
        left = self.watchers * CHECKED_PUTS
        while left > 0:
            for descriptor, response in self._responses():
                for event in response.events:
                    pair = event.kv
                    put = rpc_pb2.PutRequest(key=pair.key, value=pair.value)
                    one = heard[descriptor, response.watch_id]
                    one.append(put.SerializeToString())
                    left -= 1
        if len(heard) != self.watchers or any(one != want for one in heard.values()):
            raise LoadError("not every watcher heard of each put, once and in order")

    def read(self, start: float, per_second: float, puts: int) -> Watching:
        """Read until every watcher has heard of every put. Raises: LoadError, OSError."""
        counts = {descriptor: Counter[bytes]() for descriptor in self._wires}
        carried = dict.fromkeys(self._wires, b"")
        due = {b"%08d" % one: due_at(start, one, per_second) for one in range(puts)}
        late: list[tuple[float, int]] = []
        left = self.watchers * puts
        cpu = host.cpu_seconds()
        now = start
        while left > 0:
            for descriptor in self._ready():
                bodies = self._wires[descriptor].receive()
                body = carried[descriptor] + b"".join(bodies.values())
                carried[descriptor] = body[-CARRY_BYTES:]
                numbers = Counter(NUMBER.findall(body))
                now = time.monotonic()
                late += [(now - due[one], count) for one, count in numbers.items()]
                counts[descriptor].update(numbers)
                left -= numbers.total()
        cpu = host.cpu_seconds() - cpu
        if any(
            len(one) != puts or set(one.values()) != {self.per_stream}
            for one in counts.values()
        ):
            raise LoadError("an event came twice, and another not at all")
        late.sort()
        return Watching(
            events=self.watchers * puts,
            seconds=now - start,
            p50_ms=1000 * quantile(late, 0.5),
            p99_ms=1000 * quantile(late, 0.99),
            reader_cpu_s=cpu,
        )


def quantile(ordered: Sequence[tuple[float, int]], part: float) -> float:
    """The value that this part of the counts does not exceed."""
    total = sum(count for _, count in ordered)
    before = 0
    for value, count in ordered:
        before += count
        if before > total * part:
            return value
    return ordered[-1][0]


class WatchingCase(Case):
    """One member of each, watched while it is put to."""

    def __init__(
        self,
        scale: Scale,
        directory: Path,
        flags: Sequence[str],
        watchers: int,
        per_second: int,
        puts: int,
        *,
        judged: bool = True,
    ) -> None:
        super().__init__(scale, directory)
        self.name = f"watch/{watchers}"
        self._flags = tuple(flags)
        self._watchers, self._per_second, self._puts = watchers, per_second, puts
        self._judged = judged
        self._targets: dict[str, Target] = {}

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)
        for name in SIDES:
            self._targets[name] = start(name, self.directory, self._flags)
        for target in self._targets.values():
            await_leader(target)

    def settings(self) -> Mapping[str, object]:
        return {"puts": self._puts, "a second": self._per_second}

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        for name in names_in_turn(number):
            self._measure(name, found)
        for figure in ("p50_ms", "p99_ms", "event_rate"):
            compare(found, figure)
        return found

    def _measure(self, name: str, found: dict[str, float]) -> None:
        target = self._targets[name]
        reader = Reader(target.port, self._watchers)
        pacer = None
        try:
            reader.check(target.port)
            pacer = Pacer(target.port, self._per_second, self._puts, PREFIX)
            cpu = host.cpu_seconds_of(target.pid)
            watched = reader.read(pacer.go(), self._per_second, self._puts)
            cpu = host.cpu_seconds_of(target.pid) - cpu
            puts = pacer.report()
        finally:
            reader.close()
            if pacer is not None:
                pacer.stop()
        found[f"p50_ms_{name}"] = watched.p50_ms
        found[f"p99_ms_{name}"] = watched.p99_ms
        found[f"put_p50_ms_{name}"] = puts.quantile(0.5) / 1000
        found[f"put_p99_ms_{name}"] = puts.quantile(0.99) / 1000
        found[f"event_rate_{name}"] = watched.events / watched.seconds
        found[f"cpu_us_{name}"] = cpu / watched.events * 1e6
        found[f"reader_cpu_us_{name}"] = watched.reader_cpu_s / watched.events * 1e6

    def rows(self) -> list[Row]:
        what = f"{self._watchers} watchers, {self._per_second} puts/s"
        high = 1.0 if self._judged else None
        return [
            beside(f"{what}: p99 of an event", "p99_ms", "ms", high=high),
            beside(f"{what}: p50 of an event", "p50_ms", "ms"),
            beside(f"{what}: p99 of a put", "put_p99_ms", "ms"),
            beside(f"{what}: p50 of a put", "put_p50_ms", "ms"),
            beside(f"{what}: delivered, every one", "event_rate", "events/s"),
            beside(f"{what}: cpu of the server", "cpu_us", "us/event"),
            beside(f"{what}: cpu of the reader", "reader_cpu_us", "us/event"),
        ]

    def close(self) -> None:
        for target in self._targets.values():
            target.stop()
