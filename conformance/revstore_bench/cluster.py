"""Three members on this machine, durable.

What a cluster does beside etcd's under many loads is the case "three" of
``revstore_bench.table``; here each transport is put under the same puts, with etcd and
PySyncObj for comparison.

Rules of this file:

1. The load goes to the leader, from one process that costs little; all members and the
   load share the cores of this machine. So each sample starts its cluster, and ends it:
   three idle members are a load for what comes next.
2. PySyncObj runs as a cluster of three with the same number of puts in flight from
   within the leader's process; it keeps nothing on disk, and is named volatile.
3. Fail-over is the time from SIGKILL of the leader to the first put that is accepted,
   by whichever member.
4. Catch-up is the time in which a new member gets a whole store; see ``catchup``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from revstore_bench import catchup
from revstore_bench.cluster_members import (
    ELECTION_MS,
    MEMBERS,
    MemberTarget,
    OneCall,
    ThreeMembers,
    start_etcd,
    start_revstore,
)
from revstore_bench.grpc import Load, flood, requests, watch
from revstore_bench.load import LoadError, LoadReport
from revstore_bench.model import Case, Row, Sample, Scale
from revstore_bench.serving import PUT_PATH, RANGE_PATH, free_port, puts
from revstore_bench.tcp_flood import TcpFlood

TCP_CONNECTIONS = 4
WARM_CALLS = 2000
START_S = 60.0
FAIL_OVERS = 20
CALLS_FOR_ONE = 500
"""A run of fewer calls tries fewer times."""
CATCH_UPS = (("lmdb", "rocksdb"), ("rocksdb", "lmdb"))
PAUSE_S = 0.002


def tcp_load(member: MemberTarget, path: str, scale: Scale, number: int) -> LoadReport:
    """The load over the transport "tcp"."""
    client = TcpFlood("127.0.0.1", member.tcp_port, TCP_CONNECTIONS)
    try:
        messages = requests(path, scale, number)
        return client.run(path, messages, scale.calls, scale.in_flight)
    finally:
        client.close()


def grpc_load(member: MemberTarget, path: str, scale: Scale, number: int) -> LoadReport:
    """The load over gRPC, with deadlines as Go clients send them."""
    return flood(member, Load("grpc", "", path, False, 0.0), scale, number)


class Loaded(msgspec.Struct, frozen=True):
    """A cluster, and the puts that it gets."""

    name: str
    what: str
    start: Callable[[Path], ThreeMembers]
    load: Callable[[MemberTarget, str, Scale, int], LoadReport]
    rate_min: float | None = None


def _starter(*flags: str) -> Callable[[Path], ThreeMembers]:
    return lambda place: start_revstore(place, ("lmdb",) * MEMBERS, flags)


CLUSTERS = (
    Loaded("tcp", "puts through tcp", _starter(), tcp_load, 20_000.0),
    Loaded(
        "grpcio",
        "puts through grpcio",
        _starter("--transport=grpcio"),
        grpc_load,
        4_000.0,
    ),
    Loaded(
        "grpcio_peers",
        "puts through grpcio, members too",
        _starter("--transport=grpcio", "--peer-transport=grpcio"),
        grpc_load,
        4_000.0,
    ),
    Loaded("etcd", "puts, etcd", start_etcd, grpc_load),
)


class PutsCase(Case):
    """A cluster for each transport, and etcd's, one after the other."""

    name = "cluster/puts"

    def __init__(self, scale: Scale, directory: Path) -> None:
        super().__init__(scale, directory)
        installed = shutil.which("etcd") is not None
        self._clusters = [one for one in CLUSTERS if installed or one.name != "etcd"]

    def settings(self) -> Mapping[str, object]:
        return {"backend": "lmdb", "members": MEMBERS}

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        warm = msgspec.structs.replace(
            self.scale, calls=min(WARM_CALLS, self.scale.calls)
        )
        for one in self._clusters:
            with started(one.start, self.directory / f"{one.name}-{number}") as cluster:
                one.load(cluster.leader(), PUT_PATH, warm, 99)
                self._measure(one, cluster, ("put", PUT_PATH), number, found)
                if one.name == "tcp":
                    self._measure(one, cluster, ("get", RANGE_PATH), number, found)
        return found

    def _measure(
        self,
        one: Loaded,
        cluster: ThreeMembers,
        what: tuple[str, str],
        number: int,
        found: dict[str, float],
    ) -> None:
        leader = cluster.leader()
        run = partial(one.load, leader, what[1], self.scale, number)
        watch(run, (*what, one.name), leader, cluster.cpu_seconds, found)

    def rows(self) -> list[Row]:
        rows = []
        for one in self._clusters:
            rows += self._rows("put", one.name, one.what, one.rate_min)
            if one.name == "tcp":
                rows += self._rows("get", "tcp", "linearizable gets through tcp")
        return rows

    def _rows(
        self, name: str, side: str, what: str, rate_min: float | None = None
    ) -> list[Row]:
        title = f"three members: {self.scale.in_flight} {what}"
        return [
            Row(
                name=title,
                unit="calls/s",
                figure=f"{name}_rate_{side}",
                target_min=rate_min,
                durability="SYNC" if name == "put" else "-",
            ),
            Row(name=f"{title}: p50", unit="ms", figure=f"{name}_p50_ms_{side}"),
            Row(name=f"{title}: p99", unit="ms", figure=f"{name}_p99_ms_{side}"),
            Row(
                name=f"{title}: cpu, all members",
                unit="us",
                figure=f"{name}_cpu_us_{side}",
            ),
        ]


@contextmanager
def started(
    start: Callable[[Path], ThreeMembers], place: Path
) -> Iterator[ThreeMembers]:
    """A cluster, ended and forgotten afterwards."""
    cluster = start(place)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(place)


class SyncObjCase(Case):
    """PySyncObj, volatile."""

    name = "cluster/pysyncobj"

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)

    def settings(self) -> Mapping[str, object]:
        return {"durability": "none", "members": MEMBERS}

    def sample(self, number: int) -> Sample:
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(MEMBERS)]
        sizes = [str(self.scale.calls), str(self.scale.in_flight)]
        found = self.directory / "rates"
        with found.open("wb") as out:
            running = [
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "revstore_bench.syncobj_member", own),
                        ",".join(one for one in addresses if one != own),
                        *sizes,
                    ],
                    stdout=out,
                )
                for own in addresses
            ]
        deadline = time.monotonic() + START_S
        try:
            while not found.read_text().startswith("rate"):
                if time.monotonic() > deadline:
                    raise TimeoutError("PySyncObj did not come to an end")
                time.sleep(0.1)
        finally:
            for process in running:
                process.kill()
                process.wait()
        return {"rate": float(found.read_text().split()[1])}

    def rows(self) -> list[Row]:
        name = f"PySyncObj: {self.scale.in_flight} puts in flight"
        return [Row(name=name, unit="calls/s", figure="rate", durability="VOLATILE")]


class FailOverCase(Case):
    """SIGKILL of the leader to the first accepted put."""

    name = "cluster/fail-over"

    def settings(self) -> Mapping[str, object]:
        return {"election_timeout_ms": ELECTION_MS}

    def sample(self, number: int) -> Sample:
        wanted = min(FAIL_OVERS, self.scale.calls // CALLS_FOR_ONE)
        count = max(1, wanted // self.scale.repetitions)
        with started(_starter(), self.directory / f"{number}") as cluster:
            times = sorted(fail_over(cluster) for _ in range(count))
        return {"election_timeouts": times[len(times) // 2] * 1000 / ELECTION_MS}

    def rows(self) -> list[Row]:
        return [
            Row(
                name="fail-over, kill -9 to first accepted put",
                unit="election timeouts",
                figure="election_timeouts",
                target_max=3.0,
                target_of="election_timeouts",
            )
        ]


class CatchUpCase(Case):
    """A member that is added to a full store, from one backend to the other."""

    name = "cluster/catch-up"

    def settings(self) -> Mapping[str, object]:
        return {"value_bytes": catchup.SMALL_VALUE_BYTES, "transport": "tcp"}

    def sample(self, number: int) -> Sample:
        found = {}
        for leader, follower in CATCH_UPS:
            place = self.directory / f"{leader}-{number}"
            place.mkdir(parents=True)
            store = catchup.Store(
                2 * self.scale.keys, catchup.SMALL_VALUE_BYTES, leader, follower
            )
            result = catchup.measure(store, place)
            shutil.rmtree(place)
            found[f"{leader}_rate"] = store.keys / result.seconds
        return found

    def rows(self) -> list[Row]:
        return [
            Row(
                name=f"catch-up by snapshot, {leader} to {follower}",
                unit="keys/s",
                figure=f"{leader}_rate",
                target_min=100_000.0,
                durability="SYNC",
            )
            for leader, follower in CATCH_UPS
        ]


def fail_over(cluster: ThreeMembers) -> float:
    """Kill the leader; seconds until a put is accepted. The member comes back."""
    leader = cluster.leader()
    rest = [member for member in cluster.members if member is not leader]
    message = next(puts(1, 0)())
    channels = [OneCall(member.port) for member in rest]
    leader.kill()
    begin = time.perf_counter()
    try:
        while True:
            for channel in channels:
                try:
                    channel.call(PUT_PATH, message, 0.5)
                    return time.perf_counter() - begin
                except LoadError:
                    time.sleep(PAUSE_S)
    finally:
        for channel in channels:
            channel.close()
        place = cluster.members.index(leader)
        cluster.members[place] = leader.again()


def cases(scale: Scale, directory: Path) -> list[Case]:
    """All of this file."""
    kinds = (PutsCase, SyncObjCase, FailOverCase, CatchUpCase)
    return [kind(scale, directory / kind.name) for kind in kinds]
