"""``revstore sim``: what it takes, says and returns."""

from __future__ import annotations

import sys

import pytest

from revstore.cli.main import main
from revstore.node.appends import Appends
from revstore_conformance.sim import cli
from revstore_conformance.sim.cli import parse_seeds
from revstore_conformance.sim.mutant import Mutant


def test_seeds_are_ranges_and_lists() -> None:
    """``0..3`` includes both ends; parts are joined."""
    assert parse_seeds("7") == [7]
    assert parse_seeds("0..3,9") == [0, 1, 2, 3, 9]


def test_what_is_no_list_of_seeds_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The message says how to write one; the exit code is that of wrong usage."""
    assert main(["sim", "--seeds", "many"]) == 2
    assert "0..99" in capsys.readouterr().err


@pytest.mark.slow
def test_a_violation_is_shown_with_the_command_that_replays_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 1, the checker, the end of the transcript and the replay command."""
    arguments = ["sim", "--seed", "1", "--mutant", "resumed-watch-skips"]
    assert main(arguments) == 1
    shown = capsys.readouterr().out
    assert "violates: watch contract" in shown
    assert "revstore sim --seed 1 --profile standard --mutant" in shown


@pytest.mark.slow
def test_an_exception_is_shown_like_a_violation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its traceback is the end of the transcript; the replay command follows."""
    arguments = ["sim", "--seed", "0", "--mutant", "heartbeats-commit-blindly"]
    assert main(arguments) == 1
    shown = capsys.readouterr().out
    assert "seed 0 violates: nothing raises" in shown
    assert "Traceback (most recent call last)" in shown
    assert "--mutant heartbeats-commit-blindly --trace" in shown


@pytest.mark.parametrize(
    "replacement",
    [lambda self, persist: None, lambda self, persist, **named: self.nothing],
    ids=["another signature", "another class"],
)
def test_a_variant_that_cannot_run_is_not_caught(
    replacement: object,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A renamed parameter ended the runs of a variant, whose fault was never tried."""
    broken = Mutant("odd", "It fails.", lambda: [(Appends, "add", replacement)])
    monkeypatch.setattr(cli, "MUTANTS", (broken,))
    monkeypatch.setattr(cli, "mutant", lambda name: broken)
    assert main(["sim", "--mutants", "--seeds", "0", "--jobs", "1"]) == 1
    shown = capsys.readouterr().out
    assert "odd                          BROKEN" in shown
    assert "0 of 1 mutants caught" in shown


@pytest.mark.slow
def test_a_trace_is_the_same_twice_and_names_members(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every byte of it; only the line of a start has an id."""
    arguments = ["sim", "--seed", "4", "--profile", "calm", "--steps", "50", "--trace"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == first
    starts = [line for line in first.splitlines() if "m1     starts: id=" in line]
    member = starts[0].split("id=")[1].split()[0]
    assert first.count(member) == len(starts)
    assert "<- APP from m" in first
    assert first.endswith("seed 4: ok\n")


@pytest.mark.slow
def test_good_runs_end_with_their_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Elections, faults and checked operations are printed, so that nothing is silent."""
    assert main(["sim", "--seeds", "0..1", "--jobs", "1", "--profile", "solo"]) == 0
    shown, progress = capsys.readouterr()
    assert "1/2 runs" in progress
    assert "no violation" in shown
    assert "checked: operations" in shown
    assert "fault: power cut" in shown


def test_without_the_suite_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The core runs without the suite; only this command needs it."""
    monkeypatch.setitem(sys.modules, "revstore_conformance.sim.cli", None)
    assert main(["sim", "--seeds", "0"]) == 1
    assert "revstore[conformance]" in capsys.readouterr().err
