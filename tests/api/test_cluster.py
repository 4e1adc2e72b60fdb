"""The member list and the refusals of its changes."""

from __future__ import annotations

from typing import Any

import pytest

from revstore.api import errors
from revstore.api.cluster import SINGLE_MEMBER
from revstore.api.replica import MemberChange, MemberChangeKind
from revstore.api.validation import is_peer_url
from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as r
from tests.api.member import MEMBER, FakeMember

NEW = "http://127.0.0.1:12380"
OWN = "http://127.0.0.1:2380"

REQUESTS: dict[str, Any] = {
    "MemberAdd": r.MemberAddRequest,
    "MemberRemove": r.MemberRemoveRequest,
    "MemberUpdate": r.MemberUpdateRequest,
    "MemberPromote": r.MemberPromoteRequest,
}


def test_list(member: FakeMember) -> None:
    """The list has all members, and its header no revision."""
    answer = member.call(
        "Cluster/MemberList", r.MemberListRequest(), r.MemberListResponse
    )
    assert list(answer.members) == member.member_list
    header = answer.header
    assert (header.cluster_id, header.member_id, header.raft_term) == (0xC1, 0xA1, 2)
    assert header.revision == 0


def test_linearizable_list_waits(member: FakeMember) -> None:
    """A linearizable list answers behind a barrier."""
    member.held_reads = []
    call = member.begin("Cluster/MemberList", r.MemberListRequest(linearizable=True))
    assert call.outcome is None
    member.release_reads()
    assert r.MemberListResponse.FromString(call.result()).members


REFUSALS: list[tuple[str, dict[str, Any], ApiError]] = [
    ("MemberAdd", {"peerURLs": ["foo"]}, errors.MEMBER_BAD_URLS),
    ("MemberAdd", {}, errors.MEMBER_BAD_URLS),
    ("MemberAdd", {"peerURLs": [OWN]}, errors.PEER_URL_EXIST),
    ("MemberRemove", {"ID": 3}, errors.MEMBER_NOT_FOUND),
    ("MemberUpdate", {"ID": 3, "peerURLs": [NEW]}, errors.MEMBER_NOT_FOUND),
    ("MemberUpdate", {"ID": MEMBER, "peerURLs": []}, errors.MEMBER_BAD_URLS),
    ("MemberPromote", {"ID": 3}, errors.MEMBER_NOT_FOUND),
    ("MemberPromote", {"ID": MEMBER}, errors.MEMBER_NOT_LEARNER),
    ("MemberRemove", {"ID": MEMBER}, errors.MEMBER_NOT_ENOUGH_STARTED),
]


@pytest.mark.parametrize("multi_member", [False, True])
@pytest.mark.parametrize(("method", "fields", "expected"), REFUSALS)
def test_refusals(
    member: FakeMember,
    multi_member: bool,
    method: str,
    fields: dict[str, Any],
    expected: ApiError,
) -> None:
    """What etcd refuses is refused in its words, whatever the consensus can do."""
    member.multi_member = multi_member
    request = REQUESTS[method](**fields)
    assert member.error(f"Cluster/{method}", request) == expected
    assert member.changes == []


def test_single_member_says_what_to_do(member: FakeMember) -> None:
    """A valid change of a membership that cannot change names reason and remedy."""
    request = r.MemberAddRequest(peerURLs=[NEW])
    error = member.error("Cluster/MemberAdd", request)
    assert error == SINGLE_MEMBER
    assert error.code == errors.Code.FAILED_PRECONDITION
    assert "one member only" in error.message
    assert "raft" in error.message


def test_add(member: FakeMember) -> None:
    """Adding answers with the new member and all members, no revision in the header."""
    member.multi_member = True
    request = r.MemberAddRequest(peerURLs=[NEW], isLearner=True)
    answer = member.call("Cluster/MemberAdd", request, r.MemberAddResponse)
    assert member.changes == [
        MemberChange(kind=MemberChangeKind.ADD, peer_urls=(NEW,), is_learner=True)
    ]
    assert answer.member.ID == 0xB1
    assert [one.ID for one in answer.members] == [MEMBER, 0xB1]
    assert answer.header.revision == 0


def test_changes_reach_the_replica(member: FakeMember) -> None:
    """Update, promote and remove hand a validated change on."""
    member.multi_member = True
    learner = r.Member(ID=0xB1, peerURLs=[NEW], isLearner=True)
    member.member_list.append(learner)
    update = r.MemberUpdateRequest(ID=MEMBER, peerURLs=["http://h:1"])
    member.call("Cluster/MemberUpdate", update, r.MemberUpdateResponse)
    promote = r.MemberPromoteRequest(ID=0xB1)
    member.call("Cluster/MemberPromote", promote, r.MemberPromoteResponse)
    remove = r.MemberRemoveRequest(ID=0xB1)
    member.call("Cluster/MemberRemove", remove, r.MemberRemoveResponse)
    assert [(int(one.kind), one.member_id) for one in member.changes] == [
        (MemberChangeKind.UPDATE, MEMBER),
        (MemberChangeKind.PROMOTE, 0xB1),
        (MemberChangeKind.REMOVE, 0xB1),
    ]


@pytest.mark.parametrize("method", [*REQUESTS, "MemberList"])
def test_malformed_bytes(member: FakeMember, method: str) -> None:
    """Bytes that are no message get INVALID_ARGUMENT."""
    error = member.error(f"Cluster/{method}", b"\x0a\xff")
    assert error.code == errors.Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://127.0.0.1:2380", True),
        ("https://host:2380", True),
        ("http://[::1]:2380", True),
        ("unix://m0", True),
        ("", False),
        ("foo", False),
        ("127.0.0.1:2380", False),
        ("http://127.0.0.1", False),
        ("http://127.0.0.1:2380/path", False),
        ("http://:2380", False),
        ("http://host:notaport", False),
        ("ftp://host:1", False),
        (" http://host:1", False),
    ],
)
def test_peer_urls(url: str, good: bool) -> None:
    """A peer URL is scheme, host and port, or a unix socket."""
    assert is_peer_url(url) is good
