"""``python -m revstore_bench.grpc``: gRPC calls beside etcd, as Go clients make them.

Rules of this file:

1. Both servers run at once, as ``revstore serve`` and ``etcd`` with their defaults, both
   durable; only one is loaded at a time, and they take turns in going first.
2. A target is for the ratio to etcd within one sample; the median of the ratios counts.
3. Every load has keys of its own order, and the store's revision is counted after it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import msgspec

from revstore.proto import rpc_pb2
from revstore_bench import host
from revstore_bench.flood import Flood
from revstore_bench.load import LoadReport
from revstore_bench.model import QUICK, SEED, STANDARD, Case, Row, Sample, Scale
from revstore_bench.report import render
from revstore_bench.run import run
from revstore_bench.serving import (
    PUT_PATH,
    RANGE_PATH,
    Target,
    free_port,
    wait_until_leads,
)
from revstore_bench.workload import make_key, make_value

CONNECTIONS = 50
MESSAGES = 20_000
"""Different requests that a load goes through in a circle."""
SINGLES_SHARE = 15
"""One call at a time takes so many times longer that so many fewer are made."""


class Load(msgspec.Struct, frozen=True):
    """One kind of load."""

    name: str
    what: str
    path: str
    single: bool
    """One call at a time on one connection, or 1000 on many."""
    ratio_min: float


LOADS = (
    Load("put", "puts in flight, random keys", PUT_PATH, False, 1.2),
    Load("get", "linearizable gets in flight", RANGE_PATH, False, 5.0),
    Load("put_one", "puts, one at a time", PUT_PATH, True, 1.1),
    Load("get_one", "linearizable gets, one at a time", RANGE_PATH, True, 2.0),
)


class GrpcCase(Case):
    """One member of each, under all loads in turn."""

    def __init__(
        self,
        scale: Scale,
        directory: Path,
        flags: Sequence[str] = (),
        name: str = "grpc",
    ) -> None:
        super().__init__(scale, directory)
        self.name = name
        self._flags = tuple(flags)
        self._targets: dict[str, Target] = {}

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)
        self._targets["revstore"] = start_revstore(self.directory, self._flags)
        self._targets["etcd"] = start_etcd(self.directory)
        for target in self._targets.values():
            wait_until_leads(target.port)
            fill(target, self.scale)

    def settings(self) -> Mapping[str, object]:
        text = subprocess.run(
            ["etcd", "--version"], capture_output=True, text=True, check=True
        ).stdout
        return {"etcd": text.splitlines()[0], "flags": " ".join(self._flags)}

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        names = ["etcd", "revstore"] if number % 2 else ["revstore", "etcd"]
        for load in LOADS:
            for name in names:
                self._measure(load, name, number, found)
            rates = [found[f"{load.name}_{name}_rate"] for name in names]
            ours, theirs = rates if names[0] == "revstore" else reversed(rates)
            found[f"{load.name}_ratio"] = ours / theirs
        return found

    def _measure(
        self, load: Load, name: str, number: int, found: dict[str, float]
    ) -> None:
        target = self._targets[name]
        cpu = host.cpu_seconds_of(target.pid)
        report = flood(target, load, self.scale, number)
        cpu = host.cpu_seconds_of(target.pid) - cpu
        prefix = f"{load.name}_{name}"
        found[f"{prefix}_rate"] = report.rate
        found[f"{prefix}_cpu_us"] = cpu / report.calls * 1e6
        found[f"{prefix}_p50_ms"] = report.quantile(0.5) / 1000
        found[f"{prefix}_p99_ms"] = report.quantile(0.99) / 1000

    def rows(self) -> list[Row]:
        rows = []
        for load in LOADS:
            flight = "" if load.single else f"{self.scale.in_flight} "
            name = f"{self.name}: {flight}{load.what}"
            rows.append(
                Row(
                    name=name,
                    unit="calls/s",
                    figure=f"{load.name}_revstore_rate",
                    beside=f"{load.name}_etcd_rate",
                    beside_name="etcd",
                    target_min=load.ratio_min,
                    target_of=f"{load.name}_ratio",
                    durability="SYNC" if load.path == PUT_PATH else "-",
                )
            )
            for figure, unit in (("p50", "ms"), ("p99", "ms"), ("cpu", "us")):
                rows.append(
                    Row(
                        name=f"{name}: {figure}",
                        unit=unit,
                        figure=f"{load.name}_revstore_{figure}_{unit}",
                        beside=f"{load.name}_etcd_{figure}_{unit}",
                        beside_name="etcd",
                    )
                )
        return rows

    def close(self) -> None:
        for target in self._targets.values():
            target.stop()


def flood(target: Target, load: Load, scale: Scale, number: int) -> LoadReport:
    """Put one server under one load."""
    calls = scale.calls // SINGLES_SHARE if load.single else scale.calls
    flight = 1 if load.single else scale.in_flight
    client = Flood("127.0.0.1", target.port, 1 if load.single else CONNECTIONS)
    try:
        return client.run(load.path, requests(load.path, scale, number), calls, flight)
    finally:
        client.close()


def requests(path: str, scale: Scale, number: int) -> list[bytes]:
    """Requests of random keys, all of one length."""
    random, value = Random(SEED + number), make_value()
    keys = [make_key(random.randrange(scale.keys)) for _ in range(MESSAGES)]
    if path == PUT_PATH:
        made = [rpc_pb2.PutRequest(key=key, value=value) for key in keys]
        return [one.SerializeToString() for one in made]
    return [rpc_pb2.RangeRequest(key=key).SerializeToString() for key in keys]


def fill(target: Target, scale: Scale) -> None:
    """Put every key once, in an order that is no order."""
    numbers = list(range(scale.keys))
    Random(SEED).shuffle(numbers)
    value = make_value()
    messages = [
        rpc_pb2.PutRequest(key=make_key(one), value=value).SerializeToString()
        for one in numbers
    ]
    client = Flood("127.0.0.1", target.port, CONNECTIONS)
    try:
        client.run(PUT_PATH, messages, len(messages), scale.in_flight)
    finally:
        client.close()


def start_revstore(directory: Path, flags: Sequence[str]) -> Target:
    """A member of one, as an operator starts it."""
    port, peer = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = [str(Path(sys.executable).with_name("revstore")), "serve"]
    arguments += [f"--data-dir={directory / 'revstore'}"]
    arguments += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    arguments += [f"--listen-peer-urls=http://127.0.0.1:{peer}"]
    return Target([*arguments, *flags], port, directory / "revstore.log")


def start_etcd(directory: Path) -> Target:
    """An etcd of one, with its defaults."""
    port, peer = free_port(), free_port()
    url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    arguments = ["etcd", "--data-dir", str(directory / "etcd"), "--log-level", "error"]
    arguments += ["--listen-client-urls", url, "--advertise-client-urls", url]
    arguments += ["--listen-peer-urls", peer_url]
    arguments += ["--initial-advertise-peer-urls", peer_url]
    arguments += ["--initial-cluster", f"default={peer_url}"]
    return Target(arguments, port, directory / "etcd.log")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; 0 even where a target does not hold."""
    parser = argparse.ArgumentParser(prog="revstore_bench.grpc", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one rough repetition")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--directory", type=Path, help="where data goes meanwhile")
    parser.add_argument("--transport", default="grpc")
    parser.add_argument("--consensus", default="raft")
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else STANDARD
    flags = [f"--transport={options.transport}", f"--consensus={options.consensus}"]
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-") as path:
        directory = Path(path)
        case = GrpcCase(scale, directory / "grpc", flags, options.transport)
        report = run([case], scale, directory, _say)
    sys.stdout.write(render(report))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
