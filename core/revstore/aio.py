"""The embedded store for asyncio: ``async with await revstore.aio.open(path) as store``.

The same member, data directory and guarantees as ``revstore.open``; many writes that
wait at the same time share one sync of the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

from revstore.api.replica import Tag
from revstore.apply import validate
from revstore.closing import AsyncClosing
from revstore.embedded.events import WatchCanceled, cancel_reason, decode_event
from revstore.embedded.lease import local_grant
from revstore.embedded.readers import AsyncEventReader
from revstore.embedded.requests import (
    delete_request,
    delete_result,
    put_request,
    put_result,
    watch_request,
)
from revstore.embedded.settings import make_settings
from revstore.embedded.txn import Compare, Operation, Txn, make_txn
from revstore.embedded.values import (
    DeleteResult,
    HashAnswer,
    Key,
    KeyValue,
    PutResult,
    TxnResult,
    WatchEvent,
    decode_pair,
    decode_pairs,
    decode_txn,
    make_query,
    make_span,
    to_bytes,
)
from revstore.embedded.watch import ResponseQueue
from revstore.errors import ApiError, Unavailable, UsageError
from revstore.node.aio import AsyncNode
from revstore.node.replica import Replica
from revstore.plugin.manager import PluginManager
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

ROWS_A_CHUNK = 1_000


class AsyncWatcher(AsyncEventReader):
    """Changes in order, each once; iterate with ``async for``. Must be closed."""

    def __init__(self, replica: Replica, request: rpc_pb2.WatchCreateRequest) -> None:
        self._responses = ResponseQueue()
        self._pending: deque[WatchEvent] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self._error: WatchCanceled | None = None
        self._stream = replica.hub.open_stream(self)
        self._stream.create(request)

    def send(self, header_revision: int, body: bytes) -> None:
        """Called by the hub."""
        self._responses.push(body)
        self._arrived.set()

    def writable(self) -> bool:
        """Called by the hub: whether it may go on."""
        return not self._responses.full

    async def next_event(self) -> WatchEvent | None:
        """The next change; None once the watcher is closed.

        Raises:
            WatchCanceled: the watch cannot go on; see there.
        """
        while not self._pending:
            if self._error is not None:
                raise WatchCanceled(str(self._error), self._error.compact_revision)
            if self._closed:
                return None
            if not self._responses:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            self._take()
        return self._pending.popleft()

    def _take(self) -> None:
        was_full = self._responses.full
        response = rpc_pb2.WatchResponse.FromString(self._responses.pop())
        if was_full and not self._responses.full:
            self._stream.on_writable()
        self._pending.extend(decode_event(event) for event in response.events)
        if response.canceled:
            self._error = WatchCanceled(
                cancel_reason(response), response.compact_revision
            )

    def close(self) -> None:
        """End the watch; twice is allowed."""
        if not self._closed:
            self._closed = True
            self._stream.close()
            self._arrived.set()


class AsyncStore(AsyncClosing):
    """A store in this process, for one event loop; made by ``revstore.aio.open``."""

    def __init__(self, node: AsyncNode) -> None:
        self._node = node
        self._watchers: WeakSet[AsyncWatcher] = WeakSet()
        """To be closed with the store; the hub holds those that are open."""

    @property
    def _replica(self) -> Replica:
        replica = self._node.replica
        if replica.stopped:
            raise Unavailable("the store is closed")
        return replica

    async def get(self, key: Key, *, revision: int = 0) -> KeyValue | None:
        """The pair of a key at a revision (0: now). Raises: as ``EmbeddedStore.get``."""
        raw = to_bytes(key)
        if not raw:
            raise UsageError("a key must not be empty")
        await self._node.read_barrier()
        row = self._replica.store.get(raw, revision)
        return None if row is None else decode_pair(raw, row)

    async def range(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
    ) -> AsyncIterator[KeyValue]:
        """Pairs of a range, a prefix or all, at one revision, in chunks.

        Raises: as ``EmbeddedStore.range``.
        """
        span = make_span(key, end, prefix)
        await self._node.read_barrier()
        query = make_query(span, revision, limit, keys_only, False)
        for chunk in self._replica.store.range_chunks(query, ROWS_A_CHUNK):
            for pair in decode_pairs(chunk.kvs):
                yield pair
            await asyncio.sleep(0)

    async def put(
        self, key: Key, value: Key, *, lease: int = 0, prev_kv: bool = False
    ) -> PutResult:
        """Set a key; durable when this returns. Raises: as ``EmbeddedStore.put``."""
        request = put_request(key, value, lease, prev_kv)
        return put_result(await self._commit(Tag.PUT, request))

    async def delete(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        prev_kv: bool = False,
    ) -> DeleteResult:
        """Delete a key, a range or a prefix. Raises: as ``EmbeddedStore.delete``."""
        request = delete_request(key, end, prefix, prev_kv)
        return delete_result(await self._commit(Tag.DELETE_RANGE, request))

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        """If all compares hold ``success``, else ``failure``; atomically.

        Raises: as ``EmbeddedStore.txn``.
        """
        request = make_txn(Txn(compare, success, failure))
        validate.check_txn_request(request, self._replica.max_txn_ops)
        result = await self._commit(Tag.TXN, request)
        revision = result.revision or self.revision
        return decode_txn(rpc_pb2.TxnResponse.FromString(result.body), revision)

    async def compact(self, revision: int) -> None:
        """Forget the history before a revision. Raises: ApiError OUT_OF_RANGE."""
        request = rpc_pb2.CompactionRequest(revision=revision)
        await self._commit(Tag.COMPACTION, request)

    async def grant(self, ttl_s: int, *, lease_id: int = 0) -> int:
        """Grant a lease; its id. Raises: ApiError: the id is taken, or too long."""
        request = local_grant(ttl_s, lease_id, self._replica.store.lease_exists)
        await self._commit(Tag.LEASE_GRANT, request)
        return request.ID

    async def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys. Raises: ApiError NOT_FOUND."""
        await self._commit(Tag.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease_id))

    async def keep_alive(self, lease_id: int) -> int:
        """Renew a lease; its time to live in seconds, 0 if it is gone."""
        return self._replica.lessor.renew(lease_id)

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
    ) -> AsyncWatcher:
        """Changes of one key, a range, a prefix or all. See ``EmbeddedStore.watch``."""
        request = watch_request(
            key, end, prefix, start_revision, prev_kv, puts, deletes
        )
        watcher = AsyncWatcher(self._replica, request)
        self._watchers.add(watcher)
        return watcher

    @property
    def revision(self) -> int:
        """The newest revision; a fresh store is at 1."""
        return self._replica.store.revision

    def hash_kv(self, revision: int = 0) -> HashAnswer:
        """etcd's HashKV. Raises: ApiError OUT_OF_RANGE."""
        found = self._replica.store.hash_kv(revision)
        return HashAnswer(found.hash, found.hash_revision, found.compact_revision)

    async def _commit(self, tag: Tag, request: Any) -> ApplyResult:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[ApplyResult | ApiError] = loop.create_future()

        def done(result: ApplyResult | ApiError) -> None:
            if not waiter.done():
                waiter.set_result(result)

        payload = request.SerializeToString()
        self._replica.propose(tag, payload, request, done)
        result = await waiter
        if isinstance(result, ApiError):
            raise result.fresh()
        return result

    async def close(self) -> None:
        """End all watches and close; twice is allowed. Raises: StorageError."""
        for watcher in self._watchers:
            watcher.close()
        self._watchers.clear()
        await self._node.close()


async def open_store(
    path: str | Path,
    *,
    backend: str | None = None,
    backend_options: Mapping[str, Any] | None = None,
    wal_options: Mapping[str, Any] | None = None,
    consensus: str = "solo",
    plugins: PluginManager | None = None,
    **settings: Any,
) -> AsyncStore:
    """Open a store on the running event loop; see ``revstore.open``.

    Raises:
        UsageError, ConfigError, PluginError, LockedError, StorageError: as there.
    """
    wanted = make_settings(
        path, backend, backend_options, wal_options, consensus, settings
    )
    return AsyncStore(await AsyncNode.open(wanted, plugins))


open = open_store
