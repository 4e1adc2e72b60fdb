"""``python -m revstore_bench.grpc``: gRPC calls beside etcd, as Go clients make them.

Rules of this file:

1. Both servers run at once, as ``revstore serve`` and ``etcd`` with their defaults, both
   durable; only one is loaded at a time, and they take turns in going first.
2. A target is for the ratio to etcd within one sample; the median of the ratios counts.
3. Every load has keys of its own order, and the store's revision is counted after it:
   it must have grown by the number of puts, and by nothing under gets.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import msgspec

from revstore.proto import rpc_pb2
from revstore_bench import host
from revstore_bench.flood import Flood
from revstore_bench.load import LoadError, LoadReport
from revstore_bench.model import (
    KEY_BYTES,
    QUICK,
    SEED,
    STANDARD,
    VALUE_BYTES,
    Case,
    Row,
    Sample,
    Scale,
)
from revstore_bench.report import publish
from revstore_bench.run import run, say
from revstore_bench.secure import Certificate, make_certificate
from revstore_bench.serving import (
    PUT_PATH,
    RANGE_PATH,
    START_TIMEOUT_S,
    Target,
    etcd_version,
    free_port,
    start_etcd,
)
from revstore_bench.sides import SIDES, beside, compare, names_in_turn, quantiles
from revstore_bench.wire import Wire
from revstore_bench.workload import make_key, make_value

CONNECTIONS = 50
MESSAGES = 20_000
"""Different requests that a load goes through in a circle."""
POLL_S = 0.05
PAIR_BYTES = KEY_BYTES + VALUE_BYTES
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
    tls: bool = False


LOADS = (
    Load("put", "puts in flight, random keys", PUT_PATH, False, 1.2),
    Load("get", "linearizable gets in flight", RANGE_PATH, False, 5.0),
    Load("put_one", "puts, one at a time", PUT_PATH, True, 1.1),
    Load("get_one", "linearizable gets, one at a time", RANGE_PATH, True, 2.0),
)


TLS_LOADS = (Load("tls_put", "puts in flight over TLS", PUT_PATH, False, 1.0, True),)


class GrpcCase(Case):
    """One member of each, under all loads in turn."""

    def __init__(
        self,
        scale: Scale,
        directory: Path,
        flags: Sequence[str] = (),
        name: str = "grpc",
        loads: Sequence[Load] = LOADS,
    ) -> None:
        """Either all loads speak TLS, or none does."""
        super().__init__(scale, directory)
        self.name = name
        self._flags = tuple(flags)
        self._loads = tuple(loads)
        self._targets: dict[str, Target] = {}
        self._context: ssl.SSLContext | None = None
        self._cipher: dict[str, str] = {}

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)
        shown = None
        if any(load.tls for load in self._loads):
            shown = make_certificate(self.directory)
            self._context = shown.client_context()
        for name in SIDES:
            self._targets[name] = start(name, self.directory, self._flags, shown)
        for name, target in self._targets.items():
            self._cipher[name] = await_leader(target, self._context)
            fill(target, self.scale, self._context)

    def settings(self) -> Mapping[str, object]:
        found = {"etcd": etcd_version(), "flags": " ".join(self._flags)}
        return found | {f"TLS, {k}": v for k, v in self._cipher.items() if v}

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        for load in self._loads:
            for name in names_in_turn(number):
                target = self._targets[name]
                cpu = partial(host.cpu_seconds_of, target.pid)
                context = self._context
                measure(load, name, target, cpu, self.scale, number, found, context)
            compare(found, f"{load.name}_rate")
        return found

    def rows(self) -> list[Row]:
        rows = []
        for load in self._loads:
            flight = "" if load.single else f"{self.scale.in_flight} "
            rows += rows_of(load, f"{self.name}: {flight}{load.what}", "cpu")
        return rows

    def close(self) -> None:
        for target in self._targets.values():
            target.stop()


def flood(
    target: Target,
    load: Load,
    scale: Scale,
    number: int,
    context: ssl.SSLContext | None = None,
) -> LoadReport:
    """Put one server under one load."""
    calls = scale.calls // SINGLES_SHARE if load.single else scale.calls
    flight = 1 if load.single else scale.in_flight
    connections = min(flight, CONNECTIONS)
    client = Flood("127.0.0.1", target.port, connections, context)
    try:
        messages = requests(load.path, scale, number)
        report = client.run(load.path, messages, calls, flight)
    finally:
        client.close()
    if load.path == RANGE_PATH and client.body_bytes < report.calls * PAIR_BYTES:
        raise LoadError("gets of keys that are there brought no values")
    return report


def measure(
    load: Load,
    side: str,
    target: Target,
    cpu_seconds: Callable[[], float],
    scale: Scale,
    number: int,
    found: dict[str, float],
    context: ssl.SSLContext | None = None,
) -> None:
    """Add the figures of one load of one side; ``cpu_seconds`` is that of its servers.

    Raises: LoadError, OSError.
    """
    run = partial(flood, target, load, scale, number, context)
    watch(run, (load.name, load.path, side), target, cpu_seconds, found, context)


def watch(
    run: Callable[[], LoadReport],
    what: tuple[str, str, str],
    target: Target,
    cpu_seconds: Callable[[], float],
    found: dict[str, float],
    context: ssl.SSLContext | None = None,
) -> None:
    """Run a load and add its figures; ``what`` is its name, its path and the side.

    Raises:
        LoadError: the store's revision did not grow by the puts, or grew without any.
        OSError: a connection failed.
    """
    name, path, side = what
    before, cpu = revision_of(target, context), cpu_seconds()
    report = run()
    cpu = cpu_seconds() - cpu
    grown = revision_of(target, context) - before
    if grown != (report.calls if path == PUT_PATH else 0):
        raise LoadError(f"{side}: {report.calls} calls made {grown} revisions")
    found[f"{name}_rate_{side}"] = report.rate
    found[f"{name}_cpu_us_{side}"] = cpu / report.calls * 1e6
    quantiles(found, name, side, report)


def rows_of(load: Load, what: str, cpu: str) -> list[Row]:
    """The rows of what ``measure`` adds; ``cpu`` says whose processor time it is."""
    durability = "SYNC" if load.path == PUT_PATH else "-"
    return [
        beside(
            what,
            f"{load.name}_rate",
            "calls/s",
            low=load.ratio_min,
            durability=durability,
        ),
        beside(f"{what}: p50", f"{load.name}_p50_ms", "ms"),
        beside(f"{what}: p99", f"{load.name}_p99_ms", "ms"),
        beside(f"{what}: {cpu}", f"{load.name}_cpu_us", "us"),
    ]


def requests(path: str, scale: Scale, number: int) -> list[bytes]:
    """Requests of random keys, all of one length."""
    random, value = Random(SEED + number), make_value()
    keys = [make_key(random.randrange(scale.keys)) for _ in range(MESSAGES)]
    if path == PUT_PATH:
        made = [rpc_pb2.PutRequest(key=key, value=value) for key in keys]
        return [one.SerializeToString() for one in made]
    return [rpc_pb2.RangeRequest(key=key).SerializeToString() for key in keys]


def fill(target: Target, scale: Scale, context: ssl.SSLContext | None = None) -> None:
    """Put every key once, in an order that is no order."""
    numbers = list(range(scale.keys))
    Random(SEED).shuffle(numbers)
    value = make_value()
    messages = [
        rpc_pb2.PutRequest(key=make_key(one), value=value).SerializeToString()
        for one in numbers
    ]
    connections = min(scale.in_flight, CONNECTIONS)
    client = Flood("127.0.0.1", target.port, connections, context)
    try:
        client.run(PUT_PATH, messages, len(messages), scale.in_flight)
    finally:
        client.close()


def ask(
    port: int, path: str, message: bytes, context: ssl.SSLContext | None = None
) -> bytes:
    """The answer to one call on a connection of its own. Raises: LoadError, OSError."""
    wire = Wire("127.0.0.1", port, context)
    try:
        wire.call(path, message)
        found: list[bytes] = []
        while not wire.ended:
            found += [answer for _, answer in wire.messages()]
        return found[0]
    finally:
        wire.close()


def revision_of(target: Target, context: ssl.SSLContext | None = None) -> int:
    """The store's revision. Raises: LoadError, OSError."""
    request = rpc_pb2.RangeRequest(key=b"\0", count_only=True).SerializeToString()
    answer = ask(target.port, RANGE_PATH, request, context)
    return rpc_pb2.RangeResponse.FromString(answer).header.revision


def await_leader(target: Target, context: ssl.SSLContext | None = None) -> str:
    """Return once a put succeeds; what TLS agreed on, in words.

    A fresh etcd refuses until it has elected itself.
    Raises: LoadError, OSError: it did not come to it in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    message = rpc_pb2.PutRequest(key=b"first").SerializeToString()
    while True:
        try:
            client = Flood("127.0.0.1", target.port, 1, context)
            try:
                client.run(PUT_PATH, [message], 1, 1)
                return client.cipher
            finally:
                client.close()
        except (LoadError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def start(
    side: str,
    directory: Path,
    flags: Sequence[str],
    shown: Certificate | None = None,
) -> Target:
    """The only member of one of ``SIDES``; with a certificate it speaks TLS."""
    if side == "etcd":
        return start_etcd(directory, shown)
    return start_revstore(directory, flags, shown)


def start_revstore(
    directory: Path, flags: Sequence[str], shown: Certificate | None = None
) -> Target:
    """A member of one, as an operator starts it; with a certificate it speaks TLS."""
    port, peer = free_port(), free_port()
    url = f"{'https' if shown else 'http'}://127.0.0.1:{port}"
    arguments = [str(Path(sys.executable).with_name("revstore")), "serve"]
    arguments += [f"--data-dir={directory / 'revstore'}"]
    arguments += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    arguments += [f"--listen-peer-urls=http://127.0.0.1:{peer}"]
    if shown is not None:
        arguments += [f"--cert-file={shown.certificate}", f"--key-file={shown.key}"]
    return Target([*arguments, *flags], port, directory / "revstore.log")


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
        report = run([case], scale, directory, say)
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
