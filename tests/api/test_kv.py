"""KV beyond single answers: bad bytes, barriers, permissions, large ranges, streams."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from revstore.api import errors
from revstore.api import range as ranges
from revstore.api.inprocess import open_stream
from revstore.api.replica import Tag
from revstore.proto import auth_pb2
from revstore.proto import rpc_pb2 as r
from tests.api.member import FakeMember

EVERYTHING: dict[str, Any] = {"key": b"\0", "range_end": b"\0"}


def fill(member: FakeMember, count: int, size: int = 0) -> None:
    """Put ``count`` keys that sort by their number."""
    store = member.store
    for number in range(count):
        txn = store.begin()
        txn.put(b"key%06d" % number, bytes(size), 0)
        txn.commit()


def allow(member: FakeMember) -> dict[str, str]:
    """Turn auth on; returns the metadata of a user who may use keys from a to c."""
    add, role = r.AuthUserAddRequest, r.AuthRoleAddRequest
    empty = r.AuthUserAddResponse
    for name in ("root", "ann"):
        member.call("Auth/UserAdd", add(name=name, password="pw"), empty)
        member.call("Auth/RoleAdd", role(name=name), r.AuthRoleAddResponse)
        member.call(
            "Auth/UserGrantRole",
            r.AuthUserGrantRoleRequest(user=name, role=name),
            r.AuthUserGrantRoleResponse,
        )
    permission = auth_pb2.Permission(permType=2, key=b"a", range_end=b"d")  # type: ignore[arg-type] # open enum
    grant = r.AuthRoleGrantPermissionRequest(name="ann", perm=permission)
    member.call("Auth/RoleGrantPermission", grant, r.AuthRoleGrantPermissionResponse)
    member.call("Auth/AuthEnable", r.AuthEnableRequest(), r.AuthEnableResponse)
    return log_in(member, "ann")


def log_in(member: FakeMember, name: str) -> dict[str, str]:
    """The metadata of a user."""
    request = r.AuthenticateRequest(name=name, password="pw")
    answer = member.call("Auth/Authenticate", request, r.AuthenticateResponse)
    return {"token": answer.token}


@pytest.mark.parametrize("method", ["Range", "Put", "DeleteRange", "Txn", "Compact"])
def test_malformed_bytes_are_the_clients_fault(member: FakeMember, method: str) -> None:
    """Bytes that are no message get INVALID_ARGUMENT and change nothing."""
    error = member.error(f"KV/{method}", b"\x0a\xff")
    assert error.code == errors.Code.INVALID_ARGUMENT
    assert "malformed" in error.message
    assert member.proposals == []


def test_malformed_stream_request(member: FakeMember) -> None:
    """The same holds for the request of a stream."""
    stream = open_stream(member.services, "/etcdserverpb.KV/RangeStream")
    stream.push(b"\x0a\xff")
    assert stream.error is not None
    assert stream.error.code == errors.Code.INVALID_ARGUMENT


def test_an_error_of_applying_keeps_no_request_alive(member: FakeMember) -> None:
    """What applying refuses comes back as an error that knows no frames.

    Those of refused puts of a megabyte held a gigabyte until the collector ran.
    """
    request = r.PutRequest(key=b"a", value=b"1", lease=999)
    found = member.machine.apply(int(Tag.PUT), request, None)
    assert found == errors.LEASE_NOT_FOUND
    assert isinstance(found, Exception)
    assert found.__traceback__ is None


def test_read_waits_for_its_barrier(member: FakeMember) -> None:
    """A linearizable range answers after the barrier, a serializable one at once."""
    member.put(b"a", b"1")
    member.held_reads = []
    waiting = member.begin("KV/Range", r.RangeRequest(key=b"a"))
    assert waiting.outcome is None
    local = member.begin("KV/Range", r.RangeRequest(key=b"a", serializable=True))
    assert local.outcome is not None
    member.put(b"a", b"2")
    member.release_reads()
    assert r.RangeResponse.FromString(waiting.result()).kvs[0].value == b"2"


def test_failed_barrier_fails_the_read(member: FakeMember) -> None:
    """What keeps the barrier from passing is the answer, for ranges and reading txns."""
    member.read_error = errors.TIMEOUT
    assert member.error("KV/Range", r.RangeRequest(key=b"a")) == errors.TIMEOUT
    reading = r.TxnRequest(
        success=[r.RequestOp(request_range=r.RangeRequest(key=b"a"))]
    )
    assert member.error("KV/Txn", reading) == errors.TIMEOUT
    stream = member.stream("KV/RangeStream", r.RangeRequest(key=b"a"))
    assert stream.error == errors.TIMEOUT


def test_reading_txn_is_not_proposed(member: FakeMember) -> None:
    """A transaction of ranges is served by a read, with no quorum if all are
    serializable; a nested one is a proposal."""
    member.put(b"a", b"1")
    del member.proposals[:]
    get = r.RangeRequest(key=b"a", serializable=True)
    reading = r.TxnRequest(success=[r.RequestOp(request_range=get)])
    member.held_reads = []
    answer = r.TxnResponse.FromString(member.begin("KV/Txn", reading).result())
    assert answer.responses[0].response_range.kvs[0].value == b"1"
    assert member.proposals == []
    nested = r.TxnRequest(success=[r.RequestOp(request_txn=reading)])
    member.call("KV/Txn", nested, r.TxnResponse)
    assert member.proposals == [Tag.TXN]


def test_quota_refuses_before_validation(member: FakeMember) -> None:
    """Puts beyond the quota get NO_SPACE; deletes and reads pass."""
    member.put(b"a", b"1")
    member.quota_bytes = 300
    big = r.PutRequest(key=b"", value=bytes(100))
    assert member.error("KV/Put", big) == errors.NO_SPACE
    put = r.RequestOp(request_put=r.PutRequest(key=b"a", value=bytes(100)))
    nested = r.TxnRequest(
        failure=[r.RequestOp(request_txn=r.TxnRequest(success=[put]))]
    )
    assert member.error("KV/Txn", nested) == errors.NO_SPACE
    member.put(b"b")
    delete = r.DeleteRangeRequest(key=b"a")
    assert member.call("KV/DeleteRange", delete, r.DeleteRangeResponse).deleted == 1
    drop = r.RequestOp(request_delete_range=delete)
    member.call("KV/Txn", r.TxnRequest(success=[drop] * 3), r.TxnResponse)


@pytest.mark.parametrize(
    ("path", "allowed", "denied"),
    [
        ("KV/Range", r.RangeRequest(key=b"a"), r.RangeRequest(key=b"x")),
        ("KV/Put", r.PutRequest(key=b"a"), r.PutRequest(key=b"x")),
        (
            "KV/DeleteRange",
            r.DeleteRangeRequest(key=b"a", range_end=b"d"),
            r.DeleteRangeRequest(key=b"a", range_end=b"e"),
        ),
        (
            "KV/Txn",
            r.TxnRequest(compare=[r.Compare(key=b"a")]),
            r.TxnRequest(compare=[r.Compare(key=b"x")]),
        ),
    ],
)
def test_permissions(
    member: FakeMember, path: str, allowed: Message, denied: Message
) -> None:
    """With auth on a request needs a user, a valid token and the permission; a refused
    one is not proposed."""
    ann = allow(member)
    member.begin(path, allowed, ann).result()
    del member.proposals[:]
    assert member.error(path, allowed) == errors.USER_EMPTY
    assert member.error(path, denied, ann) == errors.PERMISSION_DENIED
    wrong = {"token": "nonsense.1"}
    assert member.error(path, allowed, wrong) == errors.INVALID_AUTH_TOKEN
    assert member.proposals == []
    member.begin(path, denied, log_in(member, "root")).result()


def test_compaction_needs_root(member: FakeMember) -> None:
    """With auth on only root may compact."""
    member.put(b"a")
    ann = allow(member)
    request = r.CompactionRequest(revision=1)
    assert member.error("KV/Compact", request, ann) == errors.PERMISSION_DENIED
    root = log_in(member, "root")
    member.call("KV/Compact", request, r.CompactionResponse, root)


def test_users_that_change_during_a_read(member: FakeMember) -> None:
    """A read whose user was established before a change of users must be repeated."""
    ann = allow(member)
    root = log_in(member, "root")
    member.held_reads = []
    call = member.begin("KV/Range", r.RangeRequest(key=b"a"), ann)
    held, member.held_reads = member.held_reads, None
    member.call(
        "Auth/RoleAdd", r.AuthRoleAddRequest(name="new"), r.AuthRoleAddResponse, root
    )
    held[0](None)
    assert call.outcome == errors.AUTH_OLD_REVISION


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
@pytest.mark.parametrize("keys_only", [False, True])
def test_large_range_is_read_in_turns(
    member: FakeMember, count: int, keys_only: bool
) -> None:
    """A range of any size is the same answer as from the store, a bounded number of rows
    a turn."""
    fill(member, count, 10)
    request = r.RangeRequest(**EVERYTHING, keys_only=keys_only)
    call = member.begin("KV/Range", request)
    turns = member.run()
    assert turns >= (count - 1) // ranges.CHUNK_ROWS
    answer = r.RangeResponse.FromString(call.result())
    assert answer.count == len(answer.kvs) == count
    assert [kv.key for kv in answer.kvs] == [b"key%06d" % n for n in range(count)]
    assert {kv.value for kv in answer.kvs} <= {b"" if keys_only else bytes(10)}
    assert not answer.more
    assert answer.header.revision == count + 1


def test_large_range_with_a_limit(member: FakeMember) -> None:
    """A large limit cuts, and count still counts everything."""
    fill(member, 2500)
    request = r.RangeRequest(**EVERYTHING, limit=1500)
    answer = member.call("KV/Range", request, r.RangeResponse)
    assert (len(answer.kvs), answer.more, answer.count) == (1500, True, 2500)


def test_large_range_sees_one_revision(member: FakeMember) -> None:
    """Writes and a compaction between the turns do not show in the answer."""
    fill(member, 2500)
    call = member.begin("KV/Range", r.RangeRequest(**EVERYTHING))
    assert call.outcome is None
    revision = member.put(b"key002400", b"new")
    member.put(b"zzz")
    request = r.CompactionRequest(revision=revision)
    member.begin("KV/Compact", request)
    member.run()
    answer = r.RangeResponse.FromString(call.result())
    assert len(answer.kvs) == 2500
    assert answer.header.revision == 2501
    assert {kv.value for kv in answer.kvs} == {b""}


def test_abandoned_large_range_stops(member: FakeMember) -> None:
    """Nobody waits any more: the next turn is the last."""
    fill(member, 5000)
    call = member.begin("KV/Range", r.RangeRequest(**EVERYTHING))
    call.cancel()
    assert member.run() == 1
    assert call.outcome is None


def test_large_range_of_an_unreadable_revision(member: FakeMember) -> None:
    """Errors of the first chunk are the answer."""
    fill(member, 5)
    request = r.RangeRequest(**EVERYTHING, revision=99)
    assert member.error("KV/Range", request) == errors.FUTURE_REV


def test_physical_compaction_waits(member: FakeMember) -> None:
    """A physical compaction answers when nothing is left to delete."""
    for _ in range(3000):
        member.put(b"a")
    member.store.flush()
    request = r.CompactionRequest(revision=2900, physical=True)
    call = member.begin("KV/Compact", request)
    assert call.outcome is None
    for _ in range(1000):
        if call.outcome is not None:
            break
        member.turn()
        if member.store.needs_flush(0.0):
            member.store.flush()
    assert not member.store.compaction_pending()
    answer = r.CompactionResponse.FromString(call.result())
    assert answer.header.revision == 3001


def messages(member: FakeMember, request: r.RangeRequest) -> list[r.RangeResponse]:
    """All messages of a RangeStream."""
    stream = member.stream("KV/RangeStream", request)
    found = []
    while not stream.over or stream.queue:
        member.run()
        found += stream.take_all()
    assert stream.error is None
    return [r.RangeStreamResponse.FromString(one).range_response for one in found]


@pytest.mark.parametrize("count", [0, 1, 10, 11, 500])
def test_stream_is_the_range_in_pieces(member: FakeMember, count: int) -> None:
    """The pieces put together are the range; only the last has header and totals."""
    fill(member, count)
    found = messages(member, r.RangeRequest(**EVERYTHING))
    keys = [kv.key for message in found for kv in message.kvs]
    assert keys == [b"key%06d" % number for number in range(count)]
    for message in found[:-1]:
        assert not message.HasField("header")
        assert (message.more, message.count) == (False, 0)
    assert found[-1].header.revision == count + 1
    assert found[-1].count == count
    sizes = [len(message.kvs) for message in found]
    assert sizes[:-1] == [10 * 2**step for step in range(len(sizes) - 1)]


def test_stream_messages_stay_near_the_limit(member: FakeMember) -> None:
    """A message is closed when it reaches the request limit, whatever its rows."""
    member.max_request_bytes = 10_000
    fill(member, 200, 900)
    found = messages(member, r.RangeRequest(**EVERYTHING))
    assert sum(len(message.kvs) for message in found) == 200
    assert max(message.ByteSize() for message in found) < 11_000


def test_stream_with_limit_and_count(member: FakeMember) -> None:
    """A limit and count_only mean what they mean for a range."""
    fill(member, 100)
    found = messages(member, r.RangeRequest(**EVERYTHING, limit=25))
    assert sum(len(message.kvs) for message in found) == 25
    assert (found[-1].more, found[-1].count) == (True, 100)
    (only,) = messages(member, r.RangeRequest(**EVERYTHING, count_only=True))
    assert (len(only.kvs), only.count) == (0, 100)
    (point,) = messages(member, r.RangeRequest(key=b"key000007", keys_only=True))
    assert (len(point.kvs), point.count) == (1, 1)


def test_stream_waits_for_a_slow_client(member: FakeMember) -> None:
    """Nothing is read ahead for a client that does not read, and writes meanwhile do
    not show."""
    fill(member, 2000)
    member.max_request_bytes = 500
    stream = member.stream(
        "KV/RangeStream", r.RangeRequest(**EVERYTHING), queue_messages_max=4
    )
    member.run()
    assert len(stream.queue) == 4
    member.put(b"key001999", b"new")
    values = set()
    count = 0
    while not stream.over or stream.queue:
        for message in stream.take_all():
            response = r.RangeStreamResponse.FromString(message).range_response
            count += len(response.kvs)
            values |= {kv.value for kv in response.kvs}
        member.run()
    assert (count, values) == (2000, {b""})


def test_cancelled_stream_lets_go(member: FakeMember) -> None:
    """A client that leaves frees what the stream held."""
    fill(member, 2000)
    stream = member.stream(
        "KV/RangeStream", r.RangeRequest(**EVERYTHING), queue_messages_max=2
    )
    member.run()
    stream.cancel()
    assert member.run() == 0


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (r.RangeRequest(), errors.EMPTY_KEY),
        (r.RangeRequest(key=b"a", sort_order=99), errors.INVALID_SORT_OPTION),  # type: ignore[arg-type] # open enum
        (r.RangeRequest(key=b"a", sort_order=2), ranges.CUSTOM_SORT),  # type: ignore[arg-type] # open enum
        (r.RangeRequest(key=b"a", min_mod_revision=1), ranges.REVISION_FILTER),
        (r.RangeRequest(key=b"a", revision=99), errors.FUTURE_REV),
    ],
)
def test_stream_refusals(
    member: FakeMember, request_: r.RangeRequest, expected: Exception
) -> None:
    """A stream refuses what a range refuses, and what it cannot order."""
    assert member.stream("KV/RangeStream", request_).error == expected


def test_stream_needs_permission(member: FakeMember) -> None:
    """With auth on a stream needs read permission over its range."""
    ann = allow(member)
    wide = r.RangeRequest(**EVERYTHING)
    assert member.stream("KV/RangeStream", wide).error == errors.USER_EMPTY
    stream = member.stream("KV/RangeStream", wide, ann)
    assert stream.error == errors.PERMISSION_DENIED
    stream = member.stream(
        "KV/RangeStream", r.RangeRequest(key=b"a", range_end=b"c"), ann
    )
    assert stream.error is None
