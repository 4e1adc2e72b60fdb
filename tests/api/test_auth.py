"""Authorisation over the real store and the whole service table."""

from __future__ import annotations

from random import Random

import pytest
from google.protobuf.message import Message

from revstore.api import errors
from revstore.auth import AuthStore
from revstore.errors import ApiError
from revstore.mvcc.store import Store
from revstore.proto import rpc_pb2 as rpc
from revstore.proto.auth_pb2 import Permission
from tests.api.member import FakeMember


def do(
    member: FakeMember, path: str, request: Message, token: str | None = None
) -> None:
    """A call that must succeed; its answer does not matter."""
    metadata = {} if token is None else {"token": token}
    member.call(path, request, rpc.AuthEnableResponse, metadata)


def log_in(member: FakeMember, name: str) -> str:
    """The token of a user whose password is its name."""
    request = rpc.AuthenticateRequest(name=name, password=name)
    return member.call("Auth/Authenticate", request, rpc.AuthenticateResponse).token


def add_user(member: FakeMember, name: str, role: str) -> None:
    """A user with one role; its password is its name."""
    do(member, "Auth/UserAdd", rpc.AuthUserAddRequest(name=name, password=name))
    grant = rpc.AuthUserGrantRoleRequest(user=name, role=role)
    do(member, "Auth/UserGrantRole", grant)


@pytest.fixture
def tokens(member: FakeMember) -> dict[str, str]:
    """Auth on; tokens of root and of ``u``, who may do all with [a, b)."""
    perm = Permission(permType=Permission.READWRITE, key=b"a", range_end=b"b")
    do(member, "Auth/RoleAdd", rpc.AuthRoleAddRequest(name="a"))
    grant = rpc.AuthRoleGrantPermissionRequest(name="a", perm=perm)
    do(member, "Auth/RoleGrantPermission", grant)
    add_user(member, "root", "root")
    add_user(member, "u", "a")
    do(member, "Auth/AuthEnable", rpc.AuthEnableRequest())
    return {name: log_in(member, name) for name in ("root", "u")}


def refusal(
    member: FakeMember, path: str, request: Message, token: str | None
) -> ApiError | None:
    """The error of a call, None if it succeeds."""
    metadata = {} if token is None else {"token": token}
    call = member.begin(path, request, metadata)
    member.run()
    return call.outcome if isinstance(call.outcome, ApiError) else None


def test_state_survives_with_the_store(
    member: FakeMember, tokens: dict[str, str]
) -> None:
    """Users, roles and switch are rows of the store: a flush keeps them for a store
    opened anew over the same engine."""
    member.store.flush()
    revision = member.auth.revision
    again = Store(member.backend)
    auth = AuthStore(again, clock=member.clock, random=Random(1))
    assert (auth.enabled, auth.revision) == (True, revision)
    assert auth.users == ["root", "u"]
    assert auth.roles == ["a"]
    info = member.auth.authenticate({"token": tokens["u"]})
    auth.check_range(info, b"a", b"b")
    with pytest.raises(ApiError) as caught:
        auth.check_range(info, b"a", b"c")
    assert caught.value == errors.PERMISSION_DENIED
    again.close()


NEED_ROOT: list[tuple[str, Message]] = [
    ("KV/Compact", rpc.CompactionRequest(revision=1)),
    ("Maintenance/Defragment", rpc.DefragmentRequest()),
    ("Maintenance/Hash", rpc.HashRequest()),
    ("Maintenance/HashKV", rpc.HashKVRequest()),
    ("Maintenance/MoveLeader", rpc.MoveLeaderRequest(targetID=1)),
    ("Maintenance/Downgrade", rpc.DowngradeRequest(version="3.5")),
    (
        "Maintenance/Alarm",
        rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, alarm=rpc.NOSPACE),
    ),
    ("Cluster/MemberAdd", rpc.MemberAddRequest(peerURLs=["http://b:1"])),
    ("Cluster/MemberRemove", rpc.MemberRemoveRequest(ID=1)),
    ("Cluster/MemberUpdate", rpc.MemberUpdateRequest(ID=1, peerURLs=["http://b:1"])),
    ("Cluster/MemberPromote", rpc.MemberPromoteRequest(ID=1)),
    ("Auth/AuthStatus", rpc.AuthStatusRequest()),
    ("Auth/UserList", rpc.AuthUserListRequest()),
    ("Auth/RoleList", rpc.AuthRoleListRequest()),
]

NEED_A_USER: list[tuple[str, Message]] = [
    ("Maintenance/Status", rpc.StatusRequest()),
    ("Maintenance/Alarm", rpc.AlarmRequest()),
    ("Cluster/MemberList", rpc.MemberListRequest()),
    ("Lease/LeaseGrant", rpc.LeaseGrantRequest(TTL=10)),
    ("Lease/LeaseTimeToLive", rpc.LeaseTimeToLiveRequest(ID=1)),
]


@pytest.mark.parametrize(("path", "request_"), NEED_ROOT)
def test_calls_for_root(
    member: FakeMember, tokens: dict[str, str], path: str, request_: Message
) -> None:
    """Nobody and an ordinary user are refused before anything happens."""
    before = member.store.revision
    assert refusal(member, path, request_, None) == errors.USER_EMPTY
    assert refusal(member, path, request_, tokens["u"]) == errors.PERMISSION_DENIED
    assert member.store.revision == before
    assert not member.changes
    assert not member.transfers


@pytest.mark.parametrize(("path", "request_"), NEED_A_USER)
def test_calls_for_any_user(
    member: FakeMember, tokens: dict[str, str], path: str, request_: Message
) -> None:
    """Any user may, nobody and an unknown token may not."""
    assert refusal(member, path, request_, None) == errors.USER_EMPTY
    assert refusal(member, path, request_, "x.1") == errors.INVALID_AUTH_TOKEN
    assert refusal(member, path, request_, tokens["u"]) is None


@pytest.mark.parametrize("path", ["UserGet", "RoleGet"])
def test_own_and_foreign(member: FakeMember, tokens: dict[str, str], path: str) -> None:
    """A user sees itself and its role, and neither root nor other roles."""
    if path == "UserGet":
        own: Message = rpc.AuthUserGetRequest(name="u")
        foreign: Message = rpc.AuthUserGetRequest(name="root")
    else:
        own, foreign = (
            rpc.AuthRoleGetRequest(role="a"),
            rpc.AuthRoleGetRequest(role="b"),
        )
    assert refusal(member, f"Auth/{path}", own, tokens["u"]) is None
    denied = refusal(member, f"Auth/{path}", foreign, tokens["u"])
    assert denied == errors.PERMISSION_DENIED


def test_a_lease_is_bound_by_its_keys(
    member: FakeMember, tokens: dict[str, str]
) -> None:
    """Who may not write a key of a lease may neither join nor end nor see it."""
    do(member, "Lease/LeaseGrant", rpc.LeaseGrantRequest(TTL=60, ID=7), tokens["u"])
    own = rpc.PutRequest(key=b"a", lease=7)
    foreign = rpc.PutRequest(key=b"z", lease=7)
    nested = rpc.TxnRequest()
    inner = nested.success.add().request_txn.failure.add()
    inner.request_put.CopyFrom(own)
    revoke = rpc.LeaseRevokeRequest(ID=7)
    ttl = rpc.LeaseTimeToLiveRequest(ID=7, keys=True)
    user = tokens["u"]

    assert refusal(member, "KV/Put", own, user) is None
    assert refusal(member, "KV/Txn", nested, user) is None
    assert refusal(member, "Lease/LeaseTimeToLive", ttl, user) is None
    assert refusal(member, "KV/Put", foreign, tokens["root"]) is None

    denied = errors.PERMISSION_DENIED
    assert refusal(member, "KV/Put", own, user) == denied
    assert refusal(member, "KV/Txn", nested, user) == denied
    assert refusal(member, "Lease/LeaseTimeToLive", ttl, user) == denied
    leases = rpc.LeaseLeasesRequest()
    assert refusal(member, "Lease/LeaseLeases", leases, user) == denied
    assert refusal(member, "Lease/LeaseRevoke", revoke, user) == denied
    assert refusal(member, "Lease/LeaseRevoke", revoke, tokens["root"]) is None
