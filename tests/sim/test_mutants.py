"""Some of the faulty variants; ``revstore sim --mutants`` tries all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from revstore_conformance.sim.mutant import broke_down
from revstore_conformance.sim.mutants import MUTANTS, mutant
from revstore_conformance.sim.profile import PROFILES
from revstore_conformance.sim.run import Run
from revstore_raft.log import RaftLog

QUICK = (
    "vote-not-persisted",
    "conflicts-stay",
    "acknowledged-before-sync",
    "applied-index-apart",
    "resumed-watch-skips",
    "snapshot-forgets-members",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_faulty_variant_is_caught(name: str) -> None:
    """A checker objects within a few seeds."""
    chosen = mutant(name)
    for seed in (*chosen.seeds, *range(4)):
        with chosen.applied():
            outcome = Run(seed, PROFILES[chosen.profile]).run()
        if not outcome.ok:
            assert not broke_down(outcome.text), outcome.text
            return
    pytest.fail(f"{name} was not caught; {chosen.fault}")


def test_there_are_enough_of_them_and_each_says_what_it_does() -> None:
    """Names are unique; each fault is a sentence."""
    names = [one.name for one in MUTANTS]
    assert len(set(names)) == len(names) >= 15
    assert all(one.fault.endswith(".") for one in MUTANTS)


def _parameters(function: Callable[..., Any]) -> list[tuple[object, str]]:
    """Kinds of the parameters; names only where callers may give them."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        (one.kind, one.name if one.kind is keyword else "")
        for one in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize("name", [one.name for one in MUTANTS])
def test_a_variant_takes_what_the_original_takes(name: str) -> None:
    """A call that fails would be caught, too, but not for the fault that is named."""
    for owner, field, replacement in mutant(name).patches():
        original = owner.__dict__[field]
        if inspect.isfunction(original):
            assert _parameters(replacement) == _parameters(original), field


@pytest.mark.parametrize("name", [one.name for one in MUTANTS])
def test_a_variant_is_gone_when_its_run_is_over(name: str) -> None:
    """What was replaced is put back, also after an exception."""
    chosen = mutant(name)
    patched = [(owner, field) for owner, field, _ in chosen.patches()]
    before = [owner.__dict__[field] for owner, field in patched]
    with pytest.raises(ZeroDivisionError), chosen.applied():
        raise ZeroDivisionError
    assert [owner.__dict__[field] for owner, field in patched] == before
    assert RaftLog.__name__ == "RaftLog"
