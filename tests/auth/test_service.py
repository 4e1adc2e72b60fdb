"""The Auth service: passwords, log-in under changes, stale members, bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.message import Message

from revstore.api import auth as auth_api
from revstore.api import errors
from revstore.api.inprocess import DirectCall, invoke
from revstore.api.replica import Tag
from revstore.auth import AuthInfo, passwords
from revstore.auth.hashing import HASHES_WAITING_MAX
from revstore.auth.passwords import (
    decoy_hash,
    from_wire,
    hash_password,
    is_hash,
    to_wire,
    verify_password,
)
from revstore.errors import ApiError
from revstore.proto import rpc_pb2
from revstore.proto.auth_pb2 import UserAddOptions

if TYPE_CHECKING:
    from tests.auth.conftest import FakeMember

SECRET = "correct horse"


def start(
    member: FakeMember, name: str, request: Message, token: str | None = None
) -> DirectCall:
    """A call that may not be answered yet."""
    return invoke(
        member.table,
        auth_api.SERVICE + name,
        request.SerializeToString(),
        {} if token is None else {"token": token},
    )


def start_log_in(member: FakeMember, name: str, password: str) -> DirectCall:
    """A log-in that may not be answered yet."""
    request = rpc_pb2.AuthenticateRequest(name=name, password=password)
    return start(member, "Authenticate", request)


def change_password(member: FakeMember, name: str, password: str) -> None:
    """Apply a password change that another member proposed."""
    hashed = to_wire(hash_password(password, 4))
    request = rpc_pb2.AuthUserChangePasswordRequest(name=name, hashedPassword=hashed)
    found = member.apply(Tag.AUTH_USER_CHANGE_PASSWORD, request, member.info("root"))
    assert not isinstance(found, ApiError)


def test_all_methods_are_there(member: FakeMember) -> None:
    """The service has the 17 methods of etcd, all unary."""
    assert len(member.table) == 17
    assert all(method.unary is not None for method in member.table.values())


def test_no_password_in_the_log(member: FakeMember) -> None:
    """What is proposed has a hash and never the password itself."""
    member.add_user("u", SECRET)
    root = member.enable()
    change = rpc_pb2.AuthUserChangePasswordRequest(name="u", password=SECRET)
    member.do("UserChangePassword", change, root)
    member.log_in("u", SECRET)
    with_options = rpc_pb2.AuthUserAddRequest(
        name="n", password=SECRET, options=UserAddOptions(no_password=True)
    )
    member.do("UserAdd", with_options, root)
    assert len(member.log) >= 6
    assert all(SECRET.encode() not in entry.payload for entry in member.log)
    hashed = rpc_pb2.AuthUserAddRequest.FromString(member.log[0].payload)
    assert verify_password(SECRET, from_wire(hashed.hashedPassword) or b"")


def test_a_hash_from_the_client_is_taken(member: FakeMember) -> None:
    """A client may hash the password itself; something else is refused."""
    hashed = to_wire(hash_password(SECRET, 4))
    member.do("UserAdd", rpc_pb2.AuthUserAddRequest(name="u", hashedPassword=hashed))
    bad = rpc_pb2.AuthUserAddRequest(name="v", hashedPassword=to_wire(b"clear"))
    found = member.ask("UserAdd", bad, rpc_pb2.AuthUserAddResponse)
    assert found == errors.INVALID_AUTH_MGMT
    member.enable()
    assert member.log_in("u", SECRET)


def test_an_empty_password_is_a_password(member: FakeMember) -> None:
    """A user with an empty password logs in with it and with no other."""
    member.add_user("u", "")
    member.enable()
    assert member.log_in("u", "")
    assert start_log_in(member, "u", "x").outcome == errors.AUTH_FAILED


def test_a_long_password_is_refused(member: FakeMember) -> None:
    """bcrypt looks at 72 bytes, so a longer password is refused, not cut."""
    request = rpc_pb2.AuthUserAddRequest(name="u", password="\u20ac" * 25)
    found = member.ask("UserAdd", request, rpc_pb2.AuthUserAddResponse)
    assert found == auth_api.PASSWORD_TOO_LONG
    member.add_user("u", "x" * 72)
    member.enable()
    assert member.log_in("u", "x" * 72)


def test_hashes_are_told_apart() -> None:
    """Only bcrypt hashes of a cost that can be checked count as hashes."""
    good = hash_password("p", 4)
    assert is_hash(good)
    assert is_hash(decoy_hash(10))
    assert not verify_password("p", decoy_hash(4))
    for bad in (b"", b"garbage", good[:-1], good.replace(b"$04$", b"$32$")):
        assert not is_hash(bad)
        assert not verify_password("p", bad)
    assert from_wire("!") is None
    assert from_wire(to_wire(good)) == good


@pytest.mark.parametrize(
    ("name", "password"),
    [("u", "wrong"), ("nobody", SECRET), ("", ""), ("u", "x" * 80)],
)
def test_failed_log_ins(member: FakeMember, name: str, password: str) -> None:
    """Whatever is wrong with name or password, the answer is the same, and nothing is
    proposed."""
    member.add_user("u", SECRET)
    member.enable()
    before = len(member.log)
    assert start_log_in(member, name, password).outcome == errors.AUTH_FAILED
    assert len(member.log) == before


def test_an_unknown_user_costs_a_hash_too(member: FakeMember) -> None:
    """An unknown user is verified as well, so that time does not tell names."""
    member.enable()
    member.hold_threads = True
    call = start_log_in(member, "nobody", SECRET)
    assert call.outcome is None
    member.threads.popleft()()
    assert call.outcome == errors.AUTH_FAILED


def test_log_in_needs_auth(member: FakeMember) -> None:
    """Log-in is refused while auth is off."""
    assert start_log_in(member, "u", "p").outcome == errors.AUTH_NOT_ENABLED


def test_password_changed_while_verifying(member: FakeMember) -> None:
    """A password that was right when asked but is not when verified gets no token."""
    member.add_user("u", SECRET)
    member.enable()
    member.hold_threads = True
    call = start_log_in(member, "u", SECRET)
    change_password(member, "u", "other")
    while member.threads:
        member.threads.popleft()()
    assert call.outcome == errors.AUTH_FAILED


def test_password_changed_while_proposing(member: FakeMember) -> None:
    """The entry of a log-in is refused if the password changed before it is applied:
    the old password leaves no token on any member."""
    member.add_user("u", SECRET)
    member.enable()
    known = len(member.auth.tokens)  # type: ignore[arg-type]  # SimpleTokens
    member.before_propose = lambda: change_password(member, "u", "other")
    call = start_log_in(member, "u", SECRET)
    assert call.outcome == errors.AUTH_FAILED
    assert len(member.auth.tokens) == known  # type: ignore[arg-type]  # the same


def test_other_changes_while_proposing(member: FakeMember) -> None:
    """A log-in goes through although something else changed, with one hash only."""
    member.add_user("u", SECRET)
    member.enable()
    add = rpc_pb2.AuthRoleAddRequest(name="r")
    member.before_propose = lambda: (
        member.apply(Tag.AUTH_ROLE_ADD, add, member.info("root")),
        None,
    )[1]
    member.hold_threads = True
    call = start_log_in(member, "u", SECRET)
    member.threads.popleft()()
    assert isinstance(call.outcome, bytes)
    assert not member.threads
    proposed = [entry for entry in member.log if entry.tag == Tag.AUTHENTICATE]
    assert [entry.info for entry in proposed[-2:]] == [
        AuthInfo("u", member.auth.revision - 1),
        AuthInfo("u", member.auth.revision),
    ]


def test_endless_changes_end_a_log_in(member: FakeMember) -> None:
    """A log-in that finds a change at each attempt gives up after a bound."""
    member.add_user("u", SECRET)
    member.enable()
    count = 0

    def disturb() -> None:
        nonlocal count
        count += 1
        add = rpc_pb2.AuthRoleAddRequest(name=f"r{count}")
        member.apply(Tag.AUTH_ROLE_ADD, add, member.info("root"))
        member.before_propose = disturb

    member.before_propose = disturb
    call = start_log_in(member, "u", SECRET)
    assert call.outcome == errors.AUTH_OLD_REVISION
    assert count == auth_api.LOGIN_ATTEMPTS_MAX - 1


def test_hashing_is_one_at_a_time_and_bounded(member: FakeMember) -> None:
    """One hash is with the thread, a bounded number waits, the rest is refused."""
    member.add_user("u", SECRET)
    member.enable()
    member.hold_threads = True
    calls = [
        start_log_in(member, "u", "wrong") for _call in range(HASHES_WAITING_MAX + 2)
    ]
    assert len(member.threads) == 1
    assert calls[-1].outcome == errors.TOO_MANY_REQUESTS
    for call in calls[1:]:
        call.cancel()
    turns = 0
    while member.threads:
        assert len(member.threads) == 1
        member.threads.popleft()()
        turns += 1
    assert turns == HASHES_WAITING_MAX + 1
    assert calls[0].outcome == errors.AUTH_FAILED
    member.hold_threads = False
    assert member.log_in("u", SECRET)


def test_strangers_cost_no_hash(member: FakeMember) -> None:
    """Setting a password is refused before it is hashed to all but root."""
    member.add_user("u", SECRET)
    member.enable()
    token = member.log_in("u", SECRET)
    member.hold_threads = True
    request = rpc_pb2.AuthUserAddRequest(name="n", password="p")
    assert start(member, "UserAdd", request).outcome == errors.USER_EMPTY
    assert start(member, "UserAdd", request, token).outcome == errors.PERMISSION_DENIED
    assert not member.threads


def test_a_member_behind_does_not_refuse(member: FakeMember) -> None:
    """A refusal on old state is asked again behind a read barrier: here auth was turned
    off elsewhere, and this member had not heard of it."""
    root = member.enable()

    def catch_up() -> None:
        member.on_read = None
        member.apply(
            Tag.AUTH_DISABLE, rpc_pb2.AuthDisableRequest(), member.info("root")
        )

    member.on_read = catch_up
    request = rpc_pb2.AuthUserAddRequest(name="n", password="p")
    assert isinstance(start(member, "UserAdd", request).outcome, bytes)
    assert root


def test_a_new_token_on_a_member_behind(member: FakeMember) -> None:
    """A token whose entry is not applied here yet is looked up behind a barrier."""
    root = member.enable()
    token = "abcdefghijklmnop.9"
    prefix, index = token.split(".")

    def catch_up() -> None:
        member.on_read = None
        member.auth.tokens.assign("root", prefix, int(index), 1)

    member.on_read = catch_up
    add = rpc_pb2.AuthRoleAddRequest(name="r")
    assert isinstance(start(member, "RoleAdd", add, token).outcome, bytes)
    before = member.reads
    outcome = start(member, "RoleAdd", add, "no such form").outcome
    assert outcome == errors.INVALID_AUTH_TOKEN
    assert member.reads == before
    assert root


def test_the_caller_travels_with_the_entry(member: FakeMember) -> None:
    """A change is proposed in the name of the token's user; the entry decides."""
    member.add_user("u", SECRET)
    member.enable()
    token = member.log_in("u", SECRET)
    add = rpc_pb2.AuthRoleAddRequest(name="r")
    assert start(member, "RoleAdd", add, token).outcome == errors.PERMISSION_DENIED
    assert member.log[-1].info == member.info("u")


def test_questions_are_not_proposed(member: FakeMember) -> None:
    """Status, gets and lists are answered behind a read barrier, without an entry."""
    root = member.enable()
    before, reads = len(member.log), member.reads
    status = member.ask(
        "AuthStatus", rpc_pb2.AuthStatusRequest(), rpc_pb2.AuthStatusResponse, root
    )
    assert isinstance(status, rpc_pb2.AuthStatusResponse)
    assert (status.enabled, status.authRevision) == (True, member.auth.revision)
    users = member.ask(
        "UserList", rpc_pb2.AuthUserListRequest(), rpc_pb2.AuthUserListResponse, root
    )
    assert isinstance(users, rpc_pb2.AuthUserListResponse)
    assert list(users.users) == ["root"]
    assert len(member.log) == before
    assert member.reads == reads + 2


@pytest.mark.parametrize("name", ["UserAdd", "Authenticate", "RoleAdd", "RoleGet"])
def test_garbage_is_refused(member: FakeMember, name: str) -> None:
    """Bytes that are no message are an argument error."""
    call = invoke(member.table, auth_api.SERVICE + name, b"\xff")
    assert isinstance(call.outcome, ApiError)
    assert call.outcome.code == errors.Code.INVALID_ARGUMENT


def test_a_failing_thread_is_an_internal_error(
    member: FakeMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If hashing itself fails the caller hears so, without the password."""

    def broken(password: str, cost: int) -> bytes:
        raise RuntimeError(password)

    monkeypatch.setattr(passwords, "hash_password", broken)
    request = rpc_pb2.AuthUserAddRequest(name="u", password=SECRET)
    outcome = start(member, "UserAdd", request).outcome
    assert isinstance(outcome, ApiError)
    assert outcome.code == errors.Code.INTERNAL
    assert SECRET not in outcome.message
