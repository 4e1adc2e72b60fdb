"""``python -m revstore_bench.cluster``: three members on this machine, durable.

What a cluster does beside etcd's is the case "three" of ``revstore_bench.table``; here
are the loads that etcd cannot be given, and PySyncObj.

Rules of this file:

1. The load goes to the leader, from one process that costs little; all members and the
   load share the cores of this machine.
2. PySyncObj runs as a cluster of three with the same number of puts in flight from
   within the leader's process; it keeps nothing on disk, and is named volatile.
3. Fail-over is the time from SIGKILL of the leader to the first put that is accepted,
   by whichever member.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from revstore_bench.cluster_members import (
    ELECTION_MS,
    MEMBERS,
    MemberTarget,
    OneCall,
    ThreeMembers,
    start_revstore,
)
from revstore_bench.grpc import Load, flood, requests
from revstore_bench.load import LoadError, LoadReport
from revstore_bench.model import QUICK, STANDARD, Case, Row, Sample, Scale
from revstore_bench.report import publish
from revstore_bench.run import run, say
from revstore_bench.serving import PUT_PATH, RANGE_PATH, free_port, puts
from revstore_bench.tcp_flood import TcpFlood

TCP_CONNECTIONS = 4
START_S = 60.0
FAIL_OVERS = 20
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


CLUSTERS: Mapping[str, tuple[str, ...]] = {
    "tcp": (),
    "grpcio": ("--transport=grpcio",),
    "grpcio_peers": ("--transport=grpcio", "--peer-transport=grpcio"),
}
"""The flags of each cluster's members; the default for both is what costs least."""
LOAD_BY = {"tcp": tcp_load, "grpcio": grpc_load, "grpcio_peers": grpc_load}
"""How each is loaded."""


class ClusterCase(Case):
    """A cluster for each transport, one loaded at a time."""

    name = "cluster"

    def __init__(self, scale: Scale, directory: Path, flags: Sequence[str]) -> None:
        super().__init__(scale, directory)
        self._flags = tuple(flags)
        self._clusters: dict[str, ThreeMembers] = {}

    def prepare(self) -> None:
        for name, flags in CLUSTERS.items():
            self._clusters[name] = start_revstore(
                self.directory / name, ("lmdb",) * MEMBERS, [*self._flags, *flags]
            )
        warm = msgspec.structs.replace(self.scale, calls=2000)
        for name, load in LOAD_BY.items():
            load(self._clusters[name].leader(), PUT_PATH, warm, 99)

    def settings(self) -> Mapping[str, object]:
        return {"backend": "lmdb", "flags": " ".join(self._flags), "members": MEMBERS}

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        for figure, name, path in (
            ("tcp_put", "tcp", PUT_PATH),
            ("tcp_get", "tcp", RANGE_PATH),
            ("grpcio_put", "grpcio", PUT_PATH),
            ("grpcio_peers_put", "grpcio_peers", PUT_PATH),
        ):
            cluster = self._clusters[name]
            leader, cpu = cluster.leader(), cluster.cpu_seconds()
            report = LOAD_BY[name](leader, path, self.scale, number)
            cpu = cluster.cpu_seconds() - cpu
            found[f"{figure}_rate"] = report.rate
            found[f"{figure}_cpu_us"] = cpu / report.calls * 1e6
            found[f"{figure}_p50_ms"] = report.quantile(0.5) / 1000
            found[f"{figure}_p99_ms"] = report.quantile(0.99) / 1000
        return found

    def rows(self) -> list[Row]:
        rows = []
        for name, what, low in (
            ("tcp_put", "puts through tcp", 20_000.0),
            ("grpcio_put", "puts through grpcio", 4_000.0),
            ("grpcio_peers_put", "puts through grpcio, members too", 4_000.0),
            ("tcp_get", "linearizable gets through tcp, leader", None),
        ):
            title = f"three members: {self.scale.in_flight} {what}"
            durability = "-" if name == "tcp_get" else "SYNC"
            rows += [
                Row(
                    name=title,
                    unit="calls/s",
                    figure=f"{name}_rate",
                    target_min=low,
                    durability=durability,
                ),
                Row(name=f"{title}: p50", unit="ms", figure=f"{name}_p50_ms"),
                Row(name=f"{title}: p99", unit="ms", figure=f"{name}_p99_ms"),
                Row(
                    name=f"{title}: cpu, all members",
                    unit="us",
                    figure=f"{name}_cpu_us",
                ),
            ]
        return rows

    def close(self) -> None:
        for cluster in self._clusters.values():
            cluster.stop()


class SyncObjCase(Case):
    """PySyncObj, volatile."""

    name = "pysyncobj"

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

    def close(self) -> None:
        """Nothing runs between samples."""


class FailOverCase(Case):
    """SIGKILL of the leader to the first accepted put."""

    name = "fail-over"

    def __init__(self, scale: Scale, directory: Path) -> None:
        super().__init__(scale, directory)
        self._cluster: ThreeMembers | None = None

    def prepare(self) -> None:
        self._cluster = start_revstore(self.directory, ("lmdb",) * MEMBERS, ())

    def settings(self) -> Mapping[str, object]:
        return {"election_timeout_ms": ELECTION_MS}

    def sample(self, number: int) -> Sample:
        assert self._cluster is not None
        count = max(1, FAIL_OVERS // self.scale.repetitions)
        times = sorted(fail_over(self._cluster) for _ in range(count))
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

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases; 0 even where a target does not hold."""
    parser = argparse.ArgumentParser(prog="revstore_bench.cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="rough")
    parser.add_argument("--only", default="", help="only cases whose name has this")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument(
        "--flag", action="append", default=[], help="for revstore serve"
    )
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else STANDARD
    with tempfile.TemporaryDirectory(prefix="bench-") as path:
        directory = Path(path)
        cases: list[Case] = [
            ClusterCase(scale, directory / "cluster", options.flag),
            SyncObjCase(scale, directory / "syncobj"),
            FailOverCase(scale, directory / "fail-over"),
        ]
        chosen = [case for case in cases if options.only in case.name]
        report = run(chosen, scale, directory, say)
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
