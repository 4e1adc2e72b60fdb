"""Which error a put with two faults gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from revstore.api import errors
from revstore.apply.kv import apply_put
from revstore.apply.txn import apply_txn
from revstore.errors import ApiError
from revstore.mvcc.store import Store
from revstore.mvcc.tables import KEYSPACES
from revstore.proto import rpc_pb2
from revstore_memory.backend import MemoryBackend

FAULTY = rpc_pb2.PutRequest(key=b"missing", ignore_value=True, lease=999)


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty store."""
    found = Store(MemoryBackend(KEYSPACES))
    yield found
    found.close()


def test_a_put_looks_for_its_lease_first(store: Store) -> None:
    """On its own, a put with an unknown lease and a missing key misses the lease."""
    with pytest.raises(ApiError) as found:
        apply_put(store, FAULTY)
    assert found.value == errors.LEASE_NOT_FOUND


def test_a_put_of_a_transaction_looks_for_its_key_first(store: Store) -> None:
    """In a transaction the same put misses the key, as it does in etcd."""
    request = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=FAULTY)])
    with pytest.raises(ApiError) as found:
        apply_txn(store, request)
    assert found.value == errors.KEY_NOT_FOUND
