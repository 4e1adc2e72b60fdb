"""What goes wrong: crashes, freezes, partitions, slow links, disks."""

from __future__ import annotations

from collections.abc import Callable

from revstore_conformance.sim.cluster import SimCluster
from revstore_conformance.sim.node import Node


class Faults:
    """Injects faults at random moments until ``heal``."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._random = cluster.world.random("faults")

    def start(self) -> None:
        """Begin."""
        profile, every = self._world.profile, self._world.every
        random = self._random
        self._cluster.checkers.on_install = self._installs
        every(random, profile.crash_every_s, self._crash)
        every(random, profile.pause_every_s, self._pause)
        every(random, profile.partition_every_s, self._partition)
        every(random, profile.slow_link_every_s, self._slow_links)
        every(random, profile.slow_disk_every_s, self._slow_disk)
        every(random, profile.failing_sync_every_s, self._failing_sync)
        every(random, profile.failing_write_every_s, self._failing_write)

    def heal(self) -> None:
        """End all faults; who is down will be started."""
        self._world.faults_on = False
        self._cluster.network.heal()
        for node in self._cluster.nodes:
            node.resume()
            node.slow_disk = False
            node.disk.cut_in = 0
            node.disk.fail_sync = node.disk.fail_write = False

    def _victim(self) -> Node | None:
        """Somebody who runs; the leader more often than the others."""
        running = self._cluster.running()
        if not running:
            return None
        leader = self._cluster.leader()
        if leader is not None and self._random.random() < 0.35:
            return leader
        return self._random.choice(running)

    def _count(self, kind: str) -> None:
        self._world.figures[f"fault: {kind}"] += 1

    def _duration(self, mean_s: float) -> float:
        return mean_s * (0.3 + self._random.expovariate(1.0))

    def _crash(self) -> None:
        draw = self._random.random()
        victims = [self._victim()]
        if draw < 0.1:
            # The lights go out for everybody, or nearly.
            victims = [
                n for n in self._cluster.running() if self._random.random() < 0.9
            ]
            self._count("crash of many")
        for node in victims:
            if node is None or not node.up:
                continue
            if draw < 0.4:
                node.disk.cut_in = self._random.randint(1, 12)
            else:
                power = draw < 0.75
                self._count("power cut" if power else "process killed")
                node.crash(power)

    def _installs(self, member: str) -> None:
        """A power cut between the steps of an installation is rare by itself."""
        node = next(node for node in self._cluster.nodes if node.name == member)
        network, profile = self._cluster.network, self._world.profile
        if network.chance(profile.cut_installing):
            self._count("power cut armed for an installation")
            node.disk.cut_in = self._random.randint(1, 12)

    def _pause(self) -> None:
        node = self._victim()
        if node is None or node.paused:
            return
        self._count("freeze")
        node.pause()
        generation = node.generation

        def thaw() -> None:
            if node.generation == generation:
                node.resume()

        self._world.loop.after(self._duration(self._world.profile.pause_s), thaw)

    def _partition(self) -> None:
        """Cut off a group: both ways, or one way only."""
        random = self._random
        ids = [node.member_id for node in self._cluster.nodes if not node.gone]
        leader = self._cluster.leader()
        if len(ids) < 2:
            return
        if leader is not None and random.random() < 0.6:
            group = [leader.member_id]
            if random.random() < 0.5:
                # It believes in itself longest with some, but too few, on its side.
                voters = leader.replica.consensus.status().conf_state.voters
                others = [voter for voter in voters if voter != leader.member_id]
                group += random.sample(others, max(0, (len(voters) - 1) // 2 - 1))
        else:
            group = random.sample(ids, random.randint(1, max(1, len(ids) // 2)))
        others = [id for id in ids if id not in group]
        outward = [(one, other) for one in group for other in others]
        inward = [(other, one) for one, other in outward]
        draw = random.random()
        if draw < 0.5:
            links, kind = outward + inward, "partition"
        else:
            links, kind = (outward if draw < 0.75 else inward), "one-way partition"
        self._count(kind)
        self._world.note("net", f"{kind} of {[f'{one:x}' for one in group]}")
        mend = self._cluster.network.cut(links)
        self._end(self._world.profile.partition_s, mend, f"{kind} ends")

    def _slow_links(self) -> None:
        random = self._random
        ids = [node.member_id for node in self._cluster.nodes if not node.gone]
        if len(ids) < 2:
            return
        links = []
        for _ in range(random.randint(1, len(ids))):
            one, other = random.sample(ids, 2)
            links.append((one, other))
        self._count("slow link")
        mend = self._cluster.network.slow(links)
        self._end(self._world.profile.slow_link_s, mend, "slow links end")

    def _end(self, mean_s: float, mend: Callable[[], None], text: str) -> None:
        def over() -> None:
            if self._world.faults_on:
                mend()
                self._world.note("net", text)

        self._world.loop.after(self._duration(mean_s), over)

    def _slow_disk(self) -> None:
        node = self._victim()
        if node is None:
            return
        self._count("slow disk")
        node.slow_disk = True

        def over() -> None:
            node.slow_disk = False

        self._world.loop.after(self._duration(self._world.profile.slow_disk_s), over)

    def _failing_sync(self) -> None:
        node = self._victim()
        if node is not None:
            self._count("failing sync")
            self._world.note(node.name, "its next sync will fail")
            node.disk.fail_sync = True

    def _failing_write(self) -> None:
        node = self._victim()
        if node is not None:
            self._count("failing backend write")
            self._world.note(node.name, "its next flush will fail")
            node.disk.fail_write = True
