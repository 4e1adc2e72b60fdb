"""Clients and watchers of a cluster that is being disturbed, and what they remember.

Rules of this file:

1. Nothing is asked again: a client goes on with its next request, at another member
   after a failure. A request without an answer has an unknown outcome for ever.
2. A watcher resumes behind the last revision it has seen, at any member; what it has
   seen in all must be the whole history from where it began.
3. A failure is an honest error or a failed test: see ``honest``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from random import Random

import msgspec

from revstore.api import errors
from revstore.errors import ApiError
from revstore.interfaces.channel import Channel, ChannelOptions, NotSent
from revstore.plugin.manager import PluginManager
from revstore.proto import kv_pb2, rpc_pb2
from revstore_conformance.sim.clients import KV, REFUSED
from revstore_conformance.sim.linearizability import Operation
from revstore_conformance.sim.requests import Requests

WATCH = "/etcdserverpb.Watch/Watch"
PREFIX, PREFIX_END = b"k/", b"k0"
TIMEOUT_S = 3.0
PAUSE_S = 0.02
AFTER_FAILURE_S = 0.05
GROUPS, GROUP_KEYS = 4, 4
HONEST_CODES = frozenset({errors.Code.UNAVAILABLE, errors.Code.DEADLINE_EXCEEDED})


class Change(msgspec.Struct, frozen=True, gc=False):
    """One event, as a watcher saw it."""

    revision: int
    key: bytes
    value: bytes | None
    """None: deleted."""


def honest(error: ApiError) -> bool:
    """Whether an error says that the cluster could not serve, and nothing false."""
    return error.code in HONEST_CODES or error.message in REFUSED


def change_of(event: kv_pb2.Event) -> Change:
    """An event of the API in short."""
    deleted = event.type == kv_pb2.Event.DELETE
    value = None if deleted else event.kv.value
    return Change(event.kv.mod_revision, event.kv.key, value)


class Load:
    """All clients of one run."""

    def __init__(self, urls: Sequence[str], seed: int) -> None:
        self.urls = list(urls)
        """Where members are; may be changed while the load runs."""
        self.seed = seed
        self.plugins = PluginManager()
        self.operations: list[Operation] = []
        self.figures: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.dishonest: list[str] = []
        self.watchers = [Watcher(self, number) for number in range(3)]
        self.stopping = False
        self._clients = [Client(self, number) for number in range(8)]
        self._tasks: list[asyncio.Task[None]] = []

    def random(self, name: str) -> Random:
        """Randomness of one part."""
        return Random(f"{self.seed}/{name}")

    def open(self, url: str) -> Channel:
        """A channel to a member."""
        scheme = url.partition(":")[0]
        transport = self.plugins.make_transport(
            "tcp" if scheme == "tcp" else "grpcio", {}
        )
        return transport.open_channel(url, ChannelOptions(connect_timeout_s=1.0))

    def start(self) -> None:
        """Begin."""
        runs = [client.run() for client in self._clients]
        runs += [watcher.run() for watcher in self.watchers]
        self._tasks = [asyncio.ensure_future(run) for run in runs]

    async def answered(self, count: int, timeout_s: float = 120.0) -> None:
        """Wait until so many more requests have been answered.

        Raises: TimeoutError: the cluster does not serve.
        """
        goal = self.figures["answered"] + count
        async with asyncio.timeout(timeout_s):
            while self.figures["answered"] < goal:
                await self.look()

    async def attempted(self, count: int) -> None:
        """Wait until so many more requests have ended, one way or the other."""
        goal = self.figures["ended"] + count
        while self.figures["ended"] < goal:
            await self.look()

    async def look(self) -> None:
        """Let a moment pass, if nobody has failed."""
        for task in self._tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End the clients, but not the watchers: they have to see it all first."""
        self.stopping = True
        clients = self._tasks[: len(self._clients)]
        await asyncio.gather(*clients)

    async def close(self) -> None:
        """End the watchers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def failed(self, error: ApiError, method: str) -> None:
        """Remember a failure, and whether it was honest (rule 3)."""
        text = f"{method}: {error.code} {error.message}"
        self.failures[text[:100]] += 1
        if not honest(error):
            self.dishonest.append(text)


class Client:
    """One client of the key-value API."""

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._random = load.random(f"client {number}")
        self._requests = Requests(
            f"c{number}", self._random, GROUPS, GROUP_KEYS, time.monotonic
        )

    async def run(self) -> None:
        """Ask until the load stops."""
        channel: Channel | None = None
        url = ""
        try:
            while not self._load.stopping:
                if channel is None:
                    url = self._random.choice(self._load.urls)
                    channel = self._load.open(url)
                if not await self._ask(channel, url):
                    await channel.close()
                    channel = None
                    await asyncio.sleep(AFTER_FAILURE_S)
                await asyncio.sleep(self._random.expovariate(1 / PAUSE_S))
        finally:
            if channel is not None:
                await channel.close()

    async def _ask(self, channel: Channel, url: str) -> bool:
        load, requests = self._load, self._requests
        method, request, operation = requests.choose()
        try:
            answer = await channel.unary(KV + method, request, timeout_s=TIMEOUT_S)
        except ApiError as error:
            load.failed(error, method)
            if not isinstance(error, NotSent) and error.message not in REFUSED:
                load.figures["unknown"] += 1
                if operation.writes():
                    load.operations.append(operation)
            return False
        finally:
            load.figures["ended"] += 1
        load.figures["answered"] += 1
        load.operations.append(requests.finish(operation, method, answer, url))
        return True


class Watcher:
    """One watcher of all keys."""

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._random = load.random(f"watcher {number}")
        self.changes: list[Change] = []
        self.seen_to = 0
        """Every change up to this revision is in ``changes``."""
        self.begins_at = 1

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            channel = self._load.open(self._random.choice(self._load.urls))
            try:
                await self._watch(channel)
            except ApiError as error:
                self._load.failed(error, "Watch")
            finally:
                with suppress(ApiError):
                    await channel.close()
            await asyncio.sleep(AFTER_FAILURE_S)

    async def _watch(self, channel: Channel) -> None:
        stream = await channel.bidi_stream(WATCH, {"hasleader": "true"})
        create = rpc_pb2.WatchCreateRequest(
            key=PREFIX,
            range_end=PREFIX_END,
            start_revision=max(self.seen_to + 1, self.begins_at),
            progress_notify=True,
        )
        request = rpc_pb2.WatchRequest(create_request=create)
        await stream.send(request.SerializeToString())
        left = self._random.randrange(20, 400)
        while left > 0:
            message = await asyncio.wait_for(stream.receive(), 30.0)
            if message is None:
                return
            response = rpc_pb2.WatchResponse.FromString(message)
            assert not response.compact_revision, "nothing was compacted"
            if response.canceled:
                raise ApiError(errors.Code.UNAVAILABLE, response.cancel_reason)
            for event in response.events:
                change = change_of(event)
                assert change.revision > self.seen_to, (
                    f"revision {change.revision} after all up to {self.seen_to}"
                )
                self.changes.append(change)
            if response.events:
                self.seen_to = self.changes[-1].revision
            left -= 1
        await stream.cancel()
