"""The service etcdserverpb.Auth: users, roles, permissions and log-in.

Rules of this file:

1. A password goes from the request to the hash and nowhere else: not into the log of
   entries, not into a log line, not into an error.
2. Hashing and verifying run off the loop, so what was true before may not be after:
   the auth revision that a password was verified at travels with the entry, which is
   refused when it is applied if anything changed (and tried again here).
3. Who may do what is decided where the entry is applied. The checks here only spare
   work for those who will be refused, and never refuse on stale state: a refusal is
   confirmed behind a read barrier.
4. The five questions (status, get and list) are reads behind a barrier; etcd sends them
   through the log, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from revstore.api import errors
from revstore.api.replica import Done, Finished, Replica, Tag
from revstore.auth import passwords
from revstore.auth.checks import AUTH_STATUS
from revstore.auth.hashing import HashQueue, failure_of
from revstore.auth.info import AuthInfo
from revstore.auth.store import AUTH_APPLY, AuthStore, PasswordCheck
from revstore.auth.tokens import looks_simple, token_of
from revstore.errors import ApiError
from revstore.interfaces.transport import Call, Method, MethodKind, UnaryFunction
from revstore.proto import raft_internal_pb2, rpc_pb2
from revstore.types import ApplyResult

SERVICE = "/etcdserverpb.Auth/"

LOGIN_ATTEMPTS_MAX = 16
"""How often a log-in is tried again because users or roles changed meanwhile."""

PASSWORD_TOO_LONG = ApiError(
    errors.Code.INVALID_ARGUMENT,
    f"revstore: password is longer than {passwords.PASSWORD_BYTES_MAX} bytes, "
    "use a shorter one",
)

PasswordRequest = rpc_pb2.AuthUserAddRequest | rpc_pb2.AuthUserChangePasswordRequest


class AuthMember(Protocol):
    """What this service needs of a member; see ``revstore.api.replica.Replica``."""

    @property
    def auth(self) -> AuthStore: ...

    def propose(
        self,
        tag: int,
        payload: bytes,
        request: Message,
        done: Done,
        info: AuthInfo | None = None,
    ) -> None: ...

    def read(self, done: Finished) -> None: ...

    def authenticate(self, metadata: Mapping[str, str]) -> AuthInfo | None: ...

    def header(self, revision: int = 0) -> bytes: ...

    def run_in_thread(
        self, work: Callable[[], Any], done: Callable[[Any], None]
    ) -> None:
        """Run blocking work elsewhere; ``done`` gets its result or exception, on the
        loop. A shell without a loop may do it inline. Raises: nothing."""
        ...


def methods(replica: Replica) -> list[Method]:
    """The service's entries in the service table."""
    service = AuthService(cast("AuthMember", replica))
    return [
        Method(SERVICE + name, MethodKind.UNARY, unary=function)
        for name, function in service.functions().items()
    ]


class AuthService:
    """The functions behind the service's methods."""

    def __init__(self, member: AuthMember) -> None:
        self._member = member
        self._hashes = HashQueue(member.run_in_thread)

    def functions(self) -> dict[str, UnaryFunction]:
        """All methods by name."""
        return {
            "AuthEnable": self._change(Tag.AUTH_ENABLE, rpc_pb2.AuthEnableRequest),
            "AuthDisable": self._change(Tag.AUTH_DISABLE, rpc_pb2.AuthDisableRequest),
            "AuthStatus": self._question(AUTH_STATUS, rpc_pb2.AuthStatusRequest),
            "Authenticate": self.authenticate,
            "UserAdd": self.user_add,
            "UserGet": self._question(Tag.AUTH_USER_GET, rpc_pb2.AuthUserGetRequest),
            "UserList": self._question(Tag.AUTH_USER_LIST, rpc_pb2.AuthUserListRequest),
            "UserDelete": self._change(
                Tag.AUTH_USER_DELETE, rpc_pb2.AuthUserDeleteRequest
            ),
            "UserChangePassword": self.user_change_password,
            "UserGrantRole": self._change(
                Tag.AUTH_USER_GRANT_ROLE, rpc_pb2.AuthUserGrantRoleRequest
            ),
            "UserRevokeRole": self._change(
                Tag.AUTH_USER_REVOKE_ROLE, rpc_pb2.AuthUserRevokeRoleRequest
            ),
            "RoleAdd": self._change(Tag.AUTH_ROLE_ADD, rpc_pb2.AuthRoleAddRequest),
            "RoleGet": self._question(Tag.AUTH_ROLE_GET, rpc_pb2.AuthRoleGetRequest),
            "RoleList": self._question(Tag.AUTH_ROLE_LIST, rpc_pb2.AuthRoleListRequest),
            "RoleDelete": self._change(
                Tag.AUTH_ROLE_DELETE, rpc_pb2.AuthRoleDeleteRequest
            ),
            "RoleGrantPermission": self._change(
                Tag.AUTH_ROLE_GRANT_PERMISSION, rpc_pb2.AuthRoleGrantPermissionRequest
            ),
            "RoleRevokePermission": self._change(
                Tag.AUTH_ROLE_REVOKE_PERMISSION, rpc_pb2.AuthRoleRevokePermissionRequest
            ),
        }

    def _change(self, tag: int, kind: type[Message]) -> UnaryFunction:
        """A method whose request is proposed as it came."""

        def change(call: Call, message: bytes) -> None:
            request = _parse(call, kind, message)
            if request is None:
                return

            def identified(found: AuthInfo | ApiError | None) -> None:
                if isinstance(found, ApiError):
                    call.fail(found)
                else:
                    self._propose(call, tag, request, found)

            identify(self._member, call.metadata(), identified)

        return change

    def _question(self, tag: int, kind: type[Message]) -> UnaryFunction:
        """A method that is answered from the state behind a read barrier."""

        def question(call: Call, message: bytes) -> None:
            request = _parse(call, kind, message)
            if request is None:
                return

            def current(error: ApiError | None) -> None:
                if error is not None:
                    call.fail(error)
                    return
                auth = self._member.auth
                try:
                    info = self._member.authenticate(call.metadata())
                    auth.check_apply(info, tag, request)
                    result = AUTH_APPLY[tag](auth, request)
                except ApiError as exc:
                    call.fail(exc)
                    return
                self._reply(call, result)

            self._member.read(current)

        return question

    def _reply(self, call: Call, result: ApplyResult) -> None:
        call.reply(self._member.header(result.revision) + result.body)

    def _propose(
        self, call: Call, tag: int, request: Message, info: AuthInfo | None
    ) -> None:
        def done(outcome: ApplyResult | ApiError) -> None:
            if isinstance(outcome, ApiError):
                call.fail(outcome)
            else:
                self._reply(call, outcome)

        payload = request.SerializeToString()
        self._member.propose(tag, payload, request, done, info)

    # ----- passwords set

    def user_add(self, call: Call, message: bytes) -> None:
        """Make a user; the password is hashed before it is proposed."""
        request = _parse(call, rpc_pb2.AuthUserAddRequest, message)
        if request is None:
            return
        if request.options.no_password:
            request.ClearField("password")
            request.ClearField("hashedPassword")
            self._as_admin(
                call, lambda info: self._propose(call, Tag.AUTH_USER_ADD, request, info)
            )
        else:
            self._set_password(call, Tag.AUTH_USER_ADD, request)

    def user_change_password(self, call: Call, message: bytes) -> None:
        """Give a user another password; it is hashed before it is proposed."""
        request = _parse(call, rpc_pb2.AuthUserChangePasswordRequest, message)
        if request is not None:
            self._set_password(call, Tag.AUTH_USER_CHANGE_PASSWORD, request)

    def _set_password(self, call: Call, tag: int, request: PasswordRequest) -> None:
        """Propose with a hash in the password's place.

        A client may send a hash that it made itself, and no password. Whoever was
        allowed before the hashing is checked again when the entry is applied.
        """
        password = request.password
        request.ClearField("password")
        if not password and request.hashedPassword:
            self._as_admin(call, lambda info: self._propose(call, tag, request, info))
            return
        if len(password.encode()) > passwords.PASSWORD_BYTES_MAX:
            call.fail(PASSWORD_TOO_LONG)
            return
        cost = self._member.auth.bcrypt_cost

        def admitted(info: AuthInfo | None) -> None:
            def hashed(result: Any) -> None:
                failure = failure_of(result)
                if failure is not None:
                    call.fail(failure)
                    return
                request.hashedPassword = passwords.to_wire(result)
                self._propose(call, tag, request, info)

            self._hash(call, lambda: passwords.hash_password(password, cost), hashed)

        self._as_admin(call, admitted)

    def _as_admin(
        self, call: Call, admitted: Callable[[AuthInfo | None], None]
    ) -> None:
        """Go on if the caller is root or auth is off; a refusal is confirmed first."""

        def ask() -> AuthInfo | ApiError | None:
            try:
                info = self._member.authenticate(call.metadata())
                self._member.auth.check_admin(info)
            except ApiError as exc:
                return exc
            return info

        def confirmed(error: ApiError | None) -> None:
            found = error if error is not None else ask()
            if isinstance(found, ApiError):
                call.fail(found)
            else:
                admitted(found)

        found = ask()
        if isinstance(found, ApiError):
            self._member.read(confirmed)
        else:
            admitted(found)

    def _hash(
        self, call: Call, work: Callable[[], Any], done: Callable[[Any], None]
    ) -> None:
        def unless_cancelled(result: Any) -> None:
            if not call.cancelled():
                done(result)

        try:
            self._hashes.submit(
                lambda: None if call.cancelled() else work(), unless_cancelled
            )
        except ApiError as exc:
            call.fail(exc)

    # ----- log-in

    def authenticate(self, call: Call, message: bytes) -> None:
        """Verify a password and answer with a token."""
        request = _parse(call, rpc_pb2.AuthenticateRequest, message)
        if request is None:
            return
        login = _Login(self._member, call, request, self._hash)

        def current(error: ApiError | None) -> None:
            if error is not None:
                call.fail(error)
            else:
                login.start()

        self._member.read(current)


class _Login:
    """One log-in on its way; see rule 2 of the module."""

    def __init__(
        self,
        member: AuthMember,
        call: Call,
        request: rpc_pb2.AuthenticateRequest,
        hash_off_loop: Callable[[Call, Callable[[], Any], Callable[[Any], None]], None],
    ) -> None:
        self._member = member
        self._call = call
        self._name = request.name
        self._password = request.password
        self._hash = hash_off_loop
        self._verified: bytes | None = None
        """The hash that the password is known to belong to."""
        self._attempts = 0

    def start(self) -> None:
        """Compare with the state of this moment, as often as it changes."""
        self._attempts += 1
        if self._attempts > LOGIN_ATTEMPTS_MAX:
            self._call.fail(errors.AUTH_OLD_REVISION)
            return
        try:
            check = self._member.auth.password_check(self._name)
        except ApiError as exc:
            self._call.fail(exc)
            return
        if check.hashed is not None and check.hashed == self._verified:
            self._propose(check)
        else:
            self._verify(check)

    def _verify(self, check: PasswordCheck) -> None:
        """An unknown user takes as long as a wrong password."""
        hashed = check.hashed
        if hashed is None:
            hashed = passwords.decoy_hash(self._member.auth.bcrypt_cost)
        password = self._password

        def verified(result: Any) -> None:
            failure = failure_of(result)
            if failure is not None:
                self._call.fail(failure)
            elif result and check.hashed is not None:
                self._verified = check.hashed
                self.start()
            else:
                self._call.fail(errors.AUTH_FAILED)

        self._hash(
            self._call, lambda: passwords.verify_password(password, hashed), verified
        )

    def _propose(self, check: PasswordCheck) -> None:
        """The entry carries the revision of the check, and is refused at another."""
        request = raft_internal_pb2.InternalAuthenticateRequest(
            name=self._name, simple_token=self._member.auth.tokens.make_prefix()
        )

        def done(outcome: ApplyResult | ApiError) -> None:
            if outcome == errors.AUTH_OLD_REVISION:
                self.start()
            elif isinstance(outcome, ApiError):
                self._call.fail(outcome)
            else:
                header = self._member.header(outcome.revision)
                self._call.reply(header + outcome.body)

        self._member.propose(
            Tag.AUTHENTICATE,
            request.SerializeToString(),
            request,
            done,
            AuthInfo(self._name, check.revision),
        )


class Identifies(Protocol):
    """What ``identify`` needs of a member."""

    def authenticate(self, metadata: Mapping[str, str]) -> AuthInfo | None: ...

    def read(self, done: Finished) -> None: ...


def identify(
    member: Identifies,
    metadata: Mapping[str, str],
    done: Callable[[AuthInfo | ApiError | None], None],
) -> None:
    """Who a client is, also if this member is behind the one that made the token.

    ``done`` gets the identity, None for nobody, or the refusal; inline if it can be. An
    unknown token is looked up again behind a read barrier, because the entry that made
    it may not have been applied here yet. Raises: nothing.
    """

    def ask() -> AuthInfo | ApiError | None:
        try:
            return member.authenticate(metadata)
        except ApiError as exc:
            return exc

    def current(error: ApiError | None) -> None:
        done(error if error is not None else ask())

    found = ask()
    token = token_of(metadata)
    may_be_new = token is not None and looks_simple(token)
    if found == errors.INVALID_AUTH_TOKEN and may_be_new:
        member.read(current)
    else:
        done(found)


MessageT = TypeVar("MessageT", bound=Message)


def _parse(call: Call, kind: type[MessageT], message: bytes) -> MessageT | None:
    """The request, or None after the call was failed."""
    try:
        return kind.FromString(message)
    except DecodeError as exc:
        call.fail(errors.bad_request(f"{exc}"))
        return None
