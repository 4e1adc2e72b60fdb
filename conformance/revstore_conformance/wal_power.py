"""Cutting the power at every write boundary of a run.

``run_power_cuts`` makes a seeded run of calls on a log on a simulated disk. Before each
operation that changes the disk it takes what a power cut could leave there and opens a
log on it: that log must hold everything whose callback ran, and of the rest a prefix.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from revstore.errors import StorageError
from revstore.interfaces.wal import Wal
from revstore_conformance.files import Operation, PowerCut, SimulatedFiles
from revstore_conformance.wal_harness import MakeWal, stop_at_sync
from revstore_conformance.wal_model import ModelledWal, RandomCalls

DIRECTORY = Path("/node/wal")
METADATA = b"member"


class PowerCutRun:
    """One run; ``points`` counts the places where the power was cut."""

    def __init__(self, make: MakeWal, seed: int, cuts_per_point: int = 1) -> None:
        self._make = make
        self._random = Random(seed)
        self._cut_random = Random(seed + 1)
        self._cuts_per_point = cuts_per_point
        self._files = SimulatedFiles()
        self._log = ModelledWal()
        self.points = 0
        self.torn = 0
        """In how many of them a torn tail was cut."""

    def run(self, calls: int) -> None:
        """Make so many calls, with a crash of the run itself now and then.

        Raises: AssertionError.
        """
        self._open()
        drawn = RandomCalls(self._log, self._random, data_bytes_max=700)
        for number in range(calls):
            drawn.step()
            if number % 20 == 19:
                self._reopen()
        self._log.close()

    def _open(self) -> None:
        self._files.before = self._at
        wal = self._make(DIRECTORY, METADATA, False, self._files)
        self._log.take_over(wal)

    def _reopen(self) -> None:
        """Close, or lose the process, or lose the power, and open again.

        The losses happen in a sync or at rest.
        """
        chance = self._random.random()
        if chance < 0.3:
            self._log.close()
        else:
            if self._random.random() < 0.7:
                self._die_in_sync()
            self._log.crash()
            if chance < 0.6:
                self._files.kill()
            else:
                self._files.crash(self._random)
        self._open()

    def _die_in_sync(self) -> None:
        """Append and sync, but stop before the sync has done anything."""
        RandomCalls(self._log, self._random, data_bytes_max=1500).append()
        self._files.before = stop_at_sync
        try:
            self._log.must_wal().sync()
        except (StorageError, PowerCut):
            pass
        finally:
            self._files.before = self._at

    def _at(self, operation: Operation) -> None:
        for _ in range(self._cuts_per_point):
            self._cut(operation)

    def _cut(self, operation: Operation) -> None:
        after = self._files.crashed(self._cut_random)
        self.points += 1
        wal: Wal | None = None
        try:
            wal = self._make(DIRECTORY, METADATA, False, after)
            assert wal.recovery().metadata == METADATA
            self._log.check_recovered(wal)
            self.torn += wal.recovery().truncated_bytes > 0
        except Exception as error:
            raise AssertionError(f"power cut before {operation}: {error}") from error
        finally:
            if wal is not None:
                wal.close()


def run_power_cuts(make: MakeWal, seed: int, calls: int) -> PowerCutRun:
    """One run of ``calls`` calls from ``seed``.

    Raises: AssertionError, which names the seed.
    """
    run = PowerCutRun(make, seed)
    try:
        run.run(calls)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {calls} calls: {error}") from error
    return run
