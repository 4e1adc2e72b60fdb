"""``python -m revstore_bench.catchup``: how fast a new member gets the whole store.

A leader with a full store and a purged log, and a member that is added to it, are
processes of their own; both talk over TCP. Printed are keys and rows a second, from the
new member's start until it has applied all, and how much private memory grew in both.
"""

from __future__ import annotations

import argparse
import asyncio
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from revstore.api.replica import MemberChange, MemberChangeKind, Tag
from revstore.errors import ApiError
from revstore.interfaces.peers import peer_transport
from revstore.mvcc.tables import KEYSPACES
from revstore.node.aio import AsyncNode
from revstore.node.peering import PeerSettings
from revstore.node.replica import Replica
from revstore.node.settings import MemberSettings, PluginChoice
from revstore.plugin.manager import PluginManager
from revstore.proto import rpc_pb2
from revstore.snapshot import format as layout
from revstore.types import ApplyResult
from revstore_bench import host
from revstore_bench.serving import free_port
from revstore_bench.workload import make_key

PUTS = 100
"""Puts in one transaction while the leader is filled."""
OPEN_MAX = 50
"""Transactions on their way."""
LOG_ENTRIES = 100
"""Entries that stay in the leader's log."""
SAMPLE_S = 0.02
TRANSPORT = "tcp"
SMALL_VALUE_BYTES = 64
"""Values with which a key's own work is what counts."""


class Store(msgspec.Struct, frozen=True):
    """What is caught up with."""

    keys: int
    value_bytes: int
    leader: str
    """The backend it is on."""
    follower: str
    """The backend it goes to."""


class CatchUp(msgspec.Struct, frozen=True):
    """How it went."""

    seconds: float
    """From the new member's start until it has applied all."""
    rows: int
    memory: dict[str, tuple[int, int]]
    """Private bytes before and at most, by role."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="revstore_bench.catchup", description=__doc__)
    parser.add_argument("--keys", type=int, default=300_000)
    parser.add_argument("--value-bytes", type=int, default=800)
    parser.add_argument("--leader", default="lmdb", help="its backend")
    parser.add_argument("--follower", default="rocksdb", help="its backend")
    parser.add_argument("--directory", type=Path, help="where data goes meanwhile")
    parser.add_argument("--member", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.member:
        role, directory, urls = options.member
        serve = _lead if role == "leader" else _follow
        asyncio.run(serve(options, Path(directory), urls.split(",")))
        return 0
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="catchup-") as path:
        store = Store(
            options.keys, options.value_bytes, options.leader, options.follower
        )
        _report(store, measure(store, Path(path)))
    return 0


# ----- the members


def _settings(
    name: str, backend: str, directory: Path, urls: Sequence[str]
) -> MemberSettings:
    cluster = {"leader": (urls[0],)}
    if name == "follower":
        cluster["follower"] = (urls[1],)
    return MemberSettings(
        data_dir=directory,
        name=name,
        backend=PluginChoice(backend),
        consensus=PluginChoice("raft"),
        peer_urls=cluster[name],
        initial_cluster=cluster,
        initial_cluster_state="new" if name == "leader" else "existing",
        quota_bytes=0,
        snapshot_count=LOG_ENTRIES,
        catchup_entries=LOG_ENTRIES,
    )


async def _open(settings: MemberSettings) -> AsyncNode:
    plugins = PluginManager()
    transport = peer_transport(TRANSPORT, plugins.make_transport(TRANSPORT, {}))
    peers = PeerSettings(transport, settings.peer_urls)
    return await AsyncNode.open(settings, plugins, Random(1), peers)


async def _lead(
    options: argparse.Namespace, directory: Path, urls: Sequence[str]
) -> None:
    node = await _open(_settings("leader", options.leader, directory, urls))
    await _fill(node.replica, options.keys, options.value_bytes)
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    change = MemberChange(MemberChangeKind.ADD, 0, (urls[1],), True)
    node.replica.change_members(change, done.set_result)
    await done
    with node.replica.backend.snapshot() as reader:
        rows = sum(reader.count(name, b"", None) for name in KEYSPACES)
    _say(f"{node.replica.applied} {rows}")
    await loop.run_in_executor(None, sys.stdin.readline)
    await node.close()


async def _fill(replica: Replica, keys: int, value_bytes: int) -> None:
    value = Random(7)
    room = asyncio.Semaphore(OPEN_MAX)

    def answered(result: ApplyResult | ApiError) -> None:
        room.release()
        if isinstance(result, ApiError):
            raise result

    for first in range(0, keys, PUTS):
        request = rpc_pb2.TxnRequest()
        for number in range(first, min(first + PUTS, keys)):
            put = request.success.add().request_put
            put.key, put.value = make_key(number), value.randbytes(value_bytes)
        await room.acquire()
        replica.propose(Tag.TXN, request.SerializeToString(), request, answered)
    for _ in range(OPEN_MAX):
        await room.acquire()
    flushed = asyncio.get_running_loop().create_future()
    replica.housekeeping.when_flushed(flushed.set_result)
    await flushed


async def _follow(
    options: argparse.Namespace, directory: Path, urls: Sequence[str]
) -> None:
    layout.arrow()
    with tempfile.TemporaryDirectory() as path:
        # Memory that the libraries take does not count.
        PluginManager().make_backend(options.follower, Path(path), ["one"], {}).close()
    _say("ready")
    wanted = int(
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    )
    begin = time.perf_counter()
    node = await _open(_settings("follower", options.follower, directory, urls))
    caught_up = asyncio.Event()

    def look() -> None:
        if node.replica.applied >= wanted:
            caught_up.set()
        else:
            node.schedule(look, SAMPLE_S)

    look()
    await caught_up.wait()
    _say(f"{time.perf_counter() - begin}")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await node.close()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# ----- around them


class _Member:
    """One process."""

    def __init__(self, role: str, directory: Path, urls: str, rest: list[str]) -> None:
        command = [sys.executable, "-m", "revstore_bench.catchup", *rest]
        self._process = subprocess.Popen(
            [*command, "--member", role, str(directory / role), urls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.base = self.peak = 0

    def hear(self) -> str:
        """The next line that it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a member ended; see above")
        return line

    def tell(self, text: str) -> None:
        """Write it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def private_bytes(self) -> int:
        """What only this process has in memory (RssAnon)."""
        return host.memory_bytes("RssAnon", self._process.pid)

    def watch(self) -> None:
        """Note the private memory."""
        self.peak = max(self.peak, self.private_bytes())

    def has_said(self) -> bool:
        """Whether a line waits to be heard."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], SAMPLE_S)[0])

    def end(self) -> None:
        """Let it end."""
        if self._process.poll() is None:
            self.tell("end")
            self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()


def measure(store: Store, directory: Path) -> CatchUp:
    """Fill a leader, add a member, and wait until it has all.

    Raises:
        RuntimeError: a member ended.
    """
    urls = ",".join(f"http://127.0.0.1:{free_port()}" for _ in range(2))
    rest = [
        f"--keys={store.keys}",
        f"--value-bytes={store.value_bytes}",
        f"--leader={store.leader}",
        f"--follower={store.follower}",
    ]
    leader = _Member("leader", directory, urls, rest)
    follower = _Member("follower", directory, urls, rest)
    members = {"leader": leader, "follower": follower}
    try:
        applied, rows = map(int, leader.hear().split())
        follower.hear()
        for member in members.values():
            member.base = member.private_bytes()
        follower.tell(str(applied))
        while not follower.has_said():
            leader.watch()
            follower.watch()
        seconds = float(follower.hear())
        memory = {role: (one.base, one.peak) for role, one in members.items()}
        return CatchUp(seconds, rows, memory)
    finally:
        follower.end()
        leader.end()


def _report(store: Store, found: CatchUp) -> None:
    size = store.keys * (store.value_bytes + 32)
    seconds, rows = found.seconds, found.rows
    _say(
        f"{store.leader} -> {store.follower}: {store.keys} keys, {rows} rows, "
        f"{size / 1e6:.0f} MB of keys and values in {seconds:.2f} s: "
        f"{store.keys / seconds:,.0f} keys/s, {rows / seconds:,.0f} rows/s"
    )
    for role, (base, peak) in found.memory.items():
        _say(
            f"  {role}: private memory {base / 1e6:.0f} MB before, at most "
            f"{peak / 1e6:.0f} MB: {(peak - base) / 1e6:+.0f} MB"
        )


if __name__ == "__main__":
    sys.exit(main())
