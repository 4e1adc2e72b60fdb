"""A cluster moves from one backend to another, member by member, while it serves."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.load import Load
from tests.faults.verdict import judge
from tests.support.cluster import Cluster, MemberProcess
from tests.support.process import wait_for

pytestmark = [pytest.mark.etcd, pytest.mark.slow, pytest.mark.timeout(300)]


def replace(cluster: Cluster, old: MemberProcess, name: str) -> MemberProcess:
    """Learner, promote, remove; returns the new member."""
    new = cluster.add(name, "rocksdb", learner=True)

    def promoted() -> bool:
        if "true" in cluster.ctl("member", "list", on=old):
            with suppress(AssertionError):  # Not in sync yet.
                cluster.ctl("member", "promote", new.member_id, on=cluster.leader())
            return False
        return True

    wait_for(promoted, "the promotion")
    if cluster.leader() is old:
        cluster.ctl("move-leader", new.member_id, on=old)
    rest = [one for one in cluster.members.values() if one is not old]
    cluster.ctl("member", "remove", old.member_id, on=rest)
    wait_for(lambda: old.returncode is not None, "the end of the removed member")
    del cluster.members[old.name]
    return new


async def roll(cluster: Cluster) -> Load:
    """Replace every member under load, and judge."""
    members = list(cluster.members.values())
    load = Load([one.tcp_url for one in members], seed=1)
    load.start()
    try:
        await load.answered(100)
        for old, name in zip(members, "def", strict=True):
            new = await asyncio.to_thread(replace, cluster, old, name)
            load.urls.remove(old.tcp_url)
            load.urls.append(new.tcp_url)
            await load.answered(100)
        await judge(load)
    finally:
        load.stopping = True
        await load.close()
    return load


def test_every_member_is_replaced_under_load(tmp_path: Path) -> None:
    """From LMDB to RocksDB; clients meet leader changes and members that left, and no
    other error."""
    with Cluster(tmp_path, ("lmdb", "lmdb", "lmdb")) as cluster:
        cluster.start()
        load = asyncio.run(roll(cluster))
        assert {one.backend for one in cluster.members.values()} == {"rocksdb"}
        assert len(cluster.members) == 3
        for text in load.failures:
            if text.startswith("Range"):
                assert any(word in text for word in LEFT_OR_LED), text


LEFT_OR_LED = ("leader", "connect", "stopped", "lost", "closed", "learner", "server")
"""Words of the errors that a leader change, or a member that leaves, gives to reads. A
write that was under way to an old leader may also be told that its time is up."""
