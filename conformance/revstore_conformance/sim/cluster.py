"""The members of a run, and how they find one another."""

from __future__ import annotations

from random import Random

from revstore.errors import StorageError
from revstore.node import ids
from revstore.node.bootstrap import Joining
from revstore_conformance.files import PowerCut
from revstore_conformance.sim.checkers import Checkers
from revstore_conformance.sim.network import Network
from revstore_conformance.sim.node import Node
from revstore_conformance.sim.world import World


class SimCluster:
    """Members, network and checkers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.network = Network(world)
        self.checkers = Checkers(world)
        self.nodes: list[Node] = []
        self.by_id: dict[int, Node] = {}
        self.cluster_id = 0
        self._random = world.random("restarts")

    def start(self) -> None:
        """Make and start the initial members."""
        size = self.world.random("size").choice(self.world.profile.sizes)
        self.world.figures[f"clusters of {size}"] += 1
        urls = {
            f"m{number}": (f"http://m{number}:2380",) for number in range(1, size + 1)
        }
        for number in range(1, size + 1):
            self._add(Node(self.world, self.network, self.checkers, number, urls))
        self.cluster_id = ids.cluster_id(node.member_id for node in self.nodes)

    def join(self, member_id: int, number: int) -> Node:
        """Start a member that was added to the running cluster."""
        joining = Joining(member_id, self.cluster_id)
        node = Node(self.world, self.network, self.checkers, number, {}, joining)
        self._add(node)
        return node

    def _add(self, node: Node) -> None:
        self.nodes.append(node)
        self.world.names[node.member_id] = node.name
        node.on_crash = self._crashed
        self.restart(node)
        self.by_id[node.member_id] = node

    def _crashed(self, node: Node) -> None:
        """Somebody starts it again after a while."""
        self.world.figures["fault: crash"] += 1
        mean = self.world.profile.down_s if self.world.faults_on else 0.2
        down = mean * (0.2 + self._random.expovariate(1.0))
        self.world.loop.after(down, lambda: self.restart(node))

    def restart(self, node: Node) -> None:
        """Start a member; one whose disk fails while it starts is started again."""
        if node.up or node.gone:
            return
        if self.world.faults_on and self._random.random() < self.world.profile.damage:
            node.meet_damage()
        again = self.world.profile.cut_again
        if self.world.faults_on and self._random.random() < again:
            node.disk.cut_in = self._random.randint(1, 8)
        try:
            node.start()
        except PowerCut:
            pass  # The node has noticed, and is started again.
        except StorageError as exc:
            if not (node.disk.failed or node.disk.dead):
                text = f"{node.name} cannot be started: {exc}"
                raise self.world.violated("a crash leaves what can be opened", text)
            self.world.note(node.name, f"cannot be started now: {exc}")
            if not node.disk.dead:
                node.disk.cut_power(node.random)
                self._crashed(node)

    # ----- looking around

    def running(self) -> list[Node]:
        """Members whose process runs."""
        return [node for node in self.nodes if node.up]

    def some_node(self, random: Random) -> Node | None:
        """A member that a client may turn to; it may be down, frozen or cut off."""
        known = [node for node in self.nodes if not node.gone]
        return random.choice(known) if known else None

    def leader(self) -> Node | None:
        """Who thinks that he leads the highest term."""
        leaders = [node for node in self.running() if node.replica.is_leader]
        return max(leaders, key=lambda node: node.replica.term, default=None)

    def members(self) -> list[Node] | None:
        """The members as the leader has applied them; None without a leader."""
        leader = self.leader()
        if leader is None:
            return None
        ids = [member.ID for member in leader.replica.cluster.members()]
        return [self.by_id[id] for id in ids if id in self.by_id]
