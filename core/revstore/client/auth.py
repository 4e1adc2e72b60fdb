"""Users, roles and permissions."""

from __future__ import annotations

from google.protobuf.message import Message

from revstore.client.caller import Caller, CallOptions
from revstore.client.methods import Answer, Method
from revstore.client.retry import Kind
from revstore.client.values import AuthStatus, Permission, make_permission
from revstore.embedded.values import Key, make_target
from revstore.errors import UsageError
from revstore.proto import auth_pb2, rpc_pb2

KINDS = {
    "READ": auth_pb2.Permission.READ,
    "WRITE": auth_pb2.Permission.WRITE,
    "READWRITE": auth_pb2.Permission.READWRITE,
}


class AuthAdmin:
    """Calls about who may do what; ``client.auth``. All but ``status`` need root.

    Each raises ``ApiError`` for what the cluster refuses.
    """

    def __init__(self, caller: Caller, options: CallOptions) -> None:
        self._caller = caller
        self._options = options

    async def enable(self) -> None:
        """Ask for users from now on; the user root with the role root must exist."""
        await self._change("AuthEnable", rpc_pb2.AuthEnableRequest())

    async def disable(self) -> None:
        """Ask for users no longer."""
        await self._change("AuthDisable", rpc_pb2.AuthDisableRequest())

    async def status(self) -> AuthStatus:
        """Whether users are asked for."""
        request = rpc_pb2.AuthStatusRequest()
        answer = await self._read("AuthStatus", rpc_pb2.AuthStatusResponse, request)
        return AuthStatus(answer.enabled, answer.authRevision)

    # ----- users

    async def add_user(self, name: str, password: str | None) -> None:
        """Add a user; without a password it can only come with a certificate."""
        request = rpc_pb2.AuthUserAddRequest(name=name, password=password or "")
        if password is None:
            request.options.no_password = True
        await self._change("UserAdd", request)

    async def user_roles(self, name: str) -> tuple[str, ...]:
        """The roles of a user."""
        request = rpc_pb2.AuthUserGetRequest(name=name)
        answer = await self._read("UserGet", rpc_pb2.AuthUserGetResponse, request)
        return tuple(answer.roles)

    async def users(self) -> tuple[str, ...]:
        """The names of all users."""
        request = rpc_pb2.AuthUserListRequest()
        answer = await self._read("UserList", rpc_pb2.AuthUserListResponse, request)
        return tuple(answer.users)

    async def delete_user(self, name: str) -> None:
        """Delete a user."""
        await self._change("UserDelete", rpc_pb2.AuthUserDeleteRequest(name=name))

    async def change_password(self, name: str, password: str) -> None:
        """Give a user another password; its tokens are void from then on."""
        request = rpc_pb2.AuthUserChangePasswordRequest(name=name, password=password)
        await self._change("UserChangePassword", request)

    async def grant_role(self, user: str, role: str) -> None:
        """Give a user a role."""
        request = rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role)
        await self._change("UserGrantRole", request)

    async def revoke_role(self, user: str, role: str) -> None:
        """Take a role from a user."""
        request = rpc_pb2.AuthUserRevokeRoleRequest(name=user, role=role)
        await self._change("UserRevokeRole", request)

    # ----- roles

    async def add_role(self, name: str) -> None:
        """Add a role."""
        await self._change("RoleAdd", rpc_pb2.AuthRoleAddRequest(name=name))

    async def role_permissions(self, name: str) -> tuple[Permission, ...]:
        """What a role may do."""
        request = rpc_pb2.AuthRoleGetRequest(role=name)
        answer = await self._read("RoleGet", rpc_pb2.AuthRoleGetResponse, request)
        return tuple(make_permission(one) for one in answer.perm)

    async def roles(self) -> tuple[str, ...]:
        """The names of all roles."""
        request = rpc_pb2.AuthRoleListRequest()
        answer = await self._read("RoleList", rpc_pb2.AuthRoleListResponse, request)
        return tuple(answer.roles)

    async def delete_role(self, name: str) -> None:
        """Delete a role."""
        await self._change("RoleDelete", rpc_pb2.AuthRoleDeleteRequest(role=name))

    async def grant_permission(
        self,
        role: str,
        kind: str,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
    ) -> None:
        """Let a role READ, WRITE or READWRITE a key, a range or a prefix.

        Raises:
            UsageError: the kind is another, or the keys make no sense.
        """
        found = KINDS.get(kind.upper())
        if found is None:
            raise UsageError(
                f"unknown kind of permission {kind!r}; use one of {', '.join(KINDS)}"
            )
        start, range_end = make_target(key, end, prefix)
        request = rpc_pb2.AuthRoleGrantPermissionRequest(name=role)
        request.perm.permType = found
        request.perm.key = start
        request.perm.range_end = range_end
        await self._change("RoleGrantPermission", request)

    async def revoke_permission(
        self,
        role: str,
        key: Key | None = None,
        end: Key | None = None,
        *,
        prefix: Key | None = None,
    ) -> None:
        """Take what was granted for exactly this key, range or prefix from a role."""
        start, range_end = make_target(key, end, prefix)
        request = rpc_pb2.AuthRoleRevokePermissionRequest(
            role=role, key=start, range_end=range_end
        )
        await self._change("RoleRevokePermission", request)

    # ----- within

    async def _read(self, name: str, answer: type[Answer], request: Message) -> Answer:
        method = Method(f"/etcdserverpb.Auth/{name}", answer, Kind.READ)
        return await self._caller.call(method, request, self._options)

    async def _change(self, name: str, request: Message) -> None:
        answer = getattr(rpc_pb2, f"{type(request).__name__[:-7]}Response")
        method = Method(f"/etcdserverpb.Auth/{name}", answer, Kind.WRITE)
        await self._caller.call(method, request, self._options)
