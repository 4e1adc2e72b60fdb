"""One client, three real members that are killed one after the other."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

import revstore.client
from revstore.client import AsyncClient, OutcomeUnknown
from revstore.errors import Unavailable
from tests.support.cluster import Cluster, MemberProcess

pytestmark = [pytest.mark.slow, pytest.mark.etcd]

PUTS_BETWEEN = 40
WAIT_S = 60.0


class Writer:
    """Puts one number after the other, each once, and keeps what it heard."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.done: dict[bytes, int] = {}
        self.unknown: set[bytes] = set()
        self.next = 0

    async def put(self, count: int) -> None:
        """So many acknowledged puts."""
        goal = len(self.done) + count
        while len(self.done) < goal:
            key = b"n/%06d" % self.next
            self.next += 1
            try:
                result = await self.client.put(key, b"v")
                self.done[key] = result.revision
            except OutcomeUnknown:
                self.unknown.add(key)
            except (revstore.ApiError, Unavailable):
                # Nobody led for the time of a call: it was surely not done.
                continue


async def read_all(
    watcher: revstore.client.AsyncWatcher, last: bytes
) -> list[tuple[bytes, int]]:
    """Events up to the one of the last key."""
    found: list[tuple[bytes, int]] = []
    async with asyncio.timeout(WAIT_S):
        async for event in watcher:
            found.append((event.key, event.revision))
            if event.key == last:
                return found
    raise AssertionError("the watch ended")


async def leader_of(client: AsyncClient, members: list[MemberProcess]) -> int:
    """The place of the leader among the members, once one leads."""
    async with asyncio.timeout(WAIT_S):
        while True:
            for place, url in enumerate(client.endpoints):
                if members[place].returncode is not None:
                    continue
                try:
                    if (await client.maintenance.status(url)).is_leader:
                        return place
                except (revstore.ApiError, Unavailable):
                    continue


async def session(cluster: Cluster, scheme: str) -> None:
    """Kill the leader, then a follower, with a writer, a watch and a lease."""
    members = list(cluster.members.values())
    urls = [m.client_url if scheme == "http" else m.tcp_url for m in members]
    async with await revstore.client.connect(urls, timeout_s=WAIT_S) as client:
        writer = Writer(client)
        lease = await client.lease(10, keep=True)
        await client.put("held", "yes", lease=lease.id)
        async with client.watch(prefix="n/") as watcher:
            for kill_leader in (True, False):
                await writer.put(PUTS_BETWEEN)
                place = await leader_of(client, members)
                victim = members[place if kill_leader else (place + 1) % 3]
                victim.kill()
                await writer.put(PUTS_BETWEEN)
                assert not lease.lost
                victim.start()
            await writer.put(1)
            events = await read_all(watcher, max(writer.done))
        pair = await client.get("held")
        assert pair is not None
        assert not lease.lost
        check(writer, events)
        found = {pair.key async for pair in client.range(prefix="n/")}
        assert writer.done.keys() <= found <= writer.done.keys() | writer.unknown


def check(writer: Writer, events: list[tuple[bytes, int]]) -> None:
    """Nothing acknowledged is missing, nothing comes twice or out of order."""
    seen = dict(events)
    assert len(seen) == len(events), "a key was put once and came twice"
    revisions = [revision for _, revision in events]
    assert revisions == sorted(set(revisions))
    assert {key: seen.get(key) for key in writer.done} == writer.done
    assert seen.keys() <= writer.done.keys() | writer.unknown


@pytest.mark.parametrize("scheme", ["http", "tcp"])
def test_members_are_killed_under_a_client(tmp_path: Path, scheme: str) -> None:
    """Acknowledged puts are there, the watch has each event once, the lease lives."""
    with Cluster(tmp_path, ("memory", "lmdb", "rocksdb")) as cluster:
        cluster.start()
        asyncio.run(session(cluster, scheme))


async def hang(cluster: Cluster) -> None:
    """Stop the leader without ending it, and go on without it."""
    members = list(cluster.members.values())
    urls = [member.client_url for member in members]
    async with await revstore.client.connect(urls, timeout_s=WAIT_S) as client:
        writer = Writer(client.with_options(timeout_s=2.0))
        lease = await client.lease(20, keep=True)
        async with client.watch(prefix="n/") as watcher:
            await writer.put(PUTS_BETWEEN)
            leader = members[await leader_of(client, members)]
            os.kill(leader.pid, signal.SIGSTOP)
            try:
                await writer.put(PUTS_BETWEEN)
                events = await read_all(watcher, max(writer.done))
                assert not lease.lost
                check(writer, events)
            finally:
                os.kill(leader.pid, signal.SIGCONT)
            await writer.put(1)
            await read_all(watcher, max(writer.done))


def test_a_leader_that_hangs_is_left(tmp_path: Path) -> None:
    """No connection breaks, so only the probes can tell; the watch and the lease move
    to members that answer."""
    with Cluster(tmp_path, ("memory", "memory", "memory")) as cluster:
        cluster.start()
        asyncio.run(hang(cluster))
