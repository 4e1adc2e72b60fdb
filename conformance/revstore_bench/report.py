"""The figures for people (a table) and for programs (JSON, nothing left out)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from revstore_bench.model import Row, Sample, holds, series_of


class CaseReport(msgspec.Struct, frozen=True):
    """A case that ran."""

    name: str
    rows: list[Row]
    samples: list[Sample]
    settings: Mapping[str, object]
    error: str = ""
    """Why there are no figures, if there are none."""


class Report(msgspec.Struct, frozen=True):
    """A whole run."""

    scale: str
    machine: Mapping[str, object]
    cases: list[CaseReport]


HEADINGS = ("figure", "median [min .. max]", "beside it", "target", "holds", "class")


def render(report: Report) -> str:
    """The table, what it was measured on, and the engines' settings."""
    lines = [f"revstore benchmarks, scale {report.scale!r}", ""]
    lines += [f"  {name}: {value}" for name, value in report.machine.items()]
    lines += [""]
    table: list[tuple[str, ...]] = [HEADINGS]
    for case in report.cases:
        if case.error:
            table.append((case.name, case.error, "", "", "NO FIGURE", ""))
        else:
            table += [_cells(row, case.samples) for row in case.rows]
    widths = [max(len(cells[column]) for cells in table) for column in range(6)]
    for cells in table:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    lines += ["", "Engine settings:"]
    lines += [
        f"  {case.name}: {case.settings}" for case in report.cases if case.settings
    ]
    lines += ["", _verdict(report)]
    return "\n".join(lines) + "\n"


def publish(report: Report, json: Path | None) -> None:
    """Print the table, and write every sample to a file if one is named.

    Raises: OSError.
    """
    sys.stdout.write(render(report))
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))


def _cells(row: Row, samples: list[Sample]) -> tuple[str, ...]:
    series = series_of(samples, row.figure)
    shown = _number(series.median)
    if len(series.values) > 1:
        shown += f" [{_number(series.low)} .. {_number(series.high)}]"
    shown += f" {row.unit}"
    beside = ""
    if row.beside:
        other = series_of(samples, row.beside).median
        ratios = [
            sample[row.figure] / sample[row.beside]
            for sample in samples
            if sample.get(row.beside)
        ]
        ratio = f" ({_number(series_of_ratios(ratios))}x)" if ratios else ""
        beside = f"{_number(other)} {row.beside_name}{ratio}"
    kept = holds(row, samples)
    verdict = "" if kept is None else ("yes" if kept else "NO")
    return row.name, shown, beside, _target(row), verdict, row.durability


def series_of_ratios(ratios: list[float]) -> float:
    """The middle one."""
    ordered = sorted(ratios)
    return ordered[len(ordered) // 2]


def _target(row: Row) -> str:
    what = f" {row.target_of}" if row.target_of else f" {row.unit}"
    if row.target_min is not None:
        return f">= {_number(row.target_min)}{what}"
    if row.target_max is not None:
        return f"<= {_number(row.target_max)}{what}"
    return ""


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def _verdict(report: Report) -> str:
    kept = [
        holds(row, case.samples)
        for case in report.cases
        if not case.error
        for row in case.rows
    ]
    judged = [one for one in kept if one is not None]
    failed = judged.count(False) + sum(bool(case.error) for case in report.cases)
    if failed:
        return f"{failed} of {len(judged)} targets do not hold in this run."
    return f"All {len(judged)} targets hold in this run."
