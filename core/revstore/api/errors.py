"""Every error of the etcd API: code as it is really seen on the wire, exact text.

Clients recognise errors by their text, so the texts are part of the protocol.
The codes are those of etcd 3.6.

Rules of this file:

1. The constants are shared instances to hand to ``Call.fail`` or to compare with; to
   raise one, ``raise errors.X.fresh()`` (a shared instance would chain tracebacks).
2. Two codes are UNKNOWN although one would expect otherwise, because that is what
   etcd sends: MEMBER_NOT_ENOUGH_STARTED and TOO_MANY_REQUESTS.
"""

from __future__ import annotations

from enum import IntEnum

from revstore.errors import ApiError, StorageError


class Code(IntEnum):
    """gRPC status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


EMPTY_KEY = ApiError(Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
KEY_NOT_FOUND = ApiError(Code.INVALID_ARGUMENT, "etcdserver: key not found")
VALUE_PROVIDED = ApiError(Code.INVALID_ARGUMENT, "etcdserver: value is provided")
LEASE_PROVIDED = ApiError(Code.INVALID_ARGUMENT, "etcdserver: lease is provided")
TOO_MANY_OPS = ApiError(
    Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request"
)
DUPLICATE_KEY = ApiError(
    Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"
)
INVALID_CLIENT_API_VERSION = ApiError(
    Code.INVALID_ARGUMENT, "etcdserver: invalid client api version"
)
INVALID_SORT_OPTION = ApiError(Code.INVALID_ARGUMENT, "etcdserver: invalid sort option")
COMPACTED = ApiError(
    Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"
)
FUTURE_REV = ApiError(
    Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"
)
NO_SPACE = ApiError(
    Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"
)
LEASE_NOT_FOUND = ApiError(Code.NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXIST = ApiError(Code.FAILED_PRECONDITION, "etcdserver: lease already exists")
LEASE_TTL_TOO_LARGE = ApiError(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")
WATCH_CANCELED = ApiError(Code.CANCELLED, "etcdserver: watch canceled")
MEMBER_EXIST = ApiError(Code.FAILED_PRECONDITION, "etcdserver: member ID already exist")
PEER_URL_EXIST = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: Peer URLs already exists"
)
MEMBER_NOT_ENOUGH_STARTED = ApiError(
    Code.UNKNOWN,
    "etcdserver: re-configuration failed due to not enough started members",
)
MEMBER_BAD_URLS = ApiError(
    Code.INVALID_ARGUMENT, "etcdserver: given member URLs are invalid"
)
MEMBER_NOT_FOUND = ApiError(Code.NOT_FOUND, "etcdserver: member not found")
MEMBER_NOT_LEARNER = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member"
)
LEARNER_NOT_READY = ApiError(
    Code.FAILED_PRECONDITION,
    "etcdserver: can only promote a learner member which is in sync with leader",
)
TOO_MANY_LEARNERS = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: too many learner members in cluster"
)
CLUSTER_ID_MISMATCH = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: cluster ID mismatch"
)
REQUEST_TOO_LARGE = ApiError(Code.INVALID_ARGUMENT, "etcdserver: request is too large")
TOO_MANY_REQUESTS = ApiError(Code.UNKNOWN, "etcdserver: too many requests")
ROOT_USER_NOT_EXIST = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: root user does not exist"
)
ROOT_ROLE_NOT_EXIST = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: root user does not have root role"
)
USER_ALREADY_EXIST = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: user name already exists"
)
USER_EMPTY = ApiError(Code.INVALID_ARGUMENT, "etcdserver: user name is empty")
USER_NOT_FOUND = ApiError(Code.FAILED_PRECONDITION, "etcdserver: user name not found")
ROLE_ALREADY_EXIST = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: role name already exists"
)
ROLE_NOT_FOUND = ApiError(Code.FAILED_PRECONDITION, "etcdserver: role name not found")
ROLE_EMPTY = ApiError(Code.INVALID_ARGUMENT, "etcdserver: role name is empty")
AUTH_FAILED = ApiError(
    Code.INVALID_ARGUMENT,
    "etcdserver: authentication failed, invalid user ID or password",
)
PERMISSION_NOT_GIVEN = ApiError(
    Code.INVALID_ARGUMENT, "etcdserver: permission not given"
)
PERMISSION_DENIED = ApiError(Code.PERMISSION_DENIED, "etcdserver: permission denied")
ROLE_NOT_GRANTED = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: role is not granted to the user"
)
PERMISSION_NOT_GRANTED = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: permission is not granted to the role"
)
AUTH_NOT_ENABLED = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled"
)
INVALID_AUTH_TOKEN = ApiError(Code.UNAUTHENTICATED, "etcdserver: invalid auth token")
INVALID_AUTH_MGMT = ApiError(
    Code.INVALID_ARGUMENT, "etcdserver: invalid auth management"
)
AUTH_OLD_REVISION = ApiError(
    Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old"
)
NO_LEADER = ApiError(Code.UNAVAILABLE, "etcdserver: no leader")
NOT_LEADER = ApiError(Code.FAILED_PRECONDITION, "etcdserver: not leader")
LEADER_CHANGED = ApiError(Code.UNAVAILABLE, "etcdserver: leader changed")
NOT_CAPABLE = ApiError(Code.FAILED_PRECONDITION, "etcdserver: not capable")
STOPPED = ApiError(Code.UNAVAILABLE, "etcdserver: server stopped")
INSTALLING = ApiError(
    Code.UNAVAILABLE,
    "revstore: this member is taking over a snapshot of the leader; ask another one",
)
TIMEOUT = ApiError(Code.UNAVAILABLE, "etcdserver: request timed out")
TIMEOUT_DUE_TO_LEADER_FAIL = ApiError(
    Code.UNAVAILABLE,
    "etcdserver: request timed out, possibly due to previous leader failure",
)
TIMEOUT_DUE_TO_CONNECTION_LOST = ApiError(
    Code.UNAVAILABLE, "etcdserver: request timed out, possibly due to connection lost"
)
TIMEOUT_WAIT_APPLIED_INDEX = ApiError(
    Code.UNAVAILABLE,
    "etcdserver: request timed out, waiting for the applied index took too long",
)
UNHEALTHY = ApiError(Code.UNAVAILABLE, "etcdserver: unhealthy cluster")
CORRUPT = ApiError(Code.DATA_LOSS, "etcdserver: corrupt cluster")
NOT_SUPPORTED_FOR_LEARNER = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner"
)
BAD_LEADER_TRANSFEREE = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: bad leader transferee"
)
WRONG_DOWNGRADE_VERSION_FORMAT = ApiError(
    Code.INVALID_ARGUMENT, "etcdserver: wrong downgrade target version format"
)
INVALID_DOWNGRADE_TARGET_VERSION = ApiError(
    Code.INVALID_ARGUMENT, "etcdserver: invalid downgrade target version"
)
CLUSTER_VERSION_UNAVAILABLE = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: cluster version not found during downgrade"
)
DOWNGRADE_IN_PROCESS = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: cluster has a downgrade job in progress"
)
NO_INFLIGHT_DOWNGRADE = ApiError(
    Code.FAILED_PRECONDITION, "etcdserver: no inflight downgrade job"
)
CANCELED = ApiError(Code.CANCELLED, "etcdserver: request canceled")
DEADLINE_EXCEEDED = ApiError(
    Code.DEADLINE_EXCEEDED, "etcdserver: context deadline exceeded"
)
TIMEOUT_LEADER_TRANSFER = ApiError(
    Code.UNKNOWN, "etcdserver: request timed out, leader transfer took too long"
)
NO_PASSWORD_USER = ApiError(
    Code.UNKNOWN, "auth: authentication failed, password was given for no password user"
)
NOT_PRIMARY = ApiError(Code.UNKNOWN, "not a primary lessor")
PROPOSAL_DROPPED = ApiError(Code.UNKNOWN, "raft proposal dropped")


def bad_request(detail: str) -> ApiError:
    """The request's bytes are not a message of the expected type."""
    return ApiError(Code.INVALID_ARGUMENT, f"revstore: malformed request: {detail}")


def storage_failure(error: StorageError) -> ApiError:
    """What a client hears of a read that failed."""
    return ApiError(Code.UNAVAILABLE, f"revstore: the read failed: {error}")


def message_too_large(size: int, limit: int) -> ApiError:
    """The refusal of a message over the transport's limit, in gRPC's own words."""
    text = f"grpc: received message larger than max ({size} vs. {limit})"
    return ApiError(Code.RESOURCE_EXHAUSTED, text)
