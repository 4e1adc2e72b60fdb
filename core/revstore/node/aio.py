"""The asyncio shell: drives a replica on an event loop.

It decides nothing: it turns the replica's wishes into callbacks of the loop, runs one
worker thread for flushes, and ticks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from random import Random, SystemRandom
from typing import TypeVar

from revstore.api import errors
from revstore.errors import ApiError, Unavailable
from revstore.node.bootstrap import Member, announce, close_member, open_member
from revstore.node.replica import Replica
from revstore.node.settings import MemberSettings
from revstore.plugin.manager import PluginManager

T = TypeVar("T")


class LoopClock:
    """The event loop's monotonic clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        """Seconds."""
        return self._loop.time()


class AsyncNode:
    """A member that runs on an event loop; made by ``AsyncNode.open``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.clock = LoopClock(loop)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="revstore-flush")
        self._works = 0
        self._no_works = asyncio.Event()
        self._no_works.set()
        self._pump_scheduled = False
        self._woken = False
        self._member: Member | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        settings: MemberSettings,
        plugins: PluginManager | None = None,
        random: Random | None = None,
    ) -> AsyncNode:
        """Open a member and wait until it serves.

        Raises:
            ConfigError, PluginError, StorageError: see ``open_member``.
            Unavailable: the member failed while it started.
        """
        node = cls(asyncio.get_running_loop())
        try:
            node._member = open_member(
                settings,
                plugins or PluginManager(),
                node,
                threaded=True,
                random=random or SystemRandom(),
                unix_time=time.time(),
            )
        except BaseException:
            node._worker.shutdown()
            raise
        try:
            node._tick()
            await node._until_serving()
            await node._announced()
        except BaseException:
            await node.close()
            raise
        return node

    @property
    def replica(self) -> Replica:
        """The member's replica."""
        assert self._member is not None
        return self._member.replica

    async def _until_serving(self) -> None:
        """Wait until the log is replayed and a read can be served."""
        done = self._loop.create_future()

        def served(error: ApiError | None) -> None:
            if not done.done():
                done.set_result(error)

        while True:
            self.replica.read(served)
            self.request_pump()
            error = await done
            if error is None:
                return
            if self.replica.stopped:
                raise Unavailable(f"the member stopped while starting: {error}")
            done = self._loop.create_future()
            await asyncio.sleep(self.replica.settings.heartbeat_s)

    async def _announced(self) -> None:
        """Wait until the member list has this member's name and client URLs.

        A client that asks for the members first of all needs them.
        """
        known = asyncio.Event()
        announce(self.replica, known.set)
        await known.wait()

    # ----- what the replica asks for

    def request_pump(self) -> None:
        """See ``Shell``."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        self.replica.pump()

    def wake(self) -> None:
        """See ``Shell``; several calls before the loop's turn make one pump."""
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._awake)
            except RuntimeError:
                pass  # The loop is closed: nobody waits any more.

    def _awake(self) -> None:
        self._woken = False
        self.replica.pump()

    def schedule(self, work: Callable[[], None], delay_s: float = 0.0) -> None:
        """See ``Shell``."""
        if delay_s:
            self._loop.call_later(delay_s, work)
        else:
            self._loop.call_soon(work)

    def run_in_thread(
        self, work: Callable[[], T], done: Callable[[T | Exception], None]
    ) -> None:
        """See ``Shell``."""

        def ended(result: T | Exception) -> None:
            self._works -= 1
            if not self._works:
                self._no_works.set()
            done(result)

        def finished(future: Future[T]) -> None:
            error = future.exception()
            result = future.result() if error is None else error
            assert not isinstance(result, BaseException) or isinstance(
                result, Exception
            )
            try:
                self._loop.call_soon_threadsafe(partial(ended, result))
            except RuntimeError:
                pass  # The loop is closed.

        self._works += 1
        self._no_works.clear()
        self._worker.submit(work).add_done_callback(finished)

    def _tick(self) -> None:
        replica = self.replica
        replica.tick()
        if not replica.stopped:
            interval = replica.settings.heartbeat_s
            self._ticker = self._loop.call_later(interval, self._tick)

    # ----- the end

    async def close(self) -> None:
        """Answer who waits, make everything durable and close.

        Raises:
            StorageError: the last flush or sync failed.
        """
        if self._closed or self._member is None:
            return
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        replica = self.replica
        idle = asyncio.Event()
        replica.when_idle(idle.set)
        self.request_pump()
        await idle.wait()
        replica.stop()
        await self._no_works.wait()
        member = self._member
        try:
            await self._loop.run_in_executor(None, close_member, member)
        finally:
            self._worker.shutdown()

    async def read_barrier(self) -> None:
        """Wait until a linearizable read may be served. Raises: ApiError."""
        done: asyncio.Future[ApiError | None] = self._loop.create_future()

        def served(error: ApiError | None) -> None:
            if not done.done():
                done.set_result(error)

        self.replica.read(served)
        error = await done
        if error is not None:
            raise error.fresh()

    def stopped_error(self) -> ApiError:
        """What a request gets after ``close``."""
        return errors.STOPPED
