"""It is slept for a crowd's proposals, and seldom for those of a few."""

from __future__ import annotations

from revstore.node.crowd import CHANCES, CROWD, RETRY_BATCHES, Crowd


def test_a_crowd_is_slept_for() -> None:
    """As long as so many come, if not each time."""
    crowd = Crowd()
    for _ in range(3):
        for _ in range(CHANCES - 1):
            assert crowd.worth_sleeping()
            crowd.slept(CROWD - 1)
        assert crowd.worth_sleeping()
        crowd.slept(CROWD)
    assert crowd.worth_sleeping()


def test_a_few_are_slept_for_once_in_a_while() -> None:
    """Else a crowd that comes later would never be noticed."""
    crowd = Crowd()
    slept = 0
    for _ in range(10 * (RETRY_BATCHES + CHANCES)):
        if crowd.worth_sleeping():
            slept += 1
            crowd.slept(CROWD - 1)
    assert slept == 10 * CHANCES
