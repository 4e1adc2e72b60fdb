"""How much of what costs the other side nothing is put up with.

Time is passed in and never goes back.
"""

from __future__ import annotations

from revstore_http2.limits import Limits

PING_STRIKES_MAX = 2
"""One more ping that comes too early, and the client is sent away."""


class Bucket:
    """Allows a burst, and a rate for ever."""

    __slots__ = ("_burst", "_left", "_per_s", "_since")

    def __init__(self, burst: int, per_s: int, now: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = float(burst)
        self._since = now

    def take(self, now: float) -> bool:
        """Whether one more is allowed. Raises: nothing."""
        left = self._left
        if left < self._burst:
            left += (now - self._since) * self._per_s
            if left > self._burst:
                left = float(self._burst)
        self._since = now
        if left < 1:
            self._left = left
            return False
        self._left = left - 1
        return True

    def give(self, count: int) -> None:
        """Allow so many more, up to the burst. Raises: nothing."""
        self._left = min(self._left + count, float(self._burst))


class PingPolicy:
    """Which pings of a client are too many, as grpc-go counts them.

    A ping that comes earlier than the least interval after the one before is a strike;
    headers or data sent by the server meanwhile forgive all strikes.
    """

    __slots__ = ("_idle_interval_s", "_interval_s", "_last", "_strikes")

    def __init__(self, limits: Limits) -> None:
        self._interval_s = limits.ping_min_interval_s
        self._idle_interval_s = (
            limits.ping_min_interval_s
            if limits.ping_permit_idle
            else limits.ping_idle_interval_s
        )
        self._last = float("-inf")
        self._strikes = 0

    def allows(self, now: float, idle: bool, answered: bool) -> bool:
        """Judge one ping: ``idle`` without open calls, ``answered`` if the server sent
        headers or data since the one before. Raises: nothing."""
        last, self._last = self._last, now
        if answered:
            self._strikes = 0
        elif now - last < (self._idle_interval_s if idle else self._interval_s):
            self._strikes += 1
        return self._strikes <= PING_STRIKES_MAX
