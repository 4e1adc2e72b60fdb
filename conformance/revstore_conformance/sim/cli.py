"""``revstore sim``: run seeds, find the first that fails, show it; and try the mutants."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import islice

import click
import msgspec

from revstore_conformance.sim.mutant import broke_down
from revstore_conformance.sim.mutants import MUTANTS, mutant
from revstore_conformance.sim.profile import PROFILES, Profile
from revstore_conformance.sim.run import Outcome, Run

TRANSCRIPT_LINES = 60
"""Lines of a failing run's transcript that are shown."""

BAR_CELLS = 30


def run_seed(seed: int, profile: Profile, fault: str = "") -> Outcome:
    """One run, of a mutant if ``fault`` names one. Raises: nothing."""
    with mutant(fault).applied() if fault else nullcontext():
        return Run(seed, profile).run()


def transcript(
    seed: int, profile: Profile, fault: str = ""
) -> tuple[list[str], Outcome]:
    """A run and its transcript. Raises: nothing."""
    lines: list[str] = []
    with mutant(fault).applied() if fault else nullcontext():
        outcome = Run(seed, profile, lines.append).run()
    return lines, outcome


def parse_seeds(text: str) -> list[int]:
    """``7``, ``0..999`` or ``1,5,9``. Raises: click.BadParameter."""
    seeds: list[int] = []
    try:
        for part in text.split(","):
            first, dots, last = part.partition("..")
            seeds += range(int(first), int(last) + 1) if dots else [int(first)]
    except ValueError as exc:
        raise click.BadParameter(f"{text!r} is no list of seeds like 0..99") from exc
    if not seeds:
        raise click.BadParameter(f"{text!r} names no seed; write first..last")
    return seeds


def choose_profile(name: str, steps: int | None) -> Profile:
    """A profile, with another number of client operations if that is asked for."""
    profile = PROFILES[name]
    if steps is not None:
        profile = msgspec.structs.replace(profile, operations_min=steps)
    return profile


def outcomes(
    seeds: Sequence[int], profile: Profile, jobs: int, fault: str = ""
) -> Iterator[Outcome]:
    """The runs in order of their seeds, some at a time."""
    if jobs <= 1:
        yield from (run_seed(seed, profile, fault) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting = iter(seeds)
        running = [
            pool.submit(run_seed, seed, profile, fault)
            for seed in islice(waiting, 4 * jobs)
        ]
        try:
            while running:
                yield running.pop(0).result()
                seed = next(waiting, None)
                if seed is not None:
                    running.append(pool.submit(run_seed, seed, profile, fault))
        finally:
            pool.shutdown(cancel_futures=True)


@click.command()
@click.option("--seeds", default="0..99", show_default=True, help="Seeds to run.")
@click.option("--seed", type=int, help="Run one seed.")
@click.option(
    "--profile",
    "profile_name",
    type=click.Choice(sorted(PROFILES)),
    default="standard",
    show_default=True,
    help="How hard it is made for the cluster.",
)
@click.option("--steps", type=int, help="Client operations a run has at least.")
@click.option("--jobs", type=int, default=2, show_default=True, help="Processes.")
@click.option("--trace", is_flag=True, help="Print the whole transcript of --seed.")
@click.option("--mutant", "fault", default="", help="Run a faulty variant by its name.")
@click.option(
    "--mutants", is_flag=True, help="See that every faulty variant is caught."
)
def sim(
    seeds: str,
    seed: int | None,
    profile_name: str,
    steps: int | None,
    jobs: int,
    trace: bool,
    fault: str,
    mutants: bool,
) -> int:
    """Run whole clusters on a virtual clock and check what they promise.

    Every run follows from its seed. Exit code 1 if a run violated anything.
    """
    profile = choose_profile(profile_name, steps)
    if fault and fault not in {one.name for one in MUTANTS}:
        names = ", ".join(one.name for one in MUTANTS)
        raise click.BadParameter(f"there is no mutant {fault!r}; there are {names}")
    if mutants:
        return _try_mutants(parse_seeds(seeds), jobs, steps)
    if trace:
        if seed is None:
            raise click.UsageError("--trace wants one run: add --seed N")
        return _trace(seed, profile, fault)
    wanted = parse_seeds(seeds) if seed is None else [seed]
    return _run_all(wanted, profile, min(jobs, len(wanted)), fault)


def _say(text: str = "") -> None:
    click.echo(text)


def _trace(seed: int, profile: Profile, fault: str) -> int:
    lines, outcome = transcript(seed, profile, fault)
    for line in lines:
        _say(line)
    _say(f"seed {seed}: {'ok' if outcome.ok else outcome.checker}")
    return 0 if outcome.ok else 1


def _run_all(seeds: list[int], profile: Profile, jobs: int, fault: str) -> int:
    total: Counter[str] = Counter()
    began = time.monotonic()
    progress = _Progress(len(seeds))
    failed: Outcome | None = None
    done = 0
    for outcome in outcomes(seeds, profile, jobs, fault):
        done += 1
        total.update(outcome.figures)
        if not outcome.ok:
            failed = outcome
            break
        progress.show(done, total)
    progress.end()
    _say(f"{done} runs of profile {profile.name} in {time.monotonic() - began:.0f} s")
    for name, count in sorted(total.items()):
        _say(f"  {name:<42} {count:>12,}")
    if failed is None:
        _say("no violation")
        return 0
    _show_failure(failed, profile, fault)
    return 1


class _Progress:
    """How far the runs are: a bar on a terminal, else a line for each tenth."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._began = time.monotonic()
        self._bar = sys.stderr.isatty()

    def show(self, done: int, total: Counter[str]) -> None:
        """Some runs are over."""
        count = self._count
        left_s = (time.monotonic() - self._began) * (count - done) / done
        text = (
            f"{done}/{count} runs, {total['checked: operations']:,} operations checked, "
            f"{left_s:.0f} s left"
        )
        if self._bar:
            cells = done * BAR_CELLS // count
            bar = "#" * cells + "." * (BAR_CELLS - cells)
            click.echo(f"\r[{bar}] {text}  ", nl=False, err=True)
        elif done * 10 // count > (done - 1) * 10 // count:
            click.echo(text, err=True)

    def end(self) -> None:
        """No more will be shown."""
        if self._bar:
            click.echo("", err=True)


def _show_failure(failed: Outcome, profile: Profile, fault: str) -> None:
    lines, again = transcript(failed.seed, profile, fault)
    _say(f"\nseed {failed.seed} violates: {failed.checker}\n{failed.text}\n")
    _say(f"the end of its transcript ({len(lines)} lines in all):")
    for line in lines[-TRANSCRIPT_LINES:]:
        _say(f"  {line[:200]}")
    options = f" --profile {profile.name}"
    default = PROFILES[profile.name].operations_min
    if profile.operations_min != default:
        options += f" --steps {profile.operations_min}"
    if fault:
        options += f" --mutant {fault}"
    _say(f"\nreplay it:  revstore sim --seed {failed.seed}{options} --trace")
    if again.checker != failed.checker:
        _say("the second run differed: the simulator is not deterministic, report this")


def _try_mutants(seeds: list[int], jobs: int, steps: int | None) -> int:
    missed = []
    for one in MUTANTS:
        profile = choose_profile(one.profile, steps)
        ordered = list(dict.fromkeys([*one.seeds, *seeds]))
        caught = None
        for outcome in outcomes(ordered, profile, jobs, one.name):
            if not outcome.ok:
                caught = outcome
                break
        if caught is None:
            missed.append(one.name)
            _say(f"  {one.name:<28} MISSED in {len(seeds)} seeds of {profile.name}")
        elif broke_down(caught.text):
            missed.append(one.name)
            _say(f"  {one.name:<28} BROKEN, mend the variant: {caught.text}")
        else:
            where = f"seed {caught.seed} of {profile.name}"
            _say(f"  {one.name:<28} caught by {where}: {caught.checker}")
    _say(f"{len(MUTANTS) - len(missed)} of {len(MUTANTS)} mutants caught")
    return 1 if missed else 0
