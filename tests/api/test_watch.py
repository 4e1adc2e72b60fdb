"""The Watch service: a real etcd's answers, refusals, room and bad bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from google.protobuf.text_format import MessageToString

from revstore.api import errors
from revstore.api import watch as watch_api
from revstore.api.inprocess import DirectStream, open_stream
from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as r
from revstore.proto.auth_pb2 import Permission
from tests.api.member import FakeMember
from tests.api.test_auth import add_user, do, log_in


def make(
    key: bytes,
    end: bytes = b"",
    start: int = 0,
    *,
    watch_id: int = 0,
    prev_kv: bool = False,
    filters: Iterable[r.WatchCreateRequest.FilterType] = (),
) -> r.WatchRequest:
    """A create request."""
    return r.WatchRequest(
        create_request=r.WatchCreateRequest(
            key=key,
            range_end=end,
            start_revision=start,
            watch_id=watch_id,
            prev_kv=prev_kv,
            filters=filters,
        )
    )


def end(watch_id: int) -> r.WatchRequest:
    """A cancel request."""
    return r.WatchRequest(cancel_request=r.WatchCancelRequest(watch_id=watch_id))


PROGRESS = r.WatchRequest(progress_request=r.WatchProgressRequest())


def open_watch(
    member: FakeMember, metadata: Mapping[str, str] = {}, room: int = 64
) -> DirectStream:
    """A stream of the service; the hub's work is scheduled on the member."""
    member.hub.on_work = lambda: member.schedule(lambda: step(member))
    return open_stream(member.services, watch_api.WATCH, metadata, room)


def step(member: FakeMember) -> None:
    if member.hub.step():
        member.schedule(lambda: step(member))


def push(stream: DirectStream, *requests: r.WatchRequest) -> None:
    for request in requests:
        stream.push(request.SerializeToString())


def take(member: FakeMember, stream: DirectStream) -> list[r.WatchResponse]:
    """All responses so far."""
    member.run()
    return [r.WatchResponse.FromString(one) for one in stream.take_all()]


def texts(responses: Iterable[r.WatchResponse]) -> list[str]:
    """Responses as a transcript has them: CM is the cluster and the member."""
    lines = []
    for response in responses:
        header = response.header
        assert (header.cluster_id, header.member_id) == (0xC1, 0xA1)
        header.cluster_id = header.member_id = 0
        text = MessageToString(response, as_one_line=True)
        lines.append(text.replace("header { ", "header { CM ", 1))
    return lines


CREATED = "header { CM revision: 18 raft_term: 2 } created: true"


def fill(member: FakeMember) -> None:
    """The store that the answers were recorded over: revision 18, compacted at 5."""
    member.put(b"a", b"1")
    member.put(b"a", b"2")
    for number in range(5):
        member.put(b"k%d" % number, b"v%d" % (9 - number))
    delete = r.DeleteRangeRequest
    member.call("KV/DeleteRange", delete(key=b"k4"), r.DeleteRangeResponse)
    member.call(
        "KV/DeleteRange", delete(key=b"a0", range_end=b"l"), r.DeleteRangeResponse
    )
    for key in (b"q", b"q", b"n1", b"n77"):
        member.put(key, b"x")
    member.call("KV/Compact", r.CompactionRequest(revision=5), r.CompactionResponse)
    grant = r.LeaseGrantRequest(TTL=100, ID=42)
    member.call("Lease/LeaseGrant", grant, r.LeaseGrantResponse)
    member.put(b"l1", lease=42)
    member.put(b"l0", lease=42)
    revoke = r.LeaseRevokeRequest(ID=42)
    member.call("Lease/LeaseRevoke", revoke, r.LeaseRevokeResponse)
    member.call("KV/DeleteRange", delete(key=b"a"), r.DeleteRangeResponse)
    assert member.store.revision == 18


HISTORY = (
    "header { CM revision: 18 raft_term: 2 }"
    ' events { kv { key: "k2" create_revision: 6 mod_revision: 6 version: 1 value: "v7" } }'
    ' events { kv { key: "k3" create_revision: 7 mod_revision: 7 version: 1 value: "v6" } }'
    ' events { kv { key: "k4" create_revision: 8 mod_revision: 8 version: 1 value: "v5" } }'
    ' events { type: DELETE kv { key: "k4" mod_revision: 9 } prev_kv { key: "k4"'
    ' create_revision: 8 mod_revision: 8 version: 1 value: "v5" } }'
    ' events { type: DELETE kv { key: "k0" mod_revision: 10 } prev_kv { key: "k0"'
    ' create_revision: 4 mod_revision: 4 version: 1 value: "v9" } }'
    ' events { type: DELETE kv { key: "k1" mod_revision: 10 } prev_kv { key: "k1"'
    ' create_revision: 5 mod_revision: 5 version: 1 value: "v8" } }'
    ' events { type: DELETE kv { key: "k2" mod_revision: 10 } prev_kv { key: "k2"'
    ' create_revision: 6 mod_revision: 6 version: 1 value: "v7" } }'
    ' events { type: DELETE kv { key: "k3" mod_revision: 10 } prev_kv { key: "k3"'
    ' create_revision: 7 mod_revision: 7 version: 1 value: "v6" } }'
)

DELETES = "header { CM revision: 18 raft_term: 2 }" + "".join(
    f' events {{ type: DELETE kv {{ key: "{key}" mod_revision: {revision} }} }}'
    for key, revision in [
        ("k4", 9),
        ("k0", 10),
        ("k1", 10),
        ("k2", 10),
        ("k3", 10),
        ("l0", 17),
        ("l1", 17),
        ("a", 18),
    ]
)


@pytest.mark.parametrize(
    ("requests", "answers"),
    [
        pytest.param(
            [make(b"a", start=2)],
            [
                CREATED,
                "header { CM raft_term: 2 } canceled: true compact_revision: 5",
            ],
            id="compacted",
        ),
        pytest.param(
            [make(b"a", start=-1)],
            [
                # etcd 3.4.23: created with id 0, then canceled with compact_revision.
                "header { CM revision: 18 raft_term: 2 } watch_id: -1 created: true"
                " canceled: true cancel_reason:"
                ' "etcdserver: mvcc: required revision has been compacted"'
            ],
            id="negative start",
        ),
        pytest.param(
            [make(b"z", b"a")],
            [
                "header { CM revision: 18 raft_term: 2 } watch_id: -1 created: true"
                ' canceled: true cancel_reason: "mvcc: watcher range is empty"'
            ],
            id="empty range",
        ),
        pytest.param(
            [make(b"a", watch_id=5), make(b"a", watch_id=5)],
            [
                "header { CM revision: 18 raft_term: 2 } watch_id: 5 created: true",
                "header { CM revision: 18 raft_term: 2 } watch_id: -1 created: true"
                " canceled: true cancel_reason:"
                ' "mvcc: duplicate watch ID provided on the WatchStream"',
            ],
            id="duplicate",
        ),
        pytest.param(
            [make(b"a", watch_id=-7)],
            ["header { CM revision: 18 raft_term: 2 } watch_id: -7 created: true"],
            id="negative id",
        ),
        pytest.param(
            [make(b"a"), end(0), end(9)],
            [CREATED, "header { CM revision: 18 raft_term: 2 } canceled: true"],
            id="cancel",
        ),
        pytest.param(
            [make(b"k", b"l", start=6, prev_kv=True)], [CREATED, HISTORY], id="history"
        ),
        pytest.param(
            [make(b"a"), PROGRESS],
            [CREATED, "header { CM revision: 18 raft_term: 2 } watch_id: -1"],
            id="progress",
        ),
        pytest.param(
            [PROGRESS],
            ["header { CM revision: 18 raft_term: 2 } watch_id: -1"],
            id="progress of none",
        ),
        pytest.param([make(b"a", start=1000)], [CREATED], id="future"),
        pytest.param(
            [
                make(
                    b"\0",
                    b"\0",
                    start=6,
                    filters=[r.WatchCreateRequest.FilterType.NOPUT],
                )
            ],
            [CREATED, DELETES],
            id="filter",
        ),
        pytest.param([make(b"", start=6)], [CREATED], id="empty key"),
        pytest.param([r.WatchRequest()], [], id="no variant"),
    ],
)
def test_answers_of_etcd(
    member: FakeMember, requests: list[r.WatchRequest], answers: list[str]
) -> None:
    """What etcd 3.4.23 answered, byte for byte but for the ids; where its current
    patches answer differently, they count."""
    fill(member)
    stream = open_watch(member)
    push(stream, *requests)
    assert texts(take(member, stream)) == answers
    assert not stream.over


def test_bytes_that_are_no_request_end_the_stream(member: FakeMember) -> None:
    """Malformed bytes fail the stream with INVALID_ARGUMENT and end its watchers."""
    stream = open_watch(member)
    push(stream, make(b"a"))
    stream.push(b"\xff\xff")
    assert stream.over
    assert stream.error is not None
    assert stream.error.code == errors.Code.INVALID_ARGUMENT
    assert not member.hub.active


def test_half_close_keeps_the_watchers(member: FakeMember) -> None:
    """A client that sends no more still gets events, as from etcd."""
    stream = open_watch(member)
    push(stream, make(b"a"))
    stream.half_close()
    member.put(b"a")
    assert len(take(member, stream)) == 2
    stream.cancel()
    assert not member.hub.active


def test_a_slow_client_catches_up(member: FakeMember) -> None:
    """A stream without room stops getting events and misses none."""
    stream = open_watch(member, room=4)
    push(stream, make(b"a"))
    for _ in range(50):
        member.put(b"a")
    assert len(stream.queue) == 4
    got = [
        event.kv.mod_revision
        for response in take(member, stream) + take(member, stream)
        for event in response.events
    ]
    assert got == list(range(2, 52))


def test_answers_that_nobody_reads_are_bounded(
    member: FakeMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends requests for ever and never reads is cut off."""
    monkeypatch.setattr(watch_api, "UNREAD_ANSWERS_MAX", 10)
    stream = open_watch(member, room=3)
    for _ in range(13):
        push(stream, make(b"a"))
    assert not stream.over
    stream.take_all()
    for _ in range(13):
        push(stream, make(b"a"))
    assert not stream.over
    push(stream, make(b"a"), make(b"a"))
    assert stream.error == errors.TOO_MANY_REQUESTS
    assert not member.hub.active


# Permissions.


@pytest.fixture
def token(member: FakeMember) -> str:
    """Auth on; the token of a user who may read [k, l)."""
    permission = Permission(permType=Permission.READ, key=b"k", range_end=b"l")
    do(member, "Auth/RoleAdd", r.AuthRoleAddRequest(name="some"))
    grant = r.AuthRoleGrantPermissionRequest(name="some", perm=permission)
    do(member, "Auth/RoleGrantPermission", grant)
    add_user(member, "root", "root")
    add_user(member, "u", "some")
    do(member, "Auth/AuthEnable", r.AuthEnableRequest())
    return log_in(member, "u")


def refused(code: str, text: str) -> list[str]:
    """The answer to a create request that permission was refused for."""
    return [
        "header { CM revision: 1 raft_term: 2 } watch_id: -1 created: true"
        f' canceled: true cancel_reason: "rpc error: code = {code}'
        f' desc = etcdserver: {text}"'
    ]


@pytest.mark.parametrize(
    ("key", "range_end"),
    [
        (b"a", b""),
        (b"k", b"m"),
        # GHSA-xg4h-6gfc-h4m8: an open end once passed for an empty one.
        (b"k", b"\0"),
        (b"", b""),
        (b"\0", b"\0"),
    ],
)
def test_a_watch_needs_read_permission(
    member: FakeMember, token: str, key: bytes, range_end: bytes
) -> None:
    """Without it the stream answers created and canceled with Go's text of the error."""
    stream = open_watch(member, {"token": token})
    push(stream, make(key, range_end))
    denied = refused("PermissionDenied", "permission denied")
    assert texts(take(member, stream)) == denied
    assert not stream.over
    assert not member.hub.active
    push(stream, make(b"k", b"l"))
    assert [one.created for one in take(member, stream)] == [True]
    assert member.hub.active


@pytest.mark.parametrize(
    ("metadata", "answer"),
    [
        ({}, refused("InvalidArgument", "user name is empty")),
        ({"token": "x.1"}, refused("Unauthenticated", "invalid auth token")),
    ],
)
def test_a_watch_needs_a_user(
    member: FakeMember, token: str, metadata: dict[str, str], answer: list[str]
) -> None:
    """No token and an unknown one are refused with their own texts."""
    stream = open_watch(member, metadata)
    push(stream, make(b"k"))
    assert texts(take(member, stream)) == answer


def test_permission_is_asked_once(member: FakeMember, token: str) -> None:
    """A permission that is taken away refuses the next create request, and does not
    stop a watcher that exists, as in etcd."""
    stream = open_watch(member, {"token": token})
    push(stream, make(b"k", b"l"))
    root = log_in(member, "root")
    revoke = r.AuthRoleRevokePermissionRequest(role="some", key=b"k", range_end=b"l")
    do(member, "Auth/RoleRevokePermission", revoke, root)
    push(stream, make(b"k"))
    do(member, "KV/Put", r.PutRequest(key=b"k"), root)
    created, refusal, event = take(member, stream)
    assert created.created
    assert refusal.cancel_reason.startswith("rpc error: code = PermissionDenied")
    assert event.events[0].kv.key == b"k"


def test_go_spelling_of_codes() -> None:
    """Codes are spelled as Go spells them, whatever their names are here."""
    names = [
        watch_api.status_text(ApiError(code, "x")).split()[4] for code in errors.Code
    ]
    assert names == [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ]
