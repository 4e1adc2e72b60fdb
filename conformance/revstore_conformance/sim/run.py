"""One run: faults first, then a cluster that must be well again, then the verdicts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import format_exception

import msgspec

from revstore.mvcc.tables import ALARM, CLUSTER, LEASE, LEASE_KEY
from revstore_conformance.sim import verdicts
from revstore_conformance.sim.clients import KvClient
from revstore_conformance.sim.cluster import SimCluster
from revstore_conformance.sim.faults import Faults
from revstore_conformance.sim.leasing import LeaseClient
from revstore_conformance.sim.operators import Operators
from revstore_conformance.sim.profile import STANDARD, Profile
from revstore_conformance.sim.watching import WatchClient
from revstore_conformance.sim.world import Violation, World

PROGRESS = "progress after the faults"
SYSTEM_KEYSPACES = (CLUSTER, LEASE, LEASE_KEY, ALARM)


class Outcome(msgspec.Struct, frozen=True):
    """What a run came to."""

    seed: int
    checker: str = ""
    """Which one objected; empty if none did."""
    text: str = ""
    figures: dict[str, int] = {}

    @property
    def ok(self) -> bool:
        """Whether nothing was violated."""
        return not self.checker


class Run:
    """A cluster, its clients and its faults."""

    def __init__(
        self,
        seed: int,
        profile: Profile = STANDARD,
        write_line: Callable[[str], None] | None = None,
    ) -> None:
        self.world = World(seed, profile, write_line)
        self.cluster = SimCluster(self.world)
        self.faults = Faults(self.cluster)
        self.operators = Operators(self.cluster)
        self.clients = [
            KvClient(self.cluster, n + 1) for n in range(profile.kv_clients)
        ]
        self.leasers = [
            LeaseClient(self.cluster, n + 1) for n in range(profile.lease_clients)
        ]
        ranges = [(b"k/", b"k0"), (b"k/1/", b"k/10"), (b"l/", b"l0"), (b"k/0/", b"k/5")]
        self.watchers = [
            WatchClient(self.cluster, n + 1, *ranges[n % len(ranges)])
            for n in range(profile.watch_clients)
        ]

    def run(self) -> Outcome:
        """Run to the end. Raises: nothing; a violation is an outcome."""
        world = self.world
        with quiet(world):
            try:
                self._fault_phase()
                self._heal_phase()
                self._verdicts()
            except Violation as found:
                if world.violation is None:
                    world.violation = found
            except Exception as exc:
                if world.violation is None:
                    if world.tracing:
                        for line in "".join(format_exception(exc)).splitlines():
                            world.note("sim", line)
                    kind = f"{type(exc).__name__}: {exc}"
                    world.violated("nothing raises", kind)
        figures = Counter(world.figures) + self.cluster.checkers.figures()
        figures["simulated seconds"] = round(world.loop.now)
        figures["steps"] = world.loop.steps
        found_one = world.violation
        return Outcome(
            world.seed,
            "" if found_one is None else found_one.checker,
            "" if found_one is None else found_one.text,
            dict(figures),
        )

    def _until(self, time_s: float, over: Callable[[], bool] | None = None) -> None:
        world = self.world
        violated = world.over
        if over is None:
            world.loop.run(time_s, violated)
        else:
            world.loop.run(time_s, lambda: violated() or over())
        if world.violation is not None:
            raise world.violation

    # ----- phases

    def _fault_phase(self) -> None:
        profile, world = self.world.profile, self.world
        self.cluster.start()
        for client in self.clients:
            client.start()
        for leaser in self.leasers:
            leaser.start()
        for watcher in self.watchers:
            watcher.start()
        self._until(3.0)
        self.faults.start()
        self.operators.start()
        self._until(profile.fault_phase_s)
        figures = world.figures
        while world.loop.now < profile.fault_phase_max_s:
            if figures["operations answered"] >= profile.operations_min:
                break
            self._until(world.loop.now + 1.0)

    def _heal_phase(self) -> None:
        """Everybody must get a write through, and all members must come to agree."""
        world = self.world
        world.note("sim", "the faults end")
        self.faults.heal()
        for client in self.clients:
            client.stopped = True
        for leaser in self.leasers:
            leaser.stopped = True
        bound = world.loop.now + world.profile.heal_bound_s
        self._until(world.loop.now + 2.0)
        written = self._final_writes()
        self._until(bound, lambda: len(written) == len(self.clients))
        if len(written) < len(self.clients):
            text = f"{len(written)} of {len(self.clients)} clients got a write through"
            raise world.violated(PROGRESS, f"{text} by {bound:.0f}\n{self._state()}")
        while world.loop.now < bound:
            self._until(world.loop.now + 0.5)
            if self._settled():
                world.figures["seconds to settle"] += round(
                    world.loop.now - bound + world.profile.heal_bound_s
                )
                return
        raise world.violated(
            PROGRESS, f"{self._unsettled()} by {bound:.0f}\n{self._state()}"
        )

    def _final_writes(self) -> list[str]:
        written: list[str] = []

        def attempt(client: KvClient) -> None:
            def done(ok: bool) -> None:
                if ok:
                    written.append(client.name)
                else:
                    self.world.loop.after(0.3, lambda: attempt(client))

            if client.idle:
                client.write(done)
            else:
                self.world.loop.after(0.3, lambda: attempt(client))

        for client in self.clients:
            attempt(client)
        return written

    def _unsettled(self) -> str:
        """What is not well yet; empty if everything is."""
        members = self.cluster.members()
        if members is None:
            return "no leader"
        down = [node.name for node in members if not node.up or not node.serving]
        learners = [n.name for n in members if n.up and n.replica.is_learner]
        if [name for name in down if name not in learners]:
            return f"{down} do not serve"
        if len({node.replica.applied for node in members if node.up}) > 1:
            return "members have not applied the same"
        behind = [watcher.name for watcher in self.watchers if watcher.behind()]
        if behind:
            return f"watchers {behind} are behind"
        alive = verdicts.living_leases(self.cluster, self.leasers)
        if alive:
            return f"leases {alive} do not expire"
        return ""

    def _settled(self) -> bool:
        return not self._unsettled()

    def _state(self) -> str:
        lines = []
        for node in self.cluster.nodes:
            if node.gone:
                lines.append(f"  {node.name}: gone")
            elif not node.up:
                lines.append(f"  {node.name}: down")
            else:
                lines.append(f"  {node.name}: {node.facts()}")
        return "\n".join(lines)

    def _verdicts(self) -> None:
        verdicts.hashes(self.cluster, SYSTEM_KEYSPACES)
        operations = [one for client in self.clients for one in client.history]
        verdicts.acknowledged(self.world, self.cluster, operations)
        verdicts.revisions(self.world, self.cluster.checkers.journal, operations)
        verdicts.linearizability(self.world, operations)
        verdicts.leases(self.world, self.cluster.checkers.journal, self.leasers)


class _TranscriptHandler(logging.Handler):
    """Puts what members log into the transcript."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", {})
        shown = " ".join(f"{key}={value}" for key, value in fields.items())
        text = f"logs {record.levelname}: {record.getMessage()} {shown}"
        self._world.note(self._world.acting, text)


@contextmanager
def quiet(world: World) -> Iterator[None]:
    """Members' logs go to the transcript, or nowhere."""
    logger = logging.getLogger("revstore")
    before = logger.level, logger.propagate, logger.handlers[:]
    logger.propagate = False
    if world.tracing:
        logger.setLevel(logging.DEBUG)
        logger.handlers = [_TranscriptHandler(world)]
    else:
        logger.setLevel(logging.CRITICAL + 1)
        logger.handlers = [logging.NullHandler()]
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logger.handlers = before[2]
