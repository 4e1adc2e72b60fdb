"""Users, roles and permissions: the replicated changes and the questions about them.

Rules of this file:

1. ``apply_*`` functions run when an entry is committed. They are deterministic: the
   same entries leave the same rows on every member, and raise the same errors.
2. An error is raised before the first change.
3. Whoever asks for a change was checked before (``check_apply``).
4. Tokens are this member's memory; nothing that is replicated depends on them.
5. Answers are bodies without a header; revision 0 stands for the store's current one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, NamedTuple

from revstore.api import errors
from revstore.api.replica import Tag
from revstore.auth.checks import AUTH_STATUS, AuthChecks
from revstore.auth.info import AuthInfo, SystemRows
from revstore.auth.passwords import COST_DEFAULT, check_cost, from_wire, is_hash
from revstore.auth.permissions import OPEN_END, ROOT, is_grantable
from revstore.auth.state import AuthState
from revstore.auth.token_kinds import make_tokens
from revstore.auth.tokens import TOKEN_TTL_S, TokenProvider, token_of
from revstore.interfaces.ports import Clock
from revstore.proto import raft_internal_pb2, rpc_pb2
from revstore.proto.auth_pb2 import Permission, Role, User, UserAddOptions
from revstore.types import ApplyResult

CERTIFICATE_NAME = ":client-common-name"
"""Metadata that a transport adds: the common name of the client's verified
certificate. No client can send it (``interfaces.transport.Call.metadata``)."""
GATEWAY_MARK = "grpcgateway-accept"
"""Metadata of the calls that a JSON gateway passes on."""

DONE = ApplyResult(0)
"""An answer that is a header only."""


class PasswordCheck(NamedTuple):
    """What the API needs to verify a password away from the loop."""

    hashed: bytes | None
    """None: there is no such user."""
    revision: int
    """Auth revision at which this was true."""


class AuthStore(AuthChecks):
    """The auth part of the state machine."""

    def __init__(
        self,
        store: SystemRows,
        *,
        clock: Clock,
        random: Random,
        token_ttl_s: float = TOKEN_TTL_S,
        bcrypt_cost: int = COST_DEFAULT,
        auth_token: str = "simple",
        certificate_users: bool = False,
        wall_now: Callable[[], float] = time.time,
    ) -> None:
        """Read the rows; see ``make_tokens`` for what the token arguments mean.

        ``certificate_users``: a client without a token is who its certificate names.

        Raises:
            ConfigError: bad cost, kind of token or time to live.
            StorageError: the rows cannot be read.
        """
        self.bcrypt_cost = check_cost(bcrypt_cost)
        self._certificate_users = certificate_users
        self._tokens = make_tokens(auth_token, clock, random, token_ttl_s, wall_now)
        super().__init__(AuthState(store))

    @property
    def tokens(self) -> TokenProvider:
        """Where tokens are made and looked up."""
        return self._tokens

    @property
    def users(self) -> list[str]:
        """Names of all users, ascending by their bytes."""
        return _sorted_names(self._state.users)

    @property
    def roles(self) -> list[str]:
        """Names of all roles, ascending by their bytes."""
        return _sorted_names(self._state.roles)

    def reload(self, store: SystemRows | None = None) -> None:
        """Rebuild the caches, as after a snapshot was installed.

        Tokens of users whose password is another one now, or who are gone, are
        forgotten: the entry that would have done it is inside the snapshot.

        Raises:
            StorageError: the rows cannot be read.
        """
        before = {name: user.password for name, user in self._state.users.items()}
        if store is None:
            self._state.load()
        else:
            self._state.replace_rows(store)
        if not self._state.enabled:
            self._tokens.clear()
            return
        for name, password in before.items():
            user = self._state.users.get(name)
            if user is None or user.password != password:
                self._tokens.invalidate_user(name)

    def authenticate(self, metadata: Mapping[str, str]) -> AuthInfo | None:
        """Who a client is; None if auth is off or it shows nothing.

        A gateway's certificate names nobody: what it passes on is from somebody else.

        Raises:
            ApiError: INVALID_AUTH_TOKEN, or AUTH_OLD_REVISION for a signed token that
                is older than the newest change.
        """
        if not self._state.enabled:
            return None
        token = token_of(metadata)
        if token is None:
            return self._certificate_user(metadata)
        info = self._tokens.find(token, self._state.revision)
        if info is None:
            raise errors.INVALID_AUTH_TOKEN.fresh()
        return info

    def _certificate_user(self, metadata: Mapping[str, str]) -> AuthInfo | None:
        """Who a verified certificate names (etcd: ``--client-cert-auth``)."""
        name = metadata.get(CERTIFICATE_NAME)
        if not self._certificate_users or not name or GATEWAY_MARK in metadata:
            return None
        return AuthInfo(name, self._state.revision)

    def password_check(self, username: str) -> PasswordCheck:
        """The hash to verify a password against, and the revision to compare after.

        Raises:
            ApiError: AUTH_NOT_ENABLED, or NO_PASSWORD_USER.
        """
        if not self._state.enabled:
            raise errors.AUTH_NOT_ENABLED.fresh()
        user = self._state.users.get(username)
        if user is None:
            return PasswordCheck(None, self._state.revision)
        if user.options.no_password:
            raise errors.NO_PASSWORD_USER.fresh()
        return PasswordCheck(user.password, self._state.revision)

    def apply_enable(self, request: rpc_pb2.AuthEnableRequest) -> ApplyResult:
        """Turn auth on; nothing happens if it is on.

        Raises:
            ApiError: ROOT_USER_NOT_EXIST, ROOT_ROLE_NOT_EXIST.
        """
        if self._state.enabled:
            return DONE
        root = self._state.users.get(ROOT)
        if root is None:
            raise errors.ROOT_USER_NOT_EXIST.fresh()
        if ROOT not in root.roles:
            raise errors.ROOT_ROLE_NOT_EXIST.fresh()
        self._state.set_enabled(True)
        return DONE

    def apply_disable(self, request: rpc_pb2.AuthDisableRequest) -> ApplyResult:
        """Turn auth off; nothing happens if it is off. Raises: nothing."""
        if self._state.enabled:
            self._state.set_enabled(False)
            self._state.bump()
            self._tokens.clear()
        return DONE

    def apply_status(self, request: rpc_pb2.AuthStatusRequest) -> ApplyResult:
        """The switch and the revision. Raises: nothing."""
        body = rpc_pb2.AuthStatusResponse(
            enabled=self._state.enabled, authRevision=self._state.revision
        )
        return ApplyResult(0, body.SerializeToString())

    def apply_authenticate(
        self, request: raft_internal_pb2.InternalAuthenticateRequest
    ) -> ApplyResult:
        """Make a token; the password was verified before the request was proposed.

        Raises:
            ApiError: AUTH_NOT_ENABLED, AUTH_FAILED (no such user) or NO_PASSWORD_USER.
        """
        if self.password_check(request.name).hashed is None:
            raise errors.AUTH_FAILED.fresh()
        token = self._tokens.assign(
            request.name,
            request.simple_token,
            self._state.entry_index(),
            self._state.revision,
        )
        body = rpc_pb2.AuthenticateResponse(token=token)
        return ApplyResult(0, body.SerializeToString())

    def apply_user_add(self, request: rpc_pb2.AuthUserAddRequest) -> ApplyResult:
        """Make a user without roles.

        Raises:
            ApiError: USER_EMPTY, USER_ALREADY_EXIST, INVALID_AUTH_MGMT (no usable hash).
        """
        if not request.name:
            raise errors.USER_EMPTY.fresh()
        if request.name in self._state.users:
            raise errors.USER_ALREADY_EXIST.fresh()
        options = UserAddOptions(no_password=request.options.no_password)
        password = b"" if options.no_password else _replicated_hash(request)
        name = request.name.encode()
        self._state.put_user(User(name=name, password=password, options=options))
        self._state.bump()
        return DONE

    def apply_user_delete(self, request: rpc_pb2.AuthUserDeleteRequest) -> ApplyResult:
        """Delete a user and forget its tokens.

        Raises:
            ApiError: INVALID_AUTH_MGMT (root while auth is on), USER_NOT_FOUND.
        """
        if self._state.enabled and request.name == ROOT:
            raise errors.INVALID_AUTH_MGMT.fresh()
        self._user(request.name)
        self._state.delete_user(request.name)
        self._state.bump()
        self._tokens.invalidate_user(request.name)
        return DONE

    def apply_user_get(self, request: rpc_pb2.AuthUserGetRequest) -> ApplyResult:
        """The roles of a user.

        Raises:
            ApiError: USER_NOT_FOUND.
        """
        body = rpc_pb2.AuthUserGetResponse(roles=self._user(request.name).roles)
        return ApplyResult(0, body.SerializeToString())

    def apply_user_list(self, request: rpc_pb2.AuthUserListRequest) -> ApplyResult:
        """All users by name. Raises: nothing."""
        body = rpc_pb2.AuthUserListResponse(users=self.users)
        return ApplyResult(0, body.SerializeToString())

    def apply_user_change_password(
        self, request: rpc_pb2.AuthUserChangePasswordRequest
    ) -> ApplyResult:
        """Give a user another password and forget its tokens. A user without password
        stays without.

        Raises:
            ApiError: USER_NOT_FOUND, INVALID_AUTH_MGMT (no usable hash).
        """
        old = self._user(request.name)
        password = b"" if old.options.no_password else _replicated_hash(request)
        changed = User()
        changed.CopyFrom(old)
        changed.password = password
        self._state.put_user(changed)
        self._state.bump()
        self._tokens.invalidate_user(request.name)
        return DONE

    def apply_user_grant_role(
        self, request: rpc_pb2.AuthUserGrantRoleRequest
    ) -> ApplyResult:
        """Give a role to a user; nothing happens if the user has it. The role root may
        be given without being made first.

        Raises:
            ApiError: USER_NOT_FOUND, ROLE_NOT_FOUND.
        """
        user = self._user(request.user)
        if request.role != ROOT and request.role not in self._state.roles:
            raise errors.ROLE_NOT_FOUND.fresh()
        if request.role not in user.roles:
            self._set_roles(user, [*user.roles, request.role])
            self._state.bump()
        return DONE

    def apply_user_revoke_role(
        self, request: rpc_pb2.AuthUserRevokeRoleRequest
    ) -> ApplyResult:
        """Take a role from a user.

        Raises:
            ApiError: INVALID_AUTH_MGMT (root from root while auth is on),
                USER_NOT_FOUND, ROLE_NOT_GRANTED.
        """
        if self._state.enabled and request.name == request.role == ROOT:
            raise errors.INVALID_AUTH_MGMT.fresh()
        user = self._user(request.name)
        if request.role not in user.roles:
            raise errors.ROLE_NOT_GRANTED.fresh()
        self._set_roles(user, [role for role in user.roles if role != request.role])
        self._state.bump()
        return DONE

    def apply_role_add(self, request: rpc_pb2.AuthRoleAddRequest) -> ApplyResult:
        """Make a role without permissions.

        Raises:
            ApiError: ROLE_EMPTY, ROLE_ALREADY_EXIST.
        """
        if not request.name:
            raise errors.ROLE_EMPTY.fresh()
        if request.name in self._state.roles:
            raise errors.ROLE_ALREADY_EXIST.fresh()
        self._state.put_role(Role(name=request.name.encode()))
        self._state.bump()
        return DONE

    def apply_role_delete(self, request: rpc_pb2.AuthRoleDeleteRequest) -> ApplyResult:
        """Delete a role, also from all users that have it.

        Raises:
            ApiError: INVALID_AUTH_MGMT (root while auth is on), ROLE_NOT_FOUND.
        """
        if self._state.enabled and request.role == ROOT:
            raise errors.INVALID_AUTH_MGMT.fresh()
        self._role(request.role)
        self._state.delete_role(request.role)
        for name in self.users:
            user = self._state.users[name]
            if request.role in user.roles:
                self._set_roles(user, [r for r in user.roles if r != request.role])
        self._state.bump()
        return DONE

    def apply_role_get(self, request: rpc_pb2.AuthRoleGetRequest) -> ApplyResult:
        """The permissions of a role, by key; root's are everything.

        Raises:
            ApiError: ROLE_NOT_FOUND.
        """
        role = self._role(request.role)
        perms: Iterable[Permission] = role.keyPermission
        if request.role == ROOT:
            perms = [Permission(permType=Permission.READWRITE, range_end=OPEN_END)]
        body = rpc_pb2.AuthRoleGetResponse(perm=perms)
        return ApplyResult(0, body.SerializeToString())

    def apply_role_list(self, request: rpc_pb2.AuthRoleListRequest) -> ApplyResult:
        """All roles by name. Raises: nothing."""
        body = rpc_pb2.AuthRoleListResponse(roles=self.roles)
        return ApplyResult(0, body.SerializeToString())

    def apply_role_grant_permission(
        self, request: rpc_pb2.AuthRoleGrantPermissionRequest
    ) -> ApplyResult:
        """Add a permission to a role, or change the type of the one with that range.

        Raises:
            ApiError: PERMISSION_NOT_GIVEN, INVALID_AUTH_MGMT (a range without room, no
                key, or an unknown type), ROLE_NOT_FOUND.
        """
        if not request.HasField("perm"):
            raise errors.PERMISSION_NOT_GIVEN.fresh()
        new = request.perm
        if not is_grantable(new):
            raise errors.INVALID_AUTH_MGMT.fresh()
        role = self._role(request.name)
        kept = [perm for perm in role.keyPermission if not _same_range(perm, new)]
        perms = sorted([*kept, new], key=lambda perm: (perm.key, perm.range_end))
        self._state.put_role(Role(name=role.name, keyPermission=perms))
        self._state.bump()
        return DONE

    def apply_role_revoke_permission(
        self, request: rpc_pb2.AuthRoleRevokePermissionRequest
    ) -> ApplyResult:
        """Take the permission with exactly this range from a role.

        Raises:
            ApiError: ROLE_NOT_FOUND, PERMISSION_NOT_GRANTED.
        """
        role = self._role(request.role)
        kept = [perm for perm in role.keyPermission if not _same_range(perm, request)]
        if len(kept) == len(role.keyPermission):
            raise errors.PERMISSION_NOT_GRANTED.fresh()
        self._state.put_role(Role(name=role.name, keyPermission=kept))
        self._state.bump()
        return DONE

    def _user(self, name: str) -> User:
        user = self._state.users.get(name)
        if user is None:
            raise errors.USER_NOT_FOUND.fresh()
        return user

    def _role(self, name: str) -> Role:
        role = self._state.roles.get(name)
        if role is None:
            raise errors.ROLE_NOT_FOUND.fresh()
        return role

    def _set_roles(self, user: User, roles: list[str]) -> None:
        changed = User()
        changed.CopyFrom(user)
        del changed.roles[:]
        changed.roles.extend(_sorted_names(roles))
        self._state.put_user(changed)


def _sorted_names(names: Iterable[str]) -> list[str]:
    """By their UTF-8 bytes, the order of the rows."""
    return sorted(names, key=str.encode)


def _same_range(
    perm: Permission, other: Permission | rpc_pb2.AuthRoleRevokePermissionRequest
) -> bool:
    return perm.key == other.key and perm.range_end == other.range_end


def _replicated_hash(
    request: rpc_pb2.AuthUserAddRequest | rpc_pb2.AuthUserChangePasswordRequest,
) -> bytes:
    """The hash that the proposing member made.

    A password in clear cannot be hashed here: each member would use another salt.
    """
    hashed = from_wire(request.hashedPassword)
    if hashed is None or not is_hash(hashed):
        raise errors.INVALID_AUTH_MGMT.fresh()
    return hashed


AuthFunction = Callable[[AuthStore, Any], ApplyResult]

AUTH_APPLY: dict[int, AuthFunction] = {
    Tag.AUTH_ENABLE: AuthStore.apply_enable,
    Tag.AUTH_DISABLE: AuthStore.apply_disable,
    Tag.AUTHENTICATE: AuthStore.apply_authenticate,
    AUTH_STATUS: AuthStore.apply_status,
    Tag.AUTH_USER_ADD: AuthStore.apply_user_add,
    Tag.AUTH_USER_DELETE: AuthStore.apply_user_delete,
    Tag.AUTH_USER_GET: AuthStore.apply_user_get,
    Tag.AUTH_USER_CHANGE_PASSWORD: AuthStore.apply_user_change_password,
    Tag.AUTH_USER_GRANT_ROLE: AuthStore.apply_user_grant_role,
    Tag.AUTH_USER_REVOKE_ROLE: AuthStore.apply_user_revoke_role,
    Tag.AUTH_USER_LIST: AuthStore.apply_user_list,
    Tag.AUTH_ROLE_LIST: AuthStore.apply_role_list,
    Tag.AUTH_ROLE_ADD: AuthStore.apply_role_add,
    Tag.AUTH_ROLE_DELETE: AuthStore.apply_role_delete,
    Tag.AUTH_ROLE_GET: AuthStore.apply_role_get,
    Tag.AUTH_ROLE_GRANT_PERMISSION: AuthStore.apply_role_grant_permission,
    Tag.AUTH_ROLE_REVOKE_PERMISSION: AuthStore.apply_role_revoke_permission,
}
"""Apply functions by field number in InternalRaftRequest."""
