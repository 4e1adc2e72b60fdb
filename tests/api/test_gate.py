"""The rules that hold for every call."""

from __future__ import annotations

import pytest

from revstore.api import errors
from revstore.api.inprocess import invoke, open_stream
from revstore.proto import rpc_pb2 as r
from tests.api.member import FakeMember

BAD_UTF8 = "3.6\udcff"
WATCH = "/etcdserverpb.Watch/Watch"


def put_error(member: FakeMember, **metadata: str) -> object:
    """What a put is answered with."""
    names = {name.replace("_", "-"): value for name, value in metadata.items()}
    call = member.begin("KV/Put", r.PutRequest(key=b"a"), names)
    return call.outcome


def test_learner_serves_little(member: FakeMember) -> None:
    """A learner serves Status, a serializable Range and the Snapshot stream only."""
    member.is_learner = True
    member.call("Maintenance/Status", r.StatusRequest(), r.StatusResponse)
    local = r.RangeRequest(key=b"a", serializable=True)
    member.call("KV/Range", local, r.RangeResponse)
    refused = errors.NOT_SUPPORTED_FOR_LEARNER
    assert member.error("KV/Range", r.RangeRequest(key=b"a")) == refused
    assert member.error("KV/Range", b"\x0a\xff") == refused
    assert put_error(member) == refused
    assert (
        invoke(member.services, "/grpc.health.v1.Health/Check", b"").outcome == refused
    )
    assert open_stream(member.services, WATCH).error == refused
    stream = member.stream("KV/RangeStream", local)
    assert stream.error == refused
    stream = member.stream("Maintenance/Snapshot", r.SnapshotRequest())
    member.run()
    assert stream.error is None
    stream.cancel()


def test_old_cluster_is_not_capable(member: FakeMember) -> None:
    """A cluster older than the services refuses them; an undecided version does not."""
    member.cluster_version = "2.3.0"
    assert put_error(member) == errors.NOT_CAPABLE
    assert open_stream(member.services, WATCH).error == errors.NOT_CAPABLE
    for version in ("", "not_decided", "3.0.0", "10.1.0"):
        member.cluster_version = version
        assert isinstance(put_error(member), bytes)


def test_client_version_must_be_utf8(member: FakeMember) -> None:
    """A client version that was not UTF-8 on the wire is refused."""
    refused = errors.INVALID_CLIENT_API_VERSION
    assert put_error(member, client_api_version=BAD_UTF8) == refused
    stream = open_stream(member.services, WATCH, {"client-api-version": BAD_UTF8})
    assert stream.error == refused
    assert isinstance(put_error(member, client_api_version="3.6 \u00e9"), bytes)


def test_clients_that_require_a_leader(member: FakeMember) -> None:
    """Without a leader only clients that do not insist on one are served."""
    assert isinstance(put_error(member, hasleader="true"), bytes)
    member.leader = 0
    assert put_error(member, hasleader="true") == errors.NO_LEADER
    assert isinstance(put_error(member), bytes)
    stream = open_stream(member.services, WATCH, {"hasleader": "true"})
    assert stream.error == errors.NO_LEADER


def test_lost_leader_ends_streams_that_require_one(member: FakeMember) -> None:
    """When the leader is lost, streams with hasleader end and others go on."""
    create = r.WatchRequest(create_request=r.WatchCreateRequest(key=b"a"))
    streams = []
    for metadata in ({"hasleader": "true"}, {}):
        stream = open_stream(member.services, WATCH, metadata)
        stream.push(create.SerializeToString())
        assert len(stream.take_all()) == 1
        streams.append(stream)
    member.services.leader_lost()
    assert streams[0].error == errors.NO_LEADER
    assert not streams[1].over
    member.services.leader_lost()
    streams[1].cancel()


def test_ended_streams_are_forgotten(member: FakeMember) -> None:
    """A stream that ended, from either side, is not ended again."""
    metadata = {"hasleader": "true"}
    stream = open_stream(member.services, WATCH, metadata)
    stream.cancel()
    request = r.RangeRequest(key=b"a")
    done = member.stream("KV/RangeStream", request, metadata)
    refused = member.stream("KV/RangeStream", r.RangeRequest(), metadata)
    assert refused.error == errors.EMPTY_KEY
    assert member.services.require_leader.streams == set()
    member.services.leader_lost()
    assert stream.error is None
    assert done.error is None


def test_order_of_the_rules(member: FakeMember) -> None:
    """Of several reasons to refuse, the first in etcd's order is named."""
    member.cluster_version = "2.3.0"
    member.is_learner = True
    member.leader = 0
    member.stopped = True
    metadata = {"client_api_version": BAD_UTF8, "hasleader": "true"}
    assert put_error(member, **metadata) == errors.NOT_CAPABLE
    member.cluster_version = "3.6.0"
    assert put_error(member, **metadata) == errors.NOT_SUPPORTED_FOR_LEARNER
    member.is_learner = False
    assert put_error(member, **metadata) == errors.INVALID_CLIENT_API_VERSION
    del metadata["client_api_version"]
    assert put_error(member, **metadata) == errors.NO_LEADER
    assert put_error(member) == errors.STOPPED


@pytest.mark.parametrize("path", ["Maintenance/Snapshot", "KV/RangeStream"])
def test_stopped_member_opens_no_streams(member: FakeMember, path: str) -> None:
    """A stopped member answers STOPPED."""
    member.stopped = True
    assert member.stream(path, r.RangeRequest(key=b"a")).error == errors.STOPPED
