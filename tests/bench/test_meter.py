"""The meter counts each section without the others and without itself."""

from __future__ import annotations

import pytest

from revstore_bench.budget import PARTS, Budget, render
from revstore_bench.budget_server import STAGES
from revstore_bench.meter import Meter


class Clock:
    """Time that goes on by a fixed step with each look, and by what is added."""

    def __init__(self, step: int) -> None:
        self.now = 0
        self.step = step

    def __call__(self) -> int:
        self.now += self.step
        return self.now


@pytest.mark.parametrize("step", [0, 10])
def test_a_section_has_what_is_its_own(step: int) -> None:
    """Inner time is not in the outer section, nor is the cost of looking at a clock."""
    clock = Clock(step)
    meter = Meter(clock)

    def spend(nanoseconds: int) -> None:
        clock.now += nanoseconds

    inner = meter.timed("inner", lambda: spend(700))

    def work() -> None:
        spend(100)
        inner()
        spend(20)
        inner()
        spend(3)

    for _ in range(2):
        meter.timed("outer", work)()
        found = meter.take()
        assert found["inner"] == pytest.approx(1400, abs=1)
        # The outer section's own looks are within its cost.
        assert found["outer"] == pytest.approx(123, abs=1)


def test_an_exception_ends_its_section() -> None:
    """What a section raises goes on, and time counts for the one around again."""
    clock = Clock(0)
    meter = Meter(clock)

    def broken() -> None:
        clock.now += 5
        raise LookupError("none")

    def outer() -> None:
        with pytest.raises(LookupError):
            meter.timed("broken", broken)()
        clock.now += 3

    meter.timed("outer", outer)()
    assert meter.take() == {"broken": 5, "outer": 3}


def test_functions_are_patched() -> None:
    """A function of a class is timed under a section's name and works as before."""

    class Owner:
        def twice(self, number: int) -> int:
            return 2 * number

    meter = Meter(Clock(1))
    meter.patch("section", Owner, "twice")
    assert Owner().twice(4) == 8
    assert set(meter.take()) == {"section"}


def test_a_budget_adds_up() -> None:
    """The total is that of the stages, the loop and the other threads."""
    stages = dict.fromkeys(STAGES, 1.0)
    one = Budget("put", 10.0, stages, 2.0, 0.5, 3.0, 4.0)
    parts = one.parts()
    assert list(parts) == list(PARTS)
    assert parts["total"] == len(STAGES) + 9.0
    assert f"{parts['total']:.2f}" in render([one])
