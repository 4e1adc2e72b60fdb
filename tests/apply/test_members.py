"""Members that leave, through a joint phase and without one."""

from __future__ import annotations

import pytest

from revstore.apply.cluster import Cluster, member_context
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
)
from revstore.mvcc import tables
from revstore.mvcc.store import Store, StoreOptions
from revstore.proto import membership_pb2
from revstore.types import ConfState
from revstore_memory.backend import MemoryBackend


@pytest.fixture
def cluster() -> Cluster:
    """Two members."""
    store = Store(MemoryBackend(tables.KEYSPACES), StoreOptions())
    found = Cluster(store)
    for number in (1, 2):
        member = membership_pb2.Member(
            ID=number,
            raft_attributes=membership_pb2.RaftAttributes(
                peer_urls=[f"http://m{number}"]
            ),
        )
        step = ConfChangeSingle(ConfChangeType.ADD_NODE, number)
        found.apply_change(ConfChange((step,), context=member_context(member)))
    found.set_conf_state(ConfState(voters=(1, 2)))
    return found


def test_who_decides_in_a_joint_phase_is_known_until_its_end(cluster: Cluster) -> None:
    """A removed voter is no member any more, but its URLs are kept that long."""
    remove = ConfChangeSingle(ConfChangeType.REMOVE_NODE, 2)
    cluster.apply_change(ConfChange((remove,)))
    cluster.set_conf_state(ConfState(voters=(1,), voters_outgoing=(1, 2)))
    assert [one.ID for one in cluster.members()] == [1]
    assert [one.raft_attributes.peer_urls[0] for one in cluster.leaving()] == [
        "http://m2"
    ]
    assert cluster.is_removed(2)
    cluster.set_conf_state(ConfState(voters=(1,)))
    assert cluster.leaving() == []


def test_a_simple_removal_leaves_nobody_behind(cluster: Cluster) -> None:
    """Without a joint phase the removed member is forgotten at once."""
    remove = ConfChangeSingle(ConfChangeType.REMOVE_NODE, 2)
    cluster.apply_change(ConfChange((remove,)))
    cluster.set_conf_state(ConfState(voters=(1,)))
    assert cluster.leaving() == []
    assert cluster.is_removed(2)
