"""The answers of a real etcd 3.4.23 to one long session, line by line.

The transcript is not part of this repository; the test skips where it is absent. Where
current etcd patches answer otherwise, ``DEVIATIONS`` says what and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from google.protobuf.message import Message

from revstore.api import errors
from revstore.api.errors import Code
from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as rpc
from revstore.proto.auth_pb2 import Permission, UserAddOptions

if TYPE_CHECKING:
    from tests.auth.conftest import FakeMember

TRANSCRIPT = (
    Path(__file__).parents[3] / "shared" / "etcd" / "oracle-3.4.23" / "auth.txt"
)

INVALID_MGMT = "ERR | INVALID_ARGUMENT | etcdserver: invalid auth management"
NOBODY = "ERR | INVALID_ARGUMENT | etcdserver: user name is empty"
DENIED = "ERR | PERMISSION_DENIED | etcdserver: permission denied"
TWO_PERMS = (
    'OK | header { revision: %d raft_term: 2 } perm { key: "a" range_end: "c" } '
    'perm { permType: READWRITE key: "b" }'
)
WATCH_DENIED = (
    "OK | header { revision: 5 raft_term: 2 } watch_id: -1 created: true canceled: true "
    'cancel_reason: "rpc error: code = PermissionDenied desc = '
    'etcdserver: permission denied"'
)

DEVIATIONS: dict[str, tuple[str, str]] = {
    "perm empty range": (INVALID_MGMT, "a range without room is refused (#15619)"),
    "roleget": (TWO_PERMS % 1, "so the role does not have it"),
    "roleget own": (TWO_PERMS % 4, "so the role does not have it"),
    "status notoken": (NOBODY, "needs a user since CVE-2026-33413"),
    "alarmget notoken": (NOBODY, "needs a user since CVE-2026-33413"),
    "members notoken": (NOBODY, "needs a user since CVE-2026-33413"),
    "hashkv notoken": (NOBODY, "the error is mapped in current patches"),
    "defrag notoken": (NOBODY, "the error is mapped in current patches"),
    "compact u": (DENIED, "compaction needs root from 3.6 on"),
    "ttl keys u": (DENIED, "key names need read permission (#15814)"),
    "leases notoken": (NOBODY, "needs read on all keys of all leases from 3.6 on"),
    "watch u from a": (
        WATCH_DENIED,
        "an open end must be covered (GHSA-xg4h-6gfc-h4m8)",
    ),
}
"""Line -> what revstore answers, and why."""

GO_CODES = {
    Code.INVALID_ARGUMENT: "InvalidArgument",
    Code.PERMISSION_DENIED: "PermissionDenied",
    Code.UNAUTHENTICATED: "Unauthenticated",
}


class Row(NamedTuple):
    """A key in the small store."""

    created: int
    modified: int
    version: int


class Session:
    """The probe's session: the real Auth service beside a very small key-value store."""

    def __init__(self, member: FakeMember) -> None:
        self.member = member
        self.auth = member.auth
        self.revision = 1
        self.rows: dict[bytes, Row] = {}
        self.lines: list[tuple[str, str]] = []
        member.header = self.header  # type: ignore[method-assign]  # the store's own

    def header(self, revision: int = 0) -> bytes:
        raw = rpc.ResponseHeader(revision=self.revision, raft_term=2)
        body = raw.SerializeToString()
        return b"\x0a" + bytes([len(body)]) + body

    def note(self, label: str, outcome: Message | ApiError) -> None:
        """Keep one line in the transcript's form, without ids."""
        if isinstance(outcome, ApiError):
            text = f"ERR | {Code(outcome.code).name} | {outcome.message}"
        else:
            text = f"OK | {' '.join(str(outcome).split())}"
        self.lines.append((label, plain(text)))

    def call(
        self, label: str, name: str, request: Message, token: str | None = None
    ) -> Any:
        """A call of the Auth service."""
        kind = getattr(rpc, RESPONSES.get(name, f"Auth{name}Response"))
        outcome = self.member.ask(name, request, kind, token)
        self.note(label, outcome)
        return outcome

    def other(
        self,
        label: str,
        check: Callable[[Any], None],
        body: Message,
        token: str | None = None,
    ) -> None:
        """A call of another service, reduced to its check and its answer."""
        try:
            metadata = {} if token is None else {"token": token}
            check(self.auth.authenticate(metadata))
        except ApiError as exc:
            self.note(label, exc)
            return
        self.note(
            label, type(body).FromString(self.header() + body.SerializeToString())
        )

    def put(self, label: str, request: rpc.PutRequest, token: str | None) -> None:
        """A put; the pair before it is in the answer if asked for."""

        def check(info: Any) -> None:
            self.auth.check_put(info, request)
            self.revision += 1

        body = rpc.PutResponse()
        old = self.rows.get(request.key)
        if request.prev_kv and old is not None:
            body.prev_kv.key = request.key
            body.prev_kv.create_revision = old.created
            body.prev_kv.mod_revision = old.modified
            body.prev_kv.version = old.version
        before = self.revision
        self.other(label, check, body, token)
        if self.revision > before:
            created = self.revision if old is None else old.created
            version = 1 if old is None else old.version + 1
            self.rows[request.key] = Row(created, self.revision, version)
            self.member.rows.leases.setdefault(request.lease, set()).add(request.key)

    def range(
        self, label: str, token: str | None, key: bytes, end: bytes = b""
    ) -> None:
        """A range of keys, none of which exists."""
        body = rpc.RangeResponse()
        self.other(
            label, lambda info: self.auth.check_range(info, key, end), body, token
        )

    def watch(
        self, label: str, token: str | None, key: bytes = b"a", end: bytes = b""
    ) -> None:
        """The first answer on a watch stream."""
        body = rpc.WatchResponse(created=True)
        try:
            metadata = {} if token is None else {"token": token}
            info = self.auth.authenticate(metadata)
            self.auth.check_range(info, key, end)
        except ApiError as exc:
            code = GO_CODES[Code(exc.code)]
            body.watch_id = -1
            body.canceled = True
            body.cancel_reason = f"rpc error: code = {code} desc = {exc.message}"
        self.other(label, lambda info: None, body, None)


RESPONSES = {
    "Authenticate": "AuthenticateResponse",
    "AuthEnable": "AuthEnableResponse",
    "AuthDisable": "AuthDisableResponse",
}


def plain(text: str) -> str:
    """Without what differs from run to run: ids, tokens, sizes of the log."""
    text = re.sub(r'token: "[A-Za-z]{16}\.\d+"', "token", text)
    return text.replace("CM ", "").strip()


def transcript() -> list[tuple[str, str]]:
    """(label, outcome) of each line."""
    found = []
    for line in TRANSCRIPT.read_text().splitlines():
        status, rest = line.split(maxsplit=1)
        label, _bar, text = rest.partition(" | ")
        label = label.removesuffix(" |")
        found.append((label, plain(f"{status} | {text}")))
    return found


def set_up(session: Session) -> None:
    """Users and roles, auth still off."""
    call = session.call
    call("useradd root", "UserAdd", rpc.AuthUserAddRequest(name="root", password="p"))
    call("enable norole", "AuthEnable", rpc.AuthEnableRequest())
    call("roleadd root", "RoleAdd", rpc.AuthRoleAddRequest(name="root"))
    for label, user, role in (
        ("grant", "root", "root"),
        ("grant dup", "root", "root"),
        ("grant norole", "root", "nope"),
        ("grant nouser", "nope", "root"),
    ):
        grant = rpc.AuthUserGrantRoleRequest(user=user, role=role)
        call(label, "UserGrantRole", grant)
    add_u = rpc.AuthUserAddRequest(name="u", password="p")
    call("useradd u", "UserAdd", add_u)
    call("useradd u dup", "UserAdd", add_u)
    options = UserAddOptions(no_password=True)
    bare = rpc.AuthUserAddRequest(name="np", options=options)
    call("useradd nopw", "UserAdd", bare)
    call("useradd emptypw", "UserAdd", rpc.AuthUserAddRequest(name="ep"))
    call("role ro", "RoleAdd", rpc.AuthRoleAddRequest(name="ro"))
    for label, role, perm in (
        ("perm", "ro", Permission(key=b"a", range_end=b"c")),
        ("perm rw", "ro", Permission(permType=Permission.READWRITE, key=b"b")),
        ("perm norole", "zz", Permission(permType=Permission.READWRITE, key=b"b")),
        (
            "perm empty range",
            "ro",
            Permission(permType=Permission.READWRITE, key=b"c", range_end=b"a"),
        ),
    ):
        give = rpc.AuthRoleGrantPermissionRequest(name=role, perm=perm)
        call(label, "RoleGrantPermission", give)
    call("roleget", "RoleGet", rpc.AuthRoleGetRequest(role="ro"))
    take = rpc.AuthRoleRevokePermissionRequest(role="ro", key=b"nn")
    call("revperm none", "RoleRevokePermission", take)
    grant = rpc.AuthUserGrantRoleRequest(user="u", role="ro")
    call("grant u", "UserGrantRole", grant)
    revoke = rpc.AuthUserRevokeRoleRequest(name="u", role="root")
    call("revoke notgranted", "UserRevokeRole", revoke)
    password = rpc.AuthUserChangePasswordRequest(name="zz", password="x")
    call("chpw nouser", "UserChangePassword", password)


def log_in(session: Session) -> tuple[str, str]:
    """Auth on, requests of nobody, log-ins; tokens of ``u`` and root."""
    call = session.call
    call("enable", "AuthEnable", rpc.AuthEnableRequest())
    call("enable2 (no token)", "AuthEnable", rpc.AuthEnableRequest())
    session.put("put notoken", rpc.PutRequest(key=b"a"), None)
    session.range("range notoken", None, b"a")
    session.range("range notoken ser", None, b"a")
    for label, name, password in (
        ("authn bad", "u", "bad"),
        ("authn nouser", "nouser", "bad"),
        ("authn nopw", "np", "x"),
        ("authn empty", "", ""),
    ):
        request = rpc.AuthenticateRequest(name=name, password=password)
        call(label, "Authenticate", request)
    request = rpc.AuthenticateRequest(name="u", password="p")
    user = call("authn u", "Authenticate", request).token
    return user, session.member.log_in("root", "p")


def use_keys(session: Session, user: str) -> None:
    """Keys within and beyond the permissions of ``u``."""
    auth = session.auth
    session.put("put u a", rpc.PutRequest(key=b"a"), user)
    session.put("put u b", rpc.PutRequest(key=b"b"), user)
    session.put("put u b prev", rpc.PutRequest(key=b"b", prev_kv=True), user)
    session.range("range u a", user, b"a")
    session.range("range u a..b", user, b"a", b"b")
    session.range("range u a..d", user, b"a", b"d")

    def delete(info: Any) -> None:
        auth.check_delete(info, rpc.DeleteRangeRequest(key=b"b"))
        session.revision += 1

    session.other("del u b", delete, rpc.DeleteRangeResponse(deleted=1), user)
    put_b = rpc.RequestOp(request_put=rpc.PutRequest(key=b"b"))
    get_zz = rpc.RequestOp(request_range=rpc.RangeRequest(key=b"zz"))
    txn = rpc.TxnRequest(success=[put_b, get_zz])
    body = rpc.TxnResponse()
    session.other("txn u", lambda info: auth.check_txn(info, txn), body, user)
    session.range("badtoken", "zzz.5", b"a")
    any_user, root = auth.check_authenticated, auth.check_admin
    session.other("status notoken", any_user, rpc.StatusResponse())
    session.other("alarmget notoken", any_user, rpc.AlarmResponse())
    session.other("members notoken", any_user, rpc.MemberListResponse())
    session.other("hashkv notoken", root, rpc.HashKVResponse())
    session.other("defrag notoken", root, rpc.DefragmentResponse())


def administer(session: Session, user: str, root: str) -> None:
    """What ``u`` may see, and what not even root may do."""
    call = session.call
    call("userlist u", "UserList", rpc.AuthUserListRequest(), user)
    call("userget self", "UserGet", rpc.AuthUserGetRequest(name="u"), user)
    call("userget root by u", "UserGet", rpc.AuthUserGetRequest(name="root"), user)
    call("roleget own", "RoleGet", rpc.AuthRoleGetRequest(role="ro"), user)
    call("roleget root by u", "RoleGet", rpc.AuthRoleGetRequest(role="root"), user)
    call("del root", "UserDelete", rpc.AuthUserDeleteRequest(name="root"), root)
    call("del rootrole", "RoleDelete", rpc.AuthRoleDeleteRequest(role="root"), root)
    revoke = rpc.AuthUserRevokeRoleRequest(name="root", role="root")
    call("revoke root from root", "UserRevokeRole", revoke, root)


def use_leases_and_watches(session: Session, user: str, root: str) -> None:
    """Compaction, leases and watches of ``u``."""
    auth = session.auth
    session.other("compact u", auth.check_admin, rpc.CompactionResponse(), user)
    session.member.rows.leases[9] = set()
    granted = rpc.LeaseGrantResponse(ID=9, TTL=60)
    session.other("grant lease u", auth.check_authenticated, granted, user)
    session.put("put root zz lease", rpc.PutRequest(key=b"zz", lease=9), root)

    def revoke(info: Any) -> None:
        auth.check_lease_revoke(info, 9)

    session.other("revoke lease u", revoke, rpc.LeaseRevokeResponse(), user)

    def ttl(info: Any) -> None:
        auth.check_lease_ttl(info, 9)

    session.other("ttl keys u", ttl, rpc.LeaseTimeToLiveResponse(), user)

    def leases(info: Any) -> None:
        auth.check_leases(info, [9])

    session.other("leases notoken", leases, rpc.LeaseLeasesResponse())
    session.watch("watch notoken", None)
    session.watch("watch u a", user)
    session.watch("watch u zz", user, b"zz")
    session.watch("watch u from a", user, b"a", b"\0")
    session.watch("watch badtoken", "q.1")


def change_password(session: Session, user: str, root: str) -> None:
    """A changed password takes the tokens with it."""
    request = rpc.AuthUserChangePasswordRequest(name="u", password="x")
    session.call("chpw u by u", "UserChangePassword", request, user)
    session.call("chpw u by root", "UserChangePassword", request, root)
    session.range("old token", user, b"a")
    session.call("disable", "AuthDisable", rpc.AuthDisableRequest(), root)


@pytest.mark.skipif(not TRANSCRIPT.exists(), reason="the transcript is not there")
def test_every_line_of_the_session(member: FakeMember) -> None:
    """Each answer is etcd's, but for the listed deviations."""
    session = Session(member)
    set_up(session)
    user, root = log_in(session)
    use_keys(session, user)
    administer(session, user, root)
    use_leases_and_watches(session, user, root)
    change_password(session, user, root)

    expected = transcript()
    wanted = [
        (label, DEVIATIONS[label][0] if label in DEVIATIONS else text)
        for label, text in expected
    ]
    assert session.lines == wanted
    assert set(DEVIATIONS) <= {label for label, _text in expected}
    needless = [
        label for label, text in expected if DEVIATIONS.get(label, "")[:1] == (text,)
    ]
    assert not needless, "these are no deviations"


def test_the_codes_of_refused_watches() -> None:
    """The table of Go's code names covers all that a check can raise."""
    refusals = (
        errors.USER_EMPTY,
        errors.PERMISSION_DENIED,
        errors.AUTH_OLD_REVISION,
        errors.INVALID_AUTH_TOKEN,
    )
    assert {Code(one.code) for one in refusals} == set(GO_CODES)
