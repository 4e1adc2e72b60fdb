"""The client for programs without an event loop; made by ``connect_sync``.

Rules of this file:

1. A thread of its own runs the event loop; every method waits for it.
2. Methods may be called from any thread. One that is interrupted (KeyboardInterrupt)
   cancels what it began.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, Self, TypeVar

from revstore.client.lease import AsyncLease
from revstore.client.opening import connect
from revstore.client.store import AsyncClient
from revstore.client.values import LeaseInfo
from revstore.client.watch import AsyncWatcher, WatchBatch
from revstore.closing import Closing
from revstore.embedded.lease import RevokedAtEnd
from revstore.embedded.readers import EventReader
from revstore.embedded.txn import Compare, Operation
from revstore.embedded.values import (
    DeleteResult,
    HashAnswer,
    Key,
    KeyValue,
    PutResult,
    TxnResult,
    WatchEvent,
)
from revstore.errors import Unavailable

Result = TypeVar("Result")

ROWS_HANDED_OVER = 256
"""Pairs that cross from the loop's thread at a time."""


class LoopThread:
    """An event loop in a thread of its own; must be closed."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="revstore-client", daemon=True
        )
        self._closed = False
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """What a coroutine returns or raises. Raises: Unavailable: it is closed."""
        if self._closed:
            coroutine.close()
            raise Unavailable("the client is closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Unavailable("the client was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread; twice is allowed. Raises: nothing."""
        if self._closed:
            return
        self._closed = True
        ended = asyncio.run_coroutine_threadsafe(_cancel_all(), self.loop)
        ended.result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class Waiting:
    """An object whose coroutines are waited for: ``client.cluster`` and the like."""

    def __init__(self, thread: LoopThread, target: Any) -> None:
        self._thread = thread
        self._target = target

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        def call(*arguments: Any, **named: Any) -> Any:
            made = method(*arguments, **named)
            if hasattr(made, "__aiter__"):
                return _iterate(self._thread, made, 1)
            return self._thread.run(made)

        return call


class Watcher(EventReader):
    """Changes in order, each once, without gaps; iterate, or call ``next_event``.

    A context manager; it must be closed.
    """

    def __init__(self, thread: LoopThread, watcher: AsyncWatcher) -> None:
        self._thread = thread
        self._watcher = watcher

    @property
    def revision(self) -> int:
        """Every change up to here has been handed out, or does not concern the watch."""
        return self._watcher.revision

    def next_event(self, timeout_s: float | None = None) -> WatchEvent | None:
        """The next change; None if none came in time or the watch was closed.

        Raises:
            WatchCanceled: the watch cannot go on; see there.
        """
        return self._thread.run(_within(self._watcher.next_event, timeout_s))

    def next_batch(self, timeout_s: float | None = None) -> WatchBatch | None:
        """The next changes that belong together. Raises: as ``next_event``."""
        return self._thread.run(_within(self._watcher.next_batch, timeout_s))

    def request_progress(self) -> None:
        """Ask how far the watch is; a batch without events is the answer."""
        self._thread.loop.call_soon_threadsafe(self._watcher.request_progress)

    def close(self) -> None:
        """End the watch; a reader that waits gets None. Twice is allowed."""
        try:
            self._thread.run(_call(self._watcher.close))
        except Unavailable:
            return


class Lease(RevokedAtEnd):
    """A granted lease; as a context manager it is revoked at the end."""

    def __init__(self, thread: LoopThread, lease: AsyncLease) -> None:
        self._thread = thread
        self._lease = lease
        self.id = lease.id
        self.ttl_s = lease.ttl_s
        """Seconds granted; the server may have raised what was asked for."""

    @property
    def lost(self) -> bool:
        """Whether a kept lease is lost."""
        return self._lease.lost

    @property
    def loss(self) -> str:
        """Why it is lost; empty while it is not."""
        return self._lease.loss

    def wait_lost(self, timeout_s: float | None = None) -> str:
        """Why a kept lease was lost; empty if it was not in time."""
        return self._thread.run(_within(self._lease.wait_lost, timeout_s)) or ""

    def keep(self) -> Self:
        """Renew in the background from now on."""
        self._thread.run(_call(self._lease.keep))
        return self

    def release(self) -> None:
        """Stop renewing; the lease lives on for its time."""
        self._thread.run(_call(self._lease.release))

    def keep_alive(self) -> int:
        """Renew once; the time to live in seconds, 0 if the lease is gone."""
        return self._thread.run(self._lease.keep_alive())

    def revoke(self) -> None:
        """End the lease and delete its keys. Raises: ApiError NOT_FOUND: it is gone."""
        self._thread.run(self._lease.revoke())


class Client(Closing):
    """A cluster as a store; as ``AsyncClient``, and every method waits.

    The errors are those of ``AsyncClient``. A context manager; must be closed.
    """

    def __init__(self, thread: LoopThread, client: AsyncClient) -> None:
        self._thread = thread
        self._client = client
        self._run = thread.run
        self.cluster: Any = Waiting(thread, client.cluster)
        """The methods of ``revstore.client.cluster.Cluster``, waited for."""
        self.maintenance: Any = Waiting(thread, client.maintenance)
        """The methods of ``revstore.client.maintenance.Maintenance``."""
        self.auth: Any = Waiting(thread, client.auth)
        """The methods of ``revstore.client.auth.AuthAdmin``."""

    def with_options(self, **options: Any) -> Client:
        """The same client with other options; see ``AsyncClient.with_options``."""
        return Client(self._thread, self._client.with_options(**options))

    # ----- reading

    def get(
        self, key: Key, *, revision: int = 0, serializable: bool = False
    ) -> KeyValue | None:
        """The pair of a key at a revision (0: now), None if there is none."""
        return self._run(
            self._client.get(key, revision=revision, serializable=serializable)
        )

    def range(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        revision: int = 0,
        limit: int = 0,
        reverse: bool = False,
        keys_only: bool = False,
        serializable: bool = False,
    ) -> Iterator[KeyValue]:
        """The pairs of a range, a prefix or all, at one revision, in pages."""
        pairs = self._client.range(
            key,
            end,
            prefix=prefix,
            revision=revision,
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
            serializable=serializable,
        )
        return _iterate(self._thread, pairs, ROWS_HANDED_OVER)

    def count(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        revision: int = 0,
        serializable: bool = False,
    ) -> int:
        """How many keys a range has."""
        return self._run(
            self._client.count(
                key, end, prefix=prefix, revision=revision, serializable=serializable
            )
        )

    # ----- writing

    def put(
        self, key: Key, value: Key, *, lease: int = 0, prev_kv: bool = False
    ) -> PutResult:
        """Set a key; durable when this returns."""
        return self._run(self._client.put(key, value, lease=lease, prev_kv=prev_kv))

    def put_many(self, pairs: Iterable[tuple[Key, Key]]) -> int:
        """Set several different keys in one transaction; returns its revision."""
        return self._run(self._client.put_many(pairs))

    def delete(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        prev_kv: bool = False,
    ) -> DeleteResult:
        """Delete one key, or a range with ``end`` or ``prefix``, in one revision."""
        return self._run(self._client.delete(key, end, prefix=prefix, prev_kv=prev_kv))

    def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        """If all compares hold do ``success``, else ``failure``; atomically."""
        return self._run(self._client.txn(compare, success, failure))

    def compact(self, revision: int, *, physical: bool = False) -> None:
        """Forget the history before a revision."""
        self._run(self._client.compact(revision, physical=physical))

    # ----- watching and leases

    def watch(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        start_revision: int = 0,
        prev_kv: bool = False,
        puts: bool = True,
        deletes: bool = True,
        progress: bool = False,
    ) -> Watcher:
        """Changes of one key, a range, a prefix or all, in order, each once.

        Returns when the watch stands: every change from then on is seen.

        Raises:
            WatchCanceled: it was refused, or the history wanted is compacted.
        """

        async def begin() -> AsyncWatcher:
            watcher = self._client.watch(
                key,
                end,
                prefix=prefix,
                start_revision=start_revision,
                prev_kv=prev_kv,
                puts=puts,
                deletes=deletes,
                progress=progress,
            )
            try:
                return await watcher.started()
            except BaseException:
                watcher.close()
                raise

        return Watcher(self._thread, self._run(begin()))

    def lease(self, ttl_s: int, *, lease_id: int = 0, keep: bool = False) -> Lease:
        """Grant a lease; with ``keep`` it is renewed in the background."""
        granted = self._run(self._client.lease(ttl_s, lease_id=lease_id, keep=keep))
        return Lease(self._thread, granted)

    def grant(self, ttl_s: int, *, lease_id: int = 0) -> int:
        """Grant a lease; its id. Raises: ApiError: the id is taken, or too long."""
        return self._run(self._client.grant(ttl_s, lease_id=lease_id))

    def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys. Raises: ApiError NOT_FOUND."""
        self._run(self._client.revoke(lease_id))

    def keep_alive(self, lease_id: int) -> int:
        """Renew a lease once; its time to live, 0 if it is gone."""
        return self._run(self._client.keep_alive(lease_id))

    def time_to_live(self, lease_id: int, *, keys: bool = False) -> LeaseInfo:
        """What is left of a lease, and with ``keys`` what is attached to it."""
        return self._run(self._client.time_to_live(lease_id, keys=keys))

    def leases(self) -> list[int]:
        """The ids of all leases, as one member knows them."""
        return self._run(self._client.leases())

    # ----- the store itself

    @property
    def revision(self) -> int:
        """The newest revision that an answer told of; 0 before the first."""
        return self._client.revision

    def hash_kv(self, revision: int = 0) -> HashAnswer:
        """etcd's HashKV of one member. Raises: ApiError OUT_OF_RANGE."""
        return self._run(self._client.hash_kv(revision))

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where calls go."""
        return self._client.endpoints

    def sync_endpoints(self) -> tuple[str, ...]:
        """Take the client URLs of the members for endpoints from now on."""
        return self._run(self._client.sync_endpoints())

    def close(self) -> None:
        """Close the connections and end the thread; twice is allowed."""
        try:
            self._run(self._client.close())
        except Unavailable:
            return
        self._thread.close()


def connect_sync(endpoints: str | Sequence[str], **options: Any) -> Client:
    """A client of a cluster; the arguments and errors are those of ``connect``."""
    thread = LoopThread()
    try:
        return Client(thread, thread.run(connect(endpoints, **options)))
    except BaseException:
        thread.close()
        raise


async def _within(
    function: Callable[[], Coroutine[Any, Any, Result]], timeout_s: float | None
) -> Result | None:
    """What a coroutine function returns, None if it takes too long."""
    try:
        async with asyncio.timeout(timeout_s):
            return await function()
    except TimeoutError:
        return None


async def _cancel_all() -> None:
    """Let nobody wait for a loop that ends."""
    own = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not own]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _call(function: Any) -> None:
    function()


def _iterate(
    thread: LoopThread, items: AsyncIterator[Result], count: int
) -> Iterator[Result]:
    """The items of an asynchronous iterator, up to ``count`` at a time."""

    async def some() -> list[Result]:
        found: list[Result] = []
        async for item in items:
            found.append(item)
            if len(found) == count:
                break
        return found

    async def close() -> None:
        closing = getattr(items, "aclose", None)
        if closing is not None:
            await closing()

    try:
        while found := thread.run(some()):
            yield from found
    finally:
        try:
            thread.run(close())
        except Unavailable:
            pass
