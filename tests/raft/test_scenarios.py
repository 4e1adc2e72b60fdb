"""Transcripts replay: the ones beside this file, and those given with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from revstore_conformance.scenarios import find_files, replay
from revstore_conformance.scenarios.__main__ import main
from revstore_conformance.scenarios.commands import Session
from revstore_conformance.scenarios.script import ScriptError, parse, parse_arguments

OWN = Path(__file__).parent / "scenarios"
GIVEN = Path(__file__).parents[3] / "shared" / "raft-scenarios"


@pytest.mark.parametrize("path", find_files([OWN]), ids=lambda path: path.stem)
def test_own_scenarios(path: Path) -> None:
    """Each scenario of our own goes as it is written."""
    assert [str(failure) for failure in replay(path)] == []


def test_given_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    """All scenarios given with the project go as they are written."""
    if not GIVEN.is_dir():
        pytest.skip("the given scenarios are not beside this checkout")
    assert main([str(GIVEN)]) == 0
    assert capsys.readouterr().out == f"{len(find_files([GIVEN]))} passed, 0 failed\n"


def test_a_difference_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure names the directive and shows a diff; the last line counts files."""
    good, bad = tmp_path / "good.txt", tmp_path / "deep" / "bad.txt"
    bad.parent.mkdir()
    good.write_text("vote cfg=(1) votes=(y)\n----\nVoteWon\n")
    bad.write_text("vote cfg=(1) votes=(y)\n----\nVoteLost\n")
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{bad}:1: vote cfg=(1) votes=(y)"
    assert "-VoteLost" in lines
    assert "+VoteWon" in lines
    assert lines[-1] == "1 passed, 1 failed"


def test_nothing_to_replay_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without files does not pass for success."""
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == "0 passed, 0 failed\n"


def test_rewrite_puts_in_what_happens(tmp_path: Path) -> None:
    """Rewriting replaces outputs and keeps comments, inputs and blank lines."""
    path = tmp_path / "a.txt"
    path.write_text("# Why.\n\nsimple\nv1\n----\nwrong\n\n# The end.\n")
    assert main(["--rewrite", str(path)]) == 0
    assert path.read_text() == (
        "# Why.\n\nsimple\nv1\n----\nvoters=(1)\n1: StateProbe match=0 next=1\n\n"
        "# The end.\n"
    )


def test_logger_lines_do_not_count(tmp_path: Path) -> None:
    """Lines of a logger are no difference, nor is a lone ok."""
    path = tmp_path / "a.txt"
    path.write_text(
        "add-nodes 1 voters=(1) index=2\n----\nINFO 1 switched to configuration\n\n"
        "tick-heartbeat 1\n----\nok\n\ncampaign 1\n----\n\n"
    )
    assert replay(path) == []


def test_broken_files_are_failures(tmp_path: Path) -> None:
    """A file without separator, an unknown command or argument is reported."""
    for text in ("campaign 1\n", "fly 1\n----\n", "add-nodes 1 wings=(2)\n----\n"):
        path = tmp_path / "a.txt"
        path.write_text(text)
        assert len(replay(path)) == 1, text


def test_arguments() -> None:
    """Keys stand alone, with one value, or with several in parentheses."""
    assert parse_arguments("1 v1=true voters=(1, 2 3) x=() drop=3") == [
        ("1", []),
        ("v1", ["true"]),
        ("voters", ["1", "2", "3"]),
        ("x", []),
        ("drop", ["3"]),
    ]


def test_double_separators_enclose_blank_lines() -> None:
    """Output with blank lines stands between double separators."""
    directives, _ = parse("a\n----\n----\none\n\ntwo\n----\n----\n\nb\n----\nthree\n")
    assert [d.expected for d in directives] == [["one", "", "two"], ["three"]]


COMMANDS = """
add-nodes campaign compact deliver-msgs process-ready process-append-thread
process-apply-thread log-level raft-log raft-state stabilize status
set-randomized-election-timeout tick-election tick-heartbeat forget-leader
transfer-leadership send-snapshot propose propose-conf-change committed vote
report-unreachable simple enter-joint leave-joint
"""


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_of_the_dialect_is_known(command: str) -> None:
    """No command of the dialect is unknown to the runner."""
    directives, _ = parse(f"{command}\n----\n")
    outcome = ""
    try:
        Session().handle(directives[0])
    except ScriptError as exc:
        outcome = str(exc)
    assert "unknown command" not in outcome
