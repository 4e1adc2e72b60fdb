"""Alarms: which member raised what, and which requests an alarm refuses.

Rows of the keyspace "alarm": member id (8 bytes, big endian) and alarm type (4 bytes)
-> nothing. Raising and clearing are idempotent (etcd API, Maintenance.Alarm).
"""

from __future__ import annotations

from struct import Struct

from revstore.api import errors
from revstore.api.replica import Tag
from revstore.errors import ApiError
from revstore.mvcc import tables
from revstore.mvcc.store import Store
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

_ROW = Struct(">QI")

RANGE = 3
"""Field number of a range request in InternalRaftRequest; old logs may have one."""

CORRUPT_REFUSES = frozenset(
    (
        RANGE,
        Tag.PUT,
        Tag.DELETE_RANGE,
        Tag.TXN,
        Tag.COMPACTION,
        Tag.LEASE_GRANT,
        Tag.LEASE_REVOKE,
    )
)


def has_put(ops: rpc_pb2.TxnRequest) -> bool:
    """Whether any branch of a transaction, at any depth, puts."""
    for branch in (ops.success, ops.failure):
        for op in branch:
            kind = op.WhichOneof("request")
            if kind == "request_put":
                return True
            if kind == "request_txn" and has_put(op.request_txn):
                return True
    return False


class Alarms:
    """The replicated set of alarms."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._raised: set[tuple[int, int]] = set()
        self.reload()

    def reload(self) -> None:
        """Read the rows again, after the store was replaced."""
        self._raised = {
            _ROW.unpack(key)
            for key, _ in self._store.system_scan(tables.ALARM, b"", None)
        }

    @property
    def any(self) -> bool:
        """Whether any alarm is raised."""
        return bool(self._raised)

    def members(self, alarm: int = 0) -> list[rpc_pb2.AlarmMember]:
        """The alarms of one type (0: of all), by member id."""
        return [
            rpc_pb2.AlarmMember(memberID=member, alarm=kind)  # type: ignore[arg-type] # open enum
            for member, kind in sorted(self._raised)
            if alarm in (0, kind)
        ]

    def refusal(self, tag: int, request: object) -> ApiError | None:
        """Why the raised alarms forbid a request, or None."""
        kinds = {kind for _, kind in self._raised}
        if rpc_pb2.CORRUPT in kinds and tag in CORRUPT_REFUSES:
            return errors.CORRUPT
        if rpc_pb2.NOSPACE in kinds:
            if tag in (Tag.PUT, Tag.LEASE_GRANT):
                return errors.NO_SPACE
            if tag == Tag.TXN and isinstance(request, rpc_pb2.TxnRequest):
                return errors.NO_SPACE if has_put(request) else None
        return None

    def apply(self, request: rpc_pb2.AlarmRequest) -> ApplyResult:
        """Raise, clear or list alarms; an action of unknown number lists nothing."""
        answer: list[rpc_pb2.AlarmMember] = []
        row = (request.memberID, int(request.alarm))
        member = rpc_pb2.AlarmMember(memberID=row[0], alarm=request.alarm)
        if request.action == rpc_pb2.AlarmRequest.GET:
            answer = self.members(int(request.alarm))
        elif request.action == rpc_pb2.AlarmRequest.ACTIVATE:
            if request.alarm != rpc_pb2.NONE:
                self._raised.add(row)
                self._store.system_put(tables.ALARM, _ROW.pack(*row), b"")
                answer = [member]
        elif request.action == rpc_pb2.AlarmRequest.DEACTIVATE and row in self._raised:
            self._raised.discard(row)
            self._store.system_delete(tables.ALARM, _ROW.pack(*row))
            answer = [member]
        body = rpc_pb2.AlarmResponse(alarms=answer).SerializeToString()
        return ApplyResult(0, body)
