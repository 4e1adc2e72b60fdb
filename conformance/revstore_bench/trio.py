"""Three members on this machine beside three of etcd, through gRPC alone.

Rules of this file:

1. Both clusters run at once, only one is loaded at a time, and they take turns in going
   first. All members and the load share the cores of this machine.
2. A member is asked for its role before each load, since leadership may move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from revstore_bench.cluster_members import (
    MEMBERS,
    MemberTarget,
    ThreeMembers,
    start_etcd,
    start_revstore,
)
from revstore_bench.grpc import Load, fill, flood, revision_of
from revstore_bench.load import LoadError
from revstore_bench.model import Case, Row, Sample, Scale
from revstore_bench.serving import PUT_PATH, RANGE_PATH
from revstore_bench.sides import beside, compare, names_in_turn, quantiles

LOADS = (
    Load("leader_put", "puts, leader", PUT_PATH, False, 1.0),
    Load("leader_get", "linearizable gets, leader", RANGE_PATH, False, 4.0),
    Load("follower_get", "linearizable gets, follower", RANGE_PATH, False, 2.0),
)


class TrioCase(Case):
    """A cluster of each, under all loads in turn."""

    name = "three"

    def __init__(self, scale: Scale, directory: Path, flags: Sequence[str]) -> None:
        super().__init__(scale, directory)
        self._flags = tuple(flags)
        self._clusters: dict[str, ThreeMembers] = {}

    def prepare(self) -> None:
        self._clusters["revstore"] = start_revstore(
            self.directory / "revstore", ("lmdb",) * MEMBERS, self._flags
        )
        self._clusters["etcd"] = start_etcd(self.directory / "etcd")
        for cluster in self._clusters.values():
            fill(cluster.leader(), self.scale)

    def settings(self) -> Mapping[str, object]:
        return {"members": MEMBERS, "backend": "lmdb", "flags": " ".join(self._flags)}

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        for load in LOADS:
            for name in names_in_turn(number):
                self._measure(load, name, number, found)
            compare(found, f"{load.name}_rate")
        return found

    def _measure(
        self, load: Load, name: str, number: int, found: dict[str, float]
    ) -> None:
        cluster = self._clusters[name]
        target = leader = cluster.leader()
        if load.name.startswith("follower"):
            target = follower_of(cluster, leader)
        before, cpu = revision_of(target), cluster.cpu_seconds()
        report = flood(target, load, self.scale, number)
        cpu = cluster.cpu_seconds() - cpu
        grown = revision_of(target) - before
        if grown != (report.calls if load.path == PUT_PATH else 0):
            raise LoadError(f"{name}: {report.calls} calls made {grown} revisions")
        found[f"{load.name}_rate_{name}"] = report.rate
        found[f"{load.name}_cpu_us_{name}"] = cpu / report.calls * 1e6
        quantiles(found, load.name, name, report)

    def rows(self) -> list[Row]:
        rows = []
        for load in LOADS:
            what = f"three members: {self.scale.in_flight} {load.what}"
            rows.append(
                beside(
                    what,
                    f"{load.name}_rate",
                    "calls/s",
                    low=load.ratio_min,
                    durability="SYNC" if load.path == PUT_PATH else "-",
                )
            )
            rows += [
                beside(f"{what}: p50", f"{load.name}_p50_ms", "ms"),
                beside(f"{what}: p99", f"{load.name}_p99_ms", "ms"),
                beside(f"{what}: cpu, all members", f"{load.name}_cpu_us", "us"),
            ]
        return rows

    def close(self) -> None:
        for cluster in self._clusters.values():
            cluster.stop()


def follower_of(cluster: ThreeMembers, leader: MemberTarget) -> MemberTarget:
    """A member that does not lead."""
    return next(member for member in cluster.members if member is not leader)
