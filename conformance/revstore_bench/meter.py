"""Where the time of one thread goes: nested sections, each counted without the others.

Rules of this file:

1. A section's time is its own: what it calls under another name is not in it.
2. What the measuring itself takes is measured, and taken off: inside of each section,
   and in the section around it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

OUTSIDE = "outside"
"""Where the thread is when it is in no section."""
TRIALS = 20_000


class Meter:
    """The sections of one thread."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """``clock`` counts nanoseconds."""
        self._clock = clock
        self._section = OUTSIDE
        self._since = clock()
        self.own: dict[str, int] = {}
        """Nanoseconds of each section by itself."""
        self.inside: dict[str, int] = {}
        """How often each was entered."""
        self.around: dict[str, int] = {}
        """How often another was entered out of it."""
        self._inside_ns = self._around_ns = 0.0
        self._calibrate()

    def timed(self, section: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a section."""
        clock = self._clock

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            outer = self._section
            begin = clock()
            own = self.own
            own[outer] = own.get(outer, 0) + begin - self._since
            self._section = section
            self.inside[section] = self.inside.get(section, 0) + 1
            self.around[outer] = self.around.get(outer, 0) + 1
            self._since = clock()
            try:
                return function(*arguments, **named)
            finally:
                end = clock()
                own = self.own
                own[section] = own.get(section, 0) + end - self._since
                self._section = outer
                self._since = clock()

        return timed

    def patch(self, section: str, owner: Any, *names: str) -> None:
        """Time functions of a class or a module from here on."""
        for name in names:
            setattr(owner, name, self.timed(section, getattr(owner, name)))

    def take(self) -> dict[str, float]:
        """Nanoseconds of each section since the last time, less the measuring."""
        found = {
            name: max(
                0.0,
                own
                - self.inside.get(name, 0) * self._inside_ns
                - self.around.get(name, 0) * self._around_ns,
            )
            for name, own in self.own.items()
            if name != OUTSIDE
        }
        self.own, self.inside, self.around = {}, {}, {}
        return found

    def _calibrate(self) -> None:
        """What an empty section costs in itself and around it."""

        def nothing() -> None:
            return None

        def loop(function: Callable[[], None]) -> None:
            for _ in range(TRIALS):
                function()

        inner = self.timed("inner", nothing)
        costs = []
        for function in (nothing, inner):
            self.own, self.inside, self.around = {}, {}, {}
            self.timed("outer", loop)(function)
            costs.append(dict(self.own))
        self._inside_ns = costs[1]["inner"] / TRIALS
        plain, around = costs[0]["outer"], costs[1]["outer"]
        self._around_ns = max(0.0, (around - plain) / TRIALS)
        self.own, self.inside, self.around = {}, {}, {}
