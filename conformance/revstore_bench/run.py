"""Preparing, sampling and closing cases so that none distorts another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from revstore_bench import host
from revstore_bench.model import Case, Sample, Scale
from revstore_bench.report import CaseReport, Report

Say = Callable[[str], None]


def say(text: str) -> None:
    """Show how far a run is, beside its results."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def run(cases: Sequence[Case], scale: Scale, directory: Path, say: Say) -> Report:
    """Sample all cases in turn; a case that fails is reported, the others go on."""
    machine = host.facts(directory)
    samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
    failures: dict[str, str] = {}
    try:
        for case in cases:
            say(f"preparing {case.name}")
            _guarded(case, case.prepare, failures)
        for number in range(scale.repetitions):
            for case in cases:
                if case.name not in failures:
                    say(f"{number + 1}/{scale.repetitions} {case.name}")
                    _guarded(case, _sampler(case, number, samples), failures)
    finally:
        for case in cases:
            _guarded(case, case.close, failures)
    reports = [
        CaseReport(
            case.name,
            case.rows(),
            samples[case.name],
            case.settings(),
            failures.get(case.name, ""),
        )
        for case in cases
    ]
    return Report(scale.name, machine, reports)


def _sampler(
    case: Case, number: int, samples: dict[str, list[Sample]]
) -> Callable[[], None]:
    return lambda: samples[case.name].append(case.sample(number))


def _guarded(case: Case, work: Callable[[], None], failures: dict[str, str]) -> None:
    try:
        work()
    except Exception as error:
        failures.setdefault(case.name, f"{type(error).__name__}: {error}")
