"""Which endpoint gets the next call.

Rules of this file:

1. A value machine: time and randomness come from outside, nothing here waits.
2. Healthy endpoints take turns. A limping one (it answers, but has no leader, or is a
   learner) is used when none is healthy; one that is down is never used.
3. An endpoint changes its state by a probe or by the failure of a call; only a probe
   makes it better. Every endpoint has a time for its next probe, or one under way.
4. The pause before the probe of an endpoint that is down doubles up to a bound, with
   jitter, so that many clients do not come back at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from random import Random

import msgspec


class Health(IntEnum):
    """What is known of an endpoint; a larger one is better."""

    DOWN = 0
    """No connection, no answer, or not yet tried."""
    LIMPING = 1
    """It answers, but cannot do everything."""
    HEALTHY = 2


class BalancerLimits(msgspec.Struct, frozen=True):
    """The pauses between probes, in seconds."""

    down_min_s: float = 0.05
    down_max_s: float = 1.0
    limping_s: float = 0.5
    healthy_s: float = 5.0
    jitter: float = 0.2
    """A pause is longer or shorter by up to this part."""


LIMITS = BalancerLimits()


class _Endpoint:
    __slots__ = ("failures", "health", "probe_at", "probing", "url")

    def __init__(self, url: str, now: float) -> None:
        self.url = url
        self.health = Health.DOWN
        self.failures = 0
        self.probe_at = now
        self.probing = False


class Balancer:
    """The endpoints of a cluster and their turns."""

    def __init__(
        self,
        urls: Sequence[str],
        now: float,
        random: Random,
        limits: BalancerLimits = LIMITS,
    ) -> None:
        self._random = random
        self._limits = limits
        self._endpoints: dict[str, _Endpoint] = {}
        self._turn = random.randrange(1 << 16)
        self._usable: list[str] = []
        self.replace(urls, now)

    @property
    def urls(self) -> tuple[str, ...]:
        """All endpoints."""
        return tuple(self._endpoints)

    def health(self, url: str) -> Health:
        """What is known of an endpoint; DOWN for one that is unknown."""
        endpoint = self._endpoints.get(url)
        return Health.DOWN if endpoint is None else endpoint.health

    def pick(self, avoid: Collection[str] = ()) -> str | None:
        """The next one in turn, one to avoid only if there is no other; None: all down."""
        usable = self._usable
        if not usable:
            return None
        self._turn += 1
        if avoid:
            others = [url for url in usable if url not in avoid]
            if not others:
                others = [url for url in self._second_choice() if url not in avoid]
            usable = others or usable
        return usable[self._turn % len(usable)]

    # ----- what happened

    def failed(self, url: str, now: float) -> None:
        """A call found no connection, or lost it."""
        self._worse(url, Health.DOWN, now)

    def limps(self, url: str, now: float) -> None:
        """A call was answered by a member that cannot serve it."""
        self._worse(url, Health.LIMPING, now)

    def suspect(self, url: str, now: float) -> None:
        """A call was not answered in time: probe at once, change nothing yet."""
        endpoint = self._endpoints.get(url)
        if endpoint is not None and endpoint.health is not Health.DOWN:
            endpoint.probe_at = min(endpoint.probe_at, now)

    def begin_probes(self, now: float) -> list[str]:
        """The endpoints to probe now; each must be given to ``probed``."""
        due = [
            endpoint
            for endpoint in self._endpoints.values()
            if not endpoint.probing and endpoint.probe_at <= now
        ]
        for endpoint in due:
            endpoint.probing = True
        return [endpoint.url for endpoint in due]

    def probed(self, url: str, health: Health, now: float) -> None:
        """A probe found this."""
        endpoint = self._endpoints.get(url)
        if endpoint is None:
            return
        endpoint.probing = False
        endpoint.failures = endpoint.failures + 1 if health is Health.DOWN else 0
        endpoint.health = health
        self._schedule(endpoint, now)
        self._sort()

    def next_probe(self) -> float | None:
        """When ``begin_probes`` has something next; None while all are under way."""
        times = [one.probe_at for one in self._endpoints.values() if not one.probing]
        return min(times, default=None)

    def replace(self, urls: Sequence[str], now: float) -> None:
        """The endpoints are these; what is known of those that stay is kept."""
        known = self._endpoints
        self._endpoints = {url: known.get(url) or _Endpoint(url, now) for url in urls}
        self._sort()

    # ----- within

    def _worse(self, url: str, health: Health, now: float) -> None:
        endpoint = self._endpoints.get(url)
        if endpoint is None or endpoint.health <= health:
            return
        endpoint.health = health
        endpoint.failures = 1 if health is Health.DOWN else 0
        self._schedule(endpoint, now)
        self._sort()

    def _schedule(self, endpoint: _Endpoint, now: float) -> None:
        limits = self._limits
        if endpoint.health is Health.DOWN:
            doublings = min(endpoint.failures - 1, 30)
            pause = min(limits.down_min_s * 2**doublings, limits.down_max_s)
        elif endpoint.health is Health.LIMPING:
            pause = limits.limping_s
        else:
            pause = limits.healthy_s
        spread = self._random.uniform(1 - limits.jitter, 1 + limits.jitter)
        endpoint.probe_at = now + pause * spread

    def _sort(self) -> None:
        for health in (Health.HEALTHY, Health.LIMPING):
            self._usable = self._of(health)
            if self._usable:
                return

    def _second_choice(self) -> list[str]:
        return self._of(Health.LIMPING)

    def _of(self, health: Health) -> list[str]:
        return [one.url for one in self._endpoints.values() if one.health is health]
