"""What a write is taken to cost in bytes of the backend, as in etcd.

The check here is an early refusal; a raised alarm is what refuses at apply.
"""

from __future__ import annotations

from collections.abc import Iterable

from revstore.proto import rpc_pb2

PUT_COST = 256
"""What a put costs besides its key and value."""

LEASE_COST = 64
"""What a lease costs."""


def txn_cost(request: rpc_pb2.TxnRequest) -> int:
    """The puts of the costlier branch, nested ones included; 0 if nothing is put."""
    return max(_branch_cost(request.success), _branch_cost(request.failure))


def _branch_cost(branch: Iterable[rpc_pb2.RequestOp]) -> int:
    cost = 0
    for operation in branch:
        kind = operation.WhichOneof("request")
        if kind == "request_put":
            put = operation.request_put
            cost += PUT_COST + len(put.key) + len(put.value)
        elif kind == "request_txn":
            cost += txn_cost(operation.request_txn)
    return cost
