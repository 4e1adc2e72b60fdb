"""Forming, joining, restarting and rescuing a cluster of real processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, MemberProcess, free_host
from tests.support.process import wait_for

pytestmark = [pytest.mark.etcd, pytest.mark.slow]


def refusal(member: MemberProcess) -> str:
    """What a member says that does not start."""
    member.spawn()
    wait_for(lambda: member.returncode is not None, "the end of the process")
    assert member.returncode != 0
    return member.run_log_text


@pytest.mark.parametrize("between", ["tcp", "grpc", "grpcio"])
def test_three_members_serve_together(tmp_path: Path, between: str) -> None:
    """A write at any member is read at any other; the backends may differ."""
    flags = [f"--peer-transport={between}"]
    with Cluster(tmp_path, ("lmdb", "rocksdb", "memory"), flags) as cluster:
        cluster.start()
        members = list(cluster.members.values())
        for number, member in enumerate(members):
            cluster.ctl("put", f"key{number}", f"value{number}", on=member)
            for other in members:
                got = cluster.ctl("get", f"key{number}", on=other)
                assert got == f"key{number}\nvalue{number}\n"
        assert cluster.ctl("member", "list").count("started") == 3


def test_all_at_once_restart_with_their_data(tmp_path: Path) -> None:
    """Killed together and started again, the members have everything acknowledged."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        cluster.ctl("put", "kept", "1")
        ids = {member.member_id for member in cluster.members.values()}
        for member in cluster.members.values():
            member.kill()
        cluster.start()
        assert cluster.ctl("get", "kept") == "kept\n1\n"
        assert {member.member_id for member in cluster.members.values()} == ids


def test_leadership_moves_when_the_leader_stops(tmp_path: Path) -> None:
    """A leader that is told to stop hands over first: its log says no election failed,
    and the next leader serves at once."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        old = cluster.leader()
        assert old.stop() == 0
        rest = [m for m in cluster.members.values() if m is not old]
        assert "leadership was not handed over" not in old.log_text
        cluster.ctl("put", "after", "1", on=rest)


def test_a_learner_is_added_and_promoted(tmp_path: Path) -> None:
    """A learner follows on another backend and answers only what a learner may."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        cluster.ctl("put", "before", "1")
        learner = cluster.add("d", "rocksdb", learner=True)
        text = cluster.ctl("put", "no", "1", on=learner, fails=True)
        assert "rpc not supported for learner" in text
        cluster.promote(learner)
        assert cluster.ctl("get", "before", on=learner) == "before\n1\n"
        cluster.ctl("move-leader", learner.member_id, on=cluster.leader())
        assert cluster.leader() is learner


def test_a_removed_member_stops_and_says_why(tmp_path: Path) -> None:
    """Also one that was down meanwhile; and it cannot come back."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        gone = cluster.followers()[0]
        rest = [m for m in cluster.members.values() if m is not gone]
        gone.kill()
        cluster.ctl("member", "remove", gone.member_id, on=rest)
        gone.spawn()
        wait_for(lambda: gone.returncode is not None, "the end of the process")
        assert "removed from the cluster" in gone.run_log_text
        cluster.ctl("put", "still", "works", on=rest)


def test_joining_without_being_added_is_refused(tmp_path: Path) -> None:
    """The error says which command adds the member, and nothing is left behind."""
    with Cluster(tmp_path, ("memory",)) as cluster:
        cluster.start()
        stranger = MemberProcess("z", tmp_path, "memory", free_host())
        cluster.members["z"] = stranger
        stranger.command = cluster.command(stranger, "--initial-cluster-state=existing")
        text = refusal(stranger)
        assert f"member add z --peer-urls={stranger.peer_url}" in text


def test_joining_with_wrong_members_is_refused(tmp_path: Path) -> None:
    """``--initial-cluster`` has to name the members that there are."""
    with Cluster(tmp_path, ("memory",)) as cluster:
        cluster.start()
        new = MemberProcess("b", tmp_path, "memory", free_host())
        cluster.ctl("member", "add", "b", f"--peer-urls={new.peer_url}", "--learner")
        cluster.members["b"] = new
        other = MemberProcess("x", tmp_path, "memory", free_host())
        flags = [
            "--initial-cluster-state=existing",
            f"--initial-cluster={cluster.initial_cluster()},x={other.peer_url}",
        ]
        new.command = cluster.command(new, *flags)
        assert f"x={other.peer_url}, which is no member" in refusal(new)


def test_a_member_that_lost_its_data_is_refused(tmp_path: Path) -> None:
    """It may have voted and acknowledged; it has to be removed and added again."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        lost = cluster.followers()[0]
        lost.kill()
        shutil.rmtree(lost.data_dir)
        assert "its data is gone" in refusal(lost)


def test_the_last_member_is_rescued(tmp_path: Path) -> None:
    """``--force-new-cluster`` makes one member of three the only one, with its data."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        cluster.ctl("put", "kept", "1")
        for member in cluster.members.values():
            member.kill()
        saved = cluster.members["b"]
        saved.command = cluster.command(saved, "--force-new-cluster")
        saved.start()
        assert cluster.ctl("get", "kept", on=saved) == "kept\n1\n"
        assert cluster.ctl("member", "list", on=saved).count("started") == 1
        cluster.ctl("put", "kept", "2", on=saved)
        saved.command = cluster.command(saved)
        saved.restart(kill=True)
        assert cluster.ctl("get", "kept", on=saved) == "kept\n2\n"
