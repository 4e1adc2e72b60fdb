"""A server under fire: calls as bytes, and what must not change when one fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import msgspec
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from revstore.api import errors
from revstore.errors import ApiError
from revstore.proto import health_pb2
from revstore.proto import rpc_pb2 as rpc
from tests.support.server import ServerProcess, start_server

CALL_S = 60.0
"""An answer that takes longer is none; nothing here takes long by itself."""

MIN_TTL_MS = 50_000
"""Election timeout: no lease is shorter than 1.5 times this, so none ends meanwhile."""

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 1024**2),
    ("grpc.use_local_subchannel_pool", 1),
)

KNOWN = {
    (int(error.code), error.message)
    for error in vars(errors).values()
    if isinstance(error, ApiError)
}
"""Every error of the table; only those of them may be UNKNOWN."""

NEVER = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
}

MESSAGE_BYTES_MAX = 1_572_864 + 524_288
"""What the transport takes."""

MALFORMED = "revstore: malformed request: "
PREFIXES = ("etcdserver: ", "revstore: ", "grpc: ", "RangeStream ", "unknown service")


class Answer(msgspec.Struct, frozen=True):
    """What a call came to."""

    code: grpc.StatusCode
    text: str
    messages: Sequence[bytes] = ()

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.code is grpc.StatusCode.OK


class Going(msgspec.Struct, frozen=True):
    """A call that has begun."""

    call: Any
    stream: bool


class Rpc(msgspec.Struct, frozen=True):
    """One method of the API."""

    path: str
    descriptor: Descriptor
    """Of the request."""
    request: type[Message]
    response: type[Message]
    server_stream: bool

    def parses(self, raw: bytes) -> bool:
        """Whether bytes are a request of this method."""
        return parses(self.request, raw)


def parses(kind: type[Message], raw: bytes) -> bool:
    """Whether bytes are a message of the kind."""
    try:
        kind.FromString(raw)
    except DecodeError:
        return False
    return True


def _rpc(method: MethodDescriptor) -> Rpc:
    return Rpc(
        path="/" + "/".join(method.full_name.rsplit(".", 1)),
        descriptor=method.input_type,
        request=GetMessageClass(method.input_type),
        response=GetMessageClass(method.output_type),
        server_stream=method.server_streaming,
    )


def methods(*services: str) -> list[Rpc]:
    """The methods of services that take one request; all services if none is named."""
    files = (rpc.DESCRIPTOR, health_pb2.DESCRIPTOR)
    return [
        _rpc(method)
        for file in files
        for service in file.services_by_name.values()
        if not services or service.name in services
        for method in service.methods
        if not method.client_streaming and method.full_name != HEALTH_WATCH
    ]


HEALTH_WATCH = "grpc.health.v1.Health.Watch"
"""Never ends by itself."""


class Target:
    """A channel to a server, with the checks that hold for every answer."""

    def __init__(self, server: ServerProcess, data_dir: Path) -> None:
        self.server = server
        self.data_dir = data_dir
        self.calls = 0
        self.failures = 0
        self.token = ""
        """Goes with the calls that look at the state."""
        self._known: dict[str, bytes] | None = None
        """The facts, as long as nothing was asked since."""
        self._connect()

    def _connect(self) -> None:
        self.channel = grpc.insecure_channel(self.server.address, options=OPTIONS)

    def close(self) -> None:
        """End the connection."""
        self.channel.close()

    def start_call(self, path: str, raw: bytes, token: str = "") -> Going:
        """A call going on; ``answer`` waits for it."""
        how: Any = {
            "timeout": CALL_S,
            "metadata": (("token", token),) if token else (),
            "wait_for_ready": True,
        }
        channel: Any = self.channel
        raw = bytes(raw)
        if path in SERVER_STREAMS:
            return Going(channel.unary_stream(path)(raw, **how), stream=True)
        return Going(channel.unary_unary(path).future(raw, **how), stream=False)

    def answer(self, going: Going) -> Answer:
        """What a call came to."""
        messages = []
        call = going.call
        try:
            if going.stream:
                messages.extend(call)
            else:
                messages.append(call.result())
        except grpc.RpcError:
            return Answer(call.code(), call.details() or "", messages)
        return Answer(grpc.StatusCode.OK, "", messages)

    def call(self, path: str, raw: bytes, token: str = "") -> Answer:
        """Make one call."""
        return self.answer(self.start_call(path, raw, token))

    def ask(self, path: str, request: Message, kind: type[Any]) -> Any:
        """A call that must succeed. Raises: AssertionError."""
        self._known = None
        answer = self.call(path, request.SerializeToString(), self.token)
        assert answer.ok, (path, request, answer)
        return kind.FromString(answer.messages[0])

    def facts(self) -> dict[str, bytes]:
        """Everything that a refused request must leave alone."""
        calls = {
            path: self.start_call(path, request.SerializeToString(), self.token)
            for path, request in FACTS.items()
        }
        found = {}
        for path, call in calls.items():
            answer = self.answer(call)
            assert answer.ok, (path, answer)
            found[path] = _comparable(path, answer.messages[0])
        return found

    def check(self, method: Rpc, raw: bytes, answer: Answer) -> None:
        """Insist that an answer is one that a client can live with.

        Raises: AssertionError.
        """
        self.calls += 1
        self.failures += not answer.ok
        shown = (method.path, raw[:200], answer)
        assert self.server.returncode is None, (shown, self.server.run_log_text[-4000:])
        if answer.ok:
            for message in answer.messages:
                method.response.FromString(message)
            assert answer.messages or method.server_stream, shown
            assert method.parses(raw), shown
            return
        known = (answer.code.value[0], answer.text) in KNOWN
        assert known or answer.code not in NEVER, shown
        assert known or answer.text.startswith(PREFIXES), shown
        if len(raw) > MESSAGE_BYTES_MAX:
            assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED, shown
        else:
            assert method.parses(raw) != answer.text.startswith(MALFORMED), shown

    def fire(self, method: Rpc, raw: bytes, token: str = "") -> Answer:
        """One request with all checks. Raises: AssertionError."""
        before = self._known or self.facts()
        answer = self.call(method.path, raw, token)
        self._known = None
        self.check(method, raw, answer)
        if not answer.ok:
            self._known = after = self.facts()
            assert before == after, (method.path, raw[:200], answer, before, after)
        return answer

    def clean(self) -> None:
        """Take back what makes later calls dull: alarms, leases, keys."""
        self.disarm()
        found = self.ask(LEASES, rpc.LeaseLeasesRequest(), rpc.LeaseLeasesResponse)
        for lease in found.leases:
            request = rpc.LeaseRevokeRequest(ID=lease.ID)
            self.ask(REVOKE, request, rpc.LeaseRevokeResponse)
        everything = rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0")
        self.ask("/etcdserverpb.KV/DeleteRange", everything, rpc.DeleteRangeResponse)

    def disarm(self) -> None:
        """Take back all alarms."""
        found = self.ask(ALARM, rpc.AlarmRequest(), rpc.AlarmResponse)
        for one in found.alarms:
            self.alarm(rpc.AlarmRequest.DEACTIVATE, one.alarm, one.memberID)

    def alarm(self, action: int, kind: int, member_id: int = 0) -> None:
        """Raise or take back an alarm."""
        request = rpc.AlarmRequest(memberID=member_id)
        request.action = action  # type: ignore[assignment]  # stubs want the enum's type
        request.alarm = kind  # type: ignore[assignment]  # stubs want the enum's type
        self.ask(ALARM, request, rpc.AlarmResponse)

    def survive(self) -> None:
        """End it hard and insist that it comes back as it was. Raises: AssertionError."""
        self.no_complaints()
        before = self.facts()
        self.close()
        self.server.restart(kill=True)
        self._connect()
        assert self.facts() == before
        self.no_complaints()

    def no_complaints(self) -> None:
        """Insist that the server lives and logged no error. Raises: AssertionError."""
        text = self.server.run_log_text
        assert self.server.returncode is None, text[-4000:]
        bad = [
            line
            for line in text.splitlines()
            if "Traceback" in line or '"level":"error"' in line
        ]
        assert not bad, bad[:5]

    def memory_bytes(self) -> int:
        """The server's anonymous memory."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        line = next(one for one in status.splitlines() if one.startswith("RssAnon"))
        return int(line.split()[1]) * 1024


ALARM = "/etcdserverpb.Maintenance/Alarm"
LEASES = "/etcdserverpb.Lease/LeaseLeases"
REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
STATUS = "/etcdserverpb.Maintenance/Status"
HASH_KV = "/etcdserverpb.Maintenance/HashKV"

FACTS: dict[str, Message] = {
    HASH_KV: rpc.HashKVRequest(),
    LEASES: rpc.LeaseLeasesRequest(),
    ALARM: rpc.AlarmRequest(),
    STATUS: rpc.StatusRequest(),
    "/etcdserverpb.Cluster/MemberList": rpc.MemberListRequest(),
    "/etcdserverpb.Auth/AuthStatus": rpc.AuthStatusRequest(),
    "/etcdserverpb.Auth/UserList": rpc.AuthUserListRequest(),
    "/etcdserverpb.Auth/RoleList": rpc.AuthRoleListRequest(),
}


def _comparable(path: str, raw: bytes) -> bytes:
    """An answer without what may change at any time."""
    if path == STATUS:
        status = rpc.StatusResponse.FromString(raw)
        return status.downgradeInfo.SerializeToString()
    if path == LEASES:
        leases = rpc.LeaseLeasesResponse.FromString(raw)
        return repr(sorted(lease.ID for lease in leases.leases)).encode()
    if path == HASH_KV:
        found = rpc.HashKVResponse.FromString(raw)
        found.header.raft_term = 0
        return found.SerializeToString()
    kind: Any = RESPONSES[path]
    answer = kind.FromString(raw)
    answer.header.raft_term = 0
    return bytes(answer.SerializeToString(deterministic=True))


RESPONSES = {method.path: method.response for method in methods()}
SERVER_STREAMS = {method.path for method in methods() if method.server_stream}


@contextmanager
def under_fire(folder: Path, **flags: object) -> Iterator[Target]:
    """A fresh server on LMDB with its target."""
    data_dir = folder / "data"
    options: dict[str, Any] = {
        "election_timeout": MIN_TTL_MS,
        "heartbeat_interval": 1000,
        "bcrypt_cost": 4,
        **flags,
    }
    with start_server("lmdb", data_dir, **options) as server:
        target = Target(server, data_dir)
        try:
            yield target
        finally:
            target.close()
