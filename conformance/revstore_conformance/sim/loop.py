"""Virtual time: one heap of things to do, and nothing else moves the clock.

Rules of this package:

1. No wall clock, no thread, no socket, no global randomness. Every random decision
   comes from a ``Random`` made of the seed and the name of its concern, so a run is
   the same each time, byte for byte, and a new concern does not shift the others.
2. Nothing iterates over a set, whose order differs between processes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Loop:
    """Things to do, by time and then in the order they were asked for."""

    __slots__ = ("_heap", "_number", "now", "steps")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._number = 0
        self.now = 0.0
        """Simulated seconds."""
        self.steps = 0
        """Things done."""

    def after(self, delay_s: float, action: Action) -> None:
        """Do something later. Raises: nothing."""
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._number, action))

    def run(self, until_s: float, over: Callable[[], bool] | None = None) -> None:
        """Let time pass, until ``over`` says so at the latest. Raises: as the actions."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until_s:
            time, _, action = pop(heap)
            self.now = time
            self.steps += 1
            action()
            if over is not None and over():
                return
        self.now = max(self.now, until_s)
