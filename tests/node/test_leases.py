"""Leases while leadership changes: never shorter than their time, never for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from revstore.lease import lessor
from revstore.proto import raft_internal_pb2
from revstore.proto import rpc_pb2 as r
from revstore.types import EntryType
from tests.node.cluster import VirtualCluster, VirtualMember, renew


def there(cluster: VirtualCluster, lease_id: int) -> list[bool]:
    """Which of the members that take part have a lease."""
    return [m.replica.store.lease_exists(lease_id) for m in cluster.up]


def left(member: VirtualMember, lease_id: int) -> int:
    """Seconds that a lease has at the leader."""
    found = member.replica.lessor.time_to_live(lease_id)
    assert found is not None
    return found[0]


def revocations(member: VirtualMember) -> int:
    """Entries in a member's log that revoke a lease, committed or not."""
    wal = member.replica.wal
    count = 0
    for entry in wal.read(wal.first_index(), wal.last_index() + 1):
        if entry.type is EntryType.NORMAL and entry.data:
            request = raft_internal_pb2.InternalRaftRequest.FromString(entry.data)
            count += request.HasField("lease_revoke")
    return count


def elect_without(cluster: VirtualCluster, name: str) -> VirtualMember:
    """Let the others find a leader of their own."""

    def found() -> list[VirtualMember]:
        return [one for one in cluster.leaders() if one.name != name]

    cluster.until(found)
    return found()[0]


def test_a_new_leader_gives_the_full_time(cluster: VirtualCluster) -> None:
    """A lease that was nearly over lives its whole time again at the next leader, since
    nobody there knows when it was renewed; then it ends."""
    cluster.grant("b", 7, ttl=5)
    cluster.advance(4.0)
    cluster["a"].paused = True
    leader = elect_without(cluster, "a")
    cluster.advance(0.5)
    assert left(leader, 7) >= 4
    cluster.advance(4.0)
    assert all(there(cluster, 7))
    cluster.advance(4.0)
    assert not any(there(cluster, 7))


@pytest.mark.parametrize("cut", [False, True])
def test_a_leader_that_was_frozen_revokes_nothing(
    cluster: VirtualCluster, cut: bool
) -> None:
    """etcd #15247: a leader stalled, another one was elected and renewed the lease; the
    old one came back, found the lease expired by its own clock and revoked it."""
    cluster.grant("b", 7, ttl=3)
    cluster["a"].paused = True
    leader = elect_without(cluster, "a")
    stream = leader.stream("Lease/LeaseKeepAlive")
    for _ in range(4):
        renew(stream, 7)
        cluster.advance(2.0)
    assert all(there(cluster, 7))
    if cut:
        cluster.cut("a")
    before = revocations(cluster["a"])
    cluster["a"].paused = False
    assert cluster["a"].replica.is_leader
    for _ in range(4):
        renew(stream, 7)
        cluster.advance(1.0)
    assert revocations(cluster["a"]) == before
    cluster.heal()
    cluster.advance(1.0)
    assert there(cluster, 7) == [True, True, True]
    assert stream.error is None


def test_a_cut_off_leader_revokes_nothing(cluster: VirtualCluster) -> None:
    """A leader that nobody hears proposes no revocation that could count later."""
    cluster.grant("b", 7, ttl=3)
    cluster.advance(1.0)
    cluster.cut("a")
    cluster.advance(6.0)
    assert revocations(cluster["a"]) == 0
    assert there(cluster, 7)[0]


def test_a_revocation_under_way_when_leadership_ends(cluster: VirtualCluster) -> None:
    """A revocation that its leader could not commit is not made by the next one before
    the lease has had its time there."""
    cluster.grant("b", 7, ttl=3)
    cluster.until(lambda: left(cluster["a"], 7) == 0)
    own = cluster["a"].replica.member_id
    # The barrier goes through, and the entries that follow it do not.
    cluster.lose = lambda sender, to, data: sender == own and b"\x08\x03" in data[:3]
    cluster.advance(0.7)
    leader = elect_without(cluster, "a") if not cluster.leaders() else cluster["a"]
    cluster["a"].paused = leader.name == "a"
    leader = elect_without(cluster, "a")
    cluster.lose_nothing()
    cluster["a"].paused = False
    cluster.advance(2.0)
    assert all(there(cluster, 7))
    cluster.advance(5.0)
    assert not any(there(cluster, 7))


@pytest.fixture
def checkpointed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VirtualCluster]:
    """Three members that remember every two seconds how much time leases have left."""
    monkeypatch.setattr(lessor, "CHECKPOINT_INTERVAL_S", 2.0)
    made = VirtualCluster(tmp_path, lease_checkpoints=True)
    made.lead("a")
    yield made
    made.close()


def test_a_checkpoint_survives_the_leader(checkpointed: VirtualCluster) -> None:
    """A long lease does not begin anew with each leader, if checkpoints are on."""
    cluster = checkpointed
    cluster.grant("b", 7, ttl=100)
    cluster.advance(10.0)
    cluster["a"].paused = True
    leader = elect_without(cluster, "a")
    cluster.advance(0.5)
    assert 80 <= left(leader, 7) <= 94


def test_a_renewal_outdoes_a_checkpoint(checkpointed: VirtualCluster) -> None:
    """etcd #13508: a lease was renewed after its checkpoint, and the next leader gave
    it only the time of the checkpoint."""
    cluster = checkpointed
    cluster.grant("b", 7, ttl=100)
    cluster.advance(10.0)
    stream = cluster["c"].stream("Lease/LeaseKeepAlive")
    renew(stream, 7)
    cluster.advance(0.5)
    message = stream.take()
    assert message is not None
    assert r.LeaseKeepAliveResponse.FromString(message).TTL == 100
    cluster["a"].paused = True
    leader = elect_without(cluster, "a")
    cluster.advance(0.5)
    assert left(leader, 7) >= 99


def test_a_renewal_through_a_deposed_leader(cluster: VirtualCluster) -> None:
    """A client of a leader that is deposed keeps its stream: the new one is asked."""
    cluster.grant("a", 7, ttl=20)
    stream = cluster["a"].stream("Lease/LeaseKeepAlive")
    cluster.cut("a")
    renew(stream, 7)
    elect_without(cluster, "a")
    cluster.heal()
    cluster.advance(2.0)
    message = stream.take()
    assert stream.error is None
    assert message is not None
    assert r.LeaseKeepAliveResponse.FromString(message).TTL == 20
