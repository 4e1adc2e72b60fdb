"""What the services need from a member; the node provides it, tests stand in for it.

Rules of this file:

1. Shapes only. The api package never imports the node; whoever runs a member passes
   an object of this shape to ``build_table``.
2. Everything here is called on one thread, the loop that applies entries, and every
   callback comes back on it. A callback may run inline, before the call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import msgspec
from google.protobuf.message import Message

from revstore.errors import ApiError
from revstore.interfaces.backend import Snapshot
from revstore.interfaces.ports import Clock
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

if TYPE_CHECKING:
    from revstore.lease.lessor import Lessor
    from revstore.mvcc.store import Store
    from revstore.watch.hub import WatchHub

Done = Callable[[ApplyResult | ApiError], None]
"""Gets the outcome of a proposal, once."""

Finished = Callable[[ApiError | None], None]
"""Gets None when the work is done, or why it was not; once."""

Answered = Callable[[bytes | ApiError], None]
"""Gets a response's body (all fields but the header) or an error, once."""

SnapshotReady = Callable[[Snapshot | ApiError], None]
"""Gets a reader, which the receiver must close, or why there is none; once."""


class Tag(IntEnum):
    """Field numbers of the requests inside ``InternalRaftRequest``."""

    PUT = 4
    DELETE_RANGE = 5
    TXN = 6
    COMPACTION = 7
    LEASE_GRANT = 8
    LEASE_REVOKE = 9
    ALARM = 10
    LEASE_CHECKPOINT = 11
    AUTH_ENABLE = 1000
    AUTH_DISABLE = 1011
    AUTHENTICATE = 1012
    AUTH_USER_ADD = 1100
    AUTH_USER_DELETE = 1101
    AUTH_USER_GET = 1102
    AUTH_USER_CHANGE_PASSWORD = 1103
    AUTH_USER_GRANT_ROLE = 1104
    AUTH_USER_REVOKE_ROLE = 1105
    AUTH_USER_LIST = 1106
    AUTH_ROLE_LIST = 1107
    AUTH_ROLE_ADD = 1200
    AUTH_ROLE_DELETE = 1201
    AUTH_ROLE_GET = 1202
    AUTH_ROLE_GRANT_PERMISSION = 1203
    AUTH_ROLE_REVOKE_PERMISSION = 1204
    CLUSTER_VERSION_SET = 1300
    CLUSTER_MEMBER_ATTR_SET = 1301
    DOWNGRADE_INFO_SET = 1302


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What ``Maintenance.Status`` reports; ids are 0 and texts empty if unknown."""

    version: str
    db_size: int
    db_size_in_use: int
    leader: int
    raft_index: int
    """Index of the newest committed entry."""
    raft_term: int
    raft_applied_index: int
    errors: tuple[str, ...] = ()
    is_learner: bool = False
    storage_version: str = ""
    """``major.minor.0``."""
    quota: int = 0
    downgrade_target: str = ""
    """Empty when no downgrade is running."""


class AuthInfo(Protocol):
    """Who makes a request, and at which auth revision that was established."""

    @property
    def username(self) -> str:
        """Name of the user."""
        ...

    @property
    def revision(self) -> int:
        """Auth revision that the token was made at."""
        ...


class Auth(Protocol):
    """Permission checks.

    Each check does nothing when auth is off, and otherwise raises ApiError:
    USER_EMPTY for no user, AUTH_OLD_REVISION for a stale token, PERMISSION_DENIED.
    """

    @property
    def enabled(self) -> bool:
        """Whether permissions are enforced."""
        ...

    @property
    def revision(self) -> int:
        """Moves with every change of users, roles and the switch."""
        ...

    def check_put(self, info: AuthInfo | None, request: rpc_pb2.PutRequest) -> None:
        """Write permission on the key, read if the previous pair is asked for, and
        write on all keys of the lease. Raises: ApiError."""
        ...

    def check_range(self, info: AuthInfo | None, key: bytes, range_end: bytes) -> None:
        """Read permission on a range (etcd's forms of an end). Raises: ApiError."""
        ...

    def check_delete(
        self, info: AuthInfo | None, request: rpc_pb2.DeleteRangeRequest
    ) -> None:
        """Write permission on the range, read for previous pairs. Raises: ApiError."""
        ...

    def check_txn(self, info: AuthInfo | None, request: rpc_pb2.TxnRequest) -> None:
        """All compares and the operations of both branches. Raises: ApiError."""
        ...

    def check_authenticated(self, info: AuthInfo | None) -> None:
        """Any known user will do. Raises: ApiError."""
        ...

    def check_lease_revoke(self, info: AuthInfo | None, lease_id: int) -> None:
        """Write permission on every key of the lease; also for renewing it.
        Raises: ApiError."""
        ...

    def check_leases(self, info: AuthInfo | None, lease_ids: Sequence[int]) -> None:
        """Read permission on every key of all these leases. Raises: ApiError."""
        ...

    def check_admin(self, info: AuthInfo | None) -> None:
        """The user has the role root. Raises: ApiError."""
        ...


class Alarms(Protocol):
    """The active alarms of the cluster."""

    def members(self, alarm: int = 0) -> Sequence[rpc_pb2.AlarmMember]:
        """Active alarms of one type, 0 meaning all, ordered. Raises: nothing."""
        ...


class MemberChangeKind(IntEnum):
    """What a membership change does."""

    ADD = 0
    REMOVE = 1
    UPDATE = 2
    PROMOTE = 3


class MemberChange(msgspec.Struct, frozen=True):
    """A validated membership change."""

    kind: MemberChangeKind
    member_id: int = 0
    """0 for ADD: the replica derives it."""
    peer_urls: tuple[str, ...] = ()
    is_learner: bool = False


class Replica(Protocol):
    """A member as its services see it.

    Types of the parts are exact; scalars are read on each use, because they change.
    """

    @property
    def store(self) -> Store: ...
    @property
    def hub(self) -> WatchHub: ...
    @property
    def lessor(self) -> Lessor: ...
    @property
    def auth(self) -> Auth: ...
    @property
    def alarms(self) -> Alarms: ...
    @property
    def clock(self) -> Clock: ...

    @property
    def name(self) -> str:
        """The member's configured name."""
        ...

    @property
    def member_id(self) -> int: ...
    @property
    def cluster_id(self) -> int: ...

    @property
    def max_txn_ops(self) -> int:
        """Operations allowed in one transaction; etcd's default is 128."""
        ...

    @property
    def max_request_bytes(self) -> int:
        """Largest proposal; etcd's default is 1,572,864."""
        ...

    @property
    def quota_bytes(self) -> int:
        """Bound on the backend's size; 0 or less means none."""
        ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def leader(self) -> int:
        """Id of the leader, 0 if none is known."""
        ...

    @property
    def is_learner(self) -> bool: ...

    @property
    def stopped(self) -> bool:
        """Whether the member takes no more requests."""
        ...

    @property
    def multi_member(self) -> bool:
        """Whether its consensus can have more than one member."""
        ...

    @property
    def cluster_version(self) -> str:
        """``major.minor.patch`` that all members agreed on; empty: not decided."""
        ...

    @property
    def strict_reconfig_check(self) -> bool:
        """Whether a membership change that endangers the quorum is refused."""
        ...

    def propose(
        self,
        tag: int,
        payload: bytes,
        request: Message,
        done: Done,
        info: AuthInfo | None = None,
    ) -> None:
        """Have a request agreed on, made durable and applied.

        ``tag`` is a ``Tag``; ``payload`` is the request serialized, and the client's
        own bytes will do; ``request`` is the same, parsed. ``done`` gets the outcome
        once, on the loop. Raises: nothing; failures go to ``done``.
        """
        ...

    def read(self, done: Finished) -> None:
        """Linearizable barrier: ``done(None)`` once this member has applied all that
        was acknowledged anywhere before the call; inline when it can be.
        Raises: nothing."""
        ...

    def header(self, revision: int = 0) -> bytes:
        """The tagged bytes of a response's ``header``; 0: the current revision.
        Raises: nothing."""
        ...

    def header_no_revision(self) -> bytes:
        """The same without a revision, for cluster calls. Raises: nothing."""
        ...

    def authenticate(self, metadata: Mapping[str, str]) -> AuthInfo | None:
        """Who the metadata's token belongs to; None: no token, or auth is off.

        Raises:
            ApiError: INVALID_AUTH_TOKEN.
        """
        ...

    def has_space(self, cost: int) -> bool:
        """Whether the backend may grow by ``cost`` bytes under its quota.

        False also makes the member raise its NOSPACE alarm. Raises: nothing.
        """
        ...

    def status(self) -> ReplicaStatus:
        """The member as seen from outside. Raises: nothing."""
        ...

    def members(self) -> Sequence[rpc_pb2.Member]:
        """All members, ordered by id. Raises: nothing."""
        ...

    def ask_leader(self, name: str, message: bytes, answered: Answered) -> None:
        """Have the leader answer a request that only it can, and this member is not.

        ``name`` is a method of ``api.lease.answer_forwarded``, ``message`` its request.
        It is tried again while leadership changes, within the time of a request.
        Raises: nothing; failures go to ``answered``."""
        ...

    def change_members(self, change: MemberChange, done: Finished) -> None:
        """Have a membership change agreed on; only if ``multi_member``.
        Raises: nothing; failures go to ``done``."""
        ...

    def transfer_leader(self, target: int, done: Finished) -> None:
        """Hand leadership to another voter; ``done(None)`` when it has it.
        Raises: nothing; failures go to ``done``."""
        ...

    def defragment(self, done: Finished) -> None:
        """Give free space back in the background while serving goes on.
        Raises: nothing; failures go to ``done``."""
        ...

    def open_snapshot(self, done: SnapshotReady) -> None:
        """A consistent reader over all keyspaces that has everything applied when
        this was called. Raises: nothing; failures go to ``done``."""
        ...

    def schedule(self, work: Callable[[], None], delay_s: float = 0.0) -> None:
        """Run ``work`` on the loop, after what already waits there and not before
        ``delay_s``. Raises: nothing."""
        ...
