"""The embedded store: ``revstore.open``.

The same member as a server's, with the same guarantees and the same directory on disk:
a write that returned is durable, reads are linearizable, transactions are atomic.
All methods may be called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from random import SystemRandom
from typing import Any

from revstore.api.replica import Tag
from revstore.apply import validate
from revstore.apply.puts import PlainPuts, check_puts
from revstore.closing import Closing
from revstore.embedded.lease import Lease, local_grant, renew
from revstore.embedded.requests import (
    delete_request,
    delete_result,
    put_request,
    put_result,
    watch_request,
)
from revstore.embedded.settings import make_settings
from revstore.embedded.shell import EmbeddedShell
from revstore.embedded.txn import Compare, Operation, Txn, make_txn
from revstore.embedded.values import (
    DeleteResult,
    HashAnswer,
    Key,
    KeyValue,
    PutResult,
    TxnResult,
    decode_pair,
    decode_pairs,
    decode_txn,
    make_query,
    make_span,
    to_bytes,
)
from revstore.embedded.watch import Watcher
from revstore.errors import ApiError, UsageError
from revstore.mvcc.query import RangeQuery
from revstore.node.bootstrap import open_member
from revstore.node.replica import Replica
from revstore.plugin.manager import PluginManager
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

ROWS_A_CHUNK = 1_000
ROWS_DECODED = 128
"""Rows made into values at a time."""


class EmbeddedStore(Closing):
    """A store in this process; made by ``revstore.open``. A context manager."""

    def __init__(self, shell: EmbeddedShell) -> None:
        self._shell = shell
        self._lock = shell.lock
        self._store = shell.replica.store

    # ----- reading

    def get(self, key: Key, *, revision: int = 0) -> KeyValue | None:
        """The pair of a key at a revision (0: now), None if there is none.

        Raises:
            ApiError: OUT_OF_RANGE for a compacted or future revision.
            UsageError: the key is empty.
            Unavailable: the store is closed.
        """
        raw = key if type(key) is bytes else to_bytes(key)
        if not raw:
            raise UsageError("a key must not be empty")
        with self._lock:
            if self._shell.closing:
                self._shell.replica  # noqa: B018 - raises what says why
            row = self._store.get(raw, revision)
        return None if row is None else decode_pair(raw, row)

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
    ) -> Iterator[KeyValue]:
        """The pairs with key <= k < end, or of a prefix, or all; one revision.

        Rows are read in bounded chunks as the iterator goes on, and writes go on
        beside it. ``end`` None means "to the last key".

        Raises:
            ApiError: OUT_OF_RANGE for a compacted or future revision.
            UsageError: key or prefix make no sense together.
        """
        query = make_query(
            make_span(key, end, prefix), revision, limit, keys_only, reverse
        )
        if reverse:
            with self._lock:
                found = self._shell.replica.store.range(query)
            return chain.from_iterable(self._blocks(found.kvs, iter(())))
        with self._lock:
            chunks = self._shell.replica.store.range_chunks(
                query, ROWS_A_CHUNK, count=False
            )
            first = next(chunks, None)
        return chain.from_iterable(self._blocks(first.kvs if first else [], chunks))

    def _blocks(
        self, rows: list[bytes], chunks: Iterator[Any]
    ) -> Iterator[list[KeyValue]]:
        """The pairs in lists: short ones, so that the first pair is not long in coming."""
        try:
            while rows:
                for start in range(0, len(rows), ROWS_DECODED):
                    yield decode_pairs(rows[start : start + ROWS_DECODED])
                with self._lock:
                    self._shell.replica  # noqa: B018 - raises if closed meanwhile
                    chunk = next(chunks, None)
                rows = chunk.kvs if chunk else []
        finally:
            with self._lock:
                close = getattr(chunks, "close", None)
                if close is not None:
                    close()

    def count(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        revision: int = 0,
    ) -> int:
        """How many keys a range has. Raises: as ``range``."""
        span = make_span(key, end, prefix)
        query = RangeQuery(key=span[0], end=span[1], revision=revision, count_only=True)
        with self._lock:
            return self._shell.replica.store.range(query).count

    # ----- writing

    def put(
        self, key: Key, value: Key, *, lease: int = 0, prev_kv: bool = False
    ) -> PutResult:
        """Set a key; durable when this returns.

        Raises:
            ApiError: NOT_FOUND for an unknown lease, and etcd's other refusals.
            StorageError: the disk failed.
        """
        request = put_request(key, value, lease, prev_kv)
        return put_result(self._commit(Tag.PUT, request))

    def put_many(self, pairs: Iterable[tuple[Key, Key]]) -> int:
        """Set several different keys in one transaction; returns its revision.

        Raises:
            ApiError: a key is given twice, or the pairs exceed a limit.
            StorageError: the disk failed.
        """
        items = [
            (
                key if type(key) is bytes else to_bytes(key),
                value if type(value) is bytes else to_bytes(value, "value"),
                0,
            )
            for key, value in pairs
        ]
        check_puts(items, self._shell.replica.max_txn_ops)
        request = PlainPuts(items)
        return self._shell.commit(Tag.TXN, request.payload, request).revision

    def delete(
        self,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
        prev_kv: bool = False,
    ) -> DeleteResult:
        """Delete one key, or a range with ``end`` or ``prefix``, in one revision.

        Raises:
            ApiError: etcd's refusals.
            StorageError: the disk failed.
        """
        request = delete_request(key, end, prefix, prev_kv)
        return delete_result(self._commit(Tag.DELETE_RANGE, request))

    def txn(
        self,
        compare: Sequence[Compare] = (),
        success: Sequence[Operation] = (),
        failure: Sequence[Operation] = (),
    ) -> TxnResult:
        """If all compares hold do ``success``, else ``failure``; atomically.

        Raises:
            ApiError: etcd's refusals, such as a key that is put twice.
            StorageError: the disk failed.
        """
        request = make_txn(Txn(compare, success, failure))
        validate.check_txn_request(request, self._shell.replica.max_txn_ops)
        result = self._commit(Tag.TXN, request)
        revision = result.revision or self.revision
        return decode_txn(rpc_pb2.TxnResponse.FromString(result.body), revision)

    def compact(self, revision: int) -> None:
        """Forget the history before a revision; space is freed in the background.

        Raises:
            ApiError: OUT_OF_RANGE if it is compacted already or in the future.
        """
        self._commit(Tag.COMPACTION, rpc_pb2.CompactionRequest(revision=revision))

    def _commit(self, tag: Tag, request: Any) -> ApplyResult:
        return self._shell.commit(tag, request.SerializeToString(), request)

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
    ) -> Watcher:
        """Changes of one key, of a range or prefix, or of all keys, in order.

        ``start_revision`` 0 means "from now on", else the history from there comes
        first. ``key`` without ``end`` watches that key alone.

        Raises:
            WatchCanceled: from the watcher, if the history wanted is compacted.
        """
        request = watch_request(
            key, end, prefix, start_revision, prev_kv, puts, deletes
        )
        return Watcher(self._shell, request)

    def lease(self, ttl_s: int, *, lease_id: int = 0) -> Lease:
        """Grant a lease; keys put with it go when it expires or is revoked.

        Raises:
            ApiError: the id is taken, or the time to live too large.
        """
        request = local_grant(ttl_s, lease_id, self._lease_exists)
        result = self._commit(Tag.LEASE_GRANT, request)
        answer = rpc_pb2.LeaseGrantResponse.FromString(result.body)
        return Lease(self, answer.ID, answer.TTL)

    def _lease_exists(self, lease_id: int) -> bool:
        with self._lock:
            return self._shell.replica.store.lease_exists(lease_id)

    def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys. Raises: ApiError NOT_FOUND."""
        self._commit(Tag.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease_id))

    def keep_alive(self, lease_id: int) -> int:
        """Renew a lease; its time to live, 0 if it is gone. Raises: Unavailable."""
        return renew(self._shell, lease_id)

    # ----- the store itself

    @property
    def replica(self) -> Replica:
        """The member behind the store, for tools; it is not for several threads.

        Raises:
            Unavailable: the store is closed.
        """
        return self._shell.replica

    @property
    def revision(self) -> int:
        """The newest revision; a fresh store is at 1."""
        with self._lock:
            return self._shell.replica.store.revision

    @property
    def compact_revision(self) -> int:
        """Revisions below this are forgotten; -1 before the first compaction."""
        with self._lock:
            return self._shell.replica.store.compact_revision

    def hash_kv(self, revision: int = 0) -> HashAnswer:
        """etcd's HashKV: equal for equal histories, on any backend.

        Raises:
            ApiError: OUT_OF_RANGE for a compacted or future revision.
        """
        with self._lock:
            found = self._shell.replica.store.hash_kv(revision)
        return HashAnswer(found.hash, found.hash_revision, found.compact_revision)

    def sync(self) -> None:
        """Bring the backend up to date with the log; writes are durable without it."""
        done: list[ApiError | None] = []
        with self._lock:
            self._shell.replica.housekeeping.when_flushed(done.append)
            while not done:
                self._shell.wait_for_progress(1.0)
        if done[0] is not None:
            raise done[0].fresh()

    def close(self) -> None:
        """Close the store; twice is allowed.

        Raises:
            StorageError: the last write of the backend failed; the log has it all.
        """
        self._shell.close()


def open_store(
    path: str | Path,
    *,
    backend: str | None = None,
    backend_options: Mapping[str, Any] | None = None,
    wal_options: Mapping[str, Any] | None = None,
    consensus: str = "solo",
    plugins: PluginManager | None = None,
    **settings: Any,
) -> EmbeddedStore:
    """Open a store in a directory, made if it is not there.

    Without ``backend`` it is the one that made the directory, else "lmdb". Further
    settings are fields of ``MemberSettings``, such as ``max_txn_ops``.

    Raises:
        UsageError, ConfigError: an argument is wrong or does not fit the directory.
        PluginError: a plugin or its driver is missing.
        LockedError: the directory is open elsewhere.
        StorageError: it is damaged or unreadable.
    """
    shell = EmbeddedShell()
    try:
        member = open_member(
            make_settings(
                path, backend, backend_options, wal_options, consensus, settings
            ),
            plugins or PluginManager(),
            shell,
            threaded=False,
            random=SystemRandom(),
            unix_time=time.time(),
        )
        shell.start(member)
    except BaseException:
        shell.abandon()
        raise
    return EmbeddedStore(shell)
