"""The replicated rows of users, roles and the switch, and their copies in memory.

Rows of the keyspace "auth" (all integers big endian):

    "enabled"       -> 01                  absent: off
    "revision"      -> 8 bytes             absent: 1
    "role/" + name  -> authpb.Role
    "user/" + name  -> authpb.User

Rules of this file:

1. The rows are the truth; the caches are a function of them and can be rebuilt at any
   time (``load``). Whatever changes a row changes its copy in the same call.
2. Messages in the caches are never handed out to be changed: changes go through
   ``put_*`` with a new message.
3. Nothing is written when the store is opened, so opening never makes members differ.
"""

from __future__ import annotations

from collections.abc import Iterator

from revstore.auth.info import SystemRows
from revstore.auth.permissions import ROOT, UserPermissions
from revstore.mvcc.tables import AUTH
from revstore.proto.auth_pb2 import Permission, Role, User

ENABLED_KEY = b"enabled"
REVISION_KEY = b"revision"
ROLE_PREFIX = b"role/"
USER_PREFIX = b"user/"

FIRST_REVISION = 1
"""Auth revision of a fresh store; 0 is kept for "no user"."""


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys with this prefix (its last byte is not 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


class AuthState:
    """Users, roles, switch and revision."""

    def __init__(self, rows: SystemRows) -> None:
        self._rows = rows
        self.load()

    def load(self) -> None:
        """Rebuild the caches from the rows.

        Raises:
            StorageError: the rows cannot be read.
        """
        rows = self._rows
        raw = rows.system_get(AUTH, REVISION_KEY)
        self.revision = FIRST_REVISION if raw is None else int.from_bytes(raw, "big")
        self.enabled = rows.system_get(AUTH, ENABLED_KEY) is not None
        self.users: dict[str, User] = {}
        self.roles: dict[str, Role] = {}
        self._permissions: dict[str, UserPermissions] = {}
        for _key, value in rows.system_scan(AUTH, USER_PREFIX, prefix_end(USER_PREFIX)):
            user = User.FromString(value)
            self.users[user.name.decode()] = user
        for _key, value in rows.system_scan(AUTH, ROLE_PREFIX, prefix_end(ROLE_PREFIX)):
            role = Role.FromString(value)
            self.roles[role.name.decode()] = role

    def replace_rows(self, rows: SystemRows) -> None:
        """Continue on another store, as after a snapshot was installed.

        Raises:
            StorageError: the rows cannot be read.
        """
        self._rows = rows
        self.load()

    def bump(self) -> None:
        """Move the revision: tokens and permissions from before are old."""
        self.revision += 1
        self._rows.system_put(AUTH, REVISION_KEY, self.revision.to_bytes(8, "big"))

    def set_enabled(self, enabled: bool) -> None:
        """Turn the switch."""
        self.enabled = enabled
        if enabled:
            self._rows.system_put(AUTH, ENABLED_KEY, b"\x01")
        else:
            self._rows.system_delete(AUTH, ENABLED_KEY)

    def put_user(self, user: User) -> None:
        """Store a user, new or changed."""
        name = user.name.decode()
        self.users[name] = user
        self._permissions.pop(name, None)
        self._rows.system_put(AUTH, USER_PREFIX + user.name, user.SerializeToString())

    def delete_user(self, name: str) -> None:
        """Forget a user."""
        del self.users[name]
        self._permissions.pop(name, None)
        self._rows.system_delete(AUTH, USER_PREFIX + name.encode())

    def put_role(self, role: Role) -> None:
        """Store a role, new or changed."""
        self.roles[role.name.decode()] = role
        self._permissions.clear()
        self._rows.system_put(AUTH, ROLE_PREFIX + role.name, role.SerializeToString())

    def delete_role(self, name: str) -> None:
        """Forget a role; the users that have it are the caller's business."""
        del self.roles[name]
        self._permissions.clear()
        self._rows.system_delete(AUTH, ROLE_PREFIX + name.encode())

    def permissions(self, username: str) -> UserPermissions | None:
        """What a user may do; None if there is no such user."""
        found = self._permissions.get(username)
        if found is None:
            user = self.users.get(username)
            if user is None:
                return None
            found = UserPermissions(ROOT in user.roles, self._granted(user))
            self._permissions[username] = found
        return found

    def _granted(self, user: User) -> Iterator[Permission]:
        for name in user.roles:
            role = self.roles.get(name)
            if role is not None:
                yield from role.keyPermission

    def keys_of_lease(self, lease_id: int) -> list[bytes]:
        """The keys attached to a lease, ascending."""
        return list(self._rows.lease_keys(lease_id))

    def entry_index(self) -> int:
        """Index of the entry being applied: the first that is not applied yet."""
        return self._rows.applied_index + 1
