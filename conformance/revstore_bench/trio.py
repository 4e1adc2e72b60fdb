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
    ThreeMembers,
    start_etcd,
    start_revstore,
)
from revstore_bench.grpc import Load, fill, measure, rows_of
from revstore_bench.model import Case, Row, Sample, Scale
from revstore_bench.serving import PUT_PATH, RANGE_PATH
from revstore_bench.sides import compare, names_in_turn

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
                cluster = self._clusters[name]
                target = leader = cluster.leader()
                if load.name.startswith("follower"):
                    target = cluster.follower_of(leader)
                measure(
                    load, name, target, cluster.cpu_seconds, self.scale, number, found
                )
            compare(found, f"{load.name}_rate")
        return found

    def rows(self) -> list[Row]:
        rows = []
        for load in LOADS:
            what = f"three members: {self.scale.in_flight} {load.what}"
            rows += rows_of(load, what, "cpu, all members")
        return rows

    def close(self) -> None:
        for cluster in self._clusters.values():
            cluster.stop()
