"""A whole differential run: two servers, a seed, and what to print when they differ."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from random import Random

from tests.differential.differences import Differences
from tests.differential.generate import Generator
from tests.differential.ops import TXN_OPS_MAX, Op, Restart
from tests.differential.runner import MismatchError, Runner
from tests.differential.sides import Side
from tests.support.etcd import start_etcd
from tests.support.server import start_server

SEED_VARIABLE = "REVSTORE_SEED"
FAILURES = (MismatchError, TimeoutError, ConnectionError)
"""What a run ends with when the two servers differ."""


def chosen_seed(default: int) -> int:
    """The seed of a run: the one asked for, or the usual one."""
    return int(os.environ.get(SEED_VARIABLE, default))


class Run:
    """The operations of one run as they were made, and the differences used."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.backend = backend
        self.folder = folder
        self.differences = Differences()
        self.ops: list[Op] = []
        self.reached = 0
        """The revision at the end."""

    def replay(self, ops: Sequence[Op]) -> None:
        """Run these operations. Raises: one of FAILURES."""
        asyncio.run(self._lock_step(iter(ops), None))

    def generate(self, seed: int, wanted: int, restarts: int) -> None:
        """Run ``wanted`` random operations. Raises: one of FAILURES."""
        generator = Generator(Random(seed))
        made = self._made(generator, wanted, restarts)
        asyncio.run(self._lock_step(made, generator))

    def _made(self, generator: Generator, wanted: int, restarts: int) -> Iterable[Op]:
        every = wanted // (restarts + 1)
        done = 0
        while len(self.ops) < wanted:
            made = generator.next()
            if done < restarts and len(self.ops) >= every * (done + 1):
                made = generator.restart(kill=done % 2 == 0)
                if done == 0:
                    for part in (
                        generator.each_difference,
                        generator.compacted_deletion,
                    ):
                        yield from self._noted(part())
                done += 1
            yield from self._noted(made)

    def _noted(self, ops: Iterable[Op]) -> Iterable[Op]:
        for op in ops:
            self.ops.append(op)
            yield op

    async def _lock_step(self, ops: Iterable[Op], generator: Generator | None) -> None:
        with (
            start_etcd(self.folder / "etcd", max_txn_ops=TXN_OPS_MAX) as etcd,
            start_server(
                self.backend, self.folder / "revstore", max_txn_ops=TXN_OPS_MAX
            ) as revstore,
        ):
            runner = Runner(Side(etcd), Side(revstore), self.differences)
            try:
                for op in ops:
                    await runner.run(op)
                    if generator is not None:
                        generator.revision = runner.revision
                        generator.compacted = max(runner.compacted, 0)
                await runner.finish()
            finally:
                self.reached = runner.revision
                await runner.close()


def shrink(
    ops: Sequence[Op], differs: Callable[[Sequence[Op]], bool], runs_max: int
) -> list[Op]:
    """Fewer operations that still differ: chunks are left out while that helps."""
    best = list(ops)
    runs = 0
    size = max(len(best) // 2, 1)
    while size and runs < runs_max:
        start = 0
        while start < len(best) and runs < runs_max:
            fewer = best[:start] + best[start + size :]
            runs += 1
            if differs(fewer):
                best = fewer
            else:
                start += size
        size //= 2
    return best


def differs_again(backend: str, folder: Path) -> Callable[[Sequence[Op]], bool]:
    """Whether operations make two fresh servers differ."""
    trials = count()

    def differs(ops: Sequence[Op]) -> bool:
        trial = folder / f"trial-{next(trials)}"
        trial.mkdir()
        try:
            Run(backend, trial).replay(ops)
        except FAILURES:
            return True
        return False

    return differs


def has_restarts(ops: Iterable[Op]) -> tuple[int, int]:
    """How many restarts there are by SIGTERM and by SIGKILL."""
    kinds = [op.kill for op in ops if isinstance(op, Restart)]
    return kinds.count(False), kinds.count(True)
