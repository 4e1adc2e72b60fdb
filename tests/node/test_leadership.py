"""What a request hears whose time is up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from revstore.api import errors
from revstore.node.leadership import Leadership

TIMEOUT_S = 1.0


class Facts(SimpleNamespace):
    """As much of a replica as is asked."""

    now = 100.0

    def __init__(self, **facts: Any) -> None:
        super().__init__(
            leader=1,
            is_leader=False,
            member_id=2,
            reaches=None,
            on_leader_lost=None,
            settings=SimpleNamespace(election_timeout_s=TIMEOUT_S),
            clock=SimpleNamespace(now=lambda: self.now),
        )
        self.consensus = SimpleNamespace(
            status=lambda: SimpleNamespace(
                conf_state=SimpleNamespace(voters=(1, 2, 3)), role=None
            )
        )
        self.__dict__.update(facts)


def leadership(**facts: Any) -> Leadership:
    """A replica's leadership, its leader known since second 100."""
    made = Leadership(Facts(**facts))  # type: ignore[arg-type]  # duck-typed
    made.changed()
    return made


def test_a_request_from_before_the_election_names_the_leader_failure() -> None:
    """It may have been the lost leader that had it; one from later did not."""
    assert leadership().late(99.0) is errors.TIMEOUT_DUE_TO_LEADER_FAIL
    assert leadership().late(97.0) is errors.TIMEOUT
    assert leadership().late(100.5) is errors.TIMEOUT


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"reaches": lambda member: True}, errors.TIMEOUT),
        ({"reaches": lambda member: False}, errors.TIMEOUT_DUE_TO_CONNECTION_LOST),
        (
            {"reaches": lambda member: False, "is_leader": True, "member_id": 1},
            errors.TIMEOUT_DUE_TO_CONNECTION_LOST,
        ),
        (
            {"reaches": lambda member: member == 3, "is_leader": True, "member_id": 1},
            errors.TIMEOUT,
        ),
    ],
)
def test_who_is_cut_off_says_so(facts: dict[str, Any], error: Exception) -> None:
    """A follower from its leader, a leader from its quorum."""
    assert leadership(**facts).late(105.0) is error


def test_streams_hear_of_a_lost_leader_once() -> None:
    """After three election timeouts, and again only after there was another leader."""
    told: list[float] = []
    facts = Facts(leader=0)
    facts.on_leader_lost = lambda: told.append(1.0)
    watched = Leadership(facts)  # type: ignore[arg-type]  # duck-typed
    for second in range(10):
        watched.tick(200.0 + second)
    assert len(told) == 1
    facts.leader = 3
    watched.tick(300.0)
    facts.leader = 0
    for second in range(10):
        watched.tick(400.0 + second)
    assert len(told) == 2
