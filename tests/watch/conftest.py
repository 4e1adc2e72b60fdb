"""Stores and members; everything else is in ``support``.

``history`` runs every test twice: over a store of a few lines, which is easy to be sure
of, and over the real one.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.watch.support import FakeHistory, MakeMember, Member, RealHistory


@pytest.fixture(params=["fake", "store"])
def history(request: pytest.FixtureRequest) -> Iterator[FakeHistory | RealHistory]:
    """An empty store."""
    if request.param == "fake":
        yield FakeHistory()
        return
    store = RealHistory()
    yield store
    store.close()


@pytest.fixture
def member(history: FakeHistory | RealHistory) -> Member:
    """A member with an empty store."""
    return Member(history)


@pytest.fixture
def make_member(history: FakeHistory | RealHistory) -> MakeMember:
    """Makes a member with options of its own."""
    return lambda options: Member(history, options)
