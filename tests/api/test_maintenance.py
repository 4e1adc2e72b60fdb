"""Alarms, status, hashes, leadership and downgrade."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message

from revstore.api import errors
from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as r
from tests.api.member import MEMBER, FakeMember
from tests.api.test_kv import allow, fill, log_in

GET, ACTIVATE, DEACTIVATE = 0, 1, 2
NO_SPACE, CORRUPT = 1, 2


def alarm(member: FakeMember, action: int, kind: int, who: int = 1) -> list[int]:
    """The alarm types that a request answers with."""
    request: Any = r.AlarmRequest(action=action, memberID=who, alarm=kind)  # type: ignore[arg-type] # open enum
    answer = member.call("Maintenance/Alarm", request, r.AlarmResponse)
    assert answer.header.revision == member.store.revision
    return [int(one.alarm) for one in answer.alarms]


def test_alarms_are_idempotent(member: FakeMember) -> None:
    """Raising answers with the alarm every time; clearing only if there was one."""
    assert alarm(member, GET, 0) == []
    assert alarm(member, ACTIVATE, NO_SPACE) == [NO_SPACE]
    assert alarm(member, ACTIVATE, NO_SPACE) == [NO_SPACE]
    assert alarm(member, ACTIVATE, CORRUPT, who=2) == [CORRUPT]
    assert alarm(member, GET, 0) == [NO_SPACE, CORRUPT]
    assert alarm(member, GET, CORRUPT) == [CORRUPT]
    assert alarm(member, DEACTIVATE, CORRUPT, who=2) == [CORRUPT]
    assert alarm(member, DEACTIVATE, CORRUPT, who=2) == []
    assert alarm(member, GET, 0) == [NO_SPACE]


def test_no_space_alarm_refuses_growth(member: FakeMember) -> None:
    """While NOSPACE is raised puts are refused after validation, deletes are not."""
    member.put(b"a")
    alarm(member, ACTIVATE, NO_SPACE)
    assert member.error("KV/Put", r.PutRequest(key=b"a")) == errors.NO_SPACE
    assert member.error("KV/Put", r.PutRequest()) == errors.EMPTY_KEY
    delete = r.DeleteRangeRequest(key=b"a")
    assert member.call("KV/DeleteRange", delete, r.DeleteRangeResponse).deleted == 1
    alarm(member, DEACTIVATE, NO_SPACE)
    member.put(b"a")


@pytest.mark.parametrize(("action", "kind"), [(7, 1), (ACTIVATE, 9), (DEACTIVATE, 9)])
def test_unknown_alarm_numbers(member: FakeMember, action: int, kind: int) -> None:
    """Numbers that no version knows are refused and change nothing."""
    request: Any = r.AlarmRequest(action=action, memberID=1, alarm=kind)  # type: ignore[arg-type] # open enum
    error = member.error("Maintenance/Alarm", request)
    assert error.code == errors.Code.INVALID_ARGUMENT
    assert "unknown alarm" in error.message
    assert member.proposals == []


def test_status(member: FakeMember) -> None:
    """Status has what the member knows about itself, without a barrier."""
    member.put(b"a")
    member.held_reads = []
    member.quota_bytes = 12345
    answer = member.call("Maintenance/Status", r.StatusRequest(), r.StatusResponse)
    assert answer.version == "3.6.14"
    assert answer.storageVersion == "3.6.0"
    assert (answer.leader, answer.raftTerm) == (MEMBER, 2)
    assert answer.raftIndex == answer.raftAppliedIndex == 1
    assert answer.dbSizeQuota == 12345
    assert answer.HasField("downgradeInfo")
    assert not answer.downgradeInfo.enabled
    assert answer.header.revision == 2
    member.downgrade_target = "3.5.0"
    answer = member.call("Maintenance/Status", r.StatusRequest(), r.StatusResponse)
    assert answer.downgradeInfo.enabled
    assert answer.downgradeInfo.targetVersion == "3.5.0"


def test_defragment_has_no_header(member: FakeMember) -> None:
    """Defragment answers when it is done, with an empty message."""
    call = member.begin("Maintenance/Defragment", r.DefragmentRequest())
    assert call.outcome is None
    member.run()
    assert call.result() == b""


def test_hash_kv(member: FakeMember) -> None:
    """HashKV runs in turns and gives the store's own hash."""
    fill(member, 2500)
    expected = member.store.hash_kv(1000)
    call = member.begin("Maintenance/HashKV", r.HashKVRequest(revision=1000))
    if call.outcome is None:
        member.put(b"between", b"turns")
    member.run()
    answer = r.HashKVResponse.FromString(call.result())
    assert answer.hash == expected.hash
    assert answer.compact_revision == expected.compact_revision
    assert answer.hash_revision == 1000
    assert answer.header.revision == member.store.revision


def test_hash_kv_gives_the_loop_back(member: FakeMember) -> None:
    """A large HashKV takes many turns."""
    fill(member, 5000)
    call = member.begin("Maintenance/HashKV", r.HashKVRequest())
    assert call.outcome is None
    assert member.run() >= 4


def test_hash_kv_of_an_unreadable_revision(member: FakeMember) -> None:
    """A revision of the future or the compacted past is refused."""
    fill(member, 5)
    member.call("KV/Compact", r.CompactionRequest(revision=4), r.CompactionResponse)
    request = r.HashKVRequest(revision=99)
    assert member.error("Maintenance/HashKV", request) == errors.FUTURE_REV
    request = r.HashKVRequest(revision=2)
    assert member.error("Maintenance/HashKV", request) == errors.COMPACTED


def test_abandoned_hash_stops(member: FakeMember) -> None:
    """Nobody waits any more: the next turn is the last."""
    fill(member, 5000)
    for path, request in (
        ("HashKV", r.HashKVRequest()),
        ("Hash", r.HashRequest()),
    ):
        call = member.begin(f"Maintenance/{path}", request)
        call.cancel()
        assert member.run() == 1


def test_hash_covers_everything(member: FakeMember) -> None:
    """Equal contents have equal hashes; a key, a lease and an alarm each change it."""

    def hash_of(one: FakeMember) -> int:
        return one.call("Maintenance/Hash", r.HashRequest(), r.HashResponse).hash

    other = FakeMember()
    try:
        seen = [hash_of(member)]
        assert hash_of(other) == seen[0]
        for one in (member, other):
            one.put(b"a", b"1")
        # One more entry that changed nothing: only the applied index differs.
        other.call(
            "KV/DeleteRange", r.DeleteRangeRequest(key=b"x"), r.DeleteRangeResponse
        )
        seen.append(hash_of(member))
        assert hash_of(other) == seen[1]
        grant = r.LeaseGrantRequest(ID=7, TTL=60)
        member.call("Lease/LeaseGrant", grant, r.LeaseGrantResponse)
        seen.append(hash_of(member))
        alarm(member, ACTIVATE, NO_SPACE)
        seen.append(hash_of(member))
        assert len(set(seen)) == 4
    finally:
        other.close()


def test_move_leader(member: FakeMember) -> None:
    """Only the leader moves leadership, and only to a voter of the cluster."""
    member.member_list += [r.Member(ID=2), r.Member(ID=3, isLearner=True)]
    bad = errors.BAD_LEADER_TRANSFEREE
    path = "Maintenance/MoveLeader"
    for target in (0, 5, 3):
        assert member.error(path, r.MoveLeaderRequest(targetID=target)) == bad
    for target in (MEMBER, 2):
        call = member.begin(path, r.MoveLeaderRequest(targetID=target))
        assert call.result() == b""
    assert member.transfers == [2]
    member.is_leader = False
    request = r.MoveLeaderRequest(targetID=2)
    assert member.error(path, request) == errors.NOT_LEADER


VALIDATE, ENABLE, CANCEL = 0, 1, 2

DOWNGRADES: list[tuple[int, str, str, str, ApiError]] = [
    (VALIDATE, "x", "3.6.0", "", errors.WRONG_DOWNGRADE_VERSION_FORMAT),
    (VALIDATE, "3", "3.6.0", "", errors.WRONG_DOWNGRADE_VERSION_FORMAT),
    (VALIDATE, "3.5.", "3.6.0", "", errors.WRONG_DOWNGRADE_VERSION_FORMAT),
    (VALIDATE, "3.5", "", "", errors.CLUSTER_VERSION_UNAVAILABLE),
    (VALIDATE, "3.4", "3.6.0", "", errors.INVALID_DOWNGRADE_TARGET_VERSION),
    (VALIDATE, "3.6", "3.6.0", "", errors.INVALID_DOWNGRADE_TARGET_VERSION),
    (ENABLE, "3.7", "3.6.0", "", errors.INVALID_DOWNGRADE_TARGET_VERSION),
    (ENABLE, "3.5", "3.6.0", "3.5.0", errors.DOWNGRADE_IN_PROCESS),
    (CANCEL, "", "3.6.0", "", errors.NO_INFLIGHT_DOWNGRADE),
    (CANCEL, "", "", "", errors.CLUSTER_VERSION_UNAVAILABLE),
]


@pytest.mark.parametrize("action", [-1, 3, 9])
def test_unknown_downgrade_actions(member: FakeMember, action: int) -> None:
    """An action that no version knows is the client's error; etcd answers UNKNOWN."""
    request: Any = r.DowngradeRequest(action=action, version="3.5")  # type: ignore[arg-type] # open enum
    refused = member.error("Maintenance/Downgrade", request)
    assert refused.code == errors.Code.INVALID_ARGUMENT
    assert f"action {action}; use VALIDATE (0)" in refused.message


@pytest.mark.parametrize(
    ("action", "version", "cluster", "running", "expected"), DOWNGRADES
)
def test_downgrade_refusals(
    member: FakeMember,
    action: int,
    version: str,
    cluster: str,
    running: str,
    expected: ApiError,
) -> None:
    """Each reason to refuse a downgrade has etcd's words."""
    member.cluster_version = cluster
    member.downgrade_target = running
    request: Any = r.DowngradeRequest(action=action, version=version)  # type: ignore[arg-type] # open enum
    assert member.error("Maintenance/Downgrade", request) == expected
    assert member.proposals == []


@pytest.mark.parametrize(
    ("action", "running", "proposed"),
    [(VALIDATE, "", 0), (ENABLE, "", 1), (CANCEL, "3.5.0", 1)],
)
def test_downgrade(
    member: FakeMember, action: int, running: str, proposed: int
) -> None:
    """What is valid is answered with the cluster's version; a change is proposed."""
    member.downgrade_target = running
    request: Any = r.DowngradeRequest(action=action, version="3.5.1")  # type: ignore[arg-type] # open enum
    answer = member.call("Maintenance/Downgrade", request, r.DowngradeResponse)
    assert answer.version == "3.6.0"
    assert len(member.proposals) == proposed


ROOT_ONLY: list[tuple[str, Message]] = [
    ("Alarm", r.AlarmRequest(action="ACTIVATE", memberID=1, alarm="NOSPACE")),
    ("Defragment", r.DefragmentRequest()),
    ("Hash", r.HashRequest()),
    ("HashKV", r.HashKVRequest()),
    ("MoveLeader", r.MoveLeaderRequest(targetID=MEMBER)),
    ("Downgrade", r.DowngradeRequest(version="3.5")),
]


@pytest.mark.parametrize(("method", "request_"), ROOT_ONLY)
def test_root_only(member: FakeMember, method: str, request_: Message) -> None:
    """With auth on, what changes or reveals the member needs the role root."""
    ann = allow(member)
    path = f"Maintenance/{method}"
    assert member.error(path, request_) == errors.USER_EMPTY
    assert member.error(path, request_, ann) == errors.PERMISSION_DENIED
    call = member.begin(path, request_, log_in(member, "root"))
    member.run()
    call.result()


@pytest.mark.parametrize(
    ("path", "request_"),
    [
        ("Maintenance/Alarm", r.AlarmRequest()),
        ("Maintenance/Status", r.StatusRequest()),
        ("Cluster/MemberList", r.MemberListRequest()),
    ],
)
def test_any_user(member: FakeMember, path: str, request_: Message) -> None:
    """With auth on, any user may look at alarms, status and members, but nobody else."""
    ann = allow(member)
    assert member.error(path, request_) == errors.USER_EMPTY
    member.begin(path, request_, ann).result()


@pytest.mark.parametrize(
    "method",
    ["Alarm", "Status", "Defragment", "Hash", "HashKV", "MoveLeader", "Downgrade"],
)
def test_malformed_bytes(member: FakeMember, method: str) -> None:
    """Bytes that are no message get INVALID_ARGUMENT."""
    error = member.error(f"Maintenance/{method}", b"\x0a\xff")
    assert error.code == errors.Code.INVALID_ARGUMENT
