"""The permission checks of requests.

Rules of this file:

1. Every check does nothing while auth is off.
2. A check reads the replicated rows and its arguments only, so all members decide alike
   when an entry is applied.
3. Order: no user, then a stale token, then the permission. Checks for root skip the
   second: the role is looked up as it stands now, so age does not matter.
4. A transaction is judged by everything it names, both branches at every depth, taken
   or not: what is refused must not depend on data that the user may not read.
5. Tags that are not listed need root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from revstore.api import errors
from revstore.api.replica import Tag
from revstore.auth.info import AuthInfo, Identity
from revstore.auth.permissions import ROOT, UserPermissions, request_range
from revstore.auth.state import AuthState
from revstore.proto import rpc_pb2

RANGE = 3
"""Field number of a range request in the log; old logs may have one."""

AUTH_STATUS = 1013
"""The same of the question for the switch."""

UNCHECKED_TAGS = frozenset(
    {
        Tag.ALARM,
        Tag.LEASE_CHECKPOINT,
        Tag.CLUSTER_VERSION_SET,
        Tag.CLUSTER_MEMBER_ATTR_SET,
        Tag.DOWNGRADE_INFO_SET,
    }
)
"""Entries that members propose themselves; clients reach them, if at all, only through
services that ask for root first."""


class AuthChecks:
    """Checks over a state; ``AuthStore`` adds the changes."""

    def __init__(self, state: AuthState) -> None:
        self._state = state
        self._by_tag: dict[int, Callable[[Identity | None, Any], None]] = {
            RANGE: lambda info, req: self.check_range(info, req.key, req.range_end),
            Tag.PUT: self.check_put,
            Tag.DELETE_RANGE: self.check_delete,
            Tag.TXN: self.check_txn,
            Tag.LEASE_GRANT: lambda info, req: self.check_authenticated(info),
            Tag.LEASE_REVOKE: lambda info, req: self.check_lease_revoke(info, req.ID),
            Tag.AUTHENTICATE: lambda info, req: self.check_not_stale(info),
            Tag.AUTH_USER_GET: self.check_user_get,
            Tag.AUTH_ROLE_GET: self.check_role_get,
        }

    @property
    def enabled(self) -> bool:
        """Whether permissions are enforced."""
        return self._state.enabled

    @property
    def revision(self) -> int:
        """Moves with every change of users and roles, and when auth is turned off."""
        return self._state.revision

    def internal_info(self) -> AuthInfo:
        """The identity of what a member proposes itself, such as expired leases: the
        user root, which keeps its role for as long as auth is on."""
        return AuthInfo(ROOT, self._state.revision)

    def _permissions(self, info: Identity | None) -> UserPermissions:
        if info is None or not info.username or not info.revision:
            raise errors.USER_EMPTY.fresh()
        if info.revision < self._state.revision:
            raise errors.AUTH_OLD_REVISION.fresh()
        found = self._state.permissions(info.username)
        if found is None:
            raise errors.PERMISSION_DENIED.fresh()
        return found

    def check_authenticated(self, info: Identity | None) -> None:
        """Any known user will do.

        Raises:
            ApiError: USER_EMPTY, AUTH_OLD_REVISION or PERMISSION_DENIED (no such user).
        """
        if self._state.enabled:
            self._permissions(info)

    def check_not_stale(self, info: Identity | None) -> None:
        """Nothing changed since the identity was established; nobody is fine.

        Raises:
            ApiError: AUTH_OLD_REVISION.
        """
        if not self._state.enabled or info is None or not info.username:
            return
        if info.revision < self._state.revision:
            raise errors.AUTH_OLD_REVISION.fresh()

    def check_admin(self, info: Identity | None) -> None:
        """The user has the role root.

        Raises:
            ApiError: USER_EMPTY or PERMISSION_DENIED.
        """
        if not self._state.enabled:
            return
        if info is None or not info.username:
            raise errors.USER_EMPTY.fresh()
        found = self._state.permissions(info.username)
        if found is None or not found.is_root:
            raise errors.PERMISSION_DENIED.fresh()

    def check_user_get(
        self, info: Identity | None, request: rpc_pb2.AuthUserGetRequest
    ) -> None:
        """A user may look at itself, root at everybody.

        Raises:
            ApiError: USER_EMPTY or PERMISSION_DENIED.
        """
        if info is None or not info.username or info.username != request.name:
            self.check_admin(info)

    def check_role_get(
        self, info: Identity | None, request: rpc_pb2.AuthRoleGetRequest
    ) -> None:
        """A user may look at its own roles, root at all.

        Raises:
            ApiError: USER_EMPTY or PERMISSION_DENIED.
        """
        user = None if info is None else self._state.users.get(info.username)
        if user is None or request.role not in user.roles:
            self.check_admin(info)

    def check_range(self, info: Identity | None, key: bytes, range_end: bytes) -> None:
        """Read permission on the whole range (etcd's forms of an end).

        Raises:
            ApiError: USER_EMPTY, AUTH_OLD_REVISION or PERMISSION_DENIED.
        """
        if self._state.enabled:
            _need_read(self._permissions(info), key, range_end)

    def check_put(self, info: Identity | None, request: rpc_pb2.PutRequest) -> None:
        """Write permission on the key, and on all keys of the lease if one is given;
        read permission if the previous pair is asked for.

        Raises:
            ApiError: USER_EMPTY, AUTH_OLD_REVISION or PERMISSION_DENIED.
        """
        if self._state.enabled:
            self._put(self._permissions(info), request)

    def check_delete(
        self, info: Identity | None, request: rpc_pb2.DeleteRangeRequest
    ) -> None:
        """Write permission on the range, and read if previous pairs are asked for.

        Raises:
            ApiError: USER_EMPTY, AUTH_OLD_REVISION or PERMISSION_DENIED.
        """
        if self._state.enabled:
            _need_delete(self._permissions(info), request)

    def check_txn(self, info: Identity | None, request: rpc_pb2.TxnRequest) -> None:
        """Read permission for all compares, and each operation's own for both branches
        at every depth.

        Raises:
            ApiError: USER_EMPTY, AUTH_OLD_REVISION or PERMISSION_DENIED.
        """
        if self._state.enabled:
            permissions = self._permissions(info)
            if not permissions.is_root:
                self._txn(permissions, request)

    def _put(self, permissions: UserPermissions, request: rpc_pb2.PutRequest) -> None:
        if permissions.is_root:
            return
        if not permissions.write.covers_key(request.key):
            raise errors.PERMISSION_DENIED.fresh()
        if request.prev_kv and not permissions.read.covers_key(request.key):
            raise errors.PERMISSION_DENIED.fresh()
        if request.lease:
            self._lease_write(permissions, request.lease)

    def _txn(self, permissions: UserPermissions, request: rpc_pb2.TxnRequest) -> None:
        for compare in request.compare:
            _need_read(permissions, compare.key, compare.range_end)
        self._ops(permissions, request.success)
        self._ops(permissions, request.failure)

    def _ops(
        self, permissions: UserPermissions, ops: Iterable[rpc_pb2.RequestOp]
    ) -> None:
        for op in ops:
            kind = op.WhichOneof("request")
            if kind == "request_range":
                _need_read(
                    permissions, op.request_range.key, op.request_range.range_end
                )
            elif kind == "request_put":
                self._put(permissions, op.request_put)
            elif kind == "request_delete_range":
                _need_delete(permissions, op.request_delete_range)
            elif kind == "request_txn":
                self._txn(permissions, op.request_txn)

    def _lease_write(self, permissions: UserPermissions, lease_id: int) -> None:
        """Whoever may attach a key to a lease may also end it, and so must be allowed to
        delete all that hangs on it."""
        for key in self._state.keys_of_lease(lease_id):
            if not permissions.write.covers_key(key):
                raise errors.PERMISSION_DENIED.fresh()

    def check_lease_revoke(self, info: Identity | None, lease_id: int) -> None:
        """Root, or write permission on every key of the lease; also for renewing it.

        Raises:
            ApiError: USER_EMPTY, AUTH_OLD_REVISION or PERMISSION_DENIED.
        """
        if not self._state.enabled or self._is_admin(info):
            return
        self._lease_write(self._permissions(info), lease_id)

    def check_lease_ttl(self, info: Identity | None, lease_id: int) -> None:
        """Read permission on every key of the lease (for answers with keys; without
        them ``check_authenticated`` is enough).

        Raises:
            ApiError: USER_EMPTY, AUTH_OLD_REVISION or PERMISSION_DENIED.
        """
        self.check_leases(info, (lease_id,))

    def check_leases(self, info: Identity | None, lease_ids: Sequence[int]) -> None:
        """Root, or read permission on every key of all these leases.

        Raises:
            ApiError: USER_EMPTY, AUTH_OLD_REVISION or PERMISSION_DENIED.
        """
        if not self._state.enabled or self._is_admin(info):
            return
        permissions = self._permissions(info)
        for lease_id in lease_ids:
            for key in self._state.keys_of_lease(lease_id):
                if not permissions.read.covers_key(key):
                    raise errors.PERMISSION_DENIED.fresh()

    def _is_admin(self, info: Identity | None) -> bool:
        if info is None:
            return False
        found = self._state.permissions(info.username)
        return found is not None and found.is_root

    def check_apply(self, info: Identity | None, tag: int, request: Message) -> None:
        """The check of a committed entry, before anything of it is applied.

        ``info`` is the user and auth revision in the entry's header; None or an empty
        name means that nobody was authenticated.

        Raises:
            ApiError: USER_EMPTY, AUTH_OLD_REVISION or PERMISSION_DENIED, the same on
                all members.
        """
        if not self._state.enabled:
            return
        check = self._by_tag.get(tag)
        if check is not None:
            check(info, request)
        elif tag not in UNCHECKED_TAGS:
            self.check_admin(info)


def _need_read(permissions: UserPermissions, key: bytes, range_end: bytes) -> None:
    if permissions.is_root:
        return
    if not permissions.read.covers(*request_range(key, range_end)):
        raise errors.PERMISSION_DENIED.fresh()


def _need_delete(
    permissions: UserPermissions, request: rpc_pb2.DeleteRangeRequest
) -> None:
    if permissions.is_root:
        return
    start, end = request_range(request.key, request.range_end)
    if not permissions.write.covers(start, end):
        raise errors.PERMISSION_DENIED.fresh()
    if request.prev_kv and not permissions.read.covers(start, end):
        raise errors.PERMISSION_DENIED.fresh()
