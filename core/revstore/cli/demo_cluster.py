"""The members of a demo: their processes, who leads, and their end.

Rules of this file:

1. Whatever happens, no process is left behind: the members are told to stop, one after
   the other, and killed if they do not.
2. Data in a temporary directory goes at the end; data in a named one stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from revstore.client.methods import STATUS
from revstore.errors import ConfigError, RevstoreError
from revstore.interfaces.channel import Channel, ChannelOptions
from revstore.plugin.manager import PluginManager
from revstore.proto import rpc_pb2

STEP = 10_000
LOOK_S = 0.5
STOP_S = 20.0
READY_S = 60.0

Say = Callable[[str], None]


class DemoMember:
    """One process."""

    def __init__(
        self, name: str, backend: str, place: Path, host: str, port: int
    ) -> None:
        self.name = name
        self.backend = backend
        self.data_dir = place / name
        self.log_path = place / f"{name}.log"
        self.client_url = f"http://{host}:{port}"
        self.tcp_url = f"tcp://{host}:{port - 1}"
        self.peer_url = f"http://{host}:{port + 1}"
        self.process: asyncio.subprocess.Process | None = None
        self.channel: Channel | None = None
        self.told_end = False

    @property
    def ended(self) -> bool:
        """Whether it ran and does not any more."""
        return self.status is not None

    @property
    def status(self) -> int | None:
        """What it ended with; None if it has not."""
        return None if self.process is None else self.process.returncode


class DemoCluster:
    """All members."""

    def __init__(
        self,
        backends: Sequence[str],
        data_dir: str,
        host: str,
        port: int,
        peer_transport: str,
    ) -> None:
        """Raises: PluginError: a backend or the transport is not there."""
        self._plugins = PluginManager()
        for backend in backends:
            self._plugins.find("backend", backend)
        between = self._plugins.find("transport", peer_transport)
        if not between.capabilities.peers:
            raise ConfigError(f"transport {peer_transport!r} does not connect members")
        highest = port + STEP * (len(backends) - 1) + 1
        if highest > 65_535:
            raise ConfigError(
                f"--port {port} leads to port {highest}; choose a lower one"
            )
        self._peer_transport = peer_transport
        self._temporary = not data_dir
        self.place = Path(data_dir or tempfile.mkdtemp(prefix="revstore-demo-"))
        self.place.mkdir(parents=True, exist_ok=True)
        self.members = [
            DemoMember(
                f"m{number + 1}", backend, self.place, host, port + STEP * number
            )
            for number, backend in enumerate(backends)
        ]

    async def start(self) -> None:
        """Start every process."""
        cluster = ",".join(f"{one.name}={one.peer_url}" for one in self.members)
        for member in self.members:
            command = [
                *(sys.executable, "-m", "revstore", "serve"),
                f"--name={member.name}",
                f"--data-dir={member.data_dir}",
                f"--backend={member.backend}",
                f"--listen-client-urls={member.client_url},{member.tcp_url}",
                f"--listen-peer-urls={member.peer_url}",
                f"--initial-advertise-peer-urls={member.peer_url}",
                f"--initial-cluster={cluster}",
                "--initial-cluster-token=revstore-demo",
                f"--peer-transport={self._peer_transport}",
                "--log-format=console",
            ]
            with member.log_path.open("ab") as log:
                # A group of its own: Ctrl-C reaches this process alone, which then
                # stops the members in order.
                member.process = await asyncio.create_subprocess_exec(
                    *command, stdout=log, stderr=log, start_new_session=True
                )

    async def statuses(self) -> dict[str, rpc_pb2.StatusResponse]:
        """What the members that answer say, by name."""
        found = await asyncio.gather(*(self._status(one) for one in self.members))
        pairs = zip(self.members, found, strict=True)
        return {one.name: status for one, status in pairs if status is not None}

    async def _status(self, member: DemoMember) -> rpc_pb2.StatusResponse | None:
        if member.ended:
            return None
        if member.channel is None:
            transport = self._plugins.make_transport("tcp", {})
            member.channel = transport.open_channel(member.tcp_url, ChannelOptions())
        try:
            answer = await member.channel.unary(STATUS.path, b"", timeout_s=LOOK_S)
        except RevstoreError:
            return None
        return STATUS.answer.FromString(answer)

    async def stop(self) -> None:
        """Stop all, and remove what was temporary (rules 1 and 2)."""
        for member in self.members:
            if member.channel is not None:
                await member.channel.close()
        for member in self.members:
            await _stop(member)
        if self._temporary:
            shutil.rmtree(self.place, ignore_errors=True)


async def _stop(member: DemoMember) -> None:
    process = member.process
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def run(cluster: DemoCluster, say: Say) -> int:
    """Run until Ctrl-C, or until no member is left; returns the exit code."""
    return asyncio.run(_run(cluster, say))


async def _run(cluster: DemoCluster, say: Say) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await cluster.start()
        if not await _ready(cluster, stop):
            if stop.is_set():
                return 0
            _tell_failure(cluster, say)
            return 1
        _tell_start(cluster, say)
        return await _watch(cluster, stop, say)
    finally:
        say("stopping ...")
        await cluster.stop()
        say("all members have stopped")


async def _pause(stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), LOOK_S)


async def _ready(cluster: DemoCluster, stop: asyncio.Event) -> bool:
    """Whether all members serve, before one ends or the user stops them."""
    deadline = asyncio.get_running_loop().time() + READY_S
    while not stop.is_set() and asyncio.get_running_loop().time() < deadline:
        if any(member.ended for member in cluster.members):
            return False
        if len(await cluster.statuses()) == len(cluster.members):
            return True
        await _pause(stop)
    return False


def _tell_start(cluster: DemoCluster, say: Say) -> None:
    endpoints = ",".join(member.client_url for member in cluster.members)
    for member in cluster.members:
        say(
            f"{member.name}  {member.backend:8}  {member.client_url}  {member.tcp_url}"
            f"  log {member.log_path}"
        )
    say("")
    say(f"try:  export ETCDCTL_API=3 ENDPOINTS={endpoints}")
    say("      etcdctl --endpoints $ENDPOINTS put hello world")
    say("      etcdctl --endpoints $ENDPOINTS endpoint status -w table")
    say("stop with Ctrl-C")
    say("")


def _tell_failure(cluster: DemoCluster, say: Say) -> None:
    for member in cluster.members:
        if member.ended:
            say(f"{member.name} ended with status {member.status}:")
            for line in member.log_path.read_text(errors="replace").splitlines()[-5:]:
                say(f"    {line}")
            return
    say("the members did not begin to serve in time; their logs:")
    for member in cluster.members:
        say(f"    {member.log_path}")


async def _watch(cluster: DemoCluster, stop: asyncio.Event, say: Say) -> int:
    """Tell who leads, and who ends."""
    shown = 0
    while not stop.is_set():
        found = await cluster.statuses()
        names = {status.header.member_id: name for name, status in found.items()}
        newest = max(found.values(), key=lambda one: one.raftTerm, default=None)
        if newest is not None and newest.leader not in (0, shown):
            shown = newest.leader
            name = names.get(shown, f"{shown:x}")
            say(f"{name} leads in term {newest.raftTerm}")
        for member in cluster.members:
            if member.ended and not member.told_end:
                member.told_end = True
                say(f"{member.name} ended with status {member.status}")
        if all(member.ended for member in cluster.members):
            say("no member is left")
            return 1
        await _pause(stop)
    return 0
