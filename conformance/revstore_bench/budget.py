"""``python -m revstore_bench.budget``: the way of a request, in microseconds.

A member of one serves 1000 puts, then 1000 linearizable gets in flight, twice over:

1. Once with the processor time taken of everything that the event loop calls, writing
   apart from the rest. That is the time of all stages together, and what the loop, the
   log's thread and the threads that write the backend take beside it.
2. Once with each stage timed by the clock, less what the timing takes: some rounds, of
   which the least counts for each stage. The stages but for writing have their shares
   of the time of the first run from it.

So the stages add up to processor time that was really taken, and waiting for the
interpreter's lock, which falls on whichever stage runs, changes shares only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from revstore_bench.budget_server import HANDLERS, PATH, STAGES, WRITE, Taken
from revstore_bench.grpc import LOADS, ask, await_leader, fill, flood
from revstore_bench.model import QUICK, STANDARD, Case, Row, Sample, Scale
from revstore_bench.serving import Target, free_port

ROUNDS = 3
SETTLE_S = 2.0
"""Longer than the backend gathers changes."""
PARTS = (
    *STAGES,
    "event loop and sockets",
    "log: write and sync (own thread)",
    "backend (own thread)",
    "total",
    "  of it the loop's thread in the system",
)


class Budget(msgspec.Struct, frozen=True):
    """The way of one kind of request; microseconds of processor time a call."""

    name: str
    rate: float
    """Calls a second while nothing was timed within a call."""
    stages: dict[str, float]
    loop: float
    """The event loop itself: reading and writing sockets, waking, waiting."""
    system: float
    """What the loop's thread spends in the system, most of it in ``loop``."""
    log: float
    flush: float

    def parts(self) -> dict[str, float]:
        """``PARTS``, and how long each takes."""
        others = [self.loop, self.log, self.flush]
        took = [*(self.stages[one] for one in STAGES), *others]
        return dict(zip(PARTS, [*took, sum(took), self.system], strict=True))


def measure(scale: Scale, directory: Path, flags: Sequence[str]) -> list[Budget]:
    """The budgets of puts and of gets. Raises: LoadError, OSError."""
    runs = {kind: _run(kind, scale, directory, flags) for kind in ("coarse", "fine")}
    found = []
    for name, (rate, calls, coarse) in runs["coarse"].items():
        fine = dict(runs["fine"][name][2].sections_us)
        fine.pop(WRITE)
        handlers, write = (coarse.sections_us[one] for one in (HANDLERS, WRITE))
        part = handlers / sum(fine.values())
        stages = {one: fine.get(one, 0.0) * part for one in STAGES} | {WRITE: write}
        found.append(
            Budget(
                name,
                rate,
                {one: took / calls for one, took in stages.items()},
                max(0.0, coarse.loop_us - handlers - write) / calls,
                coarse.loop_system_us / calls,
                coarse.log_us / calls,
                coarse.flush_us / calls,
            )
        )
    return found


def _run(
    kind: str, scale: Scale, directory: Path, flags: Sequence[str]
) -> dict[str, tuple[float, int, Taken]]:
    """Of each load the rate, the number of calls, and what the server told."""
    place = directory / kind
    place.mkdir(parents=True)
    port, peer = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = [sys.executable, "-m", "revstore_bench.budget_server", kind]
    arguments += [f"--data-dir={place / 'data'}"]
    arguments += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    arguments += [f"--listen-peer-urls=http://127.0.0.1:{peer}", *flags]
    target = Target(arguments, port, place / "log")
    found: dict[str, tuple[float, int, Taken]] = {}
    try:
        await_leader(target)
        fill(target, scale)
        for load in LOADS:
            if load.single:
                continue
            ask(port, PATH, b"")
            rounds: list[Taken] = []
            for number in range(1 if kind == "coarse" else ROUNDS):
                report = flood(target, load, scale, number)
                if kind == "coarse":
                    # What a load leaves to be written is its own, not the next one's.
                    time.sleep(SETTLE_S)
                told = ask(port, PATH, b"")
                rounds.append(msgspec.json.decode(told, type=Taken))
            found[load.name] = report.rate, report.calls, least(rounds)
    finally:
        target.stop()
    return found


class BudgetCase(Case):
    """The budgets among other cases."""

    name = "budget"

    def __init__(self, scale: Scale, directory: Path, flags: Sequence[str]) -> None:
        super().__init__(scale, directory)
        self._flags = tuple(flags)

    def sample(self, number: int) -> Sample:
        found: dict[str, float] = {}
        for one in measure(self.scale, self.directory / str(number), self._flags):
            for part, took in one.parts().items():
                found[f"{one.name}_cpu_us: {part}"] = took
        return found

    def rows(self) -> list[Row]:
        return [
            Row(
                name=f"budget of a {name}: {part}",
                unit="us",
                figure=f"{name}_cpu_us: {part}",
            )
            for name in ("put", "get")
            for part in PARTS
        ]


def least(rounds: Sequence[Taken]) -> Taken:
    """The last round, with the least time of each section of all."""
    names = {name for one in rounds for name in one.sections_us}
    sections = {
        name: min(one.sections_us.get(name, 0.0) for one in rounds) for name in names
    }
    return msgspec.structs.replace(rounds[-1], sections_us=sections)


def render(budgets: Sequence[Budget]) -> str:
    """The budgets side by side."""
    width = max(map(len, PARTS)) + 2
    titles = "".join(f"{one.name:>10}" for one in budgets)
    lines = [f"{'us of processor time a call':{width}}{titles}"]
    for part in PARTS:
        values = "".join(f"{one.parts()[part]:10.2f}" for one in budgets)
        lines.append(f"{part:{width}}{values}")
    rates = "".join(f"{one.rate:10,.0f}" for one in budgets)
    lines.append(f"{'calls a second meanwhile':{width}}{rates}")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the budgets."""
    parser = argparse.ArgumentParser(prog="revstore_bench.budget", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--flag", action="append", default=[])
    options = parser.parse_args(arguments)
    flags = ["--transport=grpc", *options.flag]
    with tempfile.TemporaryDirectory(prefix="bench-") as path:
        budgets = measure(QUICK if options.quick else STANDARD, Path(path), flags)
    sys.stdout.write(render(budgets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
