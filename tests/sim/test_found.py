"""What the simulator found in the member: one test each, small and without chance.

docs/testing.md tells the story of each, with its seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from revstore.api import errors
from revstore.api.replica import MemberChange, MemberChangeKind, Tag
from revstore.errors import ApiError
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
)
from revstore.interfaces.peers import REMOVED
from revstore.node.peering import Peering
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult
from revstore_conformance.sim.cluster import SimCluster
from revstore_conformance.sim.node import Node
from revstore_conformance.sim.profile import CALM
from revstore_conformance.sim.run import quiet
from revstore_conformance.sim.world import World


class Stage:
    """Five members without clients and faults, with a leader."""

    def __init__(self) -> None:
        profile = msgspec.structs.replace(CALM, sizes=(5,))
        self.world = World(1, profile)
        self.cluster = SimCluster(self.world)
        self.cluster.start()
        self.pass_time(5.0)

    def pass_time(self, seconds: float) -> None:
        """Let the members go on."""
        self.world.loop.run(self.world.loop.now + seconds, self.world.over)
        assert self.world.violation is None, self.world.violation

    def leader(self) -> Node:
        """Who leads."""
        leader = self.cluster.leader()
        assert leader is not None
        return leader

    def follower(self) -> Node:
        """Somebody else."""
        return next(n for n in self.cluster.running() if not n.replica.is_leader)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A stage whose members log nothing."""
    with quiet(World(0, CALM)):
        yield Stage()


def test_who_leads_no_more_passes_no_revocation_on(stage: Stage) -> None:
    """A thawed leader had its successor revoke what that had just renewed (seed 163)."""
    answers: list[ApplyResult | ApiError] = []
    sent = stage.world.figures["messages sent"]
    request = rpc_pb2.LeaseRevokeRequest(ID=7)
    follower = stage.follower()
    follower.replica.propose_as_leader(Tag.LEASE_REVOKE, request, answers.append)
    follower.replica.pump()
    assert answers == [errors.PROPOSAL_DROPPED]
    assert stage.world.figures["messages sent"] == sent


def test_members_that_leave_decide_until_the_joint_phase_is_over(stage: Stage) -> None:
    """Three of five stopped when the phase began; nobody could end it (seed 11)."""
    leader = stage.leader()
    status = leader.replica.consensus.status()
    staying = [leader.member_id, stage.follower().member_id]
    leaving = [one for one in status.conf_state.voters if one not in staying]
    change = ConfChange(
        tuple(ConfChangeSingle(ConfChangeType.REMOVE_NODE, one) for one in leaving),
        ConfChangeTransition.JOINT_IMPLICIT,
    )
    leader.replica.consensus.propose_conf_change(change)
    leader.request_pump()
    stage.pass_time(8.0)
    conf = stage.leader().replica.consensus.status().conf_state
    assert conf.voters == tuple(sorted(staying))
    assert not conf.voters_outgoing
    assert [stage.cluster.by_id[one].up for one in leaving] == [False] * 3


def test_members_that_leave_are_reached_until_the_joint_phase_is_over(
    stage: Stage,
) -> None:
    """They were forgotten when the phase began, and with them the quorum (seed 14)."""
    leader = stage.leader()
    staying = stage.follower()
    voters = leader.replica.consensus.status().conf_state.voters
    kept = (leader.member_id, staying.member_id)
    leaving = [one for one in voters if one not in kept]
    change = ConfChange(
        tuple(ConfChangeSingle(ConfChangeType.REMOVE_NODE, one) for one in leaving),
        ConfChangeTransition.JOINT_EXPLICIT,
    )
    leader.replica.consensus.propose_conf_change(change)
    leader.request_pump()
    stage.pass_time(2.0)
    assert {one.ID for one in leader.replica.cluster.members()} == set(kept)
    assert {one.ID for one in leader.replica.cluster.leaving()} == set(leaving)
    # Whoever starts within the phase has to reach them too.
    leader.crash(power=True)
    stage.pass_time(5.0)
    leader = stage.leader()
    leader.replica.consensus.propose_conf_change(ConfChange())
    leader.request_pump()
    stage.pass_time(1.0)
    conf = leader.replica.consensus.status().conf_state
    assert (conf.voters, conf.voters_outgoing) == (tuple(sorted(kept)), ())
    assert not leader.replica.cluster.leaving()


def test_who_joined_and_heard_nothing_yet_can_answer_after_a_restart(
    stage: Stage,
) -> None:
    """Its second start knew nobody, so it had nobody to answer (seed 9 of harsh)."""
    urls = ("http://m11:2380",)
    answers: list[ApiError | None] = []
    change = MemberChange(kind=MemberChangeKind.ADD, peer_urls=urls, is_learner=True)
    leader = stage.leader()
    leader.replica.change_members(change, answers.append)
    stage.pass_time(0.4)
    assert answers == [None]
    members = leader.replica.members()
    added = next(member.ID for member in members if tuple(member.peerURLs) == urls)
    node = stage.cluster.join(added, 11)
    node.crash(power=False)
    assert node.replica.store.applied_index == 0
    stage.pass_time(3.0)
    assert node.serving
    assert node.replica.applied == leader.replica.applied


def test_a_member_answers_a_leader_that_was_added_while_it_was_down(
    stage: Stage,
) -> None:
    """Its membership did not name the leader, so it never caught up (seed 13)."""
    sleeper = stage.follower()
    sleeper.on_crash = lambda node: None
    sleeper.crash(power=False)
    answers: list[ApiError | None] = []
    urls = ("http://m11:2380",)
    change = MemberChange(kind=MemberChangeKind.ADD, peer_urls=urls)
    stage.leader().replica.change_members(change, answers.append)
    stage.pass_time(0.4)
    members = stage.leader().replica.members()
    added = next(member.ID for member in members if tuple(member.peerURLs) == urls)
    stage.cluster.join(added, 11)
    stage.pass_time(2.0)
    stage.leader().replica.transfer_leader(added, answers.append)
    stage.pass_time(2.0)
    assert answers == [None, None]
    assert stage.leader().member_id == added
    stage.cluster.restart(sleeper)
    stage.pass_time(3.0)
    assert stage.leader().member_id == added
    assert sleeper.serving
    assert sleeper.replica.applied == stage.leader().replica.applied


def test_who_hears_that_it_was_removed_stays_for_a_while(stage: Stage) -> None:
    """It stopped at once; who had not heard of it yet lost a voter (seed 1)."""
    follower = stage.follower()
    assert follower.talk is not None
    follower.talk.refused(stage.leader().member_id, REMOVED)
    stage.pass_time(3.0)
    assert not follower.replica.stopped
    stage.pass_time(3.0)
    assert follower.replica.stopped


def test_a_removed_member_hears_of_it_by_the_log(stage: Stage) -> None:
    """Its peers closed their links with the news still under way (seed 1)."""
    follower = stage.follower()
    change = MemberChange(kind=MemberChangeKind.REMOVE, member_id=follower.member_id)
    stage.leader().replica.change_members(change, lambda error: None)
    stage.pass_time(0.4)
    assert follower.replica.removed
    assert follower.replica.applied == stage.leader().replica.applied


def test_a_removed_member_stays_until_those_who_stay_know(stage: Stage) -> None:
    """They may have to learn from it what is committed (seeds 1, 1383; 169 of harsh).

    A while of five election timeouts was too short for those who met faults in it.
    """
    follower = stage.follower()
    change = MemberChange(kind=MemberChangeKind.REMOVE, member_id=follower.member_id)
    stage.leader().replica.change_members(change, lambda error: None)
    while not follower.replica.removed:
        stage.pass_time(0.001)
    own = follower.member_id
    others = [n.member_id for n in stage.cluster.nodes if n is not follower]
    ways = [(own, one) for one in others] + [(one, own) for one in others]
    mend = stage.cluster.network.cut(ways)
    stage.pass_time(20.0)
    assert not follower.replica.stopped
    mend()
    stage.pass_time(4.0)
    assert follower.replica.stopped


def test_only_who_surely_knows_turns_a_removed_member_away(stage: Stage) -> None:
    """What a power cut may take back must not make it stop (seed 169 of harsh)."""
    follower = stage.follower()
    change = MemberChange(kind=MemberChangeKind.REMOVE, member_id=follower.member_id)
    leader = stage.leader().replica
    leader.change_members(change, lambda error: None)
    while not leader.cluster.is_removed(follower.member_id):
        stage.pass_time(0.001)
    peering = Peering(leader)
    assert leader.store.durable_index < leader.store.applied_index
    assert peering.admit(follower.member_id) == ""
    stage.pass_time(1.0)
    assert leader.store.durable_index == leader.store.applied_index
    assert peering.admit(follower.member_id) == REMOVED


def test_a_change_of_membership_survives_a_power_cut(stage: Stage) -> None:
    """A member that forgets one campaigns among those who are gone (seed 1)."""
    target = next(n for n in stage.cluster.running() if not n.replica.is_leader)
    change = MemberChange(kind=MemberChangeKind.REMOVE, member_id=target.member_id)
    stage.leader().replica.change_members(change, lambda error: None)
    stage.pass_time(0.4)
    for node in stage.cluster.running():
        store = node.replica.store
        assert store.durable_index == store.applied_index


def test_reads_of_two_starts_have_different_contexts(stage: Stage) -> None:
    """A late answer to a read of an earlier start must not confirm a newer one."""
    node = stage.follower()
    before = node.replica.reads._number
    node.crash(power=False)
    stage.pass_time(2.0)
    assert node.up
    assert abs(node.replica.reads._number - before) > 1_000_000
