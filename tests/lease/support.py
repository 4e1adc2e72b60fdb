"""A member reduced to its leases."""

from __future__ import annotations

from random import Random

from revstore.lease.apply import apply_checkpoint, apply_grant, apply_revoke
from revstore.lease.lessor import Lessor
from revstore.mvcc.store import Store
from revstore.mvcc.tables import KEYSPACES, LEASE
from revstore.proto import rpc_pb2
from revstore.proto.lease_pb2 import Lease as LeaseRow
from revstore.types import ApplyResult
from revstore_memory.backend import MemoryBackend


class ManualClock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


class Leases:
    """Store and lessor; requests are applied at once."""

    def __init__(self, *, checkpoints: bool = False) -> None:
        self.backend = MemoryBackend(KEYSPACES)
        self.store = Store(self.backend)
        self.clock = ManualClock()
        self.checkpoints = checkpoints
        self.lessor = self.open_lessor()

    def open_lessor(self) -> Lessor:
        """Another lessor over the same rows, as after a restart or on a new leader."""
        return Lessor(
            self.store, self.clock, random=Random(1), checkpoints=self.checkpoints
        )

    def grant(self, lease_id: int, ttl: int) -> int:
        """Grant; returns the time to live that the answer names."""
        request = rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=ttl)
        result = apply_grant(self.store, self.lessor, request)
        answer = rpc_pb2.LeaseGrantResponse.FromString(result.body)
        assert lease_id == answer.ID
        return answer.TTL

    def revoke(self, lease_id: int) -> ApplyResult:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease_id)
        return apply_revoke(self.store, self.lessor, request)

    def checkpoint(self, *pairs: tuple[int, int]) -> ApplyResult:
        request = rpc_pb2.LeaseCheckpointRequest()
        for lease_id, remaining in pairs:
            request.checkpoints.add(ID=lease_id, remaining_TTL=remaining)
        return apply_checkpoint(self.store, self.lessor, request)

    def put(self, key: bytes, lease_id: int) -> None:
        txn = self.store.begin()
        txn.put(key, b"", lease_id)
        txn.commit()

    def rows(self) -> dict[int, tuple[int, int]]:
        """Time to live and remainder by id, as stored."""
        rows = [LeaseRow.FromString(row) for _, row in self.store.system_scan(LEASE)]
        return {row.ID: (row.TTL, row.RemainingTTL) for row in rows}

    def pass_time(self, seconds: float) -> None:
        self.clock.time += seconds
