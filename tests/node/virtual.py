"""A shell on a virtual clock: nothing happens until the test says so."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from revstore.api.replica import Tag
from revstore.errors import ApiError
from revstore.node.bootstrap import Member, close_member, open_member
from revstore.node.replica import Replica
from revstore.node.settings import MemberSettings, PluginChoice
from revstore.plugin.manager import PluginManager
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

T = TypeVar("T")


class VirtualClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        """Seconds."""
        return self.time


class VirtualShell:
    """Runs what the replica asks for, one thing at a time, when told to."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.works: deque[Callable[[], None]] = deque()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.member: Member | None = None

    def open(self, path: Path, **settings: Any) -> Replica:
        """Open a member in a directory, without replaying anything yet."""
        backend = settings.pop("backend", "memory")
        plugins = settings.pop("plugins", None) or PluginManager({})
        seed = settings.pop("seed", 7)
        wanted = MemberSettings(
            data_dir=path, backend=PluginChoice(backend), **settings
        )
        self.member = open_member(
            wanted,
            plugins,
            self,
            threaded=False,
            random=Random(seed),
            unix_time=1.0,
        )
        return self.member.replica

    @property
    def replica(self) -> Replica:
        """The open replica."""
        assert self.member is not None
        return self.member.replica

    def request_pump(self) -> None:
        """See ``Shell``; tests pump."""

    def wake(self) -> None:
        """See ``Shell``; tests pump."""

    def schedule(self, work: Callable[[], None], delay_s: float = 0.0) -> None:
        """See ``Shell``."""
        self._number += 1
        heapq.heappush(self._due, (self.clock.time + delay_s, self._number, work))

    def run_in_thread(
        self, work: Callable[[], T], done: Callable[[T | Exception], None]
    ) -> None:
        """See ``Shell``: kept until ``run_works``."""

        def run() -> None:
            result: T | Exception
            try:
                result = work()
            except Exception as exc:
                result = exc
            done(result)

        self.works.append(run)

    def run_works(self) -> None:
        """Run what was handed to the thread."""
        while self.works:
            self.works.popleft()()

    def run_due(self) -> None:
        """Run what is due by now."""
        while self._due and self._due[0][0] <= self.clock.time:
            heapq.heappop(self._due)[2]()

    def settle(self) -> None:
        """Make durable, apply and answer everything that can be."""
        for _ in range(4):
            self.replica.pump()
            if not self.replica.stopped:
                self.replica.wal.sync()
            self.replica.pump()
            self.run_works()
            self.run_due()

    def advance(self, seconds: float) -> None:
        """Let time pass in heartbeats, settling after each."""
        step = self.replica.settings.heartbeat_s
        for _ in range(round(seconds / step)):
            self.clock.time += step
            self.replica.tick()
            self.settle()

    def put(self, key: bytes, value: bytes = b"", lease: int = 0) -> list[Any]:
        """Propose a put; the list gets its answer."""
        request = rpc_pb2.PutRequest(key=key, value=value, lease=lease)
        return self.propose(Tag.PUT, request)

    def propose(self, tag: Tag, request: Any) -> list[Any]:
        """Propose any request; the list gets its answer."""
        answers: list[ApplyResult | ApiError] = []
        payload = request.SerializeToString()
        self.replica.propose(tag, payload, request, answers.append)
        return answers

    def close(self) -> None:
        """Close the member cleanly."""
        if self.member is not None:
            self.run_works()
            close_member(self.member)
            self.member = None

    def crash(self) -> None:
        """Drop everything that is not durable, as far as one process can."""
        assert self.member is not None
        replica, directory = self.member
        replica.stop()
        self.works.clear()
        replica.store.close()
        replica.wal.close()
        replica.backend.close()
        directory.close()
        self.member = None
