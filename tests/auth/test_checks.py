"""Who may do what: every kind of request, at every depth of a transaction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from revstore.api import errors
from revstore.api.replica import Tag
from revstore.auth import AuthInfo
from revstore.errors import ApiError
from revstore.proto import rpc_pb2
from revstore.proto.auth_pb2 import Permission

if TYPE_CHECKING:
    from tests.auth.conftest import FakeMember

READ, WRITE, BOTH = Permission.READ, Permission.WRITE, Permission.READWRITE

MINE, THEIRS = b"m", b"t"
"""Keys that the user ``u`` may write and read, and may not."""

WRITABLE, READABLE = b"w", b"r"
"""Keys that ``u`` may only write, and only read."""

MY_LEASE, THEIR_LEASE, UNKNOWN_LEASE = 1, 2, 3

Op = rpc_pb2.RequestOp
Wrap = Callable[[Op], rpc_pb2.TxnRequest]


@pytest.fixture
def guarded(member: FakeMember) -> FakeMember:
    """Auth on, a user ``u`` with some keys, two leases."""
    member.add_role(
        "some", (BOTH, MINE, b""), (WRITE, WRITABLE, b""), (READ, READABLE, b"")
    )
    member.add_user("u", "p", "some")
    member.enable()
    member.rows.leases = {MY_LEASE: {MINE, WRITABLE}, THEIR_LEASE: {MINE, THEIRS}}
    return member


def refusal(check: Callable[[], None]) -> ApiError | None:
    """The error of a check, None if it passes."""
    try:
        check()
    except ApiError as exc:
        return exc
    return None


def put(key: bytes, **options: Any) -> Op:
    """A put as an operation."""
    return Op(request_put=rpc_pb2.PutRequest(key=key, **options))


def get(key: bytes, end: bytes = b"") -> Op:
    """A range as an operation."""
    return Op(request_range=rpc_pb2.RangeRequest(key=key, range_end=end))


def delete(key: bytes, end: bytes = b"", **options: Any) -> Op:
    """A delete as an operation."""
    request = rpc_pb2.DeleteRangeRequest(key=key, range_end=end, **options)
    return Op(request_delete_range=request)


OPS = [
    (put(MINE), True),
    (put(WRITABLE), True),
    (put(READABLE), False),
    (put(THEIRS), False),
    (put(MINE, prev_kv=True), True),
    (put(WRITABLE, prev_kv=True), False),
    (put(MINE, lease=MY_LEASE), True),
    (put(MINE, lease=THEIR_LEASE), False),
    (put(MINE, lease=UNKNOWN_LEASE), True),
    (get(MINE), True),
    (get(READABLE), True),
    (get(WRITABLE), False),
    (get(THEIRS), False),
    (get(MINE, MINE + b"\0"), True),
    (get(MINE, b"\0"), False),
    (get(MINE, b"n"), False),
    (delete(MINE), True),
    (delete(WRITABLE), True),
    (delete(READABLE), False),
    (delete(WRITABLE, prev_kv=True), False),
    (delete(MINE, prev_kv=True), True),
    (delete(MINE, b"\0"), False),
    (Op(), True),
]


def nest(op: Op, path: str) -> rpc_pb2.TxnRequest:
    """The operation in a transaction, branch by branch (s or f) down ``path``."""
    for branch in reversed(path):
        harmless = put(MINE)
        ops = [harmless, op]
        if branch == "s":
            txn = rpc_pb2.TxnRequest(success=ops)
        else:
            txn = rpc_pb2.TxnRequest(failure=ops)
        op = Op(request_txn=txn)
    return op.request_txn


@pytest.mark.parametrize(
    "path", ["s", "f", "ss", "sf", "fs", "ff", "sfs", "fsf", "ffff"]
)
@pytest.mark.parametrize(("op", "allowed"), OPS)
def test_operations_at_every_depth(
    guarded: FakeMember, op: Op, allowed: bool, path: str
) -> None:
    """An operation needs the same permission in any branch at any depth."""
    txn = nest(op, path)
    info = guarded.info("u")
    expected = None if allowed else errors.PERMISSION_DENIED
    assert refusal(lambda: guarded.auth.check_txn(info, txn)) == expected
    assert refusal(lambda: guarded.auth.check_apply(info, Tag.TXN, txn)) == expected
    root = guarded.info("root")
    assert refusal(lambda: guarded.auth.check_txn(root, txn)) is None


@pytest.mark.parametrize(("op", "allowed"), OPS[:-1])
def test_operations_on_their_own(guarded: FakeMember, op: Op, allowed: bool) -> None:
    """The top-level requests need what the operations need."""
    kind = op.WhichOneof("request")
    assert kind is not None
    tag = {"request_put": Tag.PUT, "request_delete_range": Tag.DELETE_RANGE}.get(
        kind, 3
    )
    request = getattr(op, kind)
    found = refusal(lambda: guarded.auth.check_apply(guarded.info("u"), tag, request))
    assert found == (None if allowed else errors.PERMISSION_DENIED)


@pytest.mark.parametrize("path", ["", "s", "f", "sf", "ffs"])
def test_compares_at_every_depth(guarded: FakeMember, path: str) -> None:
    """A compare reads: it needs read permission over its whole range, at any depth."""
    for key, end, allowed in (
        (READABLE, b"", True),
        (WRITABLE, b"", False),
        (MINE, b"\0", False),
    ):
        inner = rpc_pb2.TxnRequest(compare=[rpc_pb2.Compare(key=key, range_end=end)])
        txn = nest(Op(request_txn=inner), path) if path else inner
        expected = None if allowed else errors.PERMISSION_DENIED
        check = partial(guarded.auth.check_txn, guarded.info("u"), txn)
        found = refusal(check)
        assert found == expected, f"{key!r} {end!r} at {path!r}"


def test_nobody_stale_and_unknown(guarded: FakeMember) -> None:
    """No user, a stale token and a deleted user are told apart, in this order."""
    auth = guarded.auth
    request = rpc_pb2.PutRequest(key=MINE)
    old = AuthInfo("u", auth.revision - 1)
    assert refusal(lambda: auth.check_put(None, request)) == errors.USER_EMPTY
    assert (
        refusal(lambda: auth.check_put(AuthInfo("", 9), request)) == errors.USER_EMPTY
    )
    assert refusal(lambda: auth.check_put(old, request)) == errors.AUTH_OLD_REVISION
    gone = guarded.info("gone")
    assert refusal(lambda: auth.check_put(gone, request)) == errors.PERMISSION_DENIED
    assert refusal(lambda: auth.check_authenticated(None)) == errors.USER_EMPTY
    assert refusal(lambda: auth.check_authenticated(old)) == errors.AUTH_OLD_REVISION
    assert refusal(lambda: auth.check_authenticated(guarded.info("u"))) is None


def test_root_too_must_be_current_for_keys(guarded: FakeMember) -> None:
    """A stale token of root is refused for keys, like anybody's."""
    old = AuthInfo("root", guarded.auth.revision - 1)
    request = rpc_pb2.PutRequest(key=MINE)
    found = refusal(lambda: guarded.auth.check_put(old, request))
    assert found == errors.AUTH_OLD_REVISION


def test_lease_checks(guarded: FakeMember) -> None:
    """Ending a lease needs write on all its keys, seeing its keys needs read."""
    auth, user = guarded.auth, guarded.info("u")
    denied = errors.PERMISSION_DENIED
    assert refusal(lambda: auth.check_lease_revoke(user, MY_LEASE)) is None
    assert refusal(lambda: auth.check_lease_revoke(user, THEIR_LEASE)) == denied
    assert refusal(lambda: auth.check_lease_revoke(user, UNKNOWN_LEASE)) is None
    assert refusal(lambda: auth.check_lease_revoke(None, MY_LEASE)) == errors.USER_EMPTY
    assert refusal(lambda: auth.check_lease_ttl(user, MY_LEASE)) == denied
    guarded.rows.leases[MY_LEASE] = {MINE, READABLE}
    assert refusal(lambda: auth.check_lease_ttl(user, MY_LEASE)) is None
    assert refusal(lambda: auth.check_leases(user, [MY_LEASE])) is None
    assert refusal(lambda: auth.check_leases(user, [MY_LEASE, THEIR_LEASE])) == denied
    assert refusal(lambda: auth.check_leases(None, [])) == errors.USER_EMPTY
    root = guarded.info("root")
    assert refusal(lambda: auth.check_leases(root, [MY_LEASE, THEIR_LEASE])) is None
    assert refusal(lambda: auth.check_lease_revoke(root, THEIR_LEASE)) is None


def test_members_end_leases_whatever_changes_meanwhile(guarded: FakeMember) -> None:
    """An expired lease's entry is applied even if users changed after it was made."""
    info = guarded.auth.internal_info()
    request = rpc_pb2.LeaseRevokeRequest(ID=THEIR_LEASE)
    guarded.apply(
        Tag.AUTH_ROLE_ADD, rpc_pb2.AuthRoleAddRequest(name="x"), guarded.info("root")
    )
    assert info.revision < guarded.auth.revision
    found = refusal(lambda: guarded.auth.check_apply(info, Tag.LEASE_REVOKE, request))
    assert found is None


ADMIN_ONLY = [
    (Tag.COMPACTION, rpc_pb2.CompactionRequest(revision=1)),
    (Tag.AUTH_ENABLE, rpc_pb2.AuthEnableRequest()),
    (Tag.AUTH_DISABLE, rpc_pb2.AuthDisableRequest()),
    (1013, rpc_pb2.AuthStatusRequest()),
    (Tag.AUTH_USER_ADD, rpc_pb2.AuthUserAddRequest(name="n")),
    (Tag.AUTH_USER_DELETE, rpc_pb2.AuthUserDeleteRequest(name="u")),
    (Tag.AUTH_USER_GET, rpc_pb2.AuthUserGetRequest(name="root")),
    (Tag.AUTH_USER_CHANGE_PASSWORD, rpc_pb2.AuthUserChangePasswordRequest(name="u")),
    (Tag.AUTH_USER_GRANT_ROLE, rpc_pb2.AuthUserGrantRoleRequest(user="u", role="root")),
    (Tag.AUTH_USER_REVOKE_ROLE, rpc_pb2.AuthUserRevokeRoleRequest(name="u")),
    (Tag.AUTH_USER_LIST, rpc_pb2.AuthUserListRequest()),
    (Tag.AUTH_ROLE_LIST, rpc_pb2.AuthRoleListRequest()),
    (Tag.AUTH_ROLE_ADD, rpc_pb2.AuthRoleAddRequest(name="n")),
    (Tag.AUTH_ROLE_DELETE, rpc_pb2.AuthRoleDeleteRequest(role="some")),
    (Tag.AUTH_ROLE_GET, rpc_pb2.AuthRoleGetRequest(role="root")),
    (Tag.AUTH_ROLE_GRANT_PERMISSION, rpc_pb2.AuthRoleGrantPermissionRequest()),
    (Tag.AUTH_ROLE_REVOKE_PERMISSION, rpc_pb2.AuthRoleRevokePermissionRequest()),
    (4711, rpc_pb2.PutRequest()),
]


@pytest.mark.parametrize(("tag", "request_"), ADMIN_ONLY)
def test_root_only(guarded: FakeMember, tag: int, request_: Any) -> None:
    """Everything but keys and leases needs root, also what this version does not know;
    a stale token of root will do, since its role is looked up as it is now."""
    auth = guarded.auth
    nobody = refusal(lambda: auth.check_apply(None, tag, request_))
    user = refusal(lambda: auth.check_apply(guarded.info("u"), tag, request_))
    root = refusal(lambda: auth.check_apply(AuthInfo("root", 1), tag, request_))
    assert (nobody, user, root) == (errors.USER_EMPTY, errors.PERMISSION_DENIED, None)


def test_own_user_and_own_role(guarded: FakeMember) -> None:
    """A user may look at itself and at its own roles."""
    info = guarded.info("u")
    own_user = rpc_pb2.AuthUserGetRequest(name="u")
    own_role = rpc_pb2.AuthRoleGetRequest(role="some")
    auth = guarded.auth
    assert refusal(lambda: auth.check_apply(info, Tag.AUTH_USER_GET, own_user)) is None
    assert refusal(lambda: auth.check_apply(info, Tag.AUTH_ROLE_GET, own_role)) is None
    empty = rpc_pb2.AuthUserGetRequest()
    found = refusal(lambda: auth.check_apply(None, Tag.AUTH_USER_GET, empty))
    assert found == errors.USER_EMPTY


def test_what_members_propose_is_not_checked(guarded: FakeMember) -> None:
    """Alarms, lease checkpoints and cluster attributes come from members."""
    for tag in (Tag.ALARM, Tag.LEASE_CHECKPOINT, Tag.CLUSTER_VERSION_SET):
        guarded.auth.check_apply(None, tag, rpc_pb2.AlarmRequest())


def test_lease_grant_needs_any_user(guarded: FakeMember) -> None:
    """Any user may make a lease, nobody may not."""
    request = rpc_pb2.LeaseGrantRequest()
    auth = guarded.auth
    found = refusal(lambda: auth.check_apply(None, Tag.LEASE_GRANT, request))
    assert found == errors.USER_EMPTY
    auth.check_apply(guarded.info("u"), Tag.LEASE_GRANT, request)


def test_everything_passes_while_auth_is_off(member: FakeMember) -> None:
    """Checks do nothing until auth is enabled."""
    auth = member.auth
    auth.check_range(None, b"a", b"\0")
    auth.check_put(None, rpc_pb2.PutRequest(key=b"a", lease=5, prev_kv=True))
    auth.check_delete(None, rpc_pb2.DeleteRangeRequest(key=b"a"))
    auth.check_txn(None, nest(put(b"a"), "sf"))
    auth.check_admin(None)
    auth.check_authenticated(None)
    auth.check_lease_revoke(None, 1)
    auth.check_leases(None, [1])
    for tag, request in ADMIN_ONLY:
        auth.check_apply(None, tag, request)


def test_permissions_follow_every_change(guarded: FakeMember) -> None:
    """A grant or a revocation counts for the next check, also through a role."""
    auth = guarded.auth
    root = guarded.log_in("root", "rp")

    def may_read() -> bool:
        info = guarded.info("u")
        return refusal(lambda: auth.check_range(info, THEIRS, b"")) is None

    assert not may_read()
    guarded.add_role("more", (READ, THEIRS, b""), token=root)
    assert not may_read()
    grant = rpc_pb2.AuthUserGrantRoleRequest(user="u", role="more")
    guarded.do("UserGrantRole", grant, root)
    assert may_read()
    revoke = rpc_pb2.AuthRoleRevokePermissionRequest(role="more", key=THEIRS)
    guarded.do("RoleRevokePermission", revoke, root)
    assert not may_read()
    again = rpc_pb2.AuthRoleGrantPermissionRequest(
        name="more", perm=Permission(permType=READ, key=THEIRS)
    )
    guarded.do("RoleGrantPermission", again, root)
    assert may_read()
    guarded.do("RoleDelete", rpc_pb2.AuthRoleDeleteRequest(role="more"), root)
    assert not may_read()
