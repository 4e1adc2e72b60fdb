"""The faults, each a coroutine that begins one, lets the load go on, and ends it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

from tests.faults.load import Load
from tests.support.cluster import Cluster, MemberProcess
from tests.support.namespaces import Network

SLOW_SYNC_US = 300_000


class Nemesis:
    """What disturbs one cluster under one load."""

    def __init__(
        self, cluster: Cluster, load: Load, random: Random, network: Network | None
    ) -> None:
        self.cluster = cluster
        self.load = load
        self.random = random
        self._network = network

    @property
    def network(self) -> Network:
        """The network. Invariant: the fault is only run where there is one."""
        assert self._network is not None
        return self._network

    async def leader(self) -> MemberProcess:
        """Who leads now."""
        return await asyncio.to_thread(self.cluster.leader)

    async def follower(self) -> MemberProcess:
        """Somebody who does not lead."""
        found = await asyncio.to_thread(self.cluster.followers)
        return self.random.choice(found)

    def others(self, member: MemberProcess) -> list[MemberProcess]:
        """All but one."""
        return [one for one in self.cluster.members.values() if one is not member]

    async def restart(self, member: MemberProcess) -> None:
        """Start a member that has ended, and wait until it serves."""
        member.spawn()
        await asyncio.to_thread(self.cluster.await_ready, member)

    # ----- faults

    async def kill_leader(self) -> None:
        """SIGKILL the leader; it comes back later."""
        member = await self.leader()
        member.kill()
        await self.load.answered(30)
        await self.restart(member)

    async def kill_follower(self) -> None:
        """SIGKILL a follower; it comes back later."""
        member = await self.follower()
        member.kill()
        await self.load.answered(100)
        await self.restart(member)

    async def kill_all(self) -> None:
        """SIGKILL everybody at once, and start them again."""
        members = list(self.cluster.members.values())
        for member in members:
            member.kill()
        await self.load.attempted(5)
        for member in members:
            member.spawn()
        for member in members:
            await asyncio.to_thread(self.cluster.await_ready, member)

    async def pause_leader(self) -> None:
        """SIGSTOP the leader until another leads and serves, then let it go on."""
        member = await self.leader()
        os.kill(member.pid, signal.SIGSTOP)
        try:
            await self.load.answered(60)
        finally:
            os.kill(member.pid, signal.SIGCONT)
        await self.load.answered(60)

    async def partition_leader(self) -> None:
        """Cut the leader off from the other members, not from its clients."""
        member = await self.leader()
        await self._cut_both_ways(member)

    async def partition_follower(self) -> None:
        """The same with a follower."""
        member = await self.follower()
        await self._cut_both_ways(member)

    async def _cut_both_ways(self, member: MemberProcess) -> None:
        pairs = [(member.host, one.host) for one in self.others(member)]
        pairs += [(target, source) for source, target in pairs]
        await self._blocked(pairs)

    async def one_way_out(self) -> None:
        """What the leader sends to the others is lost; it hears them."""
        member = await self.leader()
        await self._blocked([(member.host, one.host) for one in self.others(member)])

    async def one_way_in(self) -> None:
        """What the others send to the leader is lost; they hear it."""
        member = await self.leader()
        await self._blocked([(one.host, member.host) for one in self.others(member)])

    async def _blocked(self, pairs: list[tuple[str, str]]) -> None:
        for source, target in pairs:
            self.network.block(source, target)
        try:
            await self.load.answered(60)
        finally:
            for source, target in pairs:
                self.network.unblock(source, target)
        await self.load.answered(60)

    async def packet_loss(self) -> None:
        """Short losses of everything at each member in turn, again and again."""
        for _ in range(6):
            for member in self.cluster.members.values():
                self.network.carry(member.host, False)
                await asyncio.sleep(0.03 * self.random.random())
                self.network.carry(member.host, True)
                await self.load.attempted(3)
        await self.load.answered(60)

    async def slow_disk(self) -> None:
        """Every sync of the leader takes a third of a second longer."""
        member = await self.leader()
        strace = await asyncio.create_subprocess_exec(
            *("strace", "-f", "-qq", "-o", "/dev/null", "-p", str(member.pid)),
            *("-e", "trace=fdatasync,fsync"),
            *("-e", f"inject=fdatasync,fsync:delay_enter={SLOW_SYNC_US}"),
            stderr=subprocess.DEVNULL,
        )
        try:
            await self.load.attempted(60)
        finally:
            strace.terminate()
            await strace.wait()
        await self.load.answered(60)

    async def full_disk(self) -> None:
        """A follower's file system is full: it stops, and comes back with space."""
        member = await self.follower()
        filler = member.data_dir / "filler"
        with filler.open("wb") as file:
            free = shutil.disk_usage(member.data_dir).free
            os.posix_fallocate(file.fileno(), 0, max(free - 64 * 1024, 4096))
        deadline = asyncio.get_running_loop().time() + 60
        while member.returncode is None:
            assert asyncio.get_running_loop().time() < deadline, (
                "it should have stopped"
            )
            await self.load.answered(20)
        assert member.returncode == 1, member.run_log_text[-2000:]
        filler.unlink()
        await self.restart(member)

    async def replace_leadership(self) -> None:
        """Move leadership from one to the other on request."""
        for _ in range(3):
            leader, target = await self.leader(), await self.follower()
            await asyncio.to_thread(
                self.cluster.ctl, "move-leader", target.member_id, on=leader
            )
            await self.load.answered(30)


Fault = Callable[[Nemesis], Awaitable[None]]

PROCESS_FAULTS: tuple[Fault, ...] = (
    Nemesis.kill_leader,
    Nemesis.pause_leader,
    Nemesis.kill_follower,
    Nemesis.replace_leadership,
    Nemesis.kill_all,
)
NETWORK_FAULTS: tuple[Fault, ...] = (
    Nemesis.partition_leader,
    Nemesis.one_way_out,
    Nemesis.partition_follower,
    Nemesis.one_way_in,
    Nemesis.packet_loss,
)
DISK_FAULTS: tuple[Fault, ...] = (Nemesis.slow_disk,)


def small_file_system(place: Path, megabytes: int) -> bool:
    """Mount a small file system; False if this process may not."""
    place.mkdir(parents=True, exist_ok=True)
    size = f"size={megabytes}m"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "none", str(place)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0
