"""What a member does besides serving: flush, purge, compact, expire, notify.

Rules of this file:

1. Each piece of work is bounded and asks for its next turn; nothing stops the world.
2. At most one flush runs at a time. The log is purged only up to what the backend has
   made durable, because the backend is rebuilt from the log after a crash.
3. Only the leader expires leases. A revoke is an ordinary proposal, but for that it is
   never passed on: a leader that was deposed meanwhile must not have its successor
   revoke what that has renewed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from revstore import logs
from revstore.api import errors
from revstore.api.replica import SnapshotReady, Tag
from revstore.errors import ApiError, StorageError
from revstore.interfaces.backend import Snapshot
from revstore.mvcc.flush import FlushJob
from revstore.node.autocompact import AutoCompactor
from revstore.node.reads import Finished
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult, ConfState, SnapshotMeta

if TYPE_CHECKING:
    from revstore.node.replica import Replica

LOG = logs.get(__name__)


class Housekeeping:
    """The background work of one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._store = replica.store
        self._flushing: FlushJob | None = None
        self._flush_wanted: list[Finished] = []
        self.size_bytes = self._store.size_bytes
        """What the engine occupied when it was last asked."""
        self._compacting = False
        self._hub_scheduled = False
        self._confirming_leadership = False
        self._no_space_raised = False
        self._purged_to = replica.wal.recovery().snapshot.index
        self._marked_bytes = 0
        """What ``Appends.bytes`` was at the last mark."""
        self._flushing_bytes = 0
        self._sync_soon = False
        self._auto: AutoCompactor | None = None
        settings = replica.settings
        if settings.auto_compaction_retention > 0:
            self._auto = AutoCompactor(
                settings.auto_compaction_mode,
                settings.auto_compaction_retention,
                replica.clock.now(),
            )
        replica.hub.on_work = self._hub_has_work

    # ----- after entries were applied

    def after_apply(self) -> None:
        """Start what the applied entries made necessary."""
        if self._replica.installing:
            return
        if self._sync_soon or self._store.needs_flush(self._replica.clock.now()):
            self._start_flush()
        if self._store.compaction_pending() and not self._compacting:
            self._compacting = True
            self._replica.shell.schedule(self._compact)

    def tick(self, now: float) -> None:
        """Work that depends on time."""
        self.size_bytes = self._store.size_bytes
        self.after_apply()
        if self._replica.is_leader:
            self._expire_leases(now)
        if self._auto is not None and self._replica.is_leader:
            self._compact_automatically(self._auto, now)
        deadline = self._replica.hub.next_deadline()
        if deadline is not None and deadline <= now:
            self._replica.hub.tick()

    # ----- flushing and purging

    def _start_flush(self) -> None:
        replica = self._replica
        if self._flushing is not None or replica.stopped or replica.installing:
            return
        job = self._store.begin_flush(sync=self._sync_soon or self._mark_due())
        if job is None:
            self._finish_waiting()
            return
        self._sync_soon = False
        self._flushing_bytes = self._replica.appends.bytes
        self._flushing = job
        self._replica.shell.run_in_thread(job.run, self._flushed)

    def _flushed(self, result: Exception | None) -> None:
        job, self._flushing = self._flushing, None
        assert job is not None
        if self._replica.installing:
            return
        try:
            self._store.end_flush(job)
            self._purge()
        except Exception as exc:
            self._replica.fail(exc)
            self._finish_waiting(self._replica.stop_error())
            return
        self.size_bytes = self._store.size_bytes
        if self._flush_wanted:
            self._start_flush()
        self.after_apply()
        self._replica.pump()

    def _finish_waiting(self, error: ApiError | None = None) -> None:
        waiting, self._flush_wanted = self._flush_wanted, []
        for done in waiting:
            done(error)

    def when_flushed(self, done: Finished) -> None:
        """``done(None)`` once everything applied so far is in the backend."""
        self._flush_wanted.append(done)
        self._start_flush()

    def sync_soon(self) -> None:
        """Make what is being applied survive power loss as soon as can be."""
        self._sync_soon = True

    def _mark_due(self) -> bool:
        """Whether so much was logged since the last mark that a new one is worth it."""
        settings = self._replica.settings
        entries = self._store.applied_index - self._purged_to
        return (
            entries >= settings.snapshot_count
            or self._replica.appends.bytes - self._marked_bytes
            >= settings.snapshot_bytes
        )

    def flush_at_close(self) -> None:
        """Bring the backend up to date and leave as little log as can be.

        The log that is left is read at the next start, however old it is.

        Raises:
            StorageError: the disk failed.
        """
        if self._replica.installing:
            return  # The next start makes the installation again.
        self._store.flush(sync=True)
        if self._store.durable_index > self._purged_to:
            self._mark()

    def _purge(self) -> None:
        """Mark how far the backend is durable if that is worth it."""
        if self._store.durable_index > self._purged_to and self._mark_due():
            self._mark()

    def _mark(self) -> None:
        """Note how far the backend is durable, and free the log behind it (rule 2)."""
        settings = self._replica.settings
        durable = self._store.durable_index
        wal = self._replica.wal
        term = wal.term(durable)
        conf = self._replica.cluster.conf_state() or ConfState()
        if term is None:
            return
        wal.save_snapshot(SnapshotMeta(durable, term, conf))
        self._purged_to = durable
        self._marked_bytes = self._flushing_bytes
        alone = not self._replica.multi_member
        keep = durable if alone else durable - settings.catchup_entries
        keep = self._replica.snapshots.purgeable(keep)
        if keep > 0:
            wal.purge_to(keep)

    def installed(self) -> None:
        """The state was replaced: do what had to wait."""
        self._purged_to = self._store.durable_index
        self._hub_has_work()
        if self._flush_wanted:
            self._start_flush()
        self.after_apply()

    # ----- compaction, watches, leases

    def _compact(self) -> None:
        """One bounded step of compaction, then the next one after a pause."""
        replica = self._replica
        self._compacting = False
        if replica.stopped or replica.installing:
            return
        if self._store.needs_flush(replica.clock.now()):
            self._start_flush()
        try:
            more = self._store.compaction_step()
        except StorageError as exc:
            replica.fail(exc)
            return
        if more:
            self._compacting = True
            replica.shell.schedule(self._compact, replica.settings.compaction_sleep_s)

    def _compact_automatically(self, auto: AutoCompactor, now: float) -> None:
        revision = auto.tick(now, self._store.revision)
        if revision is None or revision <= self._store.compact_revision:
            return

        def done(result: ApplyResult | ApiError) -> None:
            if isinstance(result, ApiError):
                auto.failed()
                LOG.warn("automatic compaction failed", error=result.message)
            else:
                LOG.info("compacted automatically", revision=revision)

        self._replica.propose_internal(
            Tag.COMPACTION, rpc_pb2.CompactionRequest(revision=revision), done
        )

    def _hub_has_work(self) -> None:
        if not self._hub_scheduled:
            self._hub_scheduled = True
            self._replica.shell.schedule(self._hub_step)

    def _hub_step(self) -> None:
        self._hub_scheduled = False
        if self._replica.stopped or self._replica.installing:
            return
        try:
            more = self._replica.hub.step()
        except StorageError as exc:
            self._replica.fail(exc)
            return
        if more:
            self._hub_has_work()

    def _expire_leases(self, now: float) -> None:
        """Revoke what is over, once it is sure that this member still leads.

        A leader that was paused may have been replaced without knowing; revoking then
        would take leases that its successor has renewed (etcd #15247).
        """
        deadline = self._replica.lessor.next_deadline()
        if deadline is None or deadline > now or self._confirming_leadership:
            return
        self._confirming_leadership = True
        self._replica.read(self._revoke_expired)

    def _revoke_expired(self, error: ApiError | None) -> None:
        self._confirming_leadership = False
        replica = self._replica
        if error is not None or not replica.is_leader or replica.stopped:
            return
        for lease in replica.lessor.expired():
            request = rpc_pb2.LeaseRevokeRequest(ID=lease)
            replica.propose_as_leader(Tag.LEASE_REVOKE, request, self._revoked(lease))
        checkpoints = replica.lessor.checkpoints()
        if checkpoints:
            checkpoint = rpc_pb2.LeaseCheckpointRequest(checkpoints=checkpoints)
            replica.propose_as_leader(
                Tag.LEASE_CHECKPOINT, checkpoint, lambda result: None
            )

    def _revoked(self, lease: int) -> Callable[[ApplyResult | ApiError], None]:
        def done(result: ApplyResult | ApiError) -> None:
            if isinstance(result, ApiError):
                self._replica.lessor.revoke_failed(lease)
                if result != errors.LEASE_NOT_FOUND:
                    LOG.warn("lease not revoked", lease=lease, error=result.message)
            else:
                self._replica.shell.schedule(self._next_leases)

        return done

    def _next_leases(self) -> None:
        if self._replica.is_leader and not self._replica.stopped:
            self._expire_leases(self._replica.clock.now())

    # ----- space

    def raise_no_space(self) -> None:
        """Raise this member's NOSPACE alarm, once until it is cleared."""
        replica = self._replica
        if self._no_space_raised:
            return
        self._no_space_raised = True
        LOG.warn(
            "database space exceeded; compact, then clear the alarm",
            quota_bytes=replica.quota_bytes,
        )

        def done(result: ApplyResult | ApiError) -> None:
            self._no_space_raised = False

        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.ACTIVATE,
            memberID=replica.member_id,
            alarm=rpc_pb2.NOSPACE,
        )
        replica.propose_internal(Tag.ALARM, request, done)

    def defragment(self, done: Finished) -> None:
        """Flush, then let the engine give space back on the worker thread."""

        def flushed(error: ApiError | None) -> None:
            if error is not None:
                done(error)
                return
            self._replica.shell.run_in_thread(self._replica.backend.compact, compacted)

        def compacted(result: Exception | None) -> None:
            if isinstance(result, Exception):
                done(ApiError(errors.Code.UNAVAILABLE, f"revstore: {result}"))
                return
            self.size_bytes = self._store.size_bytes
            done(None)

        self.when_flushed(flushed)

    def open_snapshot(self, done: SnapshotReady) -> None:
        """Flush, then hand out an engine snapshot."""

        def flushed(error: ApiError | None) -> None:
            if error is not None:
                done(error)
                return
            try:
                snapshot: Snapshot = self._replica.backend.snapshot()
            except StorageError as exc:
                done(ApiError(errors.Code.UNAVAILABLE, f"revstore: {exc}"))
                return
            done(snapshot)

        self.when_flushed(flushed)

    @property
    def flushing(self) -> bool:
        """Whether a flush is running."""
        return self._flushing is not None
