"""Building transactions: compares and operations, as etcd's clients name them::

store.txn(
    compare=[Compare.version(b"config", "=", 0)],
    success=[Put(b"config", b"{}")],
    failure=[Get(b"config")],
)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from revstore.embedded.values import Key, make_target, to_bytes
from revstore.errors import UsageError
from revstore.proto import rpc_pb2

RESULTS = {
    "=": rpc_pb2.Compare.EQUAL,
    ">": rpc_pb2.Compare.GREATER,
    "<": rpc_pb2.Compare.LESS,
    "!=": rpc_pb2.Compare.NOT_EQUAL,
}


class Put(msgspec.Struct, frozen=True):
    """Set a key."""

    key: Key
    value: Key
    lease: int = 0
    prev_kv: bool = False


class Get(msgspec.Struct, frozen=True, kw_only=True):
    """Read one key, or a range with ``end`` or ``prefix``."""

    key: Key | None = None
    end: Key | None = None
    prefix: Key | None = None
    limit: int = 0
    revision: int = 0


class Delete(msgspec.Struct, frozen=True, kw_only=True):
    """Delete one key, or a range with ``end`` or ``prefix``."""

    key: Key | None = None
    end: Key | None = None
    prefix: Key | None = None
    prev_kv: bool = False


class Compare(msgspec.Struct, frozen=True):
    """One condition; a transaction's conditions must all hold."""

    message: rpc_pb2.Compare

    @classmethod
    def version(cls, key: Key, operator: str, number: int) -> Compare:
        """Compare the key's version; 0 means that the key does not exist."""
        return cls._make(key, operator, rpc_pb2.Compare.VERSION, version=number)

    @classmethod
    def create(cls, key: Key, operator: str, revision: int) -> Compare:
        """Compare the revision of the key's creation; 0 if it does not exist."""
        return cls._make(
            key, operator, rpc_pb2.Compare.CREATE, create_revision=revision
        )

    @classmethod
    def mod(cls, key: Key, operator: str, revision: int) -> Compare:
        """Compare the revision of the last change; 0 if the key does not exist."""
        return cls._make(key, operator, rpc_pb2.Compare.MOD, mod_revision=revision)

    @classmethod
    def value(cls, key: Key, operator: str, value: Key) -> Compare:
        """Compare the value; false for a key that does not exist."""
        raw = to_bytes(value, "value")
        return cls._make(key, operator, rpc_pb2.Compare.VALUE, value=raw)

    @classmethod
    def lease(cls, key: Key, operator: str, lease: int) -> Compare:
        """Compare the lease that the key is attached to."""
        return cls._make(key, operator, rpc_pb2.Compare.LEASE, lease=lease)

    @classmethod
    def _make(cls, key: Key, operator: str, target: Any, **union: Any) -> Compare:
        result = RESULTS.get(operator)
        if result is None:
            known = " ".join(RESULTS)
            raise UsageError(f"unknown operator {operator!r}; use one of {known}")
        message = rpc_pb2.Compare(
            key=to_bytes(key), result=result, target=target, **union
        )
        return cls(message)


class Txn(msgspec.Struct, frozen=True):
    """A transaction inside a transaction."""

    compare: Sequence[Compare] = ()
    success: Sequence[Operation] = ()
    failure: Sequence[Operation] = ()


Operation = Put | Get | Delete | Txn


def make_txn(txn: Txn) -> rpc_pb2.TxnRequest:
    """The request for a transaction.

    Raises:
        UsageError: something in it is no operation, or has no key.
    """
    return rpc_pb2.TxnRequest(
        compare=[compare.message for compare in txn.compare],
        success=[_make_op(op) for op in txn.success],
        failure=[_make_op(op) for op in txn.failure],
    )


def _make_op(op: Operation) -> rpc_pb2.RequestOp:
    if isinstance(op, Put):
        put = rpc_pb2.PutRequest(
            key=to_bytes(op.key),
            value=to_bytes(op.value, "value"),
            lease=op.lease,
            prev_kv=op.prev_kv,
        )
        return rpc_pb2.RequestOp(request_put=put)
    if isinstance(op, Txn):
        return rpc_pb2.RequestOp(request_txn=make_txn(op))
    if isinstance(op, Get | Delete):
        key, end = make_target(op.key, op.end, op.prefix)
        if isinstance(op, Delete):
            gone = rpc_pb2.DeleteRangeRequest(
                key=key, range_end=end, prev_kv=op.prev_kv
            )
            return rpc_pb2.RequestOp(request_delete_range=gone)
        got = rpc_pb2.RangeRequest(
            key=key, range_end=end, limit=op.limit, revision=op.revision
        )
        return rpc_pb2.RequestOp(request_range=got)
    raise UsageError(
        f"{op!r} is no operation; use Put, Get, Delete or Txn from revstore"
    )
