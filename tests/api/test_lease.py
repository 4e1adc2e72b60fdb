"""The Lease service: a real etcd's answers, and what a renewal may promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString

from revstore.api import errors
from revstore.api import lease as lease_api
from revstore.api.errors import Code
from revstore.api.inprocess import DirectStream, open_stream
from revstore.api.replica import Answered, Done, Tag
from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as r
from revstore.proto.auth_pb2 import Permission
from revstore.types import ApplyResult
from tests.api.member import FakeMember
from tests.api.test_auth import add_user, do, log_in

KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"


def ask(member: FakeMember, path: str, request: Message, response: type[Any]) -> str:
    """One line of a transcript: the answer as text, without ids and term."""
    try:
        answer = member.call(f"Lease/{path}", request, response)
    except ApiError as error:
        return f"{Code(error.code).name} {error.message}"
    header = answer.header
    assert (header.cluster_id, header.member_id, header.raft_term) == (0xC1, 0xA1, 2)
    header.cluster_id = header.member_id = header.raft_term = 0
    return MessageToString(answer, as_one_line=True)


def grant(member: FakeMember, ttl: int, lease_id: int = 0) -> str:
    request = r.LeaseGrantRequest(TTL=ttl, ID=lease_id)
    return ask(member, "LeaseGrant", request, r.LeaseGrantResponse)


def revoke(member: FakeMember, lease_id: int) -> str:
    request = r.LeaseRevokeRequest(ID=lease_id)
    return ask(member, "LeaseRevoke", request, r.LeaseRevokeResponse)


def remaining(member: FakeMember, lease_id: int, keys: bool = False) -> str:
    request = r.LeaseTimeToLiveRequest(ID=lease_id, keys=keys)
    return ask(member, "LeaseTimeToLive", request, r.LeaseTimeToLiveResponse)


def leases(member: FakeMember) -> str:
    return ask(member, "LeaseLeases", r.LeaseLeasesRequest(), r.LeaseLeasesResponse)


def open_keep_alive(
    member: FakeMember, metadata: Mapping[str, str] = {}, room: int = 64
) -> DirectStream:
    return open_stream(member.services, KEEP_ALIVE, metadata, room)


def renew(stream: DirectStream, *lease_ids: int) -> None:
    for lease_id in lease_ids:
        stream.push(r.LeaseKeepAliveRequest(ID=lease_id).SerializeToString())


def take(stream: DirectStream) -> list[tuple[int, int, int]]:
    """Header revision, id and time to live of all answers."""
    found = [r.LeaseKeepAliveResponse.FromString(one) for one in stream.take_all()]
    return [(one.header.revision, one.ID, one.TTL) for one in found]


def test_answers_of_etcd(member: FakeMember) -> None:
    """A conversation with etcd 3.4.23, with other revisions; keys come sorted here,
    in no particular order there."""
    assert grant(member, 100, 42) == "header { revision: 1 } ID: 42 TTL: 100"
    assert (
        grant(member, 100, 42) == "FAILED_PRECONDITION etcdserver: lease already exists"
    )
    assert grant(member, 100, -3) == "header { revision: 1 } ID: -3 TTL: 100"
    assert grant(member, 9000000001) == "OUT_OF_RANGE etcdserver: too large lease TTL"
    member.put(b"l1", lease=42)
    member.put(b"l0", lease=42)
    member.clock.time += 0.001
    assert remaining(member, 42, keys=True) == (
        'header { revision: 3 } ID: 42 TTL: 99 grantedTTL: 100 keys: "l0" keys: "l1"'
    )
    assert (
        remaining(member, 42) == "header { revision: 3 } ID: 42 TTL: 99 grantedTTL: 100"
    )
    assert remaining(member, 999) == "header { revision: 3 } ID: 999 TTL: -1"
    assert (
        leases(member) == "header { revision: 3 } leases { ID: -3 } leases { ID: 42 }"
    )
    assert revoke(member, 999) == "NOT_FOUND etcdserver: requested lease not found"
    assert revoke(member, 42) == "header { revision: 4 }"
    stream = open_keep_alive(member)
    renew(stream, 999)
    stream.half_close()
    assert take(stream) == [(4, 999, 0)]
    assert stream.over
    assert stream.error is None


@pytest.mark.parametrize("asked", [0, -5])
def test_id_and_time_are_settled_before_the_log(
    member: FakeMember, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease without an id gets a positive one, and too short a time the minimum, in
    the entry itself: every member that applies it has the same."""
    entries: list[r.LeaseGrantRequest] = []
    propose = member.propose

    def spy(
        tag: int, payload: bytes, request: Message, done: Done, info: Any = None
    ) -> None:
        entries.append(r.LeaseGrantRequest.FromString(payload))
        propose(tag, payload, request, done, info)

    monkeypatch.setattr(member, "propose", spy)
    request = r.LeaseGrantRequest(TTL=asked)
    answer = member.call("Lease/LeaseGrant", request, r.LeaseGrantResponse)
    assert answer.TTL == 2
    assert 0 < answer.ID < 2**63
    assert [(one.ID, one.TTL) for one in entries] == [(answer.ID, 2)]


def test_a_full_member_grants_nothing(member: FakeMember) -> None:
    """Grants count against the quota."""
    member.quota_bytes = 1
    assert grant(member, 10) == (
        "RESOURCE_EXHAUSTED etcdserver: mvcc: database space exceeded"
    )
    assert member.proposals == []


@pytest.mark.parametrize(
    "path", ["LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseLeases"]
)
def test_malformed_requests(member: FakeMember, path: str) -> None:
    """Bytes that are no request are the client's fault."""
    error = member.error(f"Lease/{path}", b"\xff")
    assert error.code == Code.INVALID_ARGUMENT


def test_malformed_renewals_end_the_stream(member: FakeMember) -> None:
    """A stream with bad bytes fails, and takes nothing more."""
    stream = open_keep_alive(member)
    stream.push(b"\xff")
    assert stream.error is not None
    assert stream.error.code == Code.INVALID_ARGUMENT


# Renewals.


def test_renewals_are_answered_in_order(member: FakeMember) -> None:
    """Also when they wait for leadership to be confirmed."""
    grant(member, 10, 1)
    grant(member, 20, 2)
    stream = open_keep_alive(member)
    member.held_reads = []
    renew(stream, 2, 7, 1)
    stream.half_close()
    assert take(stream) == []
    assert not stream.over
    member.release_reads()
    assert take(stream) == [(1, 2, 20), (1, 7, 0), (1, 1, 10)]
    assert stream.over


def test_a_renewal_waits_for_grants_under_way(member: FakeMember) -> None:
    """etcd 14087, 13932: a keep-alive that overtook its grant said that there is no such
    lease; here the barrier waits until what is under way is applied. The header is the
    one from before."""
    stream = open_keep_alive(member)
    member.held_reads = []
    renew(stream, 1)
    grant(member, 10, 1)
    member.put(b"a")
    member.release_reads()
    assert take(stream) == [(1, 1, 10)]


def test_a_revoked_lease_is_not_renewed(member: FakeMember) -> None:
    """etcd 20615: a lease that goes while the renewal waits is answered with 0, under a
    header from before it went."""
    grant(member, 10, 1)
    member.put(b"a", lease=1)
    stream = open_keep_alive(member)
    member.held_reads = []
    renew(stream, 1)
    revoke(member, 1)
    member.release_reads()
    assert take(stream) == [(2, 1, 0)]


def test_an_expired_lease_is_not_renewed(member: FakeMember) -> None:
    """Once the time is up the answer is 0, revoked or not."""
    grant(member, 10, 1)
    member.clock.time += 10
    stream = open_keep_alive(member)
    renew(stream, 1)
    assert take(stream) == [(1, 1, 0)]


def test_no_renewal_without_leadership(member: FakeMember) -> None:
    """etcd 15247: a leader that was deposed without noticing must not answer; its
    successor is asked. An answer of 0 would be wrong too: the lease may be alive."""
    grant(member, 10, 1)
    stream = open_keep_alive(member)
    member.read_error = errors.LEADER_CHANGED
    member.to_leader = lambda name, message, answered: answered(errors.LEADER_CHANGED)
    renew(stream, 1)
    assert stream.error == errors.LEADER_CHANGED
    member.read_error = None
    stream = open_keep_alive(member)
    member.held_reads = []
    renew(stream, 1, 1)
    member.lessor.demote()
    member.release_reads()
    assert stream.error == errors.LEADER_CHANGED
    assert take(stream) == []
    ttl = r.LeaseTimeToLiveRequest(ID=1)
    assert member.error("Lease/LeaseTimeToLive", ttl) == errors.LEADER_CHANGED
    member.read_error = errors.TIMEOUT
    assert member.error("Lease/LeaseTimeToLive", ttl) == errors.TIMEOUT


def test_a_checkpoint_is_taken_back_first(
    member: FakeMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpointed lease is renewed through the log: the success is reported once no
    new leader can give it less. Other renewals of the stream keep their place."""
    grant(member, 1000, 1)
    grant(member, 10, 2)
    member.lessor.checkpointed([(1, 5)])
    stream = open_keep_alive(member)
    held: list[Done] = []

    def hold(
        tag: int, payload: bytes, request: Message, done: Done, info: Any = None
    ) -> None:
        assert tag == Tag.LEASE_CHECKPOINT
        assert r.LeaseCheckpointRequest.FromString(payload).checkpoints[0].ID == 1
        member.lessor.checkpointed([(1, 0)])
        held.append(done)

    monkeypatch.setattr(member, "propose", hold)
    renew(stream, 1, 2)
    assert take(stream) == []
    held.pop()(ApplyResult(0))
    assert take(stream) == [(1, 1, 1000), (1, 2, 10)]
    member.lessor.checkpointed([(1, 5)])
    renew(stream, 1)
    held.pop()(errors.TIMEOUT)
    assert stream.error == errors.TIMEOUT


def test_a_cancelled_stream_gets_nothing_more(member: FakeMember) -> None:
    """Answers that come after the client left are dropped."""
    grant(member, 10, 1)
    stream = open_keep_alive(member)
    member.held_reads = []
    renew(stream, 1)
    stream.cancel()
    member.release_reads()
    assert take(stream) == []


def test_renewals_that_nobody_reads_are_bounded(
    member: FakeMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that never reads, or asks faster than the leader confirms, is cut off."""
    monkeypatch.setattr(lease_api, "PENDING_RENEWALS_MAX", 10)
    stream = open_keep_alive(member, room=3)
    renew(stream, *range(13))
    assert not stream.over
    renew(stream, 1, 1)
    assert stream.error == errors.TOO_MANY_REQUESTS
    stream = open_keep_alive(member)
    member.held_reads = []
    renew(stream, *range(12))
    assert stream.error == errors.TOO_MANY_REQUESTS


# Members that do not lead.


class Pair:
    """A leader, and a follower that can ask it."""

    def __init__(self, leader: FakeMember, follower: FakeMember) -> None:
        self.leader = leader
        self.follower = follower
        self.asked: list[str] = []
        follower.is_leader = False
        follower.lessor.demote()
        follower.to_leader = self.forward

    def forward(self, name: str, request: bytes, answered: Answered) -> None:
        self.asked.append(name)
        lease_api.answer_forwarded(self.leader, name, request, answered)


@pytest.fixture
def follower() -> Any:
    """A second member."""
    made = FakeMember()
    yield made
    made.close()


def test_followers_ask_the_leader(member: FakeMember, follower: FakeMember) -> None:
    """Renewals and remaining times are the leader's, headers the answering member's."""
    pair = Pair(member, follower)
    for one in (member, follower):
        request = r.LeaseGrantRequest(ID=1, TTL=10)
        one.propose(Tag.LEASE_GRANT, request.SerializeToString(), request, ignore)
    member.clock.time += 4
    ttl = r.LeaseTimeToLiveRequest(ID=1)
    answer = follower.call("Lease/LeaseTimeToLive", ttl, r.LeaseTimeToLiveResponse)
    assert (answer.TTL, answer.grantedTTL) == (6, 10)
    stream = open_keep_alive(follower)
    renew(stream, 1, 9)
    assert take(stream) == [(1, 1, 10), (1, 9, 0)]
    assert member.lessor.time_to_live(1) == (10, 10)
    assert pair.asked == ["LeaseTimeToLive", "LeaseKeepAlive", "LeaseKeepAlive"]
    member.is_leader = False
    renew(stream, 1)
    assert stream.error == errors.LEADER_CHANGED


def ignore(outcome: object) -> None:
    """Takes the outcome of a proposal."""


def test_a_follower_without_a_way_to_the_leader(member: FakeMember) -> None:
    """Clients are told to try another member."""
    member.is_leader = False
    stream = open_keep_alive(member)
    renew(stream, 1)
    assert stream.error == errors.NO_LEADER
    ttl = r.LeaseTimeToLiveRequest(ID=1)
    assert member.error("Lease/LeaseTimeToLive", ttl) == errors.NO_LEADER


@pytest.mark.parametrize(
    ("name", "message"), [("LeaseGrant", b""), ("LeaseKeepAlive", b"\xff")]
)
def test_forwarded_nonsense_is_refused(
    member: FakeMember, name: str, message: bytes
) -> None:
    """Only two methods are forwarded, and their bytes are checked."""
    answers: list[bytes | ApiError] = []
    lease_api.answer_forwarded(member, name, message, answers.append)
    (answer,) = answers
    assert isinstance(answer, ApiError)
    assert answer.code == Code.INVALID_ARGUMENT


# Permissions.


def test_keys_of_a_lease_guard_it(member: FakeMember) -> None:
    """etcd 15814: names of keys leaked through LeaseTimeToLive. Whoever may not read a
    key is not told of it, and whoever may not write it cannot renew its lease."""
    grant(member, 100, 1)
    grant(member, 100, 2)
    member.put(b"mine", lease=1)
    member.put(b"mine", lease=2)
    member.put(b"secret", lease=1)
    permission = Permission(permType=Permission.READWRITE, key=b"mine")
    do(member, "Auth/RoleAdd", r.AuthRoleAddRequest(name="some"))
    rule = r.AuthRoleGrantPermissionRequest(name="some", perm=permission)
    do(member, "Auth/RoleGrantPermission", rule)
    add_user(member, "root", "root")
    add_user(member, "u", "some")
    do(member, "Auth/AuthEnable", r.AuthEnableRequest())
    user = {"token": log_in(member, "u")}

    for lease_id, allowed in ((1, False), (2, True)):
        request = r.LeaseTimeToLiveRequest(ID=lease_id, keys=True)
        call = member.begin("Lease/LeaseTimeToLive", request, user)
        refused = call.outcome == errors.PERMISSION_DENIED
        assert refused is not allowed
        stream = open_keep_alive(member, user)
        renew(stream, lease_id)
        assert (stream.error == errors.PERMISSION_DENIED) is not allowed
        assert bool(take(stream)) is allowed
    nameless = r.LeaseTimeToLiveRequest(ID=1)
    assert member.begin("Lease/LeaseTimeToLive", nameless, user).result()
    listing = r.LeaseLeasesRequest()
    error = member.error("Lease/LeaseLeases", listing, user)
    assert error == errors.PERMISSION_DENIED
    root = {"token": log_in(member, "root")}
    found = member.call("Lease/LeaseLeases", listing, r.LeaseLeasesResponse, root)
    assert [one.ID for one in found.leases] == [1, 2]
    for metadata, wanted in (
        ({}, errors.USER_EMPTY),
        ({"token": "x.1"}, errors.INVALID_AUTH_TOKEN),
    ):
        stream = open_keep_alive(member, metadata)
        renew(stream, 2)
        assert stream.error == wanted
