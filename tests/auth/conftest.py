"""A member reduced to what authorisation needs: rows in memory, entries applied at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, TypeVar, cast

import pytest
from google.protobuf.message import Message

from revstore.api import auth as auth_api
from revstore.api.inprocess import invoke
from revstore.auth import AUTH_APPLY, AuthInfo, AuthStore
from revstore.errors import ApiError
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

COST = 4
ResponseT = TypeVar("ResponseT", bound=Message)


class ManualClock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


class FakeRows:
    """System rows and lease attachments."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, bytes], bytes] = {}
        self.leases: dict[int, set[bytes]] = {}
        self.applied_index = 0

    def system_get(self, keyspace: str, key: bytes) -> bytes | None:
        return self.rows.get((keyspace, key))

    def system_scan(
        self, keyspace: str, lo: bytes, hi: bytes
    ) -> list[tuple[bytes, bytes]]:
        return sorted(
            (key, value)
            for (space, key), value in self.rows.items()
            if space == keyspace and lo <= key < hi
        )

    def system_put(self, keyspace: str, key: bytes, value: bytes) -> None:
        self.rows[keyspace, key] = value

    def system_delete(self, keyspace: str, key: bytes) -> None:
        self.rows.pop((keyspace, key), None)

    def lease_keys(self, lease_id: int) -> Sequence[bytes]:
        return sorted(self.leases.get(lease_id, ()))


class Entry:
    """One proposal as it went into the log."""

    def __init__(self, tag: int, payload: bytes, info: AuthInfo | None) -> None:
        self.tag = tag
        self.payload = payload
        self.info = info


class FakeMember:
    """Applies what is proposed inline, or, while ``hold`` is set, when told to."""

    def __init__(self, seed: int = 1) -> None:
        self.rows = FakeRows()
        self.clock = ManualClock()
        self.auth = AuthStore(
            self.rows, clock=self.clock, random=Random(seed), bcrypt_cost=COST
        )
        self.log: list[Entry] = []
        self.reads = 0
        self.on_read: Callable[[], None] | None = None
        self.hold_threads = False
        self.threads: deque[Callable[[], None]] = deque()
        self.before_propose: Callable[[], None] | None = None
        table = auth_api.methods(cast("Any", self))
        self.table = {method.path: method for method in table}

    def authenticate(self, metadata: Mapping[str, str]) -> AuthInfo | None:
        return self.auth.authenticate(metadata)

    def read(self, done: Callable[[ApiError | None], None]) -> None:
        self.reads += 1
        if self.on_read is not None:
            self.on_read()
        done(None)

    def header(self, revision: int = 0) -> bytes:
        inner = rpc_pb2.ResponseHeader(revision=revision or 1, raft_term=2)
        raw = inner.SerializeToString()
        return b"\x0a" + bytes([len(raw)]) + raw

    def run_in_thread(
        self, work: Callable[[], Any], done: Callable[[Any], None]
    ) -> None:
        def run() -> None:
            try:
                result = work()
            except Exception as exc:
                result = exc
            done(result)

        if self.hold_threads:
            self.threads.append(run)
        else:
            run()

    def propose(
        self,
        tag: int,
        payload: bytes,
        request: Message,
        done: Callable[[ApplyResult | ApiError], None],
        info: AuthInfo | None = None,
    ) -> None:
        if self.before_propose is not None:
            hook, self.before_propose = self.before_propose, None
            hook()
        self.log.append(Entry(tag, payload, info))
        done(self.apply(tag, request, info))

    def apply(
        self, tag: int, request: Message, info: AuthInfo | None
    ) -> ApplyResult | ApiError:
        """What the dispatcher does with a committed entry."""
        try:
            self.auth.check_apply(info, tag, request)
            return AUTH_APPLY[tag](self.auth, request)
        except ApiError as exc:
            return exc
        finally:
            self.rows.applied_index += 1

    # ----- the client's side

    def ask(
        self,
        name: str,
        request: Message,
        kind: type[ResponseT],
        token: str | None = None,
    ) -> ResponseT | ApiError:
        """Call a method of the service; its answer or its error."""
        metadata = {} if token is None else {"token": token}
        call = invoke(
            self.table,
            auth_api.SERVICE + name,
            request.SerializeToString(),
            metadata,
        )
        outcome = call.outcome
        assert outcome is not None, f"{name} was not answered"
        return outcome if isinstance(outcome, ApiError) else kind.FromString(outcome)

    def do(self, name: str, request: Message, token: str | None = None) -> None:
        """Call a method that must succeed with a header."""
        found = self.ask(name, request, rpc_pb2.AuthEnableResponse, token)
        assert isinstance(found, Message), f"{name}: {found}"

    def add_user(
        self, name: str, password: str, *roles: str, token: str | None = None
    ) -> None:
        """A user with roles."""
        request = rpc_pb2.AuthUserAddRequest(name=name, password=password)
        self.do("UserAdd", request, token)
        for role in roles:
            grant = rpc_pb2.AuthUserGrantRoleRequest(user=name, role=role)
            self.do("UserGrantRole", grant, token)

    def add_role(
        self, name: str, *perms: tuple[int, bytes, bytes], token: str | None = None
    ) -> None:
        """A role with permissions (type, key, end)."""
        self.do("RoleAdd", rpc_pb2.AuthRoleAddRequest(name=name), token)
        for kind, key, end in perms:
            grant = rpc_pb2.AuthRoleGrantPermissionRequest(name=name)
            grant.perm.permType = cast("Any", kind)
            grant.perm.key = key
            grant.perm.range_end = end
            self.do("RoleGrantPermission", grant, token)

    def enable(self) -> str:
        """Root with password ``rp``, auth on; root's token."""
        self.add_user("root", "rp", "root")
        self.do("AuthEnable", rpc_pb2.AuthEnableRequest())
        return self.log_in("root", "rp")

    def log_in(self, name: str, password: str) -> str:
        """A token."""
        request = rpc_pb2.AuthenticateRequest(name=name, password=password)
        found = self.ask("Authenticate", request, rpc_pb2.AuthenticateResponse)
        assert not isinstance(found, ApiError), found
        return found.token

    def info(self, name: str) -> AuthInfo:
        """The identity of a user whose token is fresh."""
        return AuthInfo(name, self.auth.revision)


@pytest.fixture
def member() -> FakeMember:
    """A fresh member with auth off."""
    return FakeMember()


@pytest.fixture(scope="session")
def make_member() -> Callable[[], FakeMember]:
    """Makes more members."""
    return FakeMember
