"""The channels to the endpoints, and the probes that tell which of them to use.

The decisions are the balancer's; this shell keeps time, connects and waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from random import Random

from revstore.client.balancer import LIMITS, Balancer, BalancerLimits, Health
from revstore.client.methods import HEALTH
from revstore.client.retry import health_after, health_probed
from revstore.errors import ApiError, Unavailable
from revstore.interfaces.channel import Channel
from revstore.proto import health_pb2

OpenChannel = Callable[[str], Channel]

PROBE_TIMEOUT_S = 2.0
_PROBE_METADATA = {"hasleader": "true"}
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Pool:
    """One channel for each endpoint; must be closed."""

    def __init__(
        self,
        urls: Sequence[str],
        open_channel: OpenChannel,
        random: Random,
        limits: BalancerLimits = LIMITS,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.balancer = Balancer(urls, self._loop.time(), random, limits)
        self._open_channel = open_channel
        self._channels = {url: open_channel(url) for url in urls}
        self._closing: set[asyncio.Task[None]] = set()
        self._probes: set[asyncio.Task[None]] = set()
        self._reasons: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._closed = False
        self.on_down: list[Callable[[str], None]] = []
        """Called with an endpoint that is down from now on."""
        self._prober = self._loop.create_task(self._probe_all())

    @property
    def urls(self) -> tuple[str, ...]:
        """All endpoints."""
        return self.balancer.urls

    def channel(self, url: str) -> Channel:
        """The channel to an endpoint. Raises: Unavailable: there is none."""
        found = self._channels.get(url)
        if found is None or self._closed:
            raise Unavailable("the client is closed" if self._closed else f"no {url}")
        return found

    async def pick(self, avoid: Collection[str], deadline: float | None) -> str:
        """The endpoint for the next call; waits for one.

        Raises:
            Unavailable: none could be reached by the deadline; says why for each.
        """
        while True:
            if self._closed:
                raise Unavailable("the client is closed")
            url = self.balancer.pick(avoid)
            if url is not None:
                return url
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                raise Unavailable(self.reasons()) from None

    def reasons(self) -> str:
        """Why no endpoint can be used, as one line."""
        parts = [f"{url}: {self._reason(url)}" for url in self.urls]
        return f"no endpoint can be reached ({'; '.join(parts)})"

    def _reason(self, url: str) -> str:
        reason = self._reasons.get(url, "no answer yet")
        return reason.removeprefix(f"cannot connect to {url}: ")

    def report(self, url: str, error: ApiError) -> None:
        """A call at an endpoint failed."""
        health = health_after(error)
        now = self._loop.time()
        if health is None:
            return
        if health is Health.DOWN:
            self._reasons[url] = error.message
            self._set_down(url, lambda: self.balancer.failed(url, now))
        elif health is Health.LIMPING:
            self.balancer.limps(url, now)
        else:
            self.balancer.suspect(url, now)
        self._wake.set()

    def replace(self, urls: Sequence[str]) -> None:
        """The endpoints are these; channels to others are closed."""
        for url in self._channels.keys() - set(urls):
            task = self._loop.create_task(self._channels.pop(url).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for url in urls:
            if url not in self._channels:
                self._channels[url] = self._open_channel(url)
        self.balancer.replace(urls, self._loop.time())
        self._wake.set()

    async def close(self) -> None:
        """Close all channels; twice is allowed. Raises: nothing."""
        self._closed = True
        self._changed.set()
        tasks = [self._prober, *self._probes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._closing, return_exceptions=True)
        for channel in self._channels.values():
            await channel.close()

    # ----- probing

    async def _probe_all(self) -> None:
        while True:
            for url in self.balancer.begin_probes(self._loop.time()):
                task = self._loop.create_task(self._probe(url))
                self._probes.add(task)
                task.add_done_callback(self._probes.discard)
            next_probe = self.balancer.next_probe()
            self._wake.clear()
            try:
                async with asyncio.timeout_at(next_probe):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _probe(self, url: str) -> None:
        health = Health.DOWN
        try:
            channel = self._channels.get(url)
            if channel is not None:
                health = await self._check(url, channel)
        finally:
            now = self._loop.time()
            self._set_down(url, lambda: self.balancer.probed(url, health, now))
            if health is not Health.DOWN:
                self._changed.set()
            self._wake.set()

    async def _check(self, url: str, channel: Channel) -> Health:
        try:
            await channel.connect()
            answer = await channel.unary(
                HEALTH.path, b"", _PROBE_METADATA, PROBE_TIMEOUT_S
            )
        except ApiError as error:
            health = health_probed(error)
            if health is Health.DOWN:
                self._reasons[url] = error.message
            return health
        status = health_pb2.HealthCheckResponse.FromString(answer).status
        return Health.LIMPING if status == _NOT_SERVING else Health.HEALTHY

    def _set_down(self, url: str, change: Callable[[], None]) -> None:
        """Make a change, and tell if it put the endpoint down."""
        before = self.balancer.health(url)
        change()
        if before is not Health.DOWN and self.balancer.health(url) is Health.DOWN:
            for callback in tuple(self.on_down):
                callback(url)
