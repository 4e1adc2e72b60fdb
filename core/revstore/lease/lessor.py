"""Leases of one member: which there are, and on the primary when they expire.

Only the primary (the leader's lessor) counts time; on others a lease never expires.
A lease may live longer than its time to live, never shorter.

Rules of this file:

1. What is replicated (id, time to live, checkpointed remainder) is in the store's rows
   and changes only through ``granted``, ``revoked`` and ``checkpointed``, which
   ``revstore.lease.apply`` calls. Deadlines are this member's own.
2. The clock is the port, and time only ever extends a lease while it lives: once its
   deadline has passed it is never renewed by this primary.
3. Renewing writes one number. The queue keeps an old deadline and puts a lease back
   when that comes up too early.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from random import Random
from typing import Protocol

from revstore.interfaces.ports import Clock
from revstore.mvcc.tables import LEASE
from revstore.proto.lease_pb2 import Lease as LeaseRow
from revstore.proto.rpc_pb2 import LeaseCheckpoint

TTL_MAX_S = 9_000_000_000
"""The longest time to live that can be asked for (etcd's bound)."""

ROUND_S = 0.5
"""Expired leases are looked for once per round."""
ROUND_LEASES_MAX = 500
"""Leases handed out for revoking per round."""
PENDING_MAX = 16
"""Leases being revoked at once."""
RETRY_S = 3.0
"""A revocation that failed is tried again after this time."""
EXAMINED_MAX = 5_000
"""Queue entries looked at per call."""

SPREAD_COUNT = 2 * ROUND_LEASES_MAX
"""From this many leases on, ``promote`` spreads deadlines that lie together."""
SPREAD_PER_S = 750
"""Deadlines per second after spreading: 3/4 of what can be revoked."""

CHECKPOINT_INTERVAL_S = 300.0
CHECKPOINTS_MAX = 1_000
"""Leases in one checkpoint request."""

NEVER = math.inf

_ROWS_END = b"\xff" * 9


class LeaseRows(Protocol):
    """What the lessor reads of a store."""

    def system_scan(
        self, keyspace: str, lo: bytes, hi: bytes
    ) -> Sequence[tuple[bytes, bytes]]:
        """Rows in [lo, hi). Raises: StorageError."""
        ...


class Lease:
    """One lease.

    Invariant: while the member is primary, a lease that is not ``revoking`` is in the
    queue exactly once, with a deadline no later than ``deadline``.
    """

    __slots__ = (
        "alive",
        "checkpointing",
        "deadline",
        "lease_id",
        "remaining",
        "revoking",
        "ttl",
    )

    def __init__(self, lease_id: int, ttl: int, remaining: int = 0) -> None:
        self.lease_id = lease_id
        self.ttl = ttl
        self.remaining = remaining
        """Seconds left at the last checkpoint; 0: none, or renewed since."""
        self.deadline = NEVER
        self.revoking = False
        """Handed out by ``expired``."""
        self.checkpointing = False
        """Handed out by ``checkpoints``, not applied yet."""
        self.alive = True

    def rearm_s(self) -> int:
        """What a new primary gives the lease."""
        return self.remaining or self.ttl


class _Queue:
    """Leases by a time, the earliest first; revoked ones are dropped when met."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Lease]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, time: float, lease: Lease) -> None:
        self._number += 1
        heapq.heappush(self._heap, (time, self._number, lease))

    def pop_due(self, now: float) -> Lease | None:
        """The earliest lease if its time has come; it may be revoked already."""
        if self._heap and self._heap[0][0] <= now:
            return heapq.heappop(self._heap)[2]
        return None

    def first(self) -> float:
        return self._heap[0][0] if self._heap else NEVER

    def shrink(self, alive: int) -> None:
        """Forget revoked leases when they are the greater part."""
        if len(self._heap) > 2 * alive + 64:
            self._heap = [one for one in self._heap if one[2].alive]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        self._heap.clear()


class Lessor:
    """All leases. One thread calls it."""

    def __init__(
        self,
        store: LeaseRows,
        clock: Clock,
        *,
        min_ttl_s: int = 2,
        random: Random,
        checkpoints: bool = False,
    ) -> None:
        """Load the leases; not primary yet. Raises: StorageError.

        ``min_ttl_s`` is 1.5 times the election timeout, rounded up. ``checkpoints``
        turns on that long leases keep their remaining time over a change of leader.
        """
        self._store = store
        self._clock = clock
        self._random = random
        self._checkpoints = checkpoints
        self.min_ttl_s = min_ttl_s
        self.is_primary = False
        self._leases: dict[int, Lease] = {}
        self._queue = _Queue()
        self._checkpoint_queue = _Queue()
        self._revoking = 0
        self._round_end = -NEVER
        self._round_count = 0
        self.reload()

    def __len__(self) -> int:
        return len(self._leases)

    def reload(self) -> None:
        """Read all leases again, after the store was replaced; not primary then.

        Raises: StorageError.
        """
        self.demote()
        self._leases = {}
        for _, row in self._store.system_scan(LEASE, b"", _ROWS_END):
            lease = LeaseRow.FromString(row)
            self._leases[lease.ID] = Lease(lease.ID, lease.TTL, lease.RemainingTTL)

    # The primary.

    def promote(self, extend_s: float) -> None:
        """Become primary: every lease gets its full time, or what its checkpoint says,
        plus ``extend_s`` (an election timeout).

        Deadlines that lie together are spread, so that their revocation does not
        take all there is for a while. Raises: nothing.
        """
        self.demote()
        self.is_primary = True
        now = self._clock.now()
        leases = sorted(self._leases.values(), key=Lease.rearm_s)
        spread = len(leases) >= SPREAD_COUNT
        earliest = -NEVER
        for lease in leases:
            lease.deadline = now + extend_s + lease.rearm_s()
            if spread:
                lease.deadline = max(lease.deadline, earliest)
                earliest = lease.deadline + 1 / SPREAD_PER_S
            self._arm(lease, now)

    def demote(self) -> None:
        """Be primary no more: nothing expires here. Raises: nothing."""
        self.is_primary = False
        self._queue.clear()
        self._checkpoint_queue.clear()
        self._revoking = 0
        self._round_end = -NEVER
        for lease in self._leases.values():
            lease.deadline = NEVER
            lease.revoking = False
            lease.checkpointing = False

    def _arm(self, lease: Lease, now: float) -> None:
        self._queue.push(lease.deadline, lease)
        if self._checkpoints and lease.ttl > CHECKPOINT_INTERVAL_S:
            self._checkpoint_queue.push(now + CHECKPOINT_INTERVAL_S, lease)

    def make_id(self) -> int:
        """An unused positive id. Raises: nothing."""
        while True:
            lease_id = self._random.getrandbits(63)
            if lease_id and lease_id not in self._leases:
                return lease_id

    def renew(self, lease_id: int) -> int:
        """Start a lease's time anew and return its time to live.

        0 if it is unknown, its time is up, it is being revoked, or this member is not
        primary. Call ``must_checkpoint`` first. Raises: nothing.
        """
        lease = self._leases.get(lease_id)
        if lease is None or not self.is_primary:
            return 0
        now = self._clock.now()
        if lease.deadline <= now:
            return 0
        # A deadline that a promotion extended must not come closer.
        lease.deadline = max(lease.deadline, now + lease.ttl)
        return lease.ttl

    def must_checkpoint(self, lease_id: int) -> bool:
        """Whether a checkpoint of 0 must be applied before a renewal is reported.

        Otherwise a new primary would give the lease the shorter time of an old
        checkpoint, which may still be on its way. Raises: nothing.
        """
        lease = self._leases.get(lease_id)
        return lease is not None and (lease.remaining > 0 or lease.checkpointing)

    def time_to_live(self, lease_id: int) -> tuple[int, int] | None:
        """Whole seconds left and time granted; None: unknown.

        A member that is not primary does not know what is left and says what a new
        primary would give. Raises: nothing.
        """
        lease = self._leases.get(lease_id)
        if lease is None:
            return None
        if not self.is_primary:
            return lease.rearm_s(), lease.ttl
        left = lease.deadline - self._clock.now()
        return max(0, math.floor(left)), lease.ttl

    def leases(self) -> list[int]:
        """All ids, those that expire first in front. Raises: nothing."""
        ordered = sorted(
            self._leases.values(), key=lambda one: (one.deadline, one.lease_id)
        )
        return [lease.lease_id for lease in ordered]

    def exists(self, lease_id: int) -> bool:
        """Whether there is such a lease. Raises: nothing."""
        return lease_id in self._leases

    def expired(self, limit: int = PENDING_MAX) -> list[int]:
        """Leases to revoke, at most ``limit``; each is handed out once.

        Before it calls this the caller makes sure that the member still leads, and it
        proposes the revocations on this member only: a deposed leader must not pass
        them on to its successor. It reports failures to ``revoke_failed``. No more
        than PENDING_MAX are out at once, and ROUND_LEASES_MAX per round. Raises:
        nothing.
        """
        now = self._clock.now()
        if not self.is_primary:
            return []
        if now >= self._round_end:
            self._round_end = now + ROUND_S
            self._round_count = 0
        room = min(
            limit,
            PENDING_MAX - self._revoking,
            ROUND_LEASES_MAX - self._round_count,
        )
        found: list[int] = []
        for _ in range(EXAMINED_MAX):
            if len(found) >= room:
                break
            lease = self._queue.pop_due(now)
            if lease is None:
                break
            if not lease.alive:
                continue
            if lease.deadline > now:
                self._queue.push(lease.deadline, lease)
                continue
            lease.revoking = True
            found.append(lease.lease_id)
        self._revoking += len(found)
        self._round_count += len(found)
        return found

    def revoke_failed(self, lease_id: int) -> None:
        """A revocation did not come about; try again later. Raises: nothing."""
        lease = self._leases.get(lease_id)
        if lease is not None and lease.revoking:
            lease.revoking = False
            self._revoking -= 1
            self._queue.push(self._clock.now() + RETRY_S, lease)

    def checkpoints(self, limit: int = CHECKPOINTS_MAX) -> list[LeaseCheckpoint]:
        """What to put into a checkpoint request now; empty: nothing is due.

        Raises: nothing.
        """
        now = self._clock.now()
        found: list[LeaseCheckpoint] = []
        while len(found) < limit:
            lease = self._checkpoint_queue.pop_due(now)
            if lease is None:
                break
            if not lease.alive or lease.deadline <= now:
                continue
            self._checkpoint_queue.push(now + CHECKPOINT_INTERVAL_S, lease)
            remaining = math.ceil(lease.deadline - now)
            if remaining < lease.ttl:
                lease.checkpointing = True
                found.append(
                    LeaseCheckpoint(ID=lease.lease_id, remaining_TTL=remaining)
                )
        return found

    def next_deadline(self) -> float | None:
        """When ``expired`` or ``checkpoints`` may have something; None: not before
        something else happens. Raises: nothing."""
        if not self.is_primary:
            return None
        deadline = NEVER
        if self._revoking < PENDING_MAX:
            deadline = self._queue.first()
            if self._round_count >= ROUND_LEASES_MAX:
                deadline = max(deadline, self._round_end)
        deadline = min(deadline, self._checkpoint_queue.first())
        return None if deadline == NEVER else deadline

    # What was applied.

    def granted(self, lease_id: int, ttl: int) -> None:
        """A lease exists from now on. Raises: nothing."""
        lease = Lease(lease_id, ttl)
        self._leases[lease_id] = lease
        if self.is_primary:
            now = self._clock.now()
            lease.deadline = now + ttl
            self._arm(lease, now)

    def revoked(self, lease_id: int) -> None:
        """A lease is gone. Raises: nothing."""
        lease = self._leases.pop(lease_id, None)
        if lease is None:
            return
        lease.alive = False
        if lease.revoking:
            self._revoking -= 1
        self._queue.shrink(len(self._leases))
        self._checkpoint_queue.shrink(len(self._leases))

    def checkpointed(self, checkpoints: Iterable[tuple[int, int]]) -> None:
        """Ids and remainders (0: full time again) that are in the rows now.

        Raises: nothing.
        """
        for lease_id, remaining in checkpoints:
            lease = self._leases.get(lease_id)
            if lease is not None:
                lease.remaining = remaining
                lease.checkpointing = False
