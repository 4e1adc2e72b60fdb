"""Cutting the power of a member at every write boundary of a seeded run.

The real replica, store, log and engine run under the virtual shell; what is durable,
proposed, applied, flushed, purged and compacted interleaves by the seed. Before each
operation on the log's disk, and after each write of the engine, the power is cut on a
twin: it must open, and hold what one prefix of the proposals gives, all acknowledged
ones included. Now and then the twin's own recovery is cut, and now and then the run
itself goes on from what a cut left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from revstore.errors import ApiError, StorageError
from revstore.mvcc.store import Store
from revstore.node.settings import PluginChoice
from revstore.types import ApplyResult
from revstore_conformance.files import Operation
from revstore_wal.options import SegmentOptions
from tests.crash.disk import BACKEND, LOG, Machine, Plugins
from tests.crash.load import Load, Op
from tests.crash.model import REQUESTS, Facts, Model, facts_of
from tests.node.virtual import VirtualShell

SEGMENT_BYTES = (1000, 2500, 6000)
LOOK_BACK = 4
ACTIONS = 130


class Member:
    """A member on a machine."""

    def __init__(
        self, machine: Machine, plugins: Plugins, settings: dict[str, Any]
    ) -> None:
        self.machine = machine
        plugins.machine = machine
        self.shell = VirtualShell()
        self.shell.open(
            machine.directory,
            backend=BACKEND,
            wal=PluginChoice(LOG),
            plugins=plugins.manager,
            **settings,
        )

    def serve(self) -> None:
        """Replay the log until requests can be answered. Raises: AssertionError."""
        shell = self.shell
        shell.settle()
        for _ in range(3):
            if not shell.replica.is_leader and not shell.replica.stopped:
                shell.replica.tick()
                shell.settle()
        assert shell.replica.failure is None, shell.replica.failure
        assert shell.replica.is_leader

    @property
    def store(self) -> Store:
        """The member's store."""
        return self.shell.replica.store

    def propose(self, op: Op) -> list[ApplyResult | ApiError]:
        """Propose a request; the list gets its answer."""
        answers: list[ApplyResult | ApiError] = []
        request = REQUESTS[op.tag].FromString(op.payload)
        self.shell.replica.propose(op.tag, op.payload, request, answers.append)
        return answers

    def crash(self) -> None:
        """End it; what it still writes does not matter any more."""
        self.machine.files.before = None
        self.machine.engine.on_change = None
        assert self.shell.member is not None
        replica, directory = self.shell.member
        replica.stop()
        self.shell.works.clear()
        closes = (replica.store, replica.wal, replica.backend, directory)
        for part in closes:
            with suppress(StorageError):
                part.close()


def facts_with_past(store: Store) -> Facts:
    """The facts, with a look back at one older revision if there is one."""
    revision = store.revision - LOOK_BACK
    return facts_of(store, [revision] if revision > store.compact_revision > 0 else [])


class PowerRun:
    """One run; ``points`` counts the power cuts whose outcome was checked."""

    def __init__(self, kind: str, place: Path, seed: int, consensus: str) -> None:
        self._random = Random(seed)
        self._cut_random = Random(seed + 1)
        self._settings = {
            "snapshot_count": self._random.choice((6, 15, 40)),
            "catchup_entries": self._random.choice((0, 1, 8)),
            "compaction_batch_limit": self._random.choice((2, 30)),
            "compaction_sleep_s": 0.0,
            "consensus": PluginChoice(consensus),
        }
        options = SegmentOptions(
            segment_bytes=self._random.choice(SEGMENT_BYTES),
            tail_bytes_max=1500,
            sample_bytes=700,
        )
        self._numbers = count(1)
        self._plugins = Plugins(kind)
        self._member = Member(
            Machine(kind, place, options, numbers=self._numbers),
            self._plugins,
            self._settings,
        )
        self._model = Model()
        self._load = Load(self._random, 0, 1)
        self._ops: list[Op] = []
        self._answers: list[list[ApplyResult | ApiError]] = []
        self._states = [facts_with_past(self._model.store)]
        """The facts after each number of proposals."""
        self._failure: Exception | None = None
        self.points = 0
        self.purged = 0
        self.torn = 0
        self.replayed = 0
        """Cuts behind which the engine was behind the log."""

    def run(self, actions: int, points: int) -> None:
        """Act so many times, or for so many points, reopening now and then.

        Raises: AssertionError.
        """
        try:
            self._arm()
            self._member.serve()
            for number in range(actions):
                self._act()
                if self.points >= points:
                    break
                if number % 60 == 59:
                    self._reopen()
        except Exception as error:
            # A check that fails in a hook looks to the log like a failed disk.
            raise self._failure or error
        finally:
            self._member.crash()
            self._member.machine.forget()
            self._model.close()

    def _arm(self) -> None:
        machine = self._member.machine
        machine.files.before = lambda operation: self._cut(f"before {operation}")
        machine.engine.on_change = lambda: self._cut("after a write of the engine")

    def _act(self) -> None:
        shell, draw = self._member.shell, self._random.random()
        if draw < 0.45:
            self._propose()
        elif draw < 0.60:
            shell.replica.pump()
        elif draw < 0.82:
            shell.replica.wal.sync()
            shell.replica.pump()
        elif draw < 0.88:
            # A flush takes its time, and entries are applied meanwhile.
            shell.run_works()
        else:
            shell.clock.time += self._random.choice((0.01, 0.15))
            shell.replica.tick()
            shell.run_due()
        assert shell.replica.failure is None, shell.replica.failure

    def _propose(self) -> None:
        model = self._model
        op = self._load.next(model.revision, model.store.compact_revision)
        expected = model.apply(op.tag, op.payload)
        assert not isinstance(expected, ApiError), (op, expected)
        self._ops.append(op)
        self._states.append(facts_with_past(model.store))
        if len(self._ops) % 20 == 0:
            model.settle()
        self._answers.append(self._member.propose(op))

    def _acknowledged(self) -> int:
        """How many proposals were answered: a prefix, each as the model says."""
        answered = [bool(answers) for answers in self._answers]
        number = answered.index(False) if False in answered else len(answered)
        assert not any(answered[number:]), "answered out of order"
        for answers in self._answers[:number]:
            assert isinstance(answers[0], ApplyResult), answers
        return number

    def _cut(self, where: str) -> None:
        try:
            self._cut_and_check(where)
        except Exception as error:
            self._failure = self._failure or error
            raise

    def _cut_and_check(self, where: str) -> None:
        random = self._cut_random
        acknowledged = self._acknowledged()
        twin = self._member.machine.power_cut(random)
        self.points += 1
        deeper: list[Machine] = []
        if random.random() < 0.25:
            _cut_at(twin, random.randint(1, 6), random, deeper)
        self._check(twin, acknowledged, where)
        for machine in deeper:
            self.points += 1
            self._check(machine, acknowledged, f"in the recovery of a cut {where}")
        twin.forget()

    def _check(self, machine: Machine, acknowledged: int, where: str) -> None:
        """A member opens on the machine and holds what it must."""
        with _told(where):
            member = Member(machine, self._plugins, self._settings)
        again: Machine | None = None
        try:
            torn = member.shell.replica.wal.recovery().truncated_bytes > 0
            self.torn += torn
            self.purged += member.shell.replica.wal.first_index() > 1
            self.replayed += (
                member.store.applied_index < member.shell.replica.wal.last_index() - 1
            )
            with _told(where):
                member.serve()
            self._find(member, acknowledged, where)
            revision = member.store.revision
            answers = member.shell.put(b"0/after", b"")
            member.shell.settle()
            assert answers == [ApplyResult(revision + 1)], (where, answers)
            if torn or self._cut_random.random() < 0.1:
                again = machine.power_cut(self._cut_random)
        finally:
            member.crash()
            machine.engine.forget()
        if again is not None:
            self.points += 1
            self._check_again(again, revision + 1, f"after the recovery of {where}")

    def _check_again(self, machine: Machine, revision: int, where: str) -> None:
        """What was written after a recovery is there after another cut."""
        with _told(where):
            member = Member(machine, self._plugins, self._settings)
        try:
            with _told(where):
                member.serve()
            assert member.store.revision == revision, where
            assert member.store.get(b"0/after") is not None, where
        finally:
            member.crash()
            machine.forget()

    def _find(self, member: Member, acknowledged: int, where: str) -> int:
        """How many proposals the member holds."""
        found = facts_with_past(member.store)
        for number in range(acknowledged, len(self._states)):
            if self._states[number] == found:
                return number
        near = [state for state in self._states if state.revision == found.revision]
        raise AssertionError(
            f"{where}: after {acknowledged} of {len(self._ops)} proposals were "
            f"acknowledged (revision {self._states[acknowledged].revision})\n"
            f"found    {found}\nexpected one of {near}"
        )

    def _reopen(self) -> None:
        """End in one of three ways and go on with what is left."""
        draw, old = self._random.random(), self._member
        acknowledged = self._acknowledged()
        machine = old.machine
        if draw < 0.3:
            old.shell.settle()
            acknowledged = self._acknowledged()
            assert acknowledged == len(self._ops)
            old.shell.close()
            after = machine.killed()
        elif draw < 0.6:
            after = machine.killed()
            old.crash()
        else:
            after = machine.power_cut(self._random)
            old.crash()
        machine.files.before = None
        machine.forget()
        for number, answers in enumerate(self._answers):
            answers[:] = [ApplyResult(0)] if number < acknowledged else []
        self._member = Member(after, self._plugins, self._settings)
        self._arm()
        self._member.serve()
        held = self._find(self._member, acknowledged, "reopening")
        self._rewind(held)

    def _rewind(self, held: int) -> None:
        """Forget the proposals that were lost unacknowledged."""
        del self._ops[held:]
        del self._states[held + 1 :]
        del self._answers[held:]
        for answers in self._answers:
            answers[:] = [ApplyResult(0)]
        self._model.close()
        self._model = Model()
        for number, op in enumerate(self._ops):
            self._model.apply(op.tag, op.payload)
            if number % 20 == 19:
                self._model.settle()
        self._load = Load(self._random, 0, self._load.run + 1)


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{where}: it does not open: {error}") from error


def _cut_at(twin: Machine, number: int, random: Random, into: list[Machine]) -> None:
    """Cut the power of a machine at its how-manieth operation from now."""
    left = [number]

    def before(operation: Operation) -> None:
        left[0] -= 1
        if left[0] == 0:
            into.append(twin.power_cut(random))

    twin.files.before = before


def run_power_cuts(
    kind: str, place: Path, seed: int, points: int, consensus: str = "solo"
) -> PowerRun:
    """One run, of at most about so many points. Raises: AssertionError, which names the seed."""
    run = PowerRun(kind, place, seed, consensus)
    try:
        run.run(ACTIONS, points)
    except AssertionError as error:
        raise AssertionError(f"{kind}, seed {seed}: {error}") from error
    return run
