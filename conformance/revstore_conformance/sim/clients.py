"""Clients of the key-value API: they put, get, delete, compare and remember.

Rules of this file:

1. A client has one operation under way at a time. When its time is up, or the
   connection ends after the member took it, its outcome is unknown for ever.
2. An operation that was refused before anything could come of it is forgotten: if it
   has an effect all the same, somebody sees a value that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from revstore.api import errors
from revstore.errors import ApiError
from revstore_conformance.sim.linearizability import Operation
from revstore_conformance.sim.node import Node
from revstore_conformance.sim.requests import Requests

if TYPE_CHECKING:
    from revstore_conformance.sim.cluster import SimCluster

KV = "/etcdserverpb.KV/"

REFUSED = frozenset(
    error.message
    for error in (errors.NO_LEADER, errors.PROPOSAL_DROPPED, errors.NOT_CAPABLE)
) | {"rpc not supported for learner", "etcdserver: rpc not supported for learner"}
"""Errors that say that nothing was done."""

Answered = Callable[[bytes | ApiError | None, bool], None]
"""Gets the answer, an error, or None; and whether the member may have begun."""


def call(
    cluster: SimCluster,
    node: Node,
    path: str,
    message: bytes,
    timeout_s: float,
    answered: Answered,
) -> None:
    """Make a call; ``answered`` runs once, at the latest when the time is up."""
    world, network = cluster.world, cluster.network
    open_call = [True]

    def end(outcome: bytes | ApiError | None, taken: bool) -> None:
        if open_call[0]:
            open_call[0] = False
            answered(outcome, taken)

    world.loop.after(timeout_s, lambda: end(None, True))
    if network.client_loses():
        return

    def arrive() -> None:
        node.call(
            path,
            message,
            lambda outcome: end(outcome, True),
            lambda taken: end(None, taken),
        )

    world.loop.after(network.client_delay(), arrive)


class KvClient:
    """One client."""

    def __init__(self, cluster: SimCluster, number: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.name = f"c{number}"
        self.random = cluster.world.random(f"client {number}")
        self.history: list[Operation] = []
        self.node: Node | None = None
        self.stopped = False
        self.idle = True
        profile = cluster.world.profile
        self.requests = Requests(
            self.name,
            self.random,
            profile.groups,
            profile.group_keys,
            lambda: cluster.world.loop.now,
        )

    def start(self) -> None:
        """Begin, after a moment."""
        self.world.loop.after(self.random.random() * 0.5, self._next)

    def _think(self) -> None:
        self.idle = True
        pause = self.random.expovariate(1 / self.world.profile.think_s)
        self.world.loop.after(pause, self._next)

    def _next(self) -> None:
        if self.stopped:
            return
        self.idle = False
        node = self.node
        if node is None or not node.up or self.random.random() < 0.02:
            node = self.node = self.cluster.some_node(self.random)
        if node is None:
            self._think()
            return
        method, request, operation = self.requests.choose()
        self._run(node, method, request, operation, lambda done: self._think())

    def write(self, done: Callable[[bool], None]) -> None:
        """One put at any member; ``done`` hears whether it was acknowledged."""
        node = self.cluster.some_node(self.random)
        if node is None:
            self.world.loop.after(0.1, lambda: done(False))
            return
        method, request, operation = self.requests.put(b"k/final/" + self.name.encode())
        self._run(node, method, request, operation, done)

    # ----- running one

    def _run(
        self,
        node: Node,
        method: str,
        request: bytes,
        operation: Operation,
        done: Callable[[bool], None],
    ) -> None:
        world = self.world

        def answered(outcome: bytes | ApiError | None, taken: bool) -> None:
            finished: Operation | None
            if isinstance(outcome, bytes):
                finished = self.requests.finish(operation, method, outcome, node.name)
                world.figures["operations answered"] += 1
            else:
                if outcome is not None and outcome.message in REFUSED:
                    taken = False
                finished = operation if taken else None
                if taken and operation.writes():
                    world.figures["operations of unknown outcome"] += 1
                elif taken:
                    world.figures["reads without an answer"] += 1
                    finished = None
                else:
                    world.figures["operations refused"] += 1
                self.node = None
            if finished is not None:
                self.history.append(finished)
                if world.tracing:
                    world.note(self.name, f"{finished.text()} via {node.name}")
            elif world.tracing:
                world.note(self.name, f"refused or unread: {outcome!r} via {node.name}")
            done(isinstance(outcome, bytes))

        timeout = world.profile.client_timeout_s
        call(self.cluster, node, KV + method, request, timeout, answered)
