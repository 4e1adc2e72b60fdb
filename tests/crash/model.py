"""What the store must hold: the same requests, applied to a store that never crashes.

The state machine is the real one over the backend "memory"; that it does what etcd does
is the business of other tests. Here the two are compared: what a crash left behind,
replayed, against what was acknowledged.
"""

from __future__ import annotations

from random import Random
from zlib import crc32

import msgspec

from revstore.apply.alarms import Alarms
from revstore.apply.cluster import Cluster
from revstore.apply.dispatch import StateMachine
from revstore.auth.store import AuthStore
from revstore.errors import ApiError
from revstore.lease.lessor import Lessor
from revstore.mvcc import tables
from revstore.mvcc.query import RangeQuery
from revstore.mvcc.store import Store, StoreOptions
from revstore.proto.raft_internal_pb2 import InternalRaftRequest
from revstore.types import ApplyResult
from revstore_memory.backend import MemoryBackend

REQUESTS = {
    field.number: getattr(InternalRaftRequest(), field.name).__class__
    for field in InternalRaftRequest.DESCRIPTOR.fields
    if field.message_type is not None
}
"""Message classes by tag."""


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """A lease: its row, which has the time to live, and its keys."""

    row: bytes
    keys: tuple[bytes, ...]


class Facts(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """All that can be asked of a store, boiled down to what is easily compared."""

    revision: int
    compact_revision: int
    hash: int
    """HashKV at the head."""
    rows: int
    """Checksum of all live pairs, read from the current table."""
    hashes: dict[int, int]
    """HashKV by older revision."""
    past_rows: dict[int, int]
    """Checksum of all pairs live at an older revision, read through the index."""
    leases: dict[int, Lease]


def facts_of(store: Store, revisions: list[int]) -> Facts:
    """The facts of a store, looking back at some revisions.

    Raises:
        ApiError: one of them is compacted or in the future.
    """
    leases = {}
    for key, row in store.system_scan(tables.LEASE):
        lease = tables.lease_of_prefix(key)
        leases[lease] = Lease(row, tuple(store.lease_keys(lease)))
    return Facts(
        revision=store.revision,
        compact_revision=store.compact_revision,
        hash=store.hash_kv(0).hash,
        rows=_rows(store, 0),
        hashes={revision: store.hash_kv(revision).hash for revision in revisions},
        past_rows={revision: _rows(store, revision) for revision in revisions},
        leases=leases,
    )


def _rows(store: Store, revision: int) -> int:
    query = RangeQuery(key=b"\0", end=b"\0", revision=revision)
    return crc32(b"".join(store.range(query).kvs))


def some_revisions(store: Store, random: Random, count: int) -> list[int]:
    """Revisions that can be asked for, older than the head and not compacted."""
    lowest = max(store.compact_revision + 1, 1)
    wanted = {random.randint(lowest, store.revision) for _ in range(count)}
    return sorted(wanted - {store.revision}) if lowest < store.revision else []


class _NoClock:
    def now(self) -> float:
        return 0.0


class Model:
    """The requests so far, applied."""

    def __init__(self) -> None:
        self._backend = MemoryBackend(tables.KEYSPACES)
        self.store = Store(self._backend, StoreOptions(compaction_hashes=False))
        random = Random(0)
        clock = _NoClock()
        auth = AuthStore(self.store, clock=clock, random=random, wall_now=lambda: 0.0)
        self._machine = StateMachine(
            self.store,
            Lessor(self.store, clock, random=random),
            auth,
            Alarms(self.store),
            Cluster(self.store),
        )

    def apply(self, tag: int, payload: bytes) -> ApplyResult | ApiError:
        """Apply a request; what it would be answered."""
        request = REQUESTS[tag].FromString(payload)
        result = self._machine.apply(tag, request, None)
        self.store.drain_events()
        return result

    def settle(self) -> None:
        """Carry compactions out."""
        self.store.flush()
        while self.store.compaction_pending():
            self.store.compaction_step()
            self.store.flush()

    @property
    def revision(self) -> int:
        """The head revision."""
        return self.store.revision

    def facts(self, revisions: list[int]) -> Facts:
        """What must be found. Raises: as ``facts_of``."""
        return facts_of(self.store, revisions)

    def close(self) -> None:
        """Release the store."""
        self.store.close()
        self._backend.close()
