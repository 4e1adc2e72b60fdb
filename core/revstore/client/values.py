"""What the cluster, its members and its users look like to a client; frozen values."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from revstore.proto import auth_pb2, rpc_pb2


class LeaseInfo(msgspec.Struct, frozen=True):
    """What a member knows of a lease."""

    id: int
    ttl_s: int
    """Seconds left; -1 if the lease is not known."""
    granted_ttl_s: int
    keys: tuple[bytes, ...] = ()


class Member(msgspec.Struct, frozen=True):
    """A member of the cluster."""

    id: int
    name: str
    """Empty until the member has started."""
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False


class Status(msgspec.Struct, frozen=True):
    """How a member is."""

    member_id: int
    version: str
    db_size: int
    db_size_in_use: int
    leader: int
    """Id of the leader; 0: none is known."""
    raft_index: int
    raft_term: int
    raft_applied_index: int
    revision: int
    errors: tuple[str, ...] = ()
    is_learner: bool = False
    db_size_quota: int = 0
    storage_version: str = ""

    @property
    def is_leader(self) -> bool:
        """Whether this member leads."""
        return self.leader == self.member_id


class Alarm(msgspec.Struct, frozen=True):
    """An alarm of a member."""

    member_id: int
    kind: str
    """"NOSPACE" or "CORRUPT"."""


class Permission(msgspec.Struct, frozen=True):
    """What a role may do with a range of keys."""

    kind: str
    """"READ", "WRITE" or "READWRITE"."""
    key: bytes
    end: bytes = b""
    """Empty: one key; in etcd's form else."""


class AuthStatus(msgspec.Struct, frozen=True):
    """Whether users are asked for."""

    enabled: bool
    revision: int


def make_member(member: rpc_pb2.Member) -> Member:
    """A member of the API as a value."""
    return Member(
        member.ID,
        member.name,
        tuple(member.peerURLs),
        tuple(member.clientURLs),
        member.isLearner,
    )


def make_members(members: Sequence[rpc_pb2.Member]) -> tuple[Member, ...]:
    """Members of the API as values."""
    return tuple(make_member(member) for member in members)


def make_status(answer: rpc_pb2.StatusResponse) -> Status:
    """A status of the API as a value."""
    return Status(
        answer.header.member_id,
        answer.version,
        answer.dbSize,
        answer.dbSizeInUse,
        answer.leader,
        answer.raftIndex,
        answer.raftTerm,
        answer.raftAppliedIndex,
        answer.header.revision,
        tuple(answer.errors),
        answer.isLearner,
        answer.dbSizeQuota,
        answer.storageVersion,
    )


def make_alarms(answer: rpc_pb2.AlarmResponse) -> tuple[Alarm, ...]:
    """Alarms of the API as values."""
    return tuple(
        Alarm(alarm.memberID, rpc_pb2.AlarmType.Name(alarm.alarm))
        for alarm in answer.alarms
    )


def make_permission(permission: auth_pb2.Permission) -> Permission:
    """A permission of the API as a value."""
    kind = auth_pb2.Permission.Type.Name(permission.permType)
    return Permission(kind, permission.key, permission.range_end)
