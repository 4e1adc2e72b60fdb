"""Applying lease requests from the log.

Rules of this file:

1. Deterministic: store and request decide, never a clock or the lessor's deadlines.
2. An error is raised before the first change.
3. Row and keys of a lease change in the same atomic batch.
"""

from __future__ import annotations

from revstore.api import errors
from revstore.lease.lessor import TTL_MAX_S, Lessor
from revstore.mvcc.store import Store
from revstore.mvcc.tables import LEASE, lease_key_prefix
from revstore.proto import rpc_pb2
from revstore.proto.lease_pb2 import Lease as LeaseRow
from revstore.types import ApplyResult


def apply_grant(
    store: Store, lessor: Lessor, request: rpc_pb2.LeaseGrantRequest
) -> ApplyResult:
    """Make a lease; a time to live below the minimum is raised to it.

    Raises:
        ApiError: LEASE_NOT_FOUND (id 0), LEASE_TTL_TOO_LARGE or LEASE_EXIST.
        StorageError: the store failed.
    """
    lease_id = request.ID
    if lease_id == 0:
        raise errors.LEASE_NOT_FOUND.fresh()
    if request.TTL > TTL_MAX_S:
        raise errors.LEASE_TTL_TOO_LARGE.fresh()
    if store.lease_exists(lease_id):
        raise errors.LEASE_EXIST.fresh()
    ttl = max(request.TTL, lessor.min_ttl_s)
    row = LeaseRow(ID=lease_id, TTL=ttl)
    store.system_put(LEASE, lease_key_prefix(lease_id), row.SerializeToString())
    lessor.granted(lease_id, ttl)
    answer = rpc_pb2.LeaseGrantResponse(ID=lease_id, TTL=ttl)
    return ApplyResult(0, answer.SerializeToString())


def apply_revoke(
    store: Store, lessor: Lessor, request: rpc_pb2.LeaseRevokeRequest
) -> ApplyResult:
    """End a lease and delete its keys, in their order, in one revision.

    Raises:
        ApiError: LEASE_NOT_FOUND.
        StorageError: the store failed.
    """
    lease_id = request.ID
    if not store.lease_exists(lease_id):
        raise errors.LEASE_NOT_FOUND.fresh()
    keys = store.lease_keys(lease_id)
    revision = 0
    if keys:
        txn = store.begin()
        for key in keys:
            txn.delete_range(key, b"")
        revision = txn.commit()
    store.system_delete(LEASE, lease_key_prefix(lease_id))
    lessor.revoked(lease_id)
    return ApplyResult(revision)


def apply_checkpoint(
    store: Store, lessor: Lessor, request: rpc_pb2.LeaseCheckpointRequest
) -> ApplyResult:
    """Remember how much time leases have left; unknown leases are passed over.

    Raises:
        StorageError: the store failed.
    """
    done: list[tuple[int, int]] = []
    for checkpoint in request.checkpoints:
        key = lease_key_prefix(checkpoint.ID)
        data = store.system_get(LEASE, key)
        if data is None:
            continue
        row = LeaseRow.FromString(data)
        row.RemainingTTL = checkpoint.remaining_TTL
        store.system_put(LEASE, key, row.SerializeToString())
        done.append((checkpoint.ID, checkpoint.remaining_TTL))
    lessor.checkpointed(done)
    return ApplyResult(0)
