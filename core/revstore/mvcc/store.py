"""The store: revisions of keys over any ordered engine.

Rules of this file:

1. One thread calls the store; only ``FlushJob.run`` may run elsewhere.
2. What is applied is visible at once and reaches the backend with a later flush, in one
   atomic batch with the applied index. A crash puts the store back to some earlier
   flush; making the same calls again gives the same state.
3. Nothing here grows with the number of keys: opening reads one row of META.
4. A failed flush poisons the store: reads go on, flushes are refused until reopened.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from revstore.api import errors
from revstore.errors import PoisonedError, UsageError
from revstore.interfaces.backend import Backend, Durability, Pair
from revstore.mvcc.compaction import Compactor
from revstore.mvcc.flush import FlushJob
from revstore.mvcc.hashing import HashJob, HashResult, hash_all
from revstore.mvcc.layers import MISSING, Layers
from revstore.mvcc.log import read_events
from revstore.mvcc.overlay import Overlay
from revstore.mvcc.query import RangeQuery, RangeResult, bounds
from revstore.mvcc.ranges import run_range
from revstore.mvcc.records import strip_value
from revstore.mvcc.state import STATE_KEY, StoreState, decode_state
from revstore.mvcc.suspended import SuspendedSnapshot
from revstore.mvcc.system import system_get, system_scan
from revstore.mvcc.tables import (
    CURRENT,
    LEASE,
    LEASE_KEY,
    META,
    lease_key_bounds,
    lease_key_prefix,
)
from revstore.mvcc.write import WriteTxn
from revstore.types import Event

_EVENT_BYTES = 200
"""What an overlay holds for each change beside its rows, roughly."""


class StoreOptions(msgspec.Struct, frozen=True):
    """Sizes and times of the store; the defaults keep memory in tens of megabytes."""

    flush_bytes: int = 0
    """An overlay with rows of this size is due to be flushed; 0: what the backend says
    (``BackendCapabilities.flush_bytes``). While it is, the engine may hold several times
    as much."""
    flush_events: int = 50_000
    """An overlay with this many changes is due to be flushed."""
    flush_interval_s: float = 1.0
    """A change is flushed at the latest after this time. Few big flushes are cheaper than
    many small ones: of changes to random keys each touches a page of its own, once a
    flush. A crash replays what was not flushed from the log."""
    overlay_bytes_max: int = 64 << 20
    """With this much waiting to be flushed, bookkeeping included, the store is
    overloaded."""
    overlay_events_max: int = 200_000
    compaction_batch_limit: int = 1000
    """Rows of the log that one compaction step looks at."""
    compaction_hashes: bool = True
    """Keep what HashKV gives at each compaction, as etcd does; costs one read of the
    remaining log per compaction."""


class Store:
    """An open store; see the module's rules."""

    def __init__(self, backend: Backend, options: StoreOptions | None = None) -> None:
        """Open what the backend holds.

        Raises:
            FormatError: a newer revstore wrote the data.
            CorruptionError: the META row cannot be read.
            StorageError: the engine failed.
        """
        self._backend = backend
        self._options = options = options or StoreOptions()
        self._flush_bytes = options.flush_bytes or backend.capabilities.flush_bytes
        self._level = min(Durability.SYNC, backend.capabilities.durability_max)
        self._closed = False
        self._suspended = False
        self._load()

    def _load(self) -> None:
        """Begin with what the backend holds. Raises: as ``__init__``."""
        backend, options = self._backend, self._options
        snapshot = backend.snapshot()
        try:
            row = snapshot.get(META, STATE_KEY)
            state = StoreState() if row is None else decode_state(row)
            if backend.capabilities.persistent:
                backend.sync()
        except BaseException:
            snapshot.close()
            raise
        self.revision = state.revision
        """The head revision."""
        self.applied_index = state.applied_index
        self.applied_term = state.applied_term
        self.durable_index = (
            state.applied_index if backend.capabilities.persistent else 0
        )
        """Applied index of the newest flush that survives power loss."""
        self._suspended = False
        self._layers = Layers(snapshot, state.revision)
        self._job: FlushJob | None = None
        self._dirty_since: float | None = None
        self._drained = 0
        self._undrained: list[Event] = []
        self._failure: BaseException | None = None
        self._compactor = Compactor(
            self._layers,
            state,
            options.compaction_batch_limit,
            options.compaction_hashes,
        )

    def suspend(self) -> None:
        """Let go of the backend until ``reload``, so that it can be replaced.

        What was not flushed is dropped. Until then there are no writes and flushes, and
        reads get INSTALLING, but for those of the keyspaces of membership, alarms and
        users. Ranges and hashes that are under way get INSTALLING, then and later.

        Raises:
            StorageError: the engine failed.
        """
        layers = self._layers
        old, layers.snapshot = layers.snapshot, SuspendedSnapshot(layers)
        self._layers = Layers(layers.snapshot, layers.base)
        self._suspended = True
        old.close()

    def reload(self) -> None:
        """Begin anew with what the backend holds, after somebody else replaced it.

        What was not flushed is dropped.

        Raises:
            FormatError: a newer revstore wrote the data.
            StorageError: the engine failed.
        """
        old = self._layers.snapshot
        self._load()
        old.close()

    @property
    def compact_revision(self) -> int:
        """The newest compacted revision, -1 if there never was a compaction."""
        return self._compactor.compact_revision

    def set_applied(self, index: int, term: int) -> None:
        """Note that the entry's effects are in the store.

        Effects and index become durable together.
        """
        self.applied_index = index
        self.applied_term = term
        self._layers.active.dirty = True

    # Reads

    def get(self, key: bytes, revision: int = 0) -> bytes | None:
        """The row of a key, at the head or at a revision.

        Raises:
            ApiError: COMPACTED or FUTURE_REV.
            StorageError: the engine failed.
        """
        if revision <= 0:
            layers = self._layers
            row = layers.active.records.get(key, MISSING)
            if row is not MISSING:
                return row
            if layers.flushing is None:
                return layers.snapshot.get(CURRENT, key)
            return layers.below(key)
        asked = self._checked(revision)
        if asked is None:
            return self._layers.get(key)
        return self._layers.get_at(key, asked)

    def range(self, query: RangeQuery) -> RangeResult:
        """Answer a range at the head or at a revision.

        Raises:
            ApiError: COMPACTED or FUTURE_REV.
            StorageError: the engine failed.
        """
        head = self.revision
        asked = None if query.revision <= 0 else self._checked(query.revision)
        return run_range(self._layers, query, asked, head)

    def range_chunks(
        self,
        query: RangeQuery,
        rows: int = 1000,
        bytes_max: int = 4 << 20,
        count: bool = True,
    ) -> Iterator[RangeResult]:
        """A range in key order in chunks of bounded size, all of one revision.

        The revision is fixed, and its rows are protected from compaction, when the
        first chunk is asked for. Chunks may be consumed while writes, flushes and
        compactions go on. ``more`` is set on all chunks but the last, where it is what
        ``range`` would say; ``count`` is the number of keys in the range and is set on
        the last chunk only. Where ``limit`` ends the range, counting the rest takes time;
        without ``count`` it is left out, and ``more`` means "perhaps". Sort and revision filters are not supported.

        Raises:
            UsageError: the query has a sort other than by key ascending, or a filter.
            ApiError: COMPACTED or FUTURE_REV, at the first chunk.
            StorageError: the engine failed.
        """
        plain = query.order in (0, 1) and query.target == 0
        if not plain or query.min_mod or query.max_mod:
            raise UsageError("range_chunks reads in key order and without filters")
        if query.min_create or query.max_create:
            raise UsageError("range_chunks reads in key order and without filters")
        return self._chunks(query, rows, bytes_max, count)

    def _chunks(
        self, query: RangeQuery, rows: int, bytes_max: int, counted: bool
    ) -> Iterator[RangeResult]:
        asked = None if query.revision <= 0 else self._checked(query.revision)
        pinned = self.revision if asked is None else asked
        span = bounds(query.key, query.end)
        if span is None or query.count_only:
            yield self.range(query)
            return
        limit = max(query.limit, 0)
        position, hi = span
        # Where the state is replaced meanwhile, these layers say so.
        layers = self._layers
        sent = 0
        with self._compactor.pin(pinned):
            while True:
                step = min(rows, limit - sent) if limit else rows
                at = None if pinned == self.revision else pinned
                found, resume = layers.page(position, hi, at, step, bytes_max)
                sent += len(found)
                last = resume is None
                more = False
                count = sent
                if limit and sent >= limit and resume is not None:
                    last = more = True
                    if counted:
                        count += layers.count(resume, hi, at)
                        more = count > sent
                if query.keys_only:
                    found = [strip_value(row) for row in found]
                if last:
                    yield RangeResult(found, more, count, self.revision)
                    return
                yield RangeResult(found, True, 0, self.revision)
                assert resume is not None
                position = resume

    def _checked(self, revision: int) -> int | None:
        """A positive revision after etcd's checks; None if it is the head.

        Raises:
            ApiError: COMPACTED or FUTURE_REV.
        """
        head = self.revision
        if revision > head:
            raise errors.FUTURE_REV.fresh()
        if revision < self._compactor.compact_revision:
            raise errors.COMPACTED.fresh()
        return None if revision == head else revision

    # Writes

    def begin(self) -> WriteTxn:
        """Start a transaction; end it with ``commit`` or ``abort`` before the next."""
        return WriteTxn(self, self._layers, self.revision + 1)

    # History

    def events(
        self, first_revision: int, limit_revisions: int, limit_bytes: int
    ) -> tuple[list[Event], int]:
        """Changes from a revision on, whole revisions only, oldest first.

        At least one revision is returned if there is one. The second part of the
        result is the revision to go on from.

        Raises:
            ApiError: COMPACTED.
            StorageError: the engine failed.
        """
        if first_revision < self._compactor.compact_revision:
            raise errors.COMPACTED.fresh()
        return read_events(
            self._layers, first_revision, self.revision, limit_revisions, limit_bytes
        )

    def drain_events(self) -> list[Event]:
        """The changes committed since the last call, in order."""
        events = self._layers.active.events
        drained = self._undrained + events[self._drained :]
        self._undrained = []
        self._drained = len(events)
        return drained

    # Hashes

    def hash_kv(self, revision: int = 0) -> HashResult:
        """etcd's HashKV, in one go.

        Raises:
            ApiError: COMPACTED or FUTURE_REV.
            StorageError: the engine failed.
        """
        job = self.hash_kv_job(revision)
        try:
            while not job.step(10_000):
                pass
            return job.result
        finally:
            job.close()

    def hash_kv_job(self, revision: int = 0) -> HashJob:
        """etcd's HashKV in steps; other calls may go on between them.

        Call ``step`` until it returns True, then read ``result``; ``close`` the job if
        it is given up.

        Raises:
            ApiError: COMPACTED or FUTURE_REV.
        """
        cached = self._compactor.hashes.get(revision) if revision > 0 else None
        if cached is not None:
            return HashJob.ready(self._layers, cached)
        head = self.revision
        compact = self._compactor.compact_revision
        if revision > head:
            raise errors.FUTURE_REV.fresh()
        if 0 < revision < compact:
            raise errors.COMPACTED.fresh()
        return self._compactor.hash_job(compact, revision if revision > 0 else head)

    def compaction_hashes(self) -> list[HashResult]:
        """Hashes of the newest compactions, the newest first, each over what was
        between the compaction before it and itself. Raises: nothing."""
        return list(reversed(self._compactor.hashes.values()))

    def hash_all(self) -> int:
        """A checksum over all that is stored (Maintenance.Hash).

        Raises:
            StorageError: the engine failed.
        """
        return hash_all(self._layers, self.revision)

    # Compaction

    def compact(self, revision: int) -> None:
        """Give up history before a revision; rows are deleted by later steps.

        Reads below the revision are refused from now on.

        Raises:
            ApiError: COMPACTED or FUTURE_REV.
        """
        if revision <= self._compactor.compact_revision:
            raise errors.COMPACTED.fresh()
        if revision > self.revision:
            raise errors.FUTURE_REV.fresh()
        self._compactor.schedule(revision)
        self._layers.active.dirty = True

    def compaction_pending(self) -> bool:
        """Whether rows of a compaction are still to be deleted."""
        return self._compactor.pending()

    def compaction_step(self) -> bool:
        """Do a bounded piece of compaction.

        Returns True if the next step can go on at once. False while
        ``compaction_pending`` means that it waits: for a flush (``needs_flush`` says so
        too) or for a reader of an old revision.

        Raises:
            StorageError: the engine failed.
        """
        return not self._suspended and self._compactor.step()

    # Flushing

    def needs_flush(self, now: float) -> bool:
        """Whether a flush is due; ``now`` is a monotonic time in seconds."""
        overlay = self._layers.active
        if not overlay.dirty:
            return False
        if self._dirty_since is None:
            self._dirty_since = now
        return (
            self._compactor.wants_flush()
            or len(overlay.events) >= self._options.flush_events
            or overlay.size >= self._flush_bytes
            or now - self._dirty_since >= self._options.flush_interval_s
        )

    def overloaded(self) -> bool:
        """Whether so much waits to be flushed that new writes should wait."""
        active = self._layers.active
        size, events = active.size, len(active.events)
        flushing = self._layers.flushing
        if flushing is not None:
            size += flushing.size
            events += len(flushing.events)
        options = self._options
        size += events * _EVENT_BYTES
        return size >= options.overlay_bytes_max or events >= options.overlay_events_max

    def begin_flush(self, sync: bool = False) -> FlushJob | None:
        """Freeze what is not flushed; None if there is nothing or a flush is running.

        ``sync`` makes the flush survive power loss as far as the engine can.

        Raises:
            PoisonedError: an earlier flush failed.
        """
        if self._failure is not None:
            raise PoisonedError(
                "an earlier flush failed, so the store cannot write any more: reopen"
                f" it; the failure was: {self._failure}"
            ) from self._failure
        layers = self._layers
        overlay = layers.active
        if self._job is not None or not overlay.dirty:
            return None
        state = self._compactor.state(
            self.revision, self.applied_index, self.applied_term
        )
        level = Durability.SYNC if sync else Durability.ORDERED
        self._job = job = FlushJob(
            self._backend, overlay, state, min(level, self._level)
        )
        self._undrained += overlay.events[self._drained :]
        self._drained = 0
        self._dirty_since = None
        layers.flushing = overlay
        layers.active = Overlay()
        return job

    def end_flush(self, job: FlushJob) -> None:
        """Take over what a job wrote; to be called after ``run``, on the store's thread.

        Raises:
            UsageError: this is not the running job.
            StorageError: the job failed; the store is poisoned.
        """
        if job is not self._job:
            raise UsageError("end_flush wants the job that begin_flush returned last")
        if job.error is not None:
            self._failure = job.error
            raise job.error
        self._job = None
        layers = self._layers
        old = layers.snapshot
        layers.snapshot = self._backend.snapshot()
        layers.base = job.state.revision
        layers.flushing = None
        self._compactor.flushed(job.state)
        old.close()
        if job.durability >= Durability.SYNC and self._backend.capabilities.persistent:
            self.durable_index = job.state.applied_index

    def flush(self, sync: bool = True) -> None:
        """Write everything, here and now.

        Raises:
            UsageError: a job of ``begin_flush`` has not been ended.
            StorageError: the engine failed; the store is poisoned.
        """
        if self._job is not None:
            raise UsageError("end the running flush before flushing again")
        job = self.begin_flush(sync)
        if job is not None:
            job.run()
            self.end_flush(job)
        elif sync and self.durable_index < self.applied_index:
            self._sync()

    def _sync(self) -> None:
        """Make earlier flushes durable."""
        self._backend.sync()
        if (
            self._backend.capabilities.persistent
            and self._backend.capabilities.durability_max >= Durability.SYNC
        ):
            self.durable_index = self.applied_index

    # Keyspaces of other parts

    def system_get(self, keyspace: str, key: bytes) -> bytes | None:
        """The value of a key in a small keyspace.

        Raises:
            StorageError: the engine failed.
        """
        return system_get(self._layers, keyspace, key)

    def system_scan(
        self, keyspace: str, lo: bytes = b"", hi: bytes | None = None
    ) -> list[Pair]:
        """The pairs with lo <= key < hi of a small keyspace, sorted.

        Raises:
            StorageError: the engine failed.
        """
        return system_scan(self._layers, keyspace, lo, hi)

    def system_put(self, keyspace: str, key: bytes, value: bytes) -> None:
        """Set a key: visible at once, durable with the entry being applied."""
        overlay = self._layers.active
        overlay.system.setdefault(keyspace, {})[key] = value
        overlay.size += len(key) + len(value)
        overlay.dirty = True

    def system_delete(self, keyspace: str, key: bytes) -> None:
        """Remove a key: as ``system_put``."""
        overlay = self._layers.active
        overlay.system.setdefault(keyspace, {})[key] = None
        overlay.dirty = True

    def lease_keys(self, lease: int) -> list[bytes]:
        """The keys attached to a lease, sorted.

        Raises:
            StorageError: the engine failed.
        """
        span = lease_key_bounds(lease)
        pairs = self.system_scan(LEASE_KEY, *span)
        return [key[8:] for key, _ in pairs]

    def lease_exists(self, lease: int) -> bool:
        """Whether a lease is granted.

        Raises:
            StorageError: the engine failed.
        """
        return self.system_get(LEASE, lease_key_prefix(lease)) is not None

    # Facts and end

    @property
    def size_bytes(self) -> int:
        """Bytes that the engine occupies."""
        return self._backend.stats().size_bytes

    @property
    def size_in_use_bytes(self) -> int:
        """The part of ``size_bytes`` that holds live data."""
        return self._backend.stats().size_in_use_bytes

    def close(self) -> None:
        """Release the snapshot; what was not flushed is dropped. Raises: nothing.

        The backend stays open: it belongs to the caller.
        """
        if not self._closed:
            self._closed = True
            self._layers.snapshot.close()
