"""Random networks, crashes and membership changes, and what must hold all the same.

The cluster itself checks, at each step: election safety, leader completeness, that all
state machines apply the same entries, that nobody applies what is not durable or votes
twice, and that reads see what was committed before. ``REVSTORE_RAFT_SEEDS=a-b`` runs
other seeds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from random import Random

import pytest

from revstore.errors import UsageError
from revstore.hookspecs import ConsensusPlugin
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ProposalDropped,
)
from revstore_conformance.consensus_cluster import Cluster, Member
from revstore_raft.config import RaftOptions
from revstore_raft.machine import CAPABILITIES
from revstore_raft.plugin import make

PLUGIN = ConsensusPlugin(
    name="raft",
    summary="",
    capabilities=CAPABILITIES,
    factory=make,
    options=RaftOptions,
)
STEPS = 2500
MEMBERS_MAX = 6


FOUND = (1653,)
"""Seeds that found something; see docs/design/raft-core.md."""


def seeds() -> Sequence[int]:
    wanted = os.environ.get("REVSTORE_RAFT_SEEDS")
    if wanted is None:
        return [*range(20), *FOUND]
    first, _, last = wanted.partition("-")
    return range(int(first), int(last or first) + 1)


def options(random: Random) -> RaftOptions:
    """Settings under which all paths are taken: small windows, or none."""
    small = random.random() < 0.5
    lease = random.random() < 0.3
    return RaftOptions(
        pre_vote=random.random() < 0.7,
        check_quorum=lease or random.random() < 0.7,
        lease_reads=lease,
        step_down_on_removal=random.random() < 0.5,
        message_bytes_max=100 if small else 1 << 20,
        inflight_messages_max=random.choice((1, 2, 16)),
        inflight_bytes_max=300 if small else 1 << 26,
        uncommitted_bytes_max=500 if small else 1 << 28,
        committed_bytes_max=200 if small else 1 << 24,
    )


class Storm:
    """A cluster to which random things happen."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        random = self.random
        self.tick_share, election_ticks = random.choice(
            ((0.02, 3), (0.03, 5), (0.1, 10))
        )
        """How much of what happens is time passing; and what is thought a long time."""
        self.cluster = Cluster(
            PLUGIN,
            random.choice((3, 3, 5)),
            seed,
            options(random),
            election_ticks=election_ticks,
        )
        self.loss = random.choice((0.0, 0.02, 0.1))
        self.sync_share = random.choice((0.05, 0.3))
        self.heal_share = random.choice((0.08, 0.3))
        self.number = 0
        self.counts: dict[str, int] = {}

    def up(self) -> list[Member]:
        return [m for m in self.cluster.members.values() if m.up]

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def step(self) -> None:
        """One random thing, then whatever work that makes."""
        random, cluster = self.random, self.cluster
        member = random.choice(self.up())
        if random.random() < self.tick_share:
            # All clocks run at one speed, as lease reads assume.
            for each in self.up():
                each.machine.tick()
            return
        dice = random.random()
        if dice < 0.55:
            self.deliver()
        elif dice < 0.76:
            member.sync()
        elif dice < 0.86:
            self.propose(member)
        elif dice < 0.92:
            self.read(member)
        elif dice < 0.96:
            self.disturb(member)
        else:
            member.flush()
            if random.random() < 0.5:
                member.compact()
        for each in self.up():
            if random.random() < 0.9:
                each.work()
            if random.random() < self.sync_share:
                each.sync()
        cluster.collect()

    def deliver(self) -> None:
        wire, random = self.cluster.wire, self.random
        for _ in range(min(len(wire), random.randrange(1, 8))):
            position = random.randrange(min(len(wire), 12))
            message = wire[position]
            if random.random() > 0.05:
                wire.pop(position)
            if random.random() >= self.loss:
                self.cluster.deliver(message)

    def read(self, member: Member) -> None:
        self.number += 1
        index = member.machine.read_index_now()
        if index is not None:
            committed = self.cluster.history.committed
            assert index >= committed, f"{member.id} read {index}, not {committed}"
            self.count("reads served at once")
        elif member.ask_read(b"r%d" % self.number):
            self.count("reads asked")

    def propose(self, member: Member) -> None:
        self.number += 1
        size = self.random.choice((0, 3, 60))
        data = [b"%d " % self.number + bytes(size)] * self.random.randrange(1, 5)
        try:
            if member.machine.propose(data) is not None:
                self.count("proposals")
        except ProposalDropped:
            self.count("proposals dropped")

    def disturb(self, member: Member) -> None:
        """A crash, a partition, a transfer or a change of membership."""
        random, cluster = self.random, self.cluster
        if random.random() < self.heal_share:
            cluster.heal()
        kind = random.randrange(6)
        if kind == 0:
            member.crash()
            self.count("crashes")
            member.start()
        elif kind == 1:
            everybody = sorted(cluster.members)
            group = random.sample(everybody, random.randrange(1, len(everybody)))
            cluster.split(set(group))
            self.count("partitions")
        elif kind == 2:
            target = random.choice(list(cluster.members))
            try:
                member.machine.transfer_leader(target)
                self.count("transfers")
            except UsageError:
                pass
        elif kind == 3:
            member.machine.report_unreachable(random.choice(list(cluster.members)))
            member.machine.report_snapshot(random.choice(list(cluster.members)), False)
        elif cluster.propose_change(self.change()):
            self.count("changes")

    def change(self) -> ConfChange:
        random = self.random
        transition = random.choice(list(ConfChangeTransition))
        if random.random() < 0.3:
            return ConfChange()
        steps = []
        for _ in range(random.choice((1, 1, 2, 5))):
            id = random.randrange(1, MEMBERS_MAX + 1)
            kind = random.choice(
                (
                    ConfChangeType.ADD_NODE,
                    ConfChangeType.ADD_NODE,
                    ConfChangeType.ADD_LEARNER_NODE,
                    ConfChangeType.REMOVE_NODE,
                )
            )
            if (
                kind is not ConfChangeType.REMOVE_NODE
                and id not in self.cluster.members
            ):
                self.cluster.add(id)
            steps.append(ConfChangeSingle(kind, id))
        return ConfChange(tuple(steps), transition)

    def calm(self) -> None:
        """Faults end; the cluster must agree on something new and everybody have it."""
        cluster = self.cluster
        cluster.heal()
        for round in range(400):
            for member in self.up():
                member.machine.tick()
            cluster.settle()
            leader = cluster.leader()
            if leader is None or round < 60:
                continue
            conf = leader.state.conf_state
            if leader.id not in (*conf.voters, *conf.voters_outgoing):
                # A member that finds itself removed stops; one that finds itself
                # demoted makes room.
                leader.crash()
                if leader.id in conf.learners:
                    leader.start()
                continue
            state = leader.machine.status()
            for row in state.progress:
                if row.state == "snapshot":
                    # Everything is delivered by now, so this one was lost.
                    leader.machine.report_snapshot(row.id, False)
            if state.transferring_to:
                continue
            try:
                place = leader.machine.propose([b"calm"])
            except ProposalDropped:
                continue
            cluster.settle()
            assert place is not None
            wanted = [*conf.voters, *conf.learners]
            if all(cluster.members[id].state.index >= place[1] for id in wanted):
                return
        raise AssertionError(f"no progress: {[m.machine.status() for m in self.up()]}")


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds())
def test_storm(seed: int) -> None:
    """Whatever happens, members agree; and when it ends, they go on."""
    replay = f"REVSTORE_RAFT_SEEDS={seed} pytest {__file__}"
    storm = Storm(seed)
    try:
        for number in range(STEPS):
            storm.step()
            if number % 50 == 0:
                storm.cluster.check_logs()
        storm.calm()
        storm.cluster.check_logs()
    except Exception as exc:
        raise AssertionError(f"seed {seed}, replay with: {replay}\n{exc!r}") from exc
    history = storm.cluster.history
    assert history.committed > 3, f"seed {seed}: {storm.counts}"
