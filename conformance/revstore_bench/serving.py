"""A server under load, beside empty calls of the same server and beside etcd.

Rules of this file:

1. The server is a process of its own. The load (``load``) costs a fraction of
   what the server does, so the server is what is measured.
2. Empty calls go to the very same process: an extra method of its table that answers
   at once. They show what the transport alone allows.
3. A sample visits empty calls, puts and gets in turn. Every put is counted again by
   the store's revision.
4. etcd runs with its defaults and the same load, for information.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random

from revstore.proto import rpc_pb2
from revstore_bench import host
from revstore_bench.load import LoadClient, LoadReport
from revstore_bench.model import SEED, Case, Row, Sample, Scale
from revstore_bench.secure import Certificate
from revstore_bench.workload import make_key, make_value

EMPTY_PATH = "/revstore.bench.Empty/Call"
PUT_PATH = "/etcdserverpb.KV/Put"
RANGE_PATH = "/etcdserverpb.KV/Range"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
SHARE_MIN = 0.6

Messages = Callable[[], Iterator[bytes]]


class Target:
    """A server in a process of its own."""

    def __init__(
        self, arguments: list[str], port: int, log: Path, *, wait: bool = True
    ) -> None:
        """Without ``wait`` it is only started: see ``await_up``."""
        self.port = port
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(arguments, stdout=out, stderr=out)
        if wait:
            self.await_up()

    def await_up(self) -> None:
        """Return once it takes connections. Raises: RuntimeError."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                text = self.log.read_text()[-2000:]
                raise RuntimeError(f"no server came up: {text}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def load(
        self, path: str, messages: Messages, calls: int, flight: int
    ) -> LoadReport:
        """Put it under a load from this process.

        Raises:
            LoadError, OSError: an answer was wrong, or the connection failed.
        """
        client = LoadClient("127.0.0.1", self.port, path)
        try:
            return client.run(messages, calls, flight)
        finally:
            client.close()

    def stop(self) -> None:
        """End it as a supervisor does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ServingCase(Case):
    """One backend behind the transport "grpcio"."""

    def __init__(self, backend: str, scale: Scale, directory: Path) -> None:
        super().__init__(scale, directory)
        self.backend = backend
        self.name = f"serve/{backend}"
        self._target: Target | None = None

    @property
    def target(self) -> Target:
        """The server, once it is prepared."""
        assert self._target is not None
        return self._target

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)
        port = free_port()
        arguments = [sys.executable, "-m", "revstore_bench.server", self.backend]
        arguments += [str(self.directory / "data"), str(port)]
        self._target = Target(arguments, port, self.directory / "log")
        self._load("warm", PUT_PATH, puts(self.scale.keys, 0), {})

    def _load(
        self, name: str, path: str, messages: Messages, found: dict[str, float]
    ) -> None:
        calls = self.scale.calls
        cpu = host.cpu_seconds_of(self.target.pid)
        report = self.target.load(path, messages, calls, self.scale.in_flight)
        cpu = host.cpu_seconds_of(self.target.pid) - cpu
        found[f"{name}_rate"] = report.rate
        found[f"{name}_cpu_us"] = cpu / calls * 1e6
        found[f"{name}_p50_ms"] = report.quantile(0.5) / 1000
        found[f"{name}_p99_ms"] = report.quantile(0.99) / 1000

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        keys = self.scale.keys
        self._load("empty", EMPTY_PATH, empties, found)
        self._load("put", PUT_PATH, puts(keys, number + 1), found)
        self._load("get", RANGE_PATH, gets(keys, number + 1), found)
        self._load("again", EMPTY_PATH, empties, found)
        empty = (found["empty_rate"] + found["again_rate"]) / 2
        found["empty_mean_rate"] = empty
        for name in ("put", "get"):
            found[f"{name}_share"] = found[f"{name}_rate"] / empty
        return found

    def rows(self) -> list[Row]:
        flight = self.scale.in_flight
        found = []
        for name, what in (("put", "puts, durable"), ("get", "linearizable gets")):
            found.append(
                Row(
                    name=f"{self.name}: {flight} {what}",
                    unit="calls/s",
                    figure=f"{name}_rate",
                    beside="empty_mean_rate",
                    beside_name="empty calls, same server",
                    target_min=SHARE_MIN if name == "put" else None,
                    target_of=f"{name}_share",
                    durability="SYNC" if name == "put" else "-",
                )
            )
            found.append(
                Row(
                    name=f"{self.name}: processor time of the server, {name}",
                    unit="us/call",
                    figure=f"{name}_cpu_us",
                    beside="empty_cpu_us",
                    beside_name="empty call",
                )
            )
        return found

    def close(self) -> None:
        if self._target is not None:
            self._target.stop()


class EtcdCase(Case):
    """etcd with its defaults under the same load, for information."""

    name = "serve/etcd"

    def __init__(self, scale: Scale, directory: Path) -> None:
        super().__init__(scale, directory)
        self._target: Target | None = None

    def prepare(self) -> None:
        self.directory.mkdir(parents=True)
        self._target = start_etcd(self.directory)
        wait_until_leads(self._target.port)

    def settings(self) -> Mapping[str, object]:
        return {"version": etcd_version()}

    def sample(self, number: int) -> Sample:
        assert self._target is not None
        found: dict[str, float] = {}
        keys, calls, flight = self.scale.keys, self.scale.calls, self.scale.in_flight
        for name, path, messages in (
            ("put", PUT_PATH, puts(keys, number + 1)),
            ("get", RANGE_PATH, gets(keys, number + 1)),
        ):
            cpu = host.cpu_seconds_of(self._target.pid)
            report = self._target.load(path, messages, calls, flight)
            cpu = host.cpu_seconds_of(self._target.pid) - cpu
            found[f"{name}_rate"] = report.rate
            found[f"{name}_cpu_us"] = cpu / calls * 1e6
        return found

    def rows(self) -> list[Row]:
        flight = self.scale.in_flight
        found = []
        for name, what in (("put", "puts, durable"), ("get", "linearizable gets")):
            found += [
                Row(
                    name=f"{self.name}: {flight} {what}",
                    unit="calls/s",
                    figure=f"{name}_rate",
                    durability="SYNC" if name == "put" else "-",
                ),
                Row(
                    name=f"{self.name}: processor time of the server, {name}",
                    unit="us/call",
                    figure=f"{name}_cpu_us",
                ),
            ]
        return found

    def close(self) -> None:
        if self._target is not None:
            self._target.stop()


def empties() -> Iterator[bytes]:
    """Requests without content."""
    while True:
        yield b""


def puts(keys: int, number: int) -> Messages:
    """Puts of random keys out of ``keys``."""

    def messages() -> Iterator[bytes]:
        random, value = Random(SEED + number), make_value()
        while True:
            key = make_key(random.randrange(keys))
            yield rpc_pb2.PutRequest(key=key, value=value).SerializeToString()

    return messages


def gets(keys: int, number: int) -> Messages:
    """Linearizable reads of random keys out of ``keys``."""

    def messages() -> Iterator[bytes]:
        random = Random(SEED - number)
        while True:
            key = make_key(random.randrange(keys))
            yield rpc_pb2.RangeRequest(key=key).SerializeToString()

    return messages


def start_etcd(directory: Path, shown: Certificate | None = None) -> Target:
    """An etcd of one, with its defaults; with a certificate it speaks TLS."""
    port, peer = free_port(), free_port()
    url = f"{'https' if shown else 'http'}://127.0.0.1:{port}"
    peer_url = f"http://127.0.0.1:{peer}"
    arguments = ["etcd", "--data-dir", str(directory / "etcd"), "--log-level", "error"]
    arguments += ["--listen-client-urls", url, "--advertise-client-urls", url]
    arguments += ["--listen-peer-urls", peer_url]
    arguments += ["--initial-advertise-peer-urls", peer_url]
    arguments += ["--initial-cluster", f"default={peer_url}"]
    if shown is not None:
        arguments += ["--cert-file", str(shown.certificate)]
        arguments += ["--key-file", str(shown.key)]
    return Target(arguments, port, directory / "etcd.log")


def etcd_version() -> str:
    """What the installed etcd calls itself."""
    text = subprocess.run(
        ["etcd", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return text.splitlines()[0]


def wait_until_leads(port: int) -> None:
    """Return once a put succeeds; a fresh etcd refuses until it has elected itself.

    Raises:
        LoadError, OSError: it did not come to it in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        client = LoadClient("127.0.0.1", port, PUT_PATH)
        try:
            client.run(puts(1, 0), 1, 1)
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        finally:
            client.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def cases(scale: Scale, directory: Path) -> list[Case]:
    """All cases of this file; etcd only where it is installed."""
    found: list[Case] = [
        ServingCase(backend, scale, directory / f"serve-{backend}")
        for backend in ("lmdb", "rocksdb")
    ]
    if shutil.which("etcd"):
        found.append(EtcdCase(scale, directory / "serve-etcd"))
    return found
