"""It is slept for a crowd's proposals, and seldom for those of a few."""

from __future__ import annotations

from revstore.node.crowd import (
    BATCH_ENOUGH_FOR_MEMBERS,
    CHANCES,
    CROWD,
    RETRY_BATCHES,
    Crowd,
)
from revstore.node.replica import BATCH_ENOUGH


def test_a_crowd_is_slept_for() -> None:
    """As long as so many come, if not each time."""
    crowd = Crowd()
    for _ in range(3):
        for _ in range(CHANCES - 1):
            assert crowd.worth_sleeping(1, alone=True)
            crowd.slept(CROWD - 1)
        assert crowd.worth_sleeping(1, alone=True)
        crowd.slept(CROWD)
    assert crowd.worth_sleeping(1, alone=True)


def test_a_few_are_slept_for_once_in_a_while() -> None:
    """Else a crowd that comes later would never be noticed."""
    crowd = Crowd()
    slept = 0
    for _ in range(10 * (RETRY_BATCHES + CHANCES)):
        if crowd.worth_sleeping(1, alone=True):
            slept += 1
            crowd.slept(CROWD - 1)
    assert slept == 10 * CHANCES


def test_many_without_an_answer_are_a_crowd_however_small_their_batches() -> None:
    """A round among members takes long: a crowd's batches of one looked like a few."""
    crowd = Crowd()
    for _ in range(CHANCES):
        assert crowd.worth_sleeping(1, alone=False)
        crowd.slept(1)
    assert not crowd.worth_sleeping(CROWD - 1, alone=False)
    assert crowd.worth_sleeping(CROWD, alone=False)


def test_among_members_half_the_crowd_is_waited_for() -> None:
    """Who was just answered comes again, but not within one sleep."""
    crowd = Crowd()
    assert crowd.worth_sleeping(100, alone=False)
    assert crowd.sleeps_on(49, before=49)
    assert not crowd.sleeps_on(50, before=50)
    crowd.slept(60)
    assert crowd.worth_sleeping(1, alone=False)
    assert crowd.sleeps_on(29, before=29)
    assert not crowd.sleeps_on(30, before=30)
    crowd.slept(CROWD - 1)
    assert crowd.worth_sleeping(1, alone=False)
    assert not crowd.sleeps_on(1, before=1)


def test_alone_nobody_is_waited_for_who_does_not_come_at_once() -> None:
    """A batch makes no work for others there."""
    crowd = Crowd()
    assert crowd.worth_sleeping(100, alone=True)
    assert not crowd.sleeps_on(1, before=1)
    assert crowd.sleeps_on(2, before=1)


def test_a_batch_is_large_enough_sooner_where_there_are_no_other_members() -> None:
    """It goes on as it is then, also while more come."""
    for alone, enough in ((True, BATCH_ENOUGH), (False, BATCH_ENOUGH_FOR_MEMBERS)):
        crowd = Crowd()
        crowd.worth_sleeping(1000, alone=alone)
        assert crowd.sleeps_on(enough - 1, before=enough - 2)
        assert not crowd.sleeps_on(enough, before=enough - 1)
