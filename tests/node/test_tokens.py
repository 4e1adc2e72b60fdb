"""Tokens of a cluster: made at one member, good at every other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from revstore.api import errors, gate
from revstore.proto import rpc_pb2 as r
from tests.node.cluster import VirtualCluster

GRANT_ROOT = r.AuthUserGrantRoleRequest(user="root", role="root")


def done(cluster: VirtualCluster, name: str, path: str, request: Message) -> bytes:
    """A call through a member, waited for."""
    call = cluster[name].call(path, request)
    cluster.until(lambda: call.outcome is not None)
    return call.result()


def enable(cluster: VirtualCluster) -> None:
    """Turn auth on, with root's password "pw"."""
    user = r.AuthUserAddRequest(name="root", password="pw")
    done(cluster, "a", "Auth/UserAdd", user)
    done(cluster, "a", "Auth/RoleAdd", r.AuthRoleAddRequest(name="root"))
    done(cluster, "a", "Auth/UserGrantRole", GRANT_ROOT)
    done(cluster, "a", "Auth/AuthEnable", r.AuthEnableRequest())


def log_in(cluster: VirtualCluster, name: str) -> dict[str, str]:
    """Metadata with a token that a member made."""
    request = r.AuthenticateRequest(name="root", password="pw")
    answer = done(cluster, name, "Auth/Authenticate", request)
    return {"token": r.AuthenticateResponse.FromString(answer).token}


@pytest.fixture
def guarded(cluster: VirtualCluster) -> VirtualCluster:
    """Three members with auth on."""
    enable(cluster)
    return cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[VirtualCluster]:
    """Three virtual members with quick password hashes, the first leading."""
    made = VirtualCluster(tmp_path, bcrypt_cost=4)
    made.lead("a")
    yield made
    made.close()


def test_a_token_works_at_every_member(guarded: VirtualCluster) -> None:
    """The client logs in at one member and is known at the others."""
    metadata = log_in(guarded, "b")
    for name in "abc":
        call = guarded[name].call("KV/Range", r.RangeRequest(key=b"k"), metadata)
        guarded.settle()
        assert isinstance(call.outcome, bytes), call.outcome


def test_a_token_waits_for_a_member_that_lags(guarded: VirtualCluster) -> None:
    """A member that has not applied the log-in does not call its token invalid."""
    guarded.deafen("c")
    metadata = log_in(guarded, "a")
    range_request = r.RangeRequest(key=b"k", serializable=True)
    call = guarded["c"].call("KV/Range", range_request, metadata)
    stream = guarded["c"].stream("Watch/Watch", metadata)
    create = r.WatchCreateRequest(key=b"k")
    stream.push(r.WatchRequest(create_request=create).SerializeToString())
    guarded.settle()
    assert call.outcome is None
    guarded.lose_nothing()
    guarded.until(lambda: call.outcome is not None)
    assert isinstance(call.outcome, bytes), call.outcome
    message = stream.take()
    assert message is not None
    response = r.WatchResponse.FromString(message)
    assert response.created
    assert not response.canceled


def test_a_token_from_nowhere_is_refused(guarded: VirtualCluster) -> None:
    """A token of an index that never was does not wait longer than a read."""
    metadata = {"token": "abcdefghijklmnop.99999999"}
    call = guarded["b"].call("KV/Range", r.RangeRequest(key=b"k"), metadata)
    keep_alive = guarded["b"].stream("Lease/LeaseKeepAlive", metadata)
    keep_alive.push(b"")
    guarded.until(lambda: call.outcome is not None)
    assert call.outcome == errors.INVALID_AUTH_TOKEN
    assert keep_alive.error == errors.INVALID_AUTH_TOKEN


def test_without_a_leader_nobody_is_called_invalid(guarded: VirtualCluster) -> None:
    """A member that cannot know says that, so that the client keeps its token."""
    guarded.cut("c")
    guarded.advance(5.0)
    metadata = {"token": "abcdefghijklmnop.99999999"}
    request = r.RangeRequest(key=b"k", serializable=True)
    call = guarded["c"].call("KV/Range", request, metadata)
    stream = guarded["c"].stream("Watch/Watch", metadata)
    guarded.settle()
    assert call.outcome == errors.NO_LEADER
    assert stream.error == errors.NO_LEADER


def test_a_waiting_stream_is_bounded(
    guarded: VirtualCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody fills a member's memory with a token that is still being looked up."""
    monkeypatch.setattr(gate, "LATE_MESSAGES_MAX", 3)
    guarded.deafen("c")
    metadata = {"token": "abcdefghijklmnop.99999999"}
    full = guarded["c"].stream("Watch/Watch", metadata)
    gone = guarded["c"].stream("Watch/Watch", metadata)
    for _ in range(4):
        assert full.error is None
        full.push(b"")
    assert full.error == errors.TOO_MANY_REQUESTS
    gone.push(b"")
    gone.cancel()
    guarded.lose_nothing()
    guarded.advance(1.0)
    assert gone.take() is None


def test_a_token_before_auth_is_known_here(cluster: VirtualCluster) -> None:
    """A member that has not heard that auth is on proposes nothing as nobody."""
    cluster.deafen("c")
    enable(cluster)
    metadata = log_in(cluster, "a")
    call = cluster["c"].call("KV/Put", r.PutRequest(key=b"k"), metadata)
    cluster.settle()
    assert call.outcome is None
    cluster.lose_nothing()
    cluster.until(lambda: call.outcome is not None)
    assert isinstance(call.outcome, bytes), call.outcome
