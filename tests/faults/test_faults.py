"""A cluster of real processes under load stays right, whatever happens to it.

Each run ends with the whole verdict: the history is linearizable, nothing acknowledged
is lost, every watcher saw everything once and in order, HashKV is equal on all members,
and each failure that a client saw was an honest error.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from tests.faults.load import Load
from tests.faults.nemesis import (
    DISK_FAULTS,
    NETWORK_FAULTS,
    PROCESS_FAULTS,
    Fault,
    Nemesis,
    small_file_system,
)
from tests.faults.verdict import judge
from tests.support.cluster import Cluster
from tests.support.namespaces import NO_NAMESPACES, Network, namespaces_work

pytestmark = [pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(900)]

LONG_S = 240.0
BACKENDS = ("lmdb", "rocksdb", "lmdb")


@pytest.fixture
def seed() -> int:
    """The seed of a run: ``REVSTORE_FAULT_SEED``, or 1."""
    return int(os.environ.get("REVSTORE_FAULT_SEED", "1"))


@pytest.fixture
def network() -> Iterator[Network]:
    """A network whose links can be cut."""
    if not namespaces_work():
        pytest.skip(NO_NAMESPACES)
    with Network() as made:
        yield made


async def disturb(
    cluster: Cluster,
    network: Network | None,
    faults: Sequence[Fault],
    seed: int,
    long_s: float,
) -> None:
    """One run: every fault once, or again and again for ``long_s`` seconds."""
    members = list(cluster.members.values())
    urls = [one.tcp_url for one in members] + [one.client_url for one in members]
    load = Load(urls, seed)
    nemesis = Nemesis(cluster, load, Random(seed), network)
    load.start()
    try:
        await load.answered(50)
        ends = time.monotonic() + long_s
        for fault in faults:
            await fault(nemesis)
        while time.monotonic() < ends:
            await nemesis.random.choice(list(faults))(nemesis)
        await load.answered(50)
        await judge(load)
    finally:
        load.stopping = True
        await load.close()


def test_processes_that_die_and_freeze(
    tmp_path: Path, seed: int, long_run: bool
) -> None:
    """SIGKILL, SIGSTOP, moved leadership, and everybody killed at once."""
    with Cluster(tmp_path, BACKENDS) as cluster:
        cluster.start()
        run = disturb(cluster, None, PROCESS_FAULTS, seed, LONG_S if long_run else 0)
        asyncio.run(run)


def test_networks_that_lose(
    tmp_path: Path, seed: int, long_run: bool, network: Network
) -> None:
    """Partitions of leader and follower, one-way partitions, and packet loss."""
    with Cluster(tmp_path, BACKENDS, hosts=network.host) as cluster:
        for member in cluster.members.values():
            member.prefix = network.prefix(member.host)
            member.command = cluster.command(member)
        cluster.start()
        run = disturb(cluster, network, NETWORK_FAULTS, seed, LONG_S if long_run else 0)
        asyncio.run(run)


def test_disks_that_are_slow(tmp_path: Path, seed: int, long_run: bool) -> None:
    """Syncs that wait: the cluster goes on, slower."""
    if shutil.which("strace") is None or os.geteuid() != 0:
        pytest.skip("slow syncs need strace and root")
    with Cluster(tmp_path, BACKENDS) as cluster:
        cluster.start()
        run = disturb(cluster, None, DISK_FAULTS, seed, LONG_S / 2 if long_run else 0)
        asyncio.run(run)


def test_disks_that_are_full(tmp_path: Path, seed: int, long_run: bool) -> None:
    """A member without space stops and loses nothing; with space it comes back."""
    with ExitStack() as mounts, Cluster(tmp_path, BACKENDS) as cluster:
        for member in cluster.members.values():
            if not small_file_system(member.data_dir, 160):
                pytest.skip("small file systems need root")
            unmount = ["umount", "-l", str(member.data_dir)]
            mounts.callback(subprocess.run, unmount, check=True)
        cluster.start()
        faults = (Nemesis.full_disk,)
        asyncio.run(disturb(cluster, None, faults, seed, LONG_S / 4 if long_run else 0))
