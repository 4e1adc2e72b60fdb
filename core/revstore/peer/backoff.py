"""The pause between attempts to reach a member (P-06)."""

from __future__ import annotations

from random import Random


class Backoff:
    """Pauses that double from ``least_s`` to ``most_s``, each with jitter.

    A pause is between a half and the whole of the current step, so that members that
    lost one another together do not come back together.
    """

    __slots__ = ("_least_s", "_most_s", "_random", "_step_s")

    def __init__(self, least_s: float, most_s: float, random: Random) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._random = random
        self._step_s = least_s

    def next_s(self) -> float:
        """The pause before the next attempt. Raises: nothing."""
        step = self._step_s
        self._step_s = min(step * 2, self._most_s)
        return step * (0.5 + self._random.random() / 2)

    def longest(self) -> None:
        """The other side said no: the next pauses are the longest. Raises: nothing."""
        self._step_s = self._most_s

    def reset(self) -> None:
        """The member was reached. Raises: nothing."""
        self._step_s = self._least_s
