"""``revstore ctl`` on a cluster of real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_ctl_server import Captured, Ctl
from tests.support.cluster import Cluster, MemberProcess
from tests.support.process import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.etcd]


def statuses(ctl: Ctl) -> list[dict[str, Any]]:
    """The status of all members that answer."""
    _, out, _ = ctl.run("endpoint", "status", "--cluster", "-w", "json")
    return [one for one in json.loads(out or "[]") if "error" not in one]


def leader_id(ctl: Ctl) -> str:
    """The id of the leader, once one leads."""

    def look() -> str | None:
        found = [one["member_id"] for one in statuses(ctl) if one["is_leader"]]
        return found[0] if len(found) == 1 else None

    return wait_for(look, "one leader")


def test_a_day_in_the_life_of_a_cluster(tmp_path: Path, capsys: Captured) -> None:
    """Status, leadership, a member that dies, one that joins as a learner, is promoted,
    and one that is removed; all with ctl alone."""
    with Cluster(tmp_path, ("memory", "lmdb", "memory")) as cluster:
        cluster.start()
        members = list(cluster.members.values())
        ctl = Ctl(members[0].client_url, capsys)
        ctl.out("put", "k", "v")
        assert len(statuses(ctl)) == 3

        old = leader_id(ctl)
        new = next(m.member_id for m in members if m.member_id != old)
        assert new in ctl.out("move-leader", new)
        wait_for(lambda: leader_id(ctl) == new, "the move")

        by_id = {member.member_id: member for member in members}
        joined = _join(cluster, ctl)
        wait_for(lambda: _promoted(ctl, joined), "the promotion")
        roles = {one["name"]: one["is_learner"] for one in ctl.json("member", "list")}
        assert roles == {"a": False, "b": False, "c": False, "d": False}

        victim = by_id[old]
        near = Ctl(by_id[new].client_url, capsys)
        victim.kill()
        code, out, _ = near.run("endpoint", "health", "--cluster")
        assert code == 1
        assert out.count("unhealthy") == 1
        assert "removed; 3 stay" in near.out("member", "remove", old)
        wait_for(lambda: _healthy(near), "all healthy")
        hashes = {one["hash"] for one in near.json("endpoint", "hashkv", "--cluster")}
        assert len(hashes) == 1
        assert near.out("get", "k") == "k\nv\n"


def _join(cluster: Cluster, ctl: Ctl) -> MemberProcess:
    member = MemberProcess("d", cluster.path, "memory", cluster.hosts())
    url = f"--peer-urls={member.peer_url}"
    answer = ctl.json("member", "add", "d", "--learner", url)
    assert answer["member"]["is_learner"]
    cluster.members["d"] = member
    assert set(answer["initial_cluster"].split(",")) == {
        f"{one.name}={one.peer_url}" for one in cluster.members.values()
    }
    member.command = cluster.command(member, "--initial-cluster-state=existing")
    member.start()
    return member


def _promoted(ctl: Ctl, member: MemberProcess) -> bool:
    code, _, err = ctl.run("member", "promote", member.member_id)
    assert code == 0 or "in sync with leader" in err, err
    return code == 0


def _healthy(ctl: Ctl) -> bool:
    return ctl.run("endpoint", "health", "--cluster")[0] == 0
