"""Members of a real cluster have the leader answer, and compare what they hold."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from revstore.interfaces.backend import Durability, WriteBatch
from revstore.mvcc import tables
from revstore.plugin.manager import PluginManager
from tests.support.cluster import Cluster, MemberProcess
from tests.support.process import wait_for

pytestmark = [pytest.mark.etcd, pytest.mark.slow]

CHECKS = (
    "--feature-gates=InitialCorruptCheck=true,CompactHashCheck=true",
    "--corrupt-check-time=1s",
    "--compact-hash-check-time=1s",
)


def test_leases_are_renewed_through_followers(tmp_path: Path) -> None:
    """A client of a follower renews its lease, asks what is left and what hangs on it,
    also after the leader has gone."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        follower = cluster.followers()[0]
        text = cluster.ctl("lease", "grant", "30", on=follower)
        lease = text.split()[1]
        cluster.ctl("put", "k", "v", f"--lease={lease}", on=follower)
        text = cluster.ctl("lease", "keep-alive", "--once", lease, on=follower)
        assert "keepalived with TTL(30)" in text
        text = cluster.ctl("lease", "timetolive", lease, "--keys", on=follower)
        assert "granted with TTL(30s)" in text
        assert "attached keys([k])" in text
        old = cluster.leader()
        follower = cluster.followers()[0]
        old.kill()
        text = cluster.ctl("lease", "keep-alive", "--once", lease, on=follower)
        assert "keepalived with TTL(30)" in text


def test_a_learner_is_promoted_through_a_follower(tmp_path: Path) -> None:
    """The member that is asked has the leader judge whether the learner is ready."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        learner = cluster.add("d", "lmdb", learner=True)
        follower = next(one for one in cluster.followers() if one is not learner)
        cluster.promote(learner, through=follower)
        cluster.ctl("member", "remove", learner.member_id, on=follower)
        assert cluster.ctl("member", "list", on=follower).count("started") == 3


def test_one_log_in_is_good_at_every_member(tmp_path: Path) -> None:
    """etcdctl gets its token at one endpoint and uses it at all of them."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        cluster.ctl("user", "add", "root:pw")
        cluster.ctl("user", "grant-role", "root", "root")
        cluster.ctl("auth", "enable")
        everyone = list(cluster.members.values())
        for member in everyone:
            cluster.ctl("put", "k", member.name, "--user=root:pw", on=member)
        text = cluster.ctl("get", "k", "--user=root:pw", on=everyone)
        assert text == f"k\n{everyone[-1].name}\n"


def test_equal_members_pass_all_checks(tmp_path: Path) -> None:
    """Members on different engines hash alike, while they write and compact."""
    with Cluster(tmp_path, ("lmdb", "rocksdb", "memory"), CHECKS) as cluster:
        cluster.start()
        for number in range(30):
            cluster.ctl("put", f"k{number % 7}", f"v{number}")
        cluster.ctl("compact", "20")

        def said(text: str) -> bool:
            pattern = rf'{text}.*"compared":3.*"hashes":1'
            logs = "".join(one.log_text for one in cluster.members.values())
            return re.search(pattern, logs) is not None

        wait_for(lambda: said("finished hash check"), "a comparison")
        wait_for(lambda: said("finished compaction hash check"), "another one")
        member = cluster.followers()[0]
        member.kill()
        member.start()
        assert said("compared with other members")
        assert cluster.ctl("alarm", "list") == ""


def change_a_row(member: MemberProcess) -> None:
    """Change a stored value behind the back of a member that is not running."""
    path = member.data_dir / "member" / member.backend
    backend = PluginManager().make_backend(member.backend, path, tables.KEYSPACES)
    with closing(backend), closing(backend.snapshot()) as snapshot:
        batch = WriteBatch()
        for keyspace in (tables.CURRENT, tables.LOG):
            for rows in snapshot.scan(keyspace, b"", None):
                for key, row in rows:
                    if b"precious" in row:
                        changed = row.replace(b"precious", b"worthles")
                        batch.keyspace(keyspace).puts.append((key, changed))
        assert batch.keyspaces
        backend.write(batch, Durability.SYNC)


def test_a_row_that_changed_on_disk_is_found(tmp_path: Path) -> None:
    """A value that rots on one member's disk: the leader raises the alarm for it, and
    the member does not start where it has to compare itself first."""
    with Cluster(tmp_path, ("lmdb", "lmdb", "lmdb"), CHECKS[1:]) as cluster:
        cluster.start()
        cluster.ctl("put", "k", "precious")
        odd = cluster.followers()[0]
        assert odd.stop() == 0
        change_a_row(odd)
        odd.start()
        text = wait_for(lambda: cluster.ctl("alarm", "list"), "the alarm")
        assert text == f"memberID:{int(odd.member_id, 16)} alarm:CORRUPT \n"
        said = cluster.ctl("put", "more", "1", fails=True)
        assert "etcdserver: corrupt cluster" in said
        odd.kill()
        odd.command.append(CHECKS[0])
        odd.spawn()
        wait_for(lambda: odd.returncode is not None, "the end of the process")
        assert odd.returncode != 0
        assert "differs at revision" in odd.run_log_text
