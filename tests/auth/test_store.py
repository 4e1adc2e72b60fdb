"""Replicated changes: errors, rows, determinism, reload."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revstore.api import errors
from revstore.api.replica import Tag
from revstore.auth import AUTH_APPLY, AuthInfo, AuthStore
from revstore.auth.passwords import to_wire
from revstore.errors import ApiError, ConfigError
from revstore.proto import raft_internal_pb2, rpc_pb2
from revstore.proto.auth_pb2 import Permission, UserAddOptions

if TYPE_CHECKING:
    from tests.auth.conftest import FakeMember

HASH = to_wire(b"$2a$04$" + b"a" * 53)
OTHER_HASH = to_wire(b"$2a$04$" + b"b" * 53)


def outcome(member: FakeMember, tag: int, request: Any) -> ApiError | None:
    """The error of applying a request as the log's, None if it is applied."""
    found = member.apply(tag, request, member.info("root"))
    return found if isinstance(found, ApiError) else None


def test_every_request_of_the_log_has_a_function() -> None:
    """Each auth field of InternalRaftRequest can be applied, and nothing else."""
    fields = raft_internal_pb2.InternalRaftRequest.DESCRIPTOR.fields
    auth_fields = {field.number for field in fields if field.name.startswith("auth")}
    assert set(AUTH_APPLY) == auth_fields


def test_revision_moves_with_changes_only(member: FakeMember) -> None:
    """A change moves the revision by one; an error and a repetition do not."""
    auth = member.auth
    assert auth.revision == 1
    member.add_user("u", "p")
    assert auth.revision == 2
    again = rpc_pb2.AuthUserAddRequest(name="u", hashedPassword=HASH)
    assert outcome(member, Tag.AUTH_USER_ADD, again) == errors.USER_ALREADY_EXIST
    assert auth.revision == 2
    member.add_role("r")
    grant = rpc_pb2.AuthUserGrantRoleRequest(user="u", role="r")
    assert outcome(member, Tag.AUTH_USER_GRANT_ROLE, grant) is None
    assert outcome(member, Tag.AUTH_USER_GRANT_ROLE, grant) is None
    assert auth.revision == 4
    assert outcome(member, Tag.AUTH_DISABLE, rpc_pb2.AuthDisableRequest()) is None
    assert auth.revision == 4
    member.enable()
    assert auth.revision == 6
    assert outcome(member, Tag.AUTH_ENABLE, rpc_pb2.AuthEnableRequest()) is None
    assert auth.revision == 6
    assert outcome(member, Tag.AUTH_DISABLE, rpc_pb2.AuthDisableRequest()) is None
    assert auth.revision == 7


ERRORS = [
    (Tag.AUTH_USER_ADD, rpc_pb2.AuthUserAddRequest(), errors.USER_EMPTY),
    (
        Tag.AUTH_USER_ADD,
        rpc_pb2.AuthUserAddRequest(name="n", password="clear"),
        errors.INVALID_AUTH_MGMT,
    ),
    (
        Tag.AUTH_USER_ADD,
        rpc_pb2.AuthUserAddRequest(name="n", hashedPassword="!"),
        errors.INVALID_AUTH_MGMT,
    ),
    (
        Tag.AUTH_USER_DELETE,
        rpc_pb2.AuthUserDeleteRequest(name="n"),
        errors.USER_NOT_FOUND,
    ),
    (Tag.AUTH_USER_GET, rpc_pb2.AuthUserGetRequest(name="n"), errors.USER_NOT_FOUND),
    (
        Tag.AUTH_USER_CHANGE_PASSWORD,
        rpc_pb2.AuthUserChangePasswordRequest(name="u", password="clear"),
        errors.INVALID_AUTH_MGMT,
    ),
    (
        Tag.AUTH_USER_REVOKE_ROLE,
        rpc_pb2.AuthUserRevokeRoleRequest(name="n"),
        errors.USER_NOT_FOUND,
    ),
    (Tag.AUTH_ROLE_ADD, rpc_pb2.AuthRoleAddRequest(), errors.ROLE_EMPTY),
    (
        Tag.AUTH_ROLE_ADD,
        rpc_pb2.AuthRoleAddRequest(name="r"),
        errors.ROLE_ALREADY_EXIST,
    ),
    (Tag.AUTH_ROLE_GET, rpc_pb2.AuthRoleGetRequest(role="n"), errors.ROLE_NOT_FOUND),
    (
        Tag.AUTH_ROLE_DELETE,
        rpc_pb2.AuthRoleDeleteRequest(role="n"),
        errors.ROLE_NOT_FOUND,
    ),
    (
        Tag.AUTH_ROLE_GRANT_PERMISSION,
        rpc_pb2.AuthRoleGrantPermissionRequest(name="r"),
        errors.PERMISSION_NOT_GIVEN,
    ),
    (
        Tag.AUTH_ROLE_GRANT_PERMISSION,
        rpc_pb2.AuthRoleGrantPermissionRequest(name="r", perm=Permission()),
        errors.INVALID_AUTH_MGMT,
    ),
    (
        Tag.AUTH_ROLE_REVOKE_PERMISSION,
        rpc_pb2.AuthRoleRevokePermissionRequest(role="n"),
        errors.ROLE_NOT_FOUND,
    ),
    (
        Tag.AUTHENTICATE,
        raft_internal_pb2.InternalAuthenticateRequest(name="n"),
        errors.AUTH_FAILED,
    ),
]


@pytest.mark.parametrize(("tag", "request_", "error"), ERRORS)
def test_errors_change_nothing(
    member: FakeMember, tag: int, request_: Any, error: ApiError
) -> None:
    """A refused change leaves rows and revision as they were."""
    member.add_role("r")
    member.add_user("u", "p")
    member.enable()
    before = dict(member.rows.rows)
    assert outcome(member, tag, request_) == error
    assert member.rows.rows == before


def test_no_token_while_auth_is_off(member: FakeMember) -> None:
    """Authenticate is refused while auth is off."""
    request = raft_internal_pb2.InternalAuthenticateRequest(name="u")
    assert outcome(member, Tag.AUTHENTICATE, request) == errors.AUTH_NOT_ENABLED


def test_root_can_be_taken_apart_while_auth_is_off(member: FakeMember) -> None:
    """The protection of root holds only while auth is on."""
    member.add_user("root", "p", "root")
    member.add_role("root")
    for tag, request in (
        (
            Tag.AUTH_USER_REVOKE_ROLE,
            rpc_pb2.AuthUserRevokeRoleRequest(name="root", role="root"),
        ),
        (Tag.AUTH_ROLE_DELETE, rpc_pb2.AuthRoleDeleteRequest(role="root")),
        (Tag.AUTH_USER_DELETE, rpc_pb2.AuthUserDeleteRequest(name="root")),
    ):
        assert outcome(member, tag, request) is None
    enable = rpc_pb2.AuthEnableRequest()
    assert outcome(member, Tag.AUTH_ENABLE, enable) == errors.ROOT_USER_NOT_EXIST


def test_permissions_are_sorted_and_replaced(member: FakeMember) -> None:
    """One permission per range, the newest type wins, listed by key and end."""
    member.add_role(
        "r",
        (Permission.READ, b"b", b""),
        (Permission.READ, b"a", b"z"),
        (Permission.READ, b"a", b"c"),
        (Permission.WRITE, b"a", b"z"),
    )
    request = rpc_pb2.AuthRoleGetRequest(role="r")
    found = member.ask("RoleGet", request, rpc_pb2.AuthRoleGetResponse)
    assert isinstance(found, rpc_pb2.AuthRoleGetResponse)
    assert [(perm.key, perm.range_end, perm.permType) for perm in found.perm] == [
        (b"a", b"c", Permission.READ),
        (b"a", b"z", Permission.WRITE),
        (b"b", b"", Permission.READ),
    ]


def test_deleting_a_role_takes_it_from_users(member: FakeMember) -> None:
    """No user keeps a deleted role, so a new role of that name starts with nobody."""
    member.add_role("r")
    member.add_role("s")
    member.add_user("u", "p", "s", "r")
    member.do("RoleDelete", rpc_pb2.AuthRoleDeleteRequest(role="r"))
    request = rpc_pb2.AuthUserGetRequest(name="u")
    found = member.ask("UserGet", request, rpc_pb2.AuthUserGetResponse)
    assert isinstance(found, rpc_pb2.AuthUserGetResponse)
    assert list(found.roles) == ["s"]


def test_the_role_root_shows_everything(member: FakeMember) -> None:
    """The role root, once made, is shown as read and write on all keys."""
    member.add_role("root")
    request = rpc_pb2.AuthRoleGetRequest(role="root")
    found = member.ask("RoleGet", request, rpc_pb2.AuthRoleGetResponse)
    assert isinstance(found, rpc_pb2.AuthRoleGetResponse)
    assert [(p.permType, p.key, p.range_end) for p in found.perm] == [
        (Permission.READWRITE, b"", b"\0")
    ]


def test_a_user_without_password_stays_without(member: FakeMember) -> None:
    """Changing the password of a password-less user gives it none."""
    options = UserAddOptions(no_password=True)
    request = rpc_pb2.AuthUserAddRequest(name="n", options=options)
    member.do("UserAdd", request)
    change = rpc_pb2.AuthUserChangePasswordRequest(name="n", password="x")
    member.do("UserChangePassword", change)
    member.enable()
    log_in = rpc_pb2.AuthenticateRequest(name="n", password="x")
    found = member.ask("Authenticate", log_in, rpc_pb2.AuthenticateResponse)
    assert found == errors.NO_PASSWORD_USER


def test_reload_gives_the_same_state(member: FakeMember) -> None:
    """What is in memory is a function of the rows."""
    member.add_role("r", (Permission.READ, b"a", b"\0"))
    member.add_user("u", "p", "r")
    token = member.enable()
    auth = member.auth
    before = (auth.enabled, auth.revision, auth.users, auth.roles)
    auth.reload()
    assert (auth.enabled, auth.revision, auth.users, auth.roles) == before
    auth.check_range(member.info("u"), b"b", b"\0")
    assert auth.authenticate({"token": token}) == member.info("root")


def test_off_stays_off(member: FakeMember) -> None:
    """Auth that was turned off is off for a store that reads the rows again."""
    root = member.enable()
    member.do("AuthDisable", rpc_pb2.AuthDisableRequest(), root)
    member.auth.reload()
    assert not member.auth.enabled


def test_a_deleted_user_may_nothing(member: FakeMember) -> None:
    """What was known of a deleted user's permissions is forgotten with it."""
    member.add_user("other", "p", "root")
    root = member.enable()
    member.auth.check_admin(member.info("other"))
    member.do("UserDelete", rpc_pb2.AuthUserDeleteRequest(name="other"), root)
    with pytest.raises(ApiError) as caught:
        member.auth.check_admin(member.info("other"))
    assert caught.value == errors.PERMISSION_DENIED


def test_reload_forgets_tokens_of_changed_passwords(
    member: FakeMember, make_member: Callable[[], FakeMember]
) -> None:
    """A snapshot that holds a password change or a deletion ends those tokens."""
    for name in ("same", "changed", "gone"):
        member.add_user(name, name)
    root = member.enable()
    tokens = {name: member.log_in(name, name) for name in ("same", "changed", "gone")}
    ahead = make_member()
    ahead.rows.rows = dict(member.rows.rows)
    ahead.auth.reload()
    root = ahead.log_in("root", "rp")
    change = rpc_pb2.AuthUserChangePasswordRequest(name="changed", password="x")
    ahead.do("UserChangePassword", change, root)
    ahead.do("UserDelete", rpc_pb2.AuthUserDeleteRequest(name="gone"), root)

    member.auth.reload(ahead.rows)

    assert member.auth.revision == ahead.auth.revision
    assert member.auth.authenticate({"token": tokens["same"]}) == member.info("same")
    for name in ("changed", "gone"):
        with pytest.raises(ApiError) as caught:
            member.auth.authenticate({"token": tokens[name]})
        assert caught.value == errors.INVALID_AUTH_TOKEN


def test_reload_into_disabled_forgets_all_tokens(
    member: FakeMember, make_member: Callable[[], FakeMember]
) -> None:
    """After a snapshot with auth off, no token is remembered."""
    token = member.enable()
    member.auth.reload(make_member().rows)
    assert member.auth.authenticate({"token": token}) is None
    assert len(member.auth.tokens) == 0  # type: ignore[arg-type]  # SimpleTokens


def test_the_cost_is_checked(member: FakeMember) -> None:
    """A bcrypt cost outside 4..31 is a configuration error."""
    for cost in (3, 32):
        with pytest.raises(ConfigError, match=r"4\.\.31"):
            AuthStore(
                member.rows, clock=member.clock, random=Random(1), bcrypt_cost=cost
            )


NAMES = st.sampled_from(["root", "a", "b", ""])
KEYS = st.sampled_from([b"", b"a", b"b", b"\0"])
HASHES = st.sampled_from([HASH, OTHER_HASH, ""])
TYPES = st.sampled_from([Permission.READ, Permission.WRITE, Permission.READWRITE])

REQUESTS = st.one_of(
    st.builds(lambda: (Tag.AUTH_ENABLE, rpc_pb2.AuthEnableRequest())),
    st.builds(lambda: (Tag.AUTH_DISABLE, rpc_pb2.AuthDisableRequest())),
    st.builds(
        lambda name, word: (
            Tag.AUTH_USER_ADD,
            rpc_pb2.AuthUserAddRequest(name=name, hashedPassword=word),
        ),
        NAMES,
        HASHES,
    ),
    st.builds(
        lambda name: (Tag.AUTH_USER_DELETE, rpc_pb2.AuthUserDeleteRequest(name=name)),
        NAMES,
    ),
    st.builds(
        lambda name, word: (
            Tag.AUTH_USER_CHANGE_PASSWORD,
            rpc_pb2.AuthUserChangePasswordRequest(name=name, hashedPassword=word),
        ),
        NAMES,
        HASHES,
    ),
    st.builds(
        lambda user, role: (
            Tag.AUTH_USER_GRANT_ROLE,
            rpc_pb2.AuthUserGrantRoleRequest(user=user, role=role),
        ),
        NAMES,
        NAMES,
    ),
    st.builds(
        lambda user, role: (
            Tag.AUTH_USER_REVOKE_ROLE,
            rpc_pb2.AuthUserRevokeRoleRequest(name=user, role=role),
        ),
        NAMES,
        NAMES,
    ),
    st.builds(
        lambda name: (Tag.AUTH_ROLE_ADD, rpc_pb2.AuthRoleAddRequest(name=name)), NAMES
    ),
    st.builds(
        lambda name: (Tag.AUTH_ROLE_DELETE, rpc_pb2.AuthRoleDeleteRequest(role=name)),
        NAMES,
    ),
    st.builds(
        lambda name, kind, key, end: (
            Tag.AUTH_ROLE_GRANT_PERMISSION,
            rpc_pb2.AuthRoleGrantPermissionRequest(
                name=name, perm=Permission(permType=kind, key=key, range_end=end)
            ),
        ),
        NAMES,
        TYPES,
        KEYS,
        KEYS,
    ),
    st.builds(
        lambda name, key, end: (
            Tag.AUTH_ROLE_REVOKE_PERMISSION,
            rpc_pb2.AuthRoleRevokePermissionRequest(role=name, key=key, range_end=end),
        ),
        NAMES,
        KEYS,
        KEYS,
    ),
    st.builds(
        lambda name: (
            Tag.AUTHENTICATE,
            raft_internal_pb2.InternalAuthenticateRequest(name=name, simple_token="t"),
        ),
        NAMES,
    ),
)
ASKERS = st.sampled_from([None, "root", "a", "stale"])


@settings(max_examples=60, deadline=None)
@given(entries=st.lists(st.tuples(REQUESTS, ASKERS), max_size=25), data=st.data())
def test_same_entries_same_rows(
    make_member: Callable[[], FakeMember],
    entries: list[tuple[tuple[int, Any], str | None]],
    data: st.DataObject,
) -> None:
    """Members that apply the same entries have the same rows, answers and errors, also
    if one of them rebuilt its memory from its rows anywhere in between."""
    one, other = make_member(), make_member()
    for each in (one, other):
        add = rpc_pb2.AuthUserAddRequest(name="root", hashedPassword=HASH)
        grant = rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root")
        each.apply(Tag.AUTH_USER_ADD, add, None)
        each.apply(Tag.AUTH_USER_GRANT_ROLE, grant, None)
    reload_at = data.draw(st.integers(0, max(len(entries) - 1, 0)))
    for position, ((tag, request), asker) in enumerate(entries):
        info = None
        if asker is not None:
            info = AuthInfo(asker, one.auth.revision - (asker == "stale"))
        if position == reload_at:
            other.auth.reload()
        assert one.apply(tag, request, info) == other.apply(tag, request, info)
    assert one.rows.rows == other.rows.rows
    assert one.auth.revision == other.auth.revision
    assert one.auth.enabled == other.auth.enabled
    other.auth.reload()
    assert one.auth.revision == other.auth.revision
    assert one.auth.enabled == other.auth.enabled
