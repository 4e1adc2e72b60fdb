"""A cluster as a store, for asyncio; made by ``revstore.client.connect``.

The same names and values as the embedded store (``revstore.aio.open``): a program moves
from one to the other by changing the line that opens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from random import Random

import msgspec
from google.protobuf.message import Message

from revstore.client.auth import AuthAdmin
from revstore.client.caller import Caller, CallOptions
from revstore.client.cluster import Cluster, endpoints_of
from revstore.client.lease import AsyncLease, Keeper
from revstore.client.maintenance import Maintenance
from revstore.client.methods import (
    COMPACT,
    DELETE,
    GRANT,
    GRANT_ID,
    LEASES,
    PUT,
    RANGE,
    READ_TXN,
    REVOKE,
    TIME_TO_LIVE,
    TXN,
    Answer,
    Method,
)
from revstore.client.paging import Pages
from revstore.client.values import LeaseInfo
from revstore.client.watch import AsyncWatcher, WatchStreams
from revstore.closing import AsyncClosing
from revstore.embedded.requests import (
    delete_request,
    grant_request,
    put_request,
    watch_request,
)
from revstore.embedded.txn import Compare, Operation, Put, Txn, make_txn
from revstore.embedded.values import (
    DeleteResult,
    HashAnswer,
    Key,
    KeyValue,
    PutResult,
    TxnResult,
    decode_txn,
    make_delete_result,
    make_pair,
    make_put_result,
    make_span,
    to_bytes,
)
from revstore.errors import UsageError
from revstore.proto import rpc_pb2


class _Shared:
    """What all views of one client use together."""

    def __init__(self, caller: Caller, options: CallOptions, random: Random) -> None:
        self.caller = caller
        self.random = random
        self.keeper = Keeper(caller, options, random)
        self.streams: dict[bool, WatchStreams] = {}
        self.closed = False


class AsyncClient(AsyncClosing):
    """A cluster, for one event loop. An async context manager; must be closed.

    Every method may also raise: ``Unavailable`` if nothing could be sent in time,
    ``ApiError`` for what the cluster answered, and for a change that was sent and not
    answered ``OutcomeUnknown``, which is never tried again by itself.
    """

    def __init__(self, shared: _Shared, options: CallOptions) -> None:
        self._shared = shared
        self._caller = shared.caller
        self._options = options
        self.cluster = Cluster(shared.caller, options)
        self.maintenance = Maintenance(shared.caller, options)
        self.auth = AuthAdmin(shared.caller, options)

    @classmethod
    def over(cls, caller: Caller, options: CallOptions, random: Random) -> AsyncClient:
        """A client on top of a caller, which it closes with itself."""
        return cls(_Shared(caller, options, random), options)

    def with_options(
        self,
        *,
        timeout_s: float | msgspec.UnsetType | None = msgspec.UNSET,
        require_leader: bool | msgspec.UnsetType = msgspec.UNSET,
    ) -> AsyncClient:
        """The same client with other options; it shares everything with this one."""
        options = self._options
        if timeout_s is not msgspec.UNSET:
            options = msgspec.structs.replace(options, timeout_s=timeout_s)
        if require_leader is not msgspec.UNSET:
            options = msgspec.structs.replace(options, require_leader=require_leader)
        return AsyncClient(self._shared, options)

    # ----- reading

    async def get(
        self, key: Key, *, revision: int = 0, serializable: bool = False
    ) -> KeyValue | None:
        """The pair of a key at a revision (0: now), None if there is none.

        ``serializable`` reads what one member has, which may be behind.

        Raises:
            ApiError: OUT_OF_RANGE for a compacted or future revision.
            UsageError: the key is empty.
        """
        raw = to_bytes(key)
        if not raw:
            raise UsageError("a key must not be empty")
        request = rpc_pb2.RangeRequest(
            key=raw, revision=revision, serializable=serializable
        )
        answer = await self._caller.call(RANGE, request, self._options)
        return make_pair(answer.kvs[0]) if answer.kvs else None

    async def range(
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
    ) -> AsyncIterator[KeyValue]:
        """The pairs with key <= k < end, of a prefix, or all; at one revision, in pages.

        Raises:
            ApiError: OUT_OF_RANGE for a compacted or future revision; also in the
                midst, if the revision of the first page is compacted meanwhile.
            UsageError: key or prefix make no sense together.
        """
        pages = Pages(
            make_span(key, end, prefix),
            revision=revision,
            limit=limit,
            keys_only=keys_only,
            reverse=reverse,
            serializable=serializable,
        )
        while (request := pages.request) is not None:
            answer = await self._caller.call(RANGE, request, self._options)
            pages.take(answer, answer.ByteSize())
            for pair in answer.kvs:
                yield make_pair(pair)

    async def count(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        revision: int = 0,
        serializable: bool = False,
    ) -> int:
        """How many keys a range has. Raises: as ``range``."""
        span = make_span(key, end, prefix)
        request = rpc_pb2.RangeRequest(
            key=span[0],
            range_end=span[1],
            revision=revision,
            count_only=True,
            serializable=serializable,
        )
        answer = await self._caller.call(RANGE, request, self._options)
        return answer.count

    # ----- writing

    async def put(
        self, key: Key, value: Key, *, lease: int = 0, prev_kv: bool = False
    ) -> PutResult:
        """Set a key; durable when this returns.

        Raises:
            ApiError: NOT_FOUND for an unknown lease, and etcd's other refusals.
        """
        request = put_request(key, value, lease, prev_kv)
        answer = await self._caller.call(PUT, request, self._options)
        return make_put_result(answer, answer.header.revision)

    async def put_many(self, pairs: Iterable[tuple[Key, Key]]) -> int:
        """Set several different keys in one transaction; returns its revision.

        Raises:
            ApiError: a key is given twice, or the pairs exceed a limit.
        """
        result = await self.txn(success=[Put(key, value) for key, value in pairs])
        return result.revision

    async def delete(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        prev_kv: bool = False,
    ) -> DeleteResult:
        """Delete a key, a range or a prefix in one revision. Raises: ApiError."""
        request = delete_request(key, end, prefix, prev_kv)
        answer = await self._caller.call(DELETE, request, self._options)
        return make_delete_result(answer, answer.header.revision)

    async def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        """If all compares hold do ``success``, else ``failure``; atomically.

        One that only reads is repeated like a read.

        Raises:
            ApiError: etcd's refusals, such as a key that is put twice.
        """
        request = make_txn(Txn(compare, success, failure))
        method = READ_TXN if _only_reads(request) else TXN
        answer = await self._caller.call(method, request, self._options)
        return decode_txn(answer, answer.header.revision)

    async def compact(self, revision: int, *, physical: bool = False) -> None:
        """Forget the history before a revision; ``physical`` waits until it is gone.

        Raises:
            ApiError: OUT_OF_RANGE if it is compacted already or in the future.
        """
        request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)
        await self._caller.call(COMPACT, request, self._options)

    # ----- watching

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
    ) -> AsyncWatcher:
        """Changes of one key, a range, a prefix or all, in order, each once.

        ``start_revision`` 0 means "from now on": from the moment that ``async with``
        or ``await watcher.started()`` is past. ``progress`` has idle watches told now
        and then how far they are.

        Raises:
            WatchCanceled: from the watcher, if the history wanted is compacted.
        """
        request = watch_request(
            key, end, prefix, start_revision, prev_kv, puts, deletes
        )
        request.progress_notify = progress
        return AsyncWatcher(self._streams(), request, self._options.timeout_s)

    def _streams(self) -> WatchStreams:
        shared, require = self._shared, self._options.require_leader
        streams = shared.streams.get(require)
        if streams is None:
            streams = WatchStreams(self._caller, self._options, shared.random)
            shared.streams[require] = streams
        return streams

    # ----- leases

    async def lease(
        self, ttl_s: int, *, lease_id: int = 0, keep: bool = False
    ) -> AsyncLease:
        """Grant a lease; with ``keep`` it is renewed in the background.

        Raises:
            ApiError: the id is taken, or the time to live too large.
        """
        sent_at = asyncio.get_running_loop().time()
        answer = await self._grant(ttl_s, lease_id)
        lease = AsyncLease(self, answer.ID, answer.TTL, sent_at)
        return lease.keep() if keep else lease

    async def grant(self, ttl_s: int, *, lease_id: int = 0) -> int:
        """Grant a lease; its id. Raises: ApiError: the id is taken, or too long."""
        return (await self._grant(ttl_s, lease_id)).ID

    async def _grant(self, ttl_s: int, lease_id: int) -> rpc_pb2.LeaseGrantResponse:
        request = grant_request(ttl_s, lease_id)
        method = GRANT_ID if lease_id else GRANT
        return await self._caller.call(method, request, self._options)

    async def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys. Raises: ApiError NOT_FOUND."""
        request = rpc_pb2.LeaseRevokeRequest(ID=lease_id)
        await self._caller.call(REVOKE, request, self._options)

    async def keep_alive(self, lease_id: int) -> int:
        """Renew a lease once; its time to live in seconds, 0 if it is gone."""
        return await self.keeper.once(lease_id, self._options)

    async def time_to_live(self, lease_id: int, *, keys: bool = False) -> LeaseInfo:
        """What is left of a lease, and with ``keys`` what is attached to it."""
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=keys)
        answer = await self._caller.call(TIME_TO_LIVE, request, self._options)
        return LeaseInfo(answer.ID, answer.TTL, answer.grantedTTL, tuple(answer.keys))

    async def leases(self) -> list[int]:
        """The ids of all leases, as one member knows them."""
        request = rpc_pb2.LeaseLeasesRequest()
        answer = await self._caller.call(LEASES, request, self._options)
        return [lease.ID for lease in answer.leases]

    @property
    def keeper(self) -> Keeper:
        """What renews leases in the background."""
        return self._shared.keeper

    # ----- the store itself

    @property
    def revision(self) -> int:
        """The newest revision that an answer told of; 0 before the first."""
        return self._caller.revision

    async def hash_kv(self, revision: int = 0) -> HashAnswer:
        """etcd's HashKV of one member. Raises: ApiError OUT_OF_RANGE."""
        return await self.maintenance.hash_kv(revision)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where calls go."""
        return self._caller.pool.urls

    async def sync_endpoints(self) -> tuple[str, ...]:
        """Take the client URLs of the voters for endpoints from now on.

        Of a member with several kinds of URLs those are taken that are in use. Members
        that name none are left out; if none does, nothing changes.
        """
        members = await self.cluster.members()
        voters = [member for member in members if not member.is_learner]
        urls = endpoints_of(voters, self.endpoints)
        if urls:
            self.use_endpoints(urls)
        return self.endpoints

    def use_endpoints(self, urls: Iterable[str]) -> None:
        """Take these URLs for endpoints from now on. Raises: ConfigError, UsageError."""
        self._caller.pool.replace(tuple(urls))

    async def call_at(
        self, url: str, method: Method[Answer], request: Message, options: CallOptions
    ) -> Answer:
        """A call of the API at one endpoint, for tools. Raises: ApiError, Unavailable."""
        return await self._caller.call_at(url, method, request, options)

    async def close(self) -> None:
        """End all watches, stop renewing leases, close the connections.

        Twice is allowed. Raises: nothing.
        """
        shared = self._shared
        if shared.closed:
            return
        shared.closed = True
        for streams in shared.streams.values():
            await streams.close()
        await shared.keeper.close()
        await self._caller.pool.close()


def _only_reads(request: rpc_pb2.TxnRequest) -> bool:
    operations = [*request.success, *request.failure]
    return all(op.WhichOneof("request") == "request_range" for op in operations)
