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

from revstore import logs
from revstore.errors import ApiError, CorruptionError, Unavailable
from revstore.node.awaiting import Awaiting
from revstore.node.bootstrap import (
    Member,
    announce,
    close_member,
    is_announced,
    open_member,
)
from revstore.node.crowd import Crowd
from revstore.node.datadir import wal_directory
from revstore.node.joining import ask_cluster
from revstore.node.peering import Peering, PeerSettings
from revstore.node.replica import Replica
from revstore.node.settings import MemberSettings
from revstore.plugin.manager import PluginManager

LOG = logs.get(__name__)

T = TypeVar("T")

PATIENCE_TURNS = 4
"""So many turns of the loop without a new proposal end the gathering of a batch."""
GATHER_S = 0.004
"""The longest time to gather a batch."""
PATIENCE_S = 0.001
"""Where calls come one by one, so much time without a new proposal ends it."""
GATHER_SINGLY_S = 0.03
"""The longest time to gather a batch there."""

ANSWER_TIMEOUTS = 1
"""So many election timeouts a member that is stopped waits for answers that other
members have to do with. Some never come: those of a leader that was killed."""


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
        self._sleeping = False
        """Whether a batch is slept for: what else there is to do is done meanwhile."""
        self._awaiting = Awaiting(loop)
        self._crowd = Crowd()
        self._last_batch = 0
        """How many proposals the batch had that was gathered last."""
        self._woken = False
        self._member: Member | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = False
        self.calls_come_singly = False
        """Whether calls reach the loop one by one, however many there are (see
        ``TransportCapabilities.groups_calls``); set by whoever serves."""
        self.replica: Replica
        """The member's replica; there from ``open`` on."""
        self.peering: Peering | None = None
        """The links to other members, None without any."""

    @classmethod
    async def open(
        cls,
        settings: MemberSettings,
        plugins: PluginManager | None = None,
        random: Random | None = None,
        peers: PeerSettings | None = None,
    ) -> AsyncNode:
        """Open a member and wait until it serves.

        ``peers`` says how it reaches the others; without it there are none.

        Raises:
            ConfigError, PluginError, StorageError: see ``open_member``.
            CorruptionError: the others hold other data (``initial_corrupt_check``).
            Unavailable: the member failed while it started.
        """
        node = cls(asyncio.get_running_loop())
        chosen = random or SystemRandom()
        try:
            joining = None
            if peers is not None and _asks(settings):
                joining = await ask_cluster(settings, peers)
            node._member = open_member(
                settings,
                plugins or PluginManager(),
                node,
                threaded=True,
                random=chosen,
                unix_time=time.time(),
                joining=joining,
            )
            node.replica = node._member.replica
            node.replica.appends.wakes = True
        except BaseException:
            node._worker.shutdown()
            raise
        try:
            if peers is not None:
                node.peering = await Peering.join(node.replica, peers, chosen)
            node._tick()
            await node._until_serving()
            if settings.initial_corrupt_check:
                await node._compared()
            await node._announced()
        except BaseException:
            await node.close()
            raise
        return node

    async def _until_serving(self) -> None:
        """Wait until the log is replayed and a read can be served."""
        while True:
            self.request_pump()
            error = await self._barrier()
            if error is None:
                return
            if self.replica.stopped:
                raise Unavailable(f"the member stopped while starting: {error}")
            await asyncio.sleep(self.replica.settings.heartbeat_s)

    async def _barrier(self) -> ApiError | None:
        """What a linearizable read hears when its turn comes."""
        done: asyncio.Future[ApiError | None] = self._loop.create_future()

        def served(error: ApiError | None) -> None:
            if not done.done():
                done.set_result(error)

        self.replica.read(served)
        return await done

    async def _compared(self) -> None:
        """Compare this member's data with the others', before it serves any of it."""
        compared: asyncio.Future[str] = self._loop.create_future()
        self.replica.corruption.check_at_start(compared.set_result)
        while not compared.done():
            if self.replica.stopped:
                raise Unavailable("the member stopped while starting")
            await asyncio.wait([compared], timeout=self.replica.settings.heartbeat_s)
        if compared.result():
            raise CorruptionError(compared.result())

    async def _announced(self) -> None:
        """Wait until the member list has this member's name and client URLs.

        A client that asks for the members first of all needs them.
        """
        while not self.replica.stopped:
            known = asyncio.Event()
            announce(self.replica, known.set)
            await known.wait()
            if is_announced(self.replica):
                return
            await asyncio.sleep(self.replica.settings.heartbeat_s)
        raise Unavailable("the member stopped while starting")

    # ----- what the replica asks for

    def request_pump(self) -> None:
        """See ``Shell``."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)
            self._awaiting.next_came()

    def _pump(self) -> None:
        if self._last_batch > 1 or self._is_crowded():
            self._begin_gathering()
        else:
            self._pump_now()

    def _is_crowded(self) -> bool:
        """Whether calls come singly, and the unanswered ones are a crowd's."""
        return self.calls_come_singly and self._crowd.is_there(self.replica.unanswered)

    def _is_worth_sleeping(self) -> bool:
        if not self.calls_come_singly:
            return False
        replica = self.replica
        return self._crowd.worth_sleeping(
            replica.unanswered, alone=replica.is_only_member
        )

    def wake(self) -> None:
        """See ``Shell``; several calls before the loop's turn make one pump."""
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._awake)
            except RuntimeError:
                pass  # The loop is closed: nobody waits any more.

    def _awake(self) -> None:
        if self._pump_scheduled:
            return
        self._pump_scheduled = True
        self._begin_gathering()

    def _begin_gathering(self) -> None:
        if self._sleeping or not self.replica.queued:
            self._pump_now()
        elif self._is_worth_sleeping():
            self._pump_scheduled = self._woken = False
            self._sleeping = True
            self._gather_singly(0, self._loop.time() + GATHER_SINGLY_S)
        else:
            self._gather(0, PATIENCE_TURNS, self._loop.time() + GATHER_S)

    def _gather(self, before: int, turns: int, until: float) -> None:
        """Let proposals gather before the next batch of the log.

        A sync costs as much processor time as a few requests, most of it for handing
        the interpreter from thread to thread. So while a busy loop keeps bringing
        proposals, it is better to wait for some more. A loop that has nothing else to
        do turns ``PATIENCE_TURNS`` times in no time. ``before`` is how many proposals
        there were at the last turn, ``turns`` how many may still bring none.
        """
        queued = self.replica.queued
        turns = PATIENCE_TURNS if queued > before else turns - 1
        if queued and turns and self._loop.time() < until:
            self._loop.call_soon(self._gather, queued, turns, until)
        else:
            self._last_batch = queued
            self._pump_now()

    def _gather_singly(self, before: int, until: float) -> None:
        """Let proposals gather where each takes turns of the loop and a thread's help.

        Turns without a proposal tell nothing there, and turning would keep the
        interpreter from the thread that brings the next one. So the loop sleeps.
        """
        queued = self.replica.queued
        if self._crowd.sleeps_on(queued, before) and self._loop.time() < until:
            self._loop.call_later(PATIENCE_S, self._gather_singly, queued, until)
        else:
            self._sleeping = False
            self._crowd.slept(queued)
            self._last_batch = queued
            self._pump_now()

    def _pump_now(self) -> None:
        # First the flags: what becomes durable from here on wakes again.
        self._woken = self._pump_scheduled = False
        # What applying has made necessary can wait until the answers have left.
        self.replica.pump(settle=False, propose=not self._sleeping)
        if self.replica.unsettled:
            self._loop.call_soon(self.replica.settle)
            if self.replica.appends.synced_on_loop:
                self._awaiting.answered()

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
        replica = self.replica
        if replica.leader:
            # The clock goes on meanwhile: Raft says again what was lost.
            await self._answered()
            await self._hand_over()
        if self._ticker is not None:
            self._ticker.cancel()
        replica.stop()
        if self.peering is not None:
            await self.peering.close()
        await self._no_works.wait()
        member = self._member
        try:
            await self._loop.run_in_executor(None, close_member, member)
        finally:
            self._worker.shutdown()

    async def _answered(self) -> None:
        """Wait until nobody waits for an answer, if the others let it come to that."""
        replica = self.replica
        idle = asyncio.Event()
        replica.when_idle(idle.set)
        self.request_pump()
        limit_s = ANSWER_TIMEOUTS * replica.settings.election_timeout_s
        try:
            async with asyncio.timeout(None if replica.is_only_member else limit_s):
                await idle.wait()
        except TimeoutError:
            LOG.warn("stopping while requests are without an answer")

    async def _hand_over(self) -> None:
        """A leader that stops lets another lead, so that nobody has to miss it."""
        replica = self.replica
        heir = replica.membership.heir()
        if replica.stopped or not replica.is_leader or not heir:
            return
        done = asyncio.Event()
        replica.transfer_leader(heir, lambda error: done.set())
        try:
            async with asyncio.timeout(2 * replica.settings.election_timeout_s):
                await done.wait()
        except TimeoutError:
            LOG.warn("leadership was not handed over", to=f"{heir:x}")

    async def read_barrier(self) -> None:
        """Wait until a linearizable read may be served. Raises: ApiError."""
        error = await self._barrier()
        if error is not None:
            raise error.fresh()


def _asks(settings: MemberSettings) -> bool:
    """Whether a member has to ask the others who it is: it has no log yet."""
    others = settings.initial_cluster.keys() - {settings.name}
    log = wal_directory(settings.data_dir, settings.wal_dir)
    known = log.is_dir() and any(log.iterdir())
    return not known and (bool(others) or settings.initial_cluster_state == "existing")
