"""Forgetting history: what may go, when, and in which steps.

Theory: let P be the revision up to which the store is physically compacted. Every
change in (P, R] replaced at most one row, its predecessor, and exactly the replaced
rows are superfluous at R, together with the deletions before R. So the changes in
(P, R] name all that is to be deleted; the rest of the store is not looked at. A
deletion at R itself stays, because a watch from R must see it, and goes with the next
compaction.

Rules of this file:

1. A deleted row and the rows that it hides go in one atomic batch, so no state of the
   backend ever shows an old value again.
2. Only flushed changes are compacted; the deletes ride in the overlay's batch.
3. Rows that a pinned reader at revision N can see stay: nothing beyond N is compacted.
4. After a crash a pass starts over; deleting what is gone already does nothing. A hash
   is not kept for a compaction that had begun to delete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from revstore.mvcc.hashing import HashJob, HashResult
from revstore.mvcc.layers import Layers
from revstore.mvcc.log import LogPage, Position, read_page, replaced_by
from revstore.mvcc.records import decode_change
from revstore.mvcc.state import StoreState
from revstore.mvcc.tables import INDEX, index_key, log_key

_HASHES_MAX = 10
_PENDING_MAX = 10
_BACKLOG_MAX = 20_000
"""Deletes that may wait for a flush before steps wait, too."""


class Compactor:
    """Decides what is compacted and does it step by step."""

    def __init__(
        self, layers: Layers, state: StoreState, batch_limit: int, with_hashes: bool
    ) -> None:
        self._layers = layers
        self._batch_limit = batch_limit
        self._with_hashes = with_hashes
        self.compact_revision = state.compact_revision
        self._finished = state.finished
        self._settled = state.finished
        """As ``_finished``, but the deletes are in the backend, not on their way."""
        self._pending = list(state.pending)
        self._started = state.deleting
        self._goal: int | None = None
        self._position: Position | None = None
        self._job: HashJob | None = None
        self._pins: Counter[int] = Counter()
        self.hashes: dict[int, HashResult] = {}
        """HashKV of the newest compactions, by compacted revision."""

    def state(self, revision: int, index: int, term: int) -> StoreState:
        """What META says once the active overlay is flushed."""
        return StoreState(
            applied_index=index,
            applied_term=term,
            revision=revision,
            compact_revision=self.compact_revision,
            finished=self._finished,
            pending=tuple(self._pending),
            deleting=self._started,
        )

    def flushed(self, state: StoreState) -> None:
        """The backend has a state of ``state()``."""
        self._settled = state.finished

    def schedule(self, revision: int) -> None:
        """Note a compaction that has been checked."""
        self._pending.append((self.compact_revision, revision))
        if len(self._pending) > _PENDING_MAX:
            # The first may be under way; the next one's rows go with a later one.
            del self._pending[1]
        self.compact_revision = revision

    def pending(self) -> bool:
        """Whether rows are still to be deleted."""
        return bool(self._pending)

    def wants_flush(self) -> bool:
        """Whether a flush lets compaction go on."""
        if not self._pending:
            return False
        return self._layers.base < self._pending[0][1] or self._backlog()

    def _backlog(self) -> bool:
        return len(self._layers.active.index_deletes) >= _BACKLOG_MAX

    @contextmanager
    def pin(self, revision: int) -> Iterator[None]:
        """Keep what readers at a revision see, as long as the context lasts."""
        self._pins[revision] += 1
        try:
            yield
        finally:
            self._unpin(revision)

    def _unpin(self, revision: int) -> None:
        self._pins[revision] -= 1
        if not self._pins[revision]:
            del self._pins[revision]

    def hash_job(self, compact_revision: int, revision: int) -> HashJob:
        """A HashKV of checked revisions; it pins what it reads until it is closed."""
        self._pins[compact_revision] += 1
        return HashJob(
            self._layers,
            compact_revision,
            revision,
            self._settled,
            lambda: self._unpin(compact_revision),
        )

    def step(self) -> bool:
        """See ``Store.compaction_step``."""
        if not self._pending:
            return False
        previous, target = self._pending[0]
        if self._layers.base < target or self._backlog():
            return False
        if self._with_hashes and not self._started and target not in self.hashes:
            self._hash_step(previous, target)
            return True
        if self._goal is None and not self._begin_pass(target):
            return False
        goal, position = self._goal, self._position
        assert goal is not None
        assert position is not None
        page = read_page(self._layers, position, goal, self._batch_limit)
        self._delete(page, goal)
        self._position = page.resume
        self._layers.active.dirty = True
        if page.resume is None:
            self._end_pass(goal)
        return bool(self._pending)

    def _hash_step(self, previous: int, target: int) -> None:
        if self._job is None:
            self._job = HashJob(
                self._layers,
                previous,
                target,
                self._settled,
                lambda: None,
                compacting=True,
            )
        if self._job.step(self._batch_limit):
            self.hashes[target] = self._job.result
            self._job = None
            while len(self.hashes) > _HASHES_MAX:
                del self.hashes[next(iter(self.hashes))]

    def _begin_pass(self, target: int) -> bool:
        goal = min([target, *self._pins])
        if goal <= self._finished:
            return False
        self._goal = goal
        # Deletions at the last goal were kept for watchers; they go now.
        self._position = (max(self._finished, 0), 0)
        self._started = True
        return True

    def _end_pass(self, goal: int) -> None:
        self._finished = goal
        self._goal = None
        if goal >= self._pending[0][1]:
            del self._pending[0]
            self._started = False

    def _delete(self, page: LogPage, goal: int) -> None:
        """Note the deletes that the changes of a page call for."""
        overlay = self._layers.active
        log_deletes = overlay.log_deletes
        index_deletes = overlay.index_deletes
        replaced: list[bytes] = []
        mains: list[int] = []
        for event, pred in zip(
            page.events, replaced_by(self._layers, page), strict=True
        ):
            revision = event.revision
            if event.deleted and revision < goal:
                log_deletes.append(log_key(revision, event.sub, True))
                index_deletes.append(index_key(event.key, revision))
            if pred and revision > self._finished:
                replaced.append(index_key(event.key, pred))
                mains.append(pred)
        values = self._layers.snapshot.get_many(INDEX, replaced)
        for row_key, main, value in zip(replaced, mains, values, strict=True):
            if value is not None:
                sub = decode_change(value)[1]
                log_deletes.append(log_key(main, sub, False))
                index_deletes.append(row_key)
