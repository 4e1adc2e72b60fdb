"""The calls of the API: path, answer, and whether one may be made twice.

The kinds follow etcd's clientv3/retry.go. A lease with an id of the caller's choice is
the one exception: granting it twice would fail, so it is a WRITE.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from revstore.api import errors
from revstore.client.retry import Kind
from revstore.errors import ApiError
from revstore.proto import health_pb2, rpc_pb2

Answer = TypeVar("Answer", bound=Message)


class Method(NamedTuple, Generic[Answer]):
    """A unary call."""

    path: str
    answer: type[Answer]
    kind: Kind
    done_before: ApiError | None = None
    """The refusal that means, when a call is repeated, that the first one was done."""


def _kv(name: str, answer: Any, kind: Kind) -> Any:
    return Method(f"/etcdserverpb.KV/{name}", answer, kind)


def _lease(name: str, answer: Any, kind: Kind) -> Any:
    return Method(f"/etcdserverpb.Lease/{name}", answer, kind)


def _cluster(name: str, answer: Any, kind: Kind) -> Any:
    return Method(f"/etcdserverpb.Cluster/{name}", answer, kind)


def _maintenance(name: str, answer: Any, kind: Kind) -> Any:
    return Method(f"/etcdserverpb.Maintenance/{name}", answer, kind)


RANGE: Method[rpc_pb2.RangeResponse] = _kv("Range", rpc_pb2.RangeResponse, Kind.READ)
PUT: Method[rpc_pb2.PutResponse] = _kv("Put", rpc_pb2.PutResponse, Kind.WRITE)
DELETE: Method[rpc_pb2.DeleteRangeResponse] = _kv(
    "DeleteRange", rpc_pb2.DeleteRangeResponse, Kind.WRITE
)
TXN: Method[rpc_pb2.TxnResponse] = _kv("Txn", rpc_pb2.TxnResponse, Kind.WRITE)
READ_TXN: Method[rpc_pb2.TxnResponse] = _kv("Txn", rpc_pb2.TxnResponse, Kind.READ)
COMPACT: Method[rpc_pb2.CompactionResponse] = _kv(
    "Compact", rpc_pb2.CompactionResponse, Kind.WRITE
)

GRANT: Method[rpc_pb2.LeaseGrantResponse] = _lease(
    "LeaseGrant", rpc_pb2.LeaseGrantResponse, Kind.READ
)
GRANT_ID: Method[rpc_pb2.LeaseGrantResponse] = _lease(
    "LeaseGrant", rpc_pb2.LeaseGrantResponse, Kind.WRITE
)
REVOKE: Method[rpc_pb2.LeaseRevokeResponse] = Method(
    "/etcdserverpb.Lease/LeaseRevoke",
    rpc_pb2.LeaseRevokeResponse,
    Kind.READ,
    errors.LEASE_NOT_FOUND,
)
TIME_TO_LIVE: Method[rpc_pb2.LeaseTimeToLiveResponse] = _lease(
    "LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveResponse, Kind.READ
)
LEASES: Method[rpc_pb2.LeaseLeasesResponse] = _lease(
    "LeaseLeases", rpc_pb2.LeaseLeasesResponse, Kind.READ
)

MEMBER_ADD: Method[rpc_pb2.MemberAddResponse] = _cluster(
    "MemberAdd", rpc_pb2.MemberAddResponse, Kind.CHANGE
)
MEMBER_REMOVE: Method[rpc_pb2.MemberRemoveResponse] = _cluster(
    "MemberRemove", rpc_pb2.MemberRemoveResponse, Kind.CHANGE
)
MEMBER_UPDATE: Method[rpc_pb2.MemberUpdateResponse] = _cluster(
    "MemberUpdate", rpc_pb2.MemberUpdateResponse, Kind.CHANGE
)
MEMBER_PROMOTE: Method[rpc_pb2.MemberPromoteResponse] = _cluster(
    "MemberPromote", rpc_pb2.MemberPromoteResponse, Kind.CHANGE
)
MEMBER_LIST: Method[rpc_pb2.MemberListResponse] = _cluster(
    "MemberList", rpc_pb2.MemberListResponse, Kind.READ
)

ALARM: Method[rpc_pb2.AlarmResponse] = _maintenance(
    "Alarm", rpc_pb2.AlarmResponse, Kind.READ
)
STATUS: Method[rpc_pb2.StatusResponse] = _maintenance(
    "Status", rpc_pb2.StatusResponse, Kind.READ
)
DEFRAGMENT: Method[rpc_pb2.DefragmentResponse] = _maintenance(
    "Defragment", rpc_pb2.DefragmentResponse, Kind.CHANGE
)
HASH_KV: Method[rpc_pb2.HashKVResponse] = _maintenance(
    "HashKV", rpc_pb2.HashKVResponse, Kind.READ
)
MOVE_LEADER: Method[rpc_pb2.MoveLeaderResponse] = _maintenance(
    "MoveLeader", rpc_pb2.MoveLeaderResponse, Kind.CHANGE
)

HEALTH: Method[health_pb2.HealthCheckResponse] = Method(
    "/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse, Kind.READ
)

AUTHENTICATE: Method[rpc_pb2.AuthenticateResponse] = Method(
    "/etcdserverpb.Auth/Authenticate", rpc_pb2.AuthenticateResponse, Kind.READ
)

WATCH = "/etcdserverpb.Watch/Watch"
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"
