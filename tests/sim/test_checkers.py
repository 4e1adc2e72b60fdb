"""What a checker must demand, and what it must not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from revstore.types import Entry
from revstore_conformance.sim.checkers import LeaderCompleteness


class Violated(Exception):  # noqa: N818 - not an error of the code under test
    """What a checker raises here."""


def checker() -> LeaderCompleteness:
    """It knows that entry 63 of term 2 was committed by a leader of term 4."""
    made = LeaderCompleteness(lambda name, text: Violated(text))  # type: ignore[arg-type,return-value]  # a stand-in
    made.hands_out((Entry(2, 63, b""),), 4)
    return made


def log(**terms: int) -> Any:
    """A replica whose log has these terms by index."""
    found = {int(name[1:]): term for name, term in terms.items()}
    return SimpleNamespace(
        wal=SimpleNamespace(term=found.get, first_index=lambda: min(found))
    )


def test_a_late_leader_need_not_have_what_a_later_term_committed() -> None:
    """Seed 531: m1 froze while it campaigned in term 3, and won it when m2 had led term
    4 and committed in it an entry of term 2 that m1 had never got."""
    checker().leads("m1", log(i59=2), 3)


def test_a_later_leader_must_have_it() -> None:
    """The same log cannot lead term 5, with another entry in its place neither."""
    with pytest.raises(Violated):
        checker().leads("m1", log(i59=2), 5)
    with pytest.raises(Violated):
        checker().leads("m1", log(i63=3), 5)
    checker().leads("m1", log(i63=2), 5)


def test_who_repeats_it_later_does_not_make_it_later() -> None:
    """A member that restarts in term 9 hands the entry out again: it was committed by
    term 4 all the same."""
    made = checker()
    made.hands_out((Entry(2, 63, b""),), 9)
    with pytest.raises(Violated):
        made.leads("m1", log(i59=2), 5)
