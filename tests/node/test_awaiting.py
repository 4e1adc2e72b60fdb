"""The loop stays awake for a client that comes again at once, and for no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from revstore.node.awaiting import AWAKE_S, Awaiting

TURN_S = AWAKE_S / 10


class FakeLoop:
    """Time that passes by turns, and what is called in the next one."""

    def __init__(self) -> None:
        self.now = 1.0
        self.ready: list[Callable[[], None]] = []

    def time(self) -> float:
        """Seconds."""
        return self.now

    def call_soon(self, work: Callable[[], None]) -> None:
        """In the next turn."""
        self.ready.append(work)

    def turns(self) -> int:
        """Turn until nothing is to be done; how often it took."""
        count = 0
        while self.ready:
            self.now += TURN_S
            ready, self.ready = self.ready, []
            for work in ready:
                work()
            count += 1
        return count


def make() -> tuple[FakeLoop, Awaiting]:
    """A loop with nothing to do."""
    loop = FakeLoop()
    return loop, Awaiting(cast(asyncio.AbstractEventLoop, loop))


def test_a_client_that_comes_seldom_is_not_waited_for() -> None:
    """After its writes the loop sleeps at once."""
    loop, awaiting = make()
    for _ in range(3):
        awaiting.next_came()
        awaiting.answered()
        assert not loop.ready
        loop.now += AWAKE_S


def test_a_client_that_comes_at_once_is_waited_for() -> None:
    """From its second write on, for a bounded time."""
    loop, awaiting = make()
    awaiting.answered()
    loop.now += TURN_S
    awaiting.next_came()
    awaiting.answered()
    assert 9 <= loop.turns() <= 11


def test_when_it_has_come_the_loop_is_free() -> None:
    """One turn more, and none that the next answer would add to."""
    loop, awaiting = make()
    awaiting.answered()
    awaiting.next_came()
    awaiting.answered()
    awaiting.next_came()
    awaiting.answered()
    assert len(loop.ready) == 1
    awaiting.next_came()
    assert loop.turns() == 1


def test_a_client_that_stopped_coming_at_once_is_not_waited_for_again() -> None:
    """One time is spent in vain, and no second one."""
    loop, awaiting = make()
    awaiting.answered()
    awaiting.next_came()
    awaiting.answered()
    loop.turns()
    loop.now += AWAKE_S
    awaiting.next_came()
    awaiting.answered()
    assert not loop.ready
