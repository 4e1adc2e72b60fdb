"""Operators: they compact, hand leadership over, and change the membership.

They use the API as anybody does, but for changes that need a joint phase, which the
API does not offer. Whoever is in a member list and has no machine yet gets one, so it
does not matter whether the answer to "add" was lost.
"""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message as ProtoMessage

from revstore.apply.cluster import member_context
from revstore.errors import ApiError, UsageError
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ProposalDropped,
)
from revstore.node.ids import member_id
from revstore.proto import membership_pb2, rpc_pb2
from revstore_conformance.sim.clients import KV, call
from revstore_conformance.sim.cluster import SimCluster
from revstore_conformance.sim.node import Node

CLUSTER = "/etcdserverpb.Cluster/"
MAINTENANCE = "/etcdserverpb.Maintenance/"
NODES_MAX = 12
VOTERS_MAX = 5
TIMEOUT_S = 4.0


class Operators:
    """All of them."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = cluster.world.random("operators")
        self._used = 0

    def start(self) -> None:
        """Begin."""
        profile, every = self._world.profile, self._world.every
        random = self._random
        every(random, profile.transfer_every_s, self._transfer)
        every(random, profile.compaction_every_s, self._compact)
        if profile.membership_every_s:
            every(random, profile.membership_every_s, self._change)
            self._world.loop.after(1.0, self._look_around)
            self._world.loop.after(1.0, self._clear_out)

    def _call(
        self,
        node: Node,
        path: str,
        request: ProtoMessage,
        answered: Callable[[bytes | None], None] = lambda answer: None,
    ) -> None:
        def end(outcome: bytes | ApiError | None, taken: bool) -> None:
            if self._world.tracing:
                shown = "ok" if isinstance(outcome, bytes) else repr(outcome)
                name = path.rsplit("/", 1)[1]
                self._world.note("ops", f"{name} at {node.name}: {shown}")
            answered(outcome if isinstance(outcome, bytes) else None)

        message = request.SerializeToString()
        call(self._cluster, node, path, message, TIMEOUT_S, end)

    # ----- leadership and compaction

    def _transfer(self) -> None:
        leader = self._cluster.leader()
        if leader is None:
            return
        voters = leader.replica.consensus.status().conf_state.voters
        target = self._random.choice(voters)
        request = rpc_pb2.MoveLeaderRequest(targetID=target)

        def answered(answer: bytes | None) -> None:
            if answer is not None:
                self._world.figures["leadership transfers"] += 1

        self._world.figures["leadership transfers asked for"] += 1
        self._call(leader, MAINTENANCE + "MoveLeader", request, answered)

    def _compact(self) -> None:
        node = self._cluster.some_node(self._random)
        if node is None or not node.up:
            return
        revision = node.replica.store.revision - self._random.randrange(150)
        request = rpc_pb2.CompactionRequest(revision=revision)

        def answered(answer: bytes | None) -> None:
            if answer is not None:
                self._world.figures["compactions"] += 1

        if revision > 1:
            self._call(node, KV + "Compact", request, answered)

    # ----- membership

    def _look_around(self) -> None:
        """Give every member a machine, wherever it is known that it was added."""
        for node in self._cluster.running():
            for member in node.replica.members():
                if member.ID in self._cluster.by_id:
                    continue
                number = int(member.peerURLs[0].split("://m")[1].split(":")[0])
                self._world.note("ops", f"m{number} gets a machine: {member.ID:x}")
                self._world.figures["members added"] += 1
                self._cluster.join(member.ID, number)
        self._world.loop.after(0.3, self._look_around)

    def _clear_out(self) -> None:
        """Take away the machines of members that are in nobody's list any more."""
        node = self._cluster.leader()
        self._world.loop.after(1.0, self._clear_out)
        if node is None:
            return
        # The list need not name those who are added after the question.
        machines = list(self._cluster.nodes)

        def answered(answer: bytes | None) -> None:
            if answer is None or not node.up:
                return
            # Whoever is in the outgoing half of a joint phase is needed until its end.
            # A frozen member may answer with a list that is newer than the question.
            if node.replica.consensus.status().conf_state.voters_outgoing:
                return
            listed = rpc_pb2.MemberListResponse.FromString(answer)
            ids = [member.ID for member in listed.members]
            for one in machines:
                if one.member_id not in ids and not one.gone:
                    self._retire(one)

        request = rpc_pb2.MemberListRequest(linearizable=True)
        self._call(node, CLUSTER + "MemberList", request, answered)

    def _retire(self, node: Node) -> None:
        """It is not in the list, and stops when it knows so: wait for that, a while."""
        if node.retiring:
            return  # It will be.
        node.retiring = True
        self._world.figures["members removed"] += 1
        self._world.loop.after(30.0 + 10 * self._random.random(), node.switch_off)

    def _swap(self) -> None:
        """Replace some voters by new ones at once, through joint consensus.

        The API has no call for it, so consensus is asked directly.
        """
        leader = self._cluster.leader()
        if leader is None or self._used >= NODES_MAX:
            return
        replica = leader.replica
        voters = list(replica.consensus.status().conf_state.voters)
        if len(voters) < 3 or leader.paused:
            return
        self._used += 1
        number = 10 + self._used
        urls = (f"http://m{number}:2380",)
        new = member_id(urls, replica.settings.cluster_token, int(replica.wall_now()))
        leaving = self._random.sample(voters, self._random.randint(1, 2))
        steps = [ConfChangeSingle(ConfChangeType.ADD_NODE, new)]
        steps += [ConfChangeSingle(ConfChangeType.REMOVE_NODE, one) for one in leaving]
        described = membership_pb2.Member(
            ID=new, raft_attributes=membership_pb2.RaftAttributes(peer_urls=urls)
        )
        transition = ConfChangeTransition.JOINT_IMPLICIT
        if self._random.random() < 0.6:
            transition = ConfChangeTransition.JOINT_EXPLICIT
            stays = 4.0 * self._random.random()
            self._world.loop.after(stays, self._end_joint_phase)
        change = ConfChange(tuple(steps), transition, member_context(described))
        if self._propose(leader, change):
            self._world.figures["joint changes proposed"] += 1
            self._world.note("ops", f"m{number} shall replace {len(leaving)} voters")

    def _propose(self, leader: Node, change: ConfChange) -> bool:
        try:
            leader.replica.consensus.propose_conf_change(change)
        except (ProposalDropped, UsageError):
            return False
        leader.request_pump()
        return True

    def _end_joint_phase(self) -> None:
        """End a joint phase that does not end by itself; ask until it is over."""
        leader = self._cluster.leader()
        if leader is not None and not leader.paused:
            conf = leader.replica.consensus.status().conf_state
            if conf.voters_outgoing and not conf.auto_leave:
                self._propose(leader, ConfChange())
                self._world.figures["joint phases ended by hand"] += 1
        if self._world.faults_on or self._joint_somewhere():
            self._world.loop.after(2.0, self._end_joint_phase)

    def _joint_somewhere(self) -> bool:
        return any(
            node.replica.consensus.status().conf_state.voters_outgoing
            for node in self._cluster.running()
        )

    def _change(self) -> None:
        """One change that fits: promote a learner, add one, or remove somebody."""
        leader = self._cluster.leader()
        if leader is None:
            return
        members = leader.replica.members()
        learners = [member for member in members if member.isLearner]
        voters = [member for member in members if not member.isLearner]
        node = leader
        if self._random.random() < 0.3:
            node = self._cluster.some_node(self._random) or leader
        draw = self._random.random()
        if self._random.random() < 0.25 and len(voters) > 3:
            self._swap()
        elif learners and draw < 0.7:
            promote = rpc_pb2.MemberPromoteRequest(ID=learners[0].ID)
            self._call(node, CLUSTER + "MemberPromote", promote)
        elif draw < 0.5 and len(voters) > 3:
            self._remove(node, self._random.choice(members).ID)
        elif len(voters) < VOTERS_MAX and self._used < NODES_MAX:
            self._used += 1
            number = 10 + self._used
            add = rpc_pb2.MemberAddRequest(
                peerURLs=[f"http://m{number}:2380"],
                isLearner=self._random.random() < 0.7,
            )
            self._call(node, CLUSTER + "MemberAdd", add)
        elif len(voters) > 3:
            self._remove(node, self._random.choice(members).ID)

    def _remove(self, node: Node, target: int) -> None:
        request = rpc_pb2.MemberRemoveRequest(ID=target)
        self._call(node, CLUSTER + "MemberRemove", request)
