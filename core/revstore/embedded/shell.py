"""The embedded shell: drives a replica in the threads of its callers.

A write proposes under the state lock, syncs the log in its own thread, and applies.
Several writers share a sync: whoever gets the sync lock syncs for all that have
appended by then (group commit), the others find their result ready.

Rules of this file:

1. The replica is touched only under ``lock``; a sync of the log never holds it.
2. Locks are taken in the order: sync lock, then state lock.
3. What needs no caller (expiry, compaction, catch-up of watches) runs on one thread of
   the shell's own, a bounded piece at a time.
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from revstore import logs
from revstore.errors import ApiError, PoisonedError, StorageError, Unavailable
from revstore.node.bootstrap import Member, close_member
from revstore.node.replica import Replica
from revstore.types import ApplyResult

LOG = logs.get(__name__)

T = TypeVar("T")


class MonotonicClock:
    """The system's monotonic clock."""

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()


class EmbeddedShell:
    """Drives one replica; see the module's rules."""

    def __init__(self) -> None:
        self.clock = MonotonicClock()
        self.lock = threading.RLock()
        self._sync_lock = threading.Lock()
        self._progress = threading.Condition(self.lock)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="revstore-flush")
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._pump_wanted = False
        self._keeper = threading.Thread(
            target=self._keep_house, name="revstore-housekeeping", daemon=True
        )
        self.closing = False
        """Whether ``close`` was called."""
        self._member: Member | None = None
        self._pid = os.getpid()

    def start(self, member: Member) -> None:
        """Replay the log, wait until the member serves, start the thread.

        Raises:
            StorageError: the log could not be written or replayed.
        """
        self._member = member
        replica = member.replica
        while True:
            served: list[ApiError | None] = []
            with self.lock:
                replica.pump()
                replica.tick()
            replica.wal.sync()
            with self.lock:
                replica.pump()
                replica.read(served.append)
                replica.pump()
            self._drive(served)
            if served[0] is None:
                break
            if replica.stopped:
                raise PoisonedError(
                    f"the log cannot be replayed: {replica.failure or served[0]}"
                ) from replica.failure
            with self.lock:
                self._progress.wait(replica.settings.heartbeat_s)
        self._keeper.start()

    @property
    def replica(self) -> Replica:
        """The replica; touch it only while holding ``lock``.

        Raises:
            Unavailable: the store is closed, or this is a forked child.
        """
        if self._member is None or self.closing:
            raise Unavailable("the store is closed")
        if os.getpid() != self._pid:
            raise Unavailable(
                "the store was opened before a fork; open it in the child instead"
            )
        return self._member.replica

    # ----- requests

    def commit(self, tag: int, payload: bytes, request: Any) -> ApplyResult:
        """Have a request made durable and applied; returns what it produced.

        Raises:
            ApiError: the request was refused; nothing changed.
            StorageError: the disk failed; whether it took effect shows after a reopen.
        """
        answers: list[ApplyResult | ApiError] = []
        with self.lock:
            replica = self.replica
            told = self._pump_wanted
            replica.propose(tag, payload, request, answers.append)
            replica.pump()
            # What was asked for up to here, this thread does itself; the thread of the
            # house would only get between it and the disk.
            self._pump_wanted = told and bool(answers)
        if not answers:
            self._drive(answers)
        answer = answers[0]
        if isinstance(answer, ApiError):
            if replica.failure is not None:
                raise PoisonedError(str(replica.failure)) from replica.failure
            raise answer.fresh()
        return answer

    def _drive(self, answers: list[T]) -> None:
        """Sync and apply until somebody put an answer in."""
        assert self._member is not None
        replica = self._member.replica
        while not answers:
            with self._sync_lock:
                if answers:
                    return
                try:
                    replica.wal.sync()
                except StorageError as exc:
                    with self.lock:
                        replica.fail(exc)
                    raise
                with self.lock:
                    replica.pump()
            with self.lock:
                while not answers and self._must_wait(replica):
                    self._progress.wait(1.0)
                if not answers:
                    replica.pump()
                if replica.stopped and not answers:
                    raise PoisonedError(f"the store stopped: {replica.failure}")

    def _must_wait(self, replica: Replica) -> bool:
        """Whether only the end of a running flush can bring progress."""
        return (
            replica.housekeeping.flushing
            and replica.store.overloaded()
            and not replica.stopped
        )

    # ----- waiting for something to happen

    def wait_for_progress(self, timeout_s: float) -> None:
        """Give up ``lock``, which the caller holds, until something happened."""
        self._progress.wait(timeout_s)

    def notify_progress(self) -> None:
        """Wake those who wait; the caller holds ``lock``."""
        self._progress.notify_all()

    # ----- what the replica asks for

    def request_pump(self) -> None:
        """See ``Shell``: callers pump; work of the housekeeping thread must be told."""
        self._pump_wanted = True

    def wake(self) -> None:
        """See ``Shell``: whoever syncs pumps afterwards."""

    def schedule(self, work: Callable[[], None], delay_s: float = 0.0) -> None:
        """See ``Shell``."""
        with self.lock:
            self._number += 1
            at = self.clock.now() + delay_s
            heapq.heappush(self._due, (at, self._number, work))
            self._progress.notify_all()

    def run_in_thread(
        self, work: Callable[[], T], done: Callable[[T | Exception], None]
    ) -> None:
        """See ``Shell``."""

        def run() -> None:
            result: T | Exception
            try:
                result = work()
            except Exception as exc:
                result = exc
            with self.lock:
                done(result)
                self._progress.notify_all()

        self._worker.submit(run)

    # ----- the housekeeping thread

    def _keep_house(self) -> None:
        assert self._member is not None
        replica = self._member.replica
        try:
            self._keep_house_until_closed(replica)
        except Exception as exc:
            # Without this thread nothing would expire or be compacted any more.
            with self.lock:
                replica.fail(exc)
                self._progress.notify_all()

    def _keep_house_until_closed(self, replica: Replica) -> None:
        interval = replica.settings.heartbeat_s
        next_tick = self.clock.now() + interval
        while not self.closing:
            with self.lock:
                now = self.clock.now()
                if now >= next_tick:
                    next_tick = now + interval
                    replica.tick()
                while self._due and self._due[0][0] <= now:
                    heapq.heappop(self._due)[2]()
                proposed = self._pump_wanted
                self._pump_wanted = False
                if not proposed:
                    until = self._due[0][0] if self._due else next_tick
                    wait = min(until, next_tick) - self.clock.now()
                    if wait > 0 and not self.closing:
                        self._progress.wait(wait)
            if proposed:
                self._finish_own_work(replica)

    def _finish_own_work(self, replica: Replica) -> None:
        """Sync and apply what the housekeeping itself proposed, such as a revoke."""
        with self.lock:
            replica.pump()
        with self._sync_lock:
            if replica.stopped:
                return
            try:
                replica.wal.sync()
            except StorageError as exc:
                with self.lock:
                    replica.fail(exc)
                return
            with self.lock:
                replica.pump()
                self._progress.notify_all()

    def abandon(self) -> None:
        """Release what a failed opening left behind."""
        self.closing = True
        self._worker.shutdown()
        if self._member is not None:
            self._member.replica.stop()
            close_member(self._member)

    def close(self) -> None:
        """Stop the threads and close the member, all of it durable; twice is allowed.

        Raises:
            StorageError: the last flush or sync failed.
        """
        with self.lock:
            if self.closing or self._member is None:
                return
            self.closing = True
            self._progress.notify_all()
        if self._keeper.ident is not None:
            self._keeper.join()
        with self._sync_lock, self.lock:
            self._member.replica.stop()
        self._worker.shutdown()
        close_member(self._member)
