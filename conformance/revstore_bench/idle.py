"""What clients cost that only stay: idle watch streams, and leases kept alive.

Rules of this file:

1. Each sample starts fresh servers and loads them one after the other, so that the
   memory is that of these clients and of nothing before.
2. Each watch is a stream of its own with one watcher on a key of its own. Each
   connection has one stream that keeps its leases alive, as a Go client has; each lease
   is renewed every third of its life, evenly spread over time.
3. Every renewal has to be answered with the lease's full life. In the end puts to some
   of the watched keys have to come to their watchers and to nobody else, and all leases
   have to be there. Anything else fails the case.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from revstore.proto import rpc_pb2
from revstore_bench import host
from revstore_bench.grpc import ask, await_leader, start
from revstore_bench.load import TIMEOUT_S, LoadError
from revstore_bench.model import Case, Row, Sample, Scale
from revstore_bench.serving import PUT_PATH, Target
from revstore_bench.sides import beside, compare, names_in_turn
from revstore_bench.watching import WATCH_PATH
from revstore_bench.wire import Wire

GRANT_PATH = "/etcdserverpb.Lease/LeaseGrant"
KEEP_ALIVE_PATH = "/etcdserverpb.Lease/LeaseKeepAlive"
LEASES_PATH = "/etcdserverpb.Lease/LeaseLeases"
PER_CONNECTION = 100
TTL_S = 30
RENEW_S = TTL_S / 3
PUTS = 50
"""To watched keys, in the end."""
CPU_TICK_S = 0.01
"""What the system can tell of processor time."""


class Size(msgspec.Struct, frozen=True):
    """How many clients stay, and for how long."""

    streams: int
    leases: int
    seconds: float


QUICK_SIZE = Size(streams=1000, leases=1000, seconds=4.0)
STANDARD_SIZE = Size(streams=10_000, leases=10_000, seconds=20.0)


class Stayers:
    """The clients of one server."""

    def __init__(self, port: int, size: Size) -> None:
        """Returns once all watch and have their leases. Raises: LoadError, OSError."""
        self._port, self._size = port, size
        self._wires: list[Wire] = []
        self._poll = select.epoll()
        self._by_descriptor: dict[int, Wire] = {}
        self._keys: dict[tuple[int, int], bytes] = {}
        """The key that a stream of a connection watches."""
        self._renewing: dict[Wire, int] = {}
        self._leases: list[tuple[Wire, int]] = []
        self.renewed = 0
        try:
            count = -(-max(size.streams, size.leases) // PER_CONNECTION)
            for number in range(count):
                self._connect(number, count)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connections."""
        self._poll.close()
        for wire in self._wires:
            wire.close()

    def _connect(self, number: int, count: int) -> None:
        wire = Wire("127.0.0.1", self._port)
        self._wires.append(wire)
        self._poll.register(wire.fileno(), select.EPOLLIN)
        self._by_descriptor[wire.fileno()] = wire
        for place in range(number, self._size.streams, count):
            key = b"idle/%08d" % place
            create = rpc_pb2.WatchCreateRequest(key=key)
            request = rpc_pb2.WatchRequest(create_request=create)
            stream = wire.open(WATCH_PATH, request.SerializeToString())
            self._keys[wire.fileno(), stream] = key
        own = [lease + 1 for lease in range(number, self._size.leases, count)]
        grants = []
        for lease in own:
            grant = rpc_pb2.LeaseGrantRequest(ID=lease, TTL=TTL_S)
            grants.append(wire.call(GRANT_PATH, grant.SerializeToString()))
            self._leases.append((wire, lease))
        made = 0
        while made < len(range(number, self._size.streams, count)) + len(own):
            for stream, message in wire.messages():
                made += 1
                if stream in grants:
                    check_grant(message)
                elif not rpc_pb2.WatchResponse.FromString(message).created:
                    raise LoadError("no watcher was made")
        while len(wire.ended) < len(own):
            wire.receive()
        wire.ended.clear()
        if own:
            self._renewing[wire] = wire.open(KEEP_ALIVE_PATH, renewal(own[0]))
            waiting = {own[0]}
            while waiting:
                self._take([wire], waiting)

    def stay(self) -> None:
        """Keep the leases alive for the time. Raises: LoadError, OSError."""
        begin = time.monotonic()
        pause = RENEW_S / max(1, len(self._leases))
        end = begin + self._size.seconds
        waiting: set[int] = set()
        number = 0
        while (now := time.monotonic()) < end or waiting:
            if now > end + TIMEOUT_S:
                raise LoadError(f"{len(waiting)} leases were not renewed")
            while now < end and begin + number * pause <= now:
                wire, lease = self._leases[number % len(self._leases)]
                wire.send(self._renewing[wire], [renewal(lease)])
                waiting.add(lease)
                number += 1
            # A turn of a hundredth of a second: renewals come in handfuls, and the
            # clients leave the cores to the server.
            time.sleep(0.01)
            ready = self._poll.poll(0)
            self._take([self._by_descriptor[one] for one, _ in ready], waiting)

    def _take(self, wires: Sequence[Wire], waiting: set[int]) -> None:
        """Strike from ``waiting`` what was renewed."""
        for wire in wires:
            for stream, message in wire.messages():
                if stream != self._renewing.get(wire):
                    raise LoadError("something came to an idle watcher")
                answer = rpc_pb2.LeaseKeepAliveResponse.FromString(message)
                if answer.TTL != TTL_S or answer.ID not in waiting:
                    raise LoadError(f"lease {answer.ID} got {answer.TTL} s unasked")
                waiting.remove(answer.ID)
                self.renewed += 1

    def check(self) -> None:
        """See rule 3. Raises: LoadError, OSError."""
        leases = rpc_pb2.LeaseLeasesResponse.FromString(
            ask(self._port, LEASES_PATH, b"")
        ).leases
        if {one.ID for one in leases} != {lease for _, lease in self._leases}:
            raise LoadError(f"{len(leases)} leases are there, others than were granted")
        waiting = dict(list(self._keys.items())[:: max(1, len(self._keys) // PUTS)])
        for key in waiting.values():
            put = rpc_pb2.PutRequest(key=key, value=b"awake")
            ask(self._port, PUT_PATH, put.SerializeToString())
        while waiting:
            ready = self._poll.poll(TIMEOUT_S)
            if not ready:
                raise LoadError("an idle watcher did not hear of its key")
            for descriptor, _ in ready:
                for stream, message in self._by_descriptor[descriptor].messages():
                    events = rpc_pb2.WatchResponse.FromString(message).events
                    key = waiting.pop((descriptor, stream), b"")
                    if [event.kv.key for event in events] != [key]:
                        raise LoadError("an idle watcher heard of another key")


def check_grant(message: bytes) -> None:
    """Insist that a lease was granted as asked for. Raises: LoadError."""
    answer = rpc_pb2.LeaseGrantResponse.FromString(message)
    if answer.TTL != TTL_S or answer.error:
        raise LoadError(f"no lease was granted: {answer.error}")


def renewal(lease: int) -> bytes:
    """The request to renew a lease."""
    return rpc_pb2.LeaseKeepAliveRequest(ID=lease).SerializeToString()


class IdleCase(Case):
    """One member of each with clients that only stay."""

    name = "idle"

    def __init__(
        self, scale: Scale, directory: Path, flags: Sequence[str], size: Size
    ) -> None:
        super().__init__(scale, directory)
        self._flags = tuple(flags)
        self._size = size

    def settings(self) -> Mapping[str, object]:
        size, renewals = self._size, f"every {RENEW_S:g} s"
        return {"seconds": size.seconds, "life of a lease": TTL_S, "renewed": renewals}

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        for name in names_in_turn(number):
            place = self.directory / f"{number}-{name}"
            place.mkdir(parents=True)
            target = start(name, place, self._flags)
            try:
                self._measure(name, target, found)
            finally:
                target.stop()
        compare(found, "rss_mb")
        compare(found, "cpu_s", CPU_TICK_S)
        return found

    def _measure(self, name: str, target: Target, found: dict[str, float]) -> None:
        await_leader(target)
        empty = host.memory_bytes("VmRSS", target.pid)
        stayers = Stayers(target.port, self._size)
        try:
            before = stayers.renewed
            cpu = host.cpu_seconds_of(target.pid)
            stayers.stay()
            found[f"cpu_s_{name}"] = host.cpu_seconds_of(target.pid) - cpu
            rss = host.memory_bytes("VmRSS", target.pid)
            found[f"rss_mb_{name}"] = rss / 1e6
            found[f"more_mb_{name}"] = (rss - empty) / 1e6
            anonymous = host.memory_bytes("RssAnon", target.pid)
            found[f"anonymous_mb_{name}"] = anonymous / 1e6
            renewed = stayers.renewed - before
            found[f"renewal_rate_{name}"] = renewed / self._size.seconds
            stayers.check()
        finally:
            stayers.close()

    def rows(self) -> list[Row]:
        size = self._size
        what = f"{size.streams} idle watch streams, {size.leases} leases kept alive"
        return [
            beside(f"{what}: memory (VmRSS)", "rss_mb", "MB", high=1.0),
            beside("  of it anonymous (RssAnon)", "anonymous_mb", "MB"),
            beside("  of it for these clients", "more_mb", "MB"),
            beside(f"{what}: cpu in {size.seconds:g} s", "cpu_s", "s", high=1.5),
            beside("  renewals", "renewal_rate", "/s"),
        ]
