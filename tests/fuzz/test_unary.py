"""Every method that takes one request, with fields of every value."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from revstore.proto import rpc_pb2 as rpc
from tests.fuzz.runs import run
from tests.fuzz.target import Rpc, Target, methods
from tests.fuzz.wire import KEYS, length_field, nested_txn, number_field, requests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

CLEAN_EVERY = 60
NOSPACE, CORRUPT = rpc.NOSPACE, rpc.CORRUPT


def calls_of(*services: str) -> st.SearchStrategy[tuple[Rpc, bytes]]:
    """A method of the services and a request for it."""
    return st.one_of(
        [
            st.tuples(st.just(method), requests(method.descriptor))
            for method in methods(*services)
        ]
    )


_puts = [length_field(2, length_field(1, key) + length_field(2, b"v")) for key in KEYS]
_txns = st.builds(
    nested_txn, st.integers(1, 130), st.sampled_from([b"", *_puts]), st.integers(2, 3)
)


def test_key_value(target: Target, long_run: bool) -> None:
    """KV: no request kills, nothing refused changes anything, with alarms and without."""
    strategy = st.tuples(
        calls_of("KV"), st.sampled_from((*[0] * 12, int(NOSPACE), int(CORRUPT)))
    )

    def body(drawn: tuple[tuple[Rpc, bytes], int]) -> None:
        (method, raw), alarm = drawn
        if alarm:
            target.alarm(rpc.AlarmRequest.ACTIVATE, alarm)
        target.fire(method, raw)
        if alarm:
            target.disarm()
        if target.calls % CLEAN_EVERY == 0:
            target.clean()

    run("key_value", 1, 500, strategy, body, long_run)
    assert target.calls // 20 < target.failures < target.calls


def test_deep_transactions(target: Target, long_run: bool) -> None:
    """Transactions nested to any depth are done or refused, never half done."""
    txn = next(one for one in methods("KV") if one.path.endswith("/Txn"))

    def body(raw: bytes) -> None:
        target.fire(txn, raw)

    run("deep_transactions", 2, 60, _txns, body, long_run)
    assert 0 < target.failures < target.calls


def test_lease_maintenance_and_cluster(target: Target, long_run: bool) -> None:
    """Leases, maintenance, membership, health: the same, whatever the fields say."""
    strategy = calls_of("Lease", "Maintenance", "Cluster", "Health")

    def body(drawn: tuple[Rpc, bytes]) -> None:
        target.fire(*drawn)
        target.disarm()
        if target.calls % CLEAN_EVERY == 0:
            target.clean()

    run("lease_maintenance", 3, 400, strategy, body, long_run)
    assert target.calls // 20 < target.failures < target.calls


ADMIN, PASSWORD = "admin-of-the-test", "p"


class AuthFire:
    """Requests of several users to a server whose users and roles they change.

    A user of the role root that no request names keeps the way in open.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.on = False
        self.tokens = {"": ""}
        user = rpc.AuthUserAddRequest(name=ADMIN, password=PASSWORD)
        self.ask("UserAdd", user, rpc.AuthUserAddResponse)

    def ask(self, name: str, request: object, kind: type[object]) -> object:
        """A call of the service that must succeed. Raises: AssertionError."""
        return self.target.ask(f"/etcdserverpb.Auth/{name}", request, kind)  # type: ignore[arg-type]  # any of the messages

    def fire(self, method: Rpc, raw: bytes, who: str) -> None:
        """One request of one user, and everything back under control."""
        target = self.target
        self.keep_way_in()
        token = target.token if who == "admin" else self.tokens.get(who, "")
        answer = target.call(method.path, raw, token)
        target.check(method, raw, answer)
        if answer.ok and method.path.endswith("/AuthEnable"):
            self.enabled()
        elif answer.ok and method.path.endswith("/AuthDisable"):
            self.on, target.token = False, ""
        elif answer.ok and method.path.endswith("/Authenticate"):
            found = rpc.AuthenticateResponse.FromString(answer.messages[0])
            self.tokens["user"] = found.token

    def enabled(self) -> None:
        """Auth is on: look at the state as the administrator from now on."""
        request = rpc.AuthenticateRequest(name=ADMIN, password=PASSWORD)
        path = "/etcdserverpb.Auth/Authenticate"
        answer = self.target.call(path, request.SerializeToString())
        assert answer.ok, answer
        found = rpc.AuthenticateResponse.FromString(answer.messages[0])
        self.on, self.target.token = True, found.token

    def keep_way_in(self) -> None:
        """While auth is off, see to it that the administrator is one."""
        if self.on:
            return
        roles = self.ask(
            "RoleList", rpc.AuthRoleListRequest(), rpc.AuthRoleListResponse
        )
        assert isinstance(roles, rpc.AuthRoleListResponse)
        if "root" not in roles.roles:
            role = rpc.AuthRoleAddRequest(name="root")
            self.ask("RoleAdd", role, rpc.AuthRoleAddResponse)
        # Else auth is hardly ever enabled by what is drawn.
        root = rpc.AuthUserAddRequest(name="root", password=PASSWORD)
        self.target.call("/etcdserverpb.Auth/UserAdd", root.SerializeToString())
        for name in (ADMIN, "root"):
            grant = rpc.AuthUserGrantRoleRequest(user=name, role="root")
            raw = grant.SerializeToString()
            self.target.call("/etcdserverpb.Auth/UserGrantRole", raw)


def test_auth(target: Target, long_run: bool) -> None:
    """Users, roles and permissions, auth on and off, by anybody: the same."""
    fire = AuthFire(target)
    strategy = st.tuples(
        st.one_of(calls_of("Auth"), calls_of("Auth"), calls_of("KV", "Lease")),
        st.sampled_from(("admin", "admin", "user", "")),
    )
    was_on = 0

    def body(drawn: tuple[tuple[Rpc, bytes], str]) -> None:
        nonlocal was_on
        (method, raw), who = drawn
        fire.keep_way_in()
        before = target.facts()
        fails = target.failures
        fire.fire(method, raw, who)
        if target.failures != fails:
            assert target.facts() == before, (method.path, raw, who)
        was_on += fire.on

    run("auth", 4, 400, strategy, body, long_run)
    assert was_on, "auth was never on"
    if fire.on:
        raw = rpc.AuthDisableRequest().SerializeToString()
        assert target.call("/etcdserverpb.Auth/AuthDisable", raw, target.token).ok
        target.token = ""


def test_numbers_no_enum_has(target: Target) -> None:
    """Unknown enum numbers are refused with a reason or ignored as in etcd."""
    found = {}
    for number in (-1, 6, 99, 2**31 - 1):
        for method in methods():
            for field in method.request.DESCRIPTOR.fields:
                if field.enum_type is not None:
                    raw = length_field(1, b"k") if field.number != 1 else b""
                    raw += number_field(field.number, number)
                    found[method.path, field.name] = target.fire(method, raw)
    assert len(found) >= 5
    # Who asks for the alarms of an unknown type gets those there are: none.
    taken = {name for name, answer in found.items() if answer.ok}
    assert taken == {("/etcdserverpb.Maintenance/Alarm", "alarm")}, found
