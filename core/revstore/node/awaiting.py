"""Staying awake for the next write of a client that makes one at a time.

Waking a processor that sleeps takes about 30 us, a tenth of a lone write. A member
that has the machine for itself is given what it needs to spare that; see
docs/benchmarks.md.
"""

from __future__ import annotations

import asyncio

AWAKE_S = 0.0002
"""The longest time to stay awake."""


class Awaiting:
    """Keeps an event loop turning for a moment after an answer.

    Only if the write before came within ``AWAKE_S`` of the answer before that: what is
    wasted on a client that comes seldom is one such time when it stops coming often.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._until = 0.0
        """Until when the next write is expected; 0: it has come."""
        self._came_soon = False
        self._turning = False

    def answered(self) -> None:
        """A lone write was answered. Raises: nothing."""
        self._until = self._loop.time() + AWAKE_S
        if self._came_soon and not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def next_came(self) -> None:
        """A write came. Raises: nothing."""
        if self._until:
            self._came_soon = self._loop.time() < self._until
            self._until = 0.0

    def _turn(self) -> None:
        if self._loop.time() < self._until:
            self._loop.call_soon(self._turn)
        else:
            self._turning = False
