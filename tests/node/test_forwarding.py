"""Members have the leader answer: renewals, remaining times, membership changes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from revstore.api import errors
from revstore.api.inprocess import DirectStream
from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as r
from tests.node.cluster import REQUEST, VirtualCluster, VirtualMember, renew

ADD = "Cluster/MemberAdd"


def keep_alive(member: VirtualMember) -> DirectStream:
    """A stream of renewals through a member."""
    return member.stream("Lease/LeaseKeepAlive")


def taken(stream: DirectStream) -> list[tuple[int, int]]:
    """Ids and times to live of the answers so far."""
    found = []
    while (message := stream.take()) is not None:
        answer = r.LeaseKeepAliveResponse.FromString(message)
        found.append((answer.ID, answer.TTL))
    return found


def lives(cluster: VirtualCluster, lease_id: int) -> bool:
    """Whether every member that takes part has the lease."""
    return all(m.replica.store.lease_exists(lease_id) for m in cluster.up)


def test_a_lease_is_kept_alive_through_a_follower(cluster: VirtualCluster) -> None:
    """A client that only knows a follower keeps its lease, and learns what is left."""
    cluster.grant("b", 7, ttl=4)
    stream = keep_alive(cluster["b"])
    for _ in range(4):
        cluster.advance(3.0)
        renew(stream, 7)
        cluster.settle()
    assert taken(stream) == [(7, 4)] * 4
    query = r.LeaseTimeToLiveRequest(ID=7)
    cluster.advance(0.8)
    call = cluster["c"].call("Lease/LeaseTimeToLive", query)
    cluster.settle()
    answer = r.LeaseTimeToLiveResponse.FromString(call.result())
    assert (answer.TTL, answer.grantedTTL) == (3, 4)
    assert answer.header.member_id == cluster["c"].replica.member_id
    cluster.advance(6.0)
    assert not lives(cluster, 7)


def test_an_unknown_lease_has_no_time_left(cluster: VirtualCluster) -> None:
    """Through a follower, too, an unknown lease is TTL 0 and -1, and no error."""
    stream = keep_alive(cluster["b"])
    renew(stream, 99)
    call = cluster["b"].call("Lease/LeaseTimeToLive", r.LeaseTimeToLiveRequest(ID=99))
    cluster.settle()
    assert taken(stream) == [(99, 0)]
    assert r.LeaseTimeToLiveResponse.FromString(call.result()).TTL == -1


def test_a_renewal_outlives_the_leader(cluster: VirtualCluster) -> None:
    """The leader dies with a renewal on the way: its successor is asked, no error."""
    cluster.grant("b", 7, ttl=20)
    stream = keep_alive(cluster["b"])
    cluster["a"].paused = True
    renew(stream, 7)
    cluster.settle()
    assert taken(stream) == []
    cluster.until(lambda: len(cluster.leaders()) == 1)
    cluster.until(lambda: taken(stream) == [(7, 20)], 2.0)
    assert stream.error is None


def test_a_member_that_becomes_leader_answers_itself(cluster: VirtualCluster) -> None:
    """Of two followers that asked the dead leader one leads when the answer is due."""
    cluster.grant("b", 7, ttl=20)
    cluster["a"].paused = True
    streams = [keep_alive(cluster[name]) for name in "bc"]
    for stream in streams:
        renew(stream, 7)
    answers = [list[tuple[int, int]](), list[tuple[int, int]]()]

    def all_answered() -> bool:
        for stream, found in zip(streams, answers, strict=True):
            found += taken(stream)
        return all(answers)

    cluster.until(all_answered, 10.0)
    assert answers == [[(7, 20)], [(7, 20)]]
    assert len(cluster.leaders()) == 1


def test_without_a_leader_the_time_runs_out(cluster: VirtualCluster) -> None:
    """A member that finds no leader says so when the time of a request is over."""
    cluster.grant("b", 7, ttl=50)
    cluster.cut("b")
    cluster.advance(5.0)
    assert cluster["b"].replica.leader == 0
    stream = keep_alive(cluster["b"])
    renew(stream, 7)
    limit = cluster["b"].replica.settings.request_timeout_s
    cluster.advance(limit - 0.3)
    assert stream.error is None
    cluster.advance(0.5)
    assert stream.error == errors.NO_LEADER


def test_a_lost_request_is_asked_again(cluster: VirtualCluster) -> None:
    """A call that the network loses costs a while, and not the stream."""
    cluster.grant("b", 7, ttl=20)
    losses = [1, 1]
    cluster.lose = lambda sender, to, data: (
        data[0] == 0 and bool(losses and losses.pop())
    )
    stream = keep_alive(cluster["b"])
    renew(stream, 7)
    cluster.until(lambda: taken(stream) == [(7, 20)], 6.0)
    assert losses == []


def test_a_lease_can_be_renewed_before_the_follower_knows_it(
    cluster: VirtualCluster,
) -> None:
    """A follower that lags asks the leader, which has the lease (etcd #13932)."""
    cluster.deafen("b")
    cluster.grant("a", 7, ttl=20)
    assert not cluster["b"].replica.store.lease_exists(7)
    stream = keep_alive(cluster["b"])
    renew(stream, 7)
    cluster.settle()
    assert taken(stream) == [(7, 20)]


def test_many_renewals_are_few_messages(cluster: VirtualCluster) -> None:
    """Renewals that come together go together, in bounded batches, and each stream
    gets its own answers in order."""
    for lease_id in (7, 8):
        cluster.grant("b", lease_id, ttl=20)
    asked = cluster.note_calls()
    streams = [keep_alive(cluster["b"]) for _ in range(3)]
    for lease_id in (7, 9, 8):
        for stream in streams:
            for _ in range(200):
                renew(stream, lease_id)
    cluster.settle()
    expected = [(7, 20)] * 200 + [(9, 0)] * 200 + [(8, 20)] * 200
    for stream in streams:
        assert taken(stream) == expected
    assert len(asked) == 2


def test_an_odd_answer_to_a_batch_is_an_error(cluster: VirtualCluster) -> None:
    """Bytes that answer nothing, or too little, end the requests and raise nothing."""
    cluster.grant("b", 7, ttl=20)
    replica = cluster["b"].replica
    for answer in (b"\xc1", b"\x90", b"\x91\x92\xcd\x12\x67\xa1x"):
        stream = keep_alive(cluster["b"])
        renew(stream, 7)
        cluster["b"].run_due()
        _, _, request = cluster.wire.pop()
        payload = b"\x00\x02" + request[2:10] + answer
        replica.receive_call(cluster["a"].replica.member_id, payload)
        assert stream.error is not None
        code = errors.Code.UNKNOWN if answer[0] == 0x91 else errors.Code.INTERNAL
        assert stream.error.code == code


def test_a_stop_answers_what_is_under_way(cluster: VirtualCluster) -> None:
    """A member that stops tells the clients that wait for its leader."""
    cluster.grant("b", 7, ttl=20)
    stream = keep_alive(cluster["b"])
    cluster.cut("b")
    renew(stream, 7)
    cluster["b"].replica.stop()
    assert stream.error == errors.STOPPED


def test_members_are_added_through_a_follower(cluster: VirtualCluster) -> None:
    """The answer names the new member, and the follower has applied the change."""
    request = r.MemberAddRequest(peerURLs=["http://d:2380"], isLearner=True)
    call = cluster["b"].call(ADD, request)
    cluster.until(lambda: call.outcome is not None)
    answer = r.MemberAddResponse.FromString(call.result())
    assert answer.member.peerURLs == ["http://d:2380"]
    assert answer.member.isLearner
    assert len(answer.members) == 4
    remove = r.MemberRemoveRequest(ID=answer.member.ID)
    call = cluster["c"].call("Cluster/MemberRemove", remove)
    cluster.until(lambda: call.outcome is not None)
    assert len(r.MemberRemoveResponse.FromString(call.result()).members) == 3


def test_the_leader_judges_whether_a_learner_is_ready(cluster: VirtualCluster) -> None:
    """A follower does not know how far a learner is; promoting it is refused there."""
    request = r.MemberAddRequest(peerURLs=["http://d:2380"], isLearner=True)
    call = cluster["b"].call(ADD, request)
    cluster.until(lambda: call.outcome is not None)
    added = r.MemberAddResponse.FromString(call.result()).member
    promote = cluster["b"].call(
        "Cluster/MemberPromote", r.MemberPromoteRequest(ID=added.ID)
    )
    cluster.until(lambda: promote.outcome is not None)
    assert promote.outcome == errors.LEARNER_NOT_READY


def test_the_leader_judges_the_quorum(cluster: VirtualCluster) -> None:
    """With a member away, no other voter may be removed, whoever is asked."""
    cluster["c"].paused = True
    cluster.advance(3.0)
    remove = r.MemberRemoveRequest(ID=cluster["b"].replica.member_id)
    call = cluster["b"].call("Cluster/MemberRemove", remove)
    cluster.until(lambda: call.outcome is not None)
    assert call.outcome == errors.MEMBER_NOT_ENOUGH_STARTED


def test_a_member_alone_can_get_a_second_one(tmp_path: Path) -> None:
    """Two voters of which one has not started are no quorum, so a single member could
    never grow; etcd allows this one step, too."""
    cluster = VirtualCluster(tmp_path, 1)
    try:
        cluster.until(lambda: cluster["a"].replica.is_leader)
        call = cluster["a"].call(ADD, r.MemberAddRequest(peerURLs=["http://d:2380"]))
        cluster.until(lambda: call.outcome is not None)
        answer = r.MemberAddResponse.FromString(call.result())
        assert len(answer.members) == 2
    finally:
        cluster.close()


def test_a_change_is_not_asked_for_twice(cluster: VirtualCluster) -> None:
    """A change whose answer is lost ends as unknown: asking again could double it."""
    leader = cluster["a"].replica.member_id
    asked = []

    def lose(sender: int, to: int, data: bytes) -> bool:
        if data[0] == 0 and to == leader:
            asked.append(data)
        return data[0] == 0 and sender == leader

    cluster.lose = lose
    call = cluster["b"].call(ADD, r.MemberAddRequest(peerURLs=["http://d:2380"]))
    cluster.until(lambda: call.outcome is not None)
    assert call.outcome == errors.TIMEOUT
    assert len(asked) == 1
    assert len(cluster["b"].replica.members()) == 4


def test_a_change_that_may_have_happened_is_not_asked_for_again(
    cluster: VirtualCluster,
) -> None:
    """The leader stops with a change on the way: nobody knows whether it will be, and
    the next leader is not asked to make it once more."""
    leader = cluster["a"].replica
    asked = []

    def lose(sender: int, to: int, data: bytes) -> bool:
        if data[:2] == REQUEST:
            asked.append(data)
        return sender == leader.member_id and data[0] != 0

    cluster.lose = lose
    call = cluster["b"].call(ADD, r.MemberAddRequest(peerURLs=["http://d:2380"]))
    cluster.settle()
    assert call.outcome is None
    leader.stop()
    cluster.settle()
    assert call.outcome == errors.STOPPED
    cluster["a"].paused = True
    cluster.advance(5.0)
    assert len(asked) == 1


def test_nonsense_from_a_member_is_refused(cluster: VirtualCluster) -> None:
    """Bytes that are no change change nothing."""
    answers: list[bytes | ApiError] = []
    leader = cluster["a"].replica.member_id
    asking = cluster["b"].replica.calls
    asking.call(leader, "MemberChange", b"\xc1", 1.0, answers.append)
    asking.call(leader, "Batch", b"\xc1", 1.0, answers.append)
    odd = msgspec.msgpack.encode([("MemberChange", b""), ("LeaseKeepAlive", b"\xff")])
    asking.call(leader, "Batch", odd, 1.0, answers.append)
    asking.call(
        cluster["c"].replica.member_id, "MemberChange", b"", 1.0, answers.append
    )
    cluster.settle()
    for answer in answers[:2]:
        assert isinstance(answer, ApiError)
        assert answer.code == errors.Code.INVALID_ARGUMENT
    assert isinstance(answers[2], bytes)
    codes = [code for code, _ in msgspec.msgpack.decode(answers[2])]
    assert codes == [errors.Code.INVALID_ARGUMENT] * 2
    assert answers[3] == errors.NOT_LEADER


def test_a_single_member_asks_nobody(tmp_path: Path) -> None:
    """A member alone leads, and answers itself."""
    cluster = VirtualCluster(tmp_path, 1)
    try:
        cluster.until(cluster.leaders)
        cluster.grant("a", 7, ttl=10)
        stream = keep_alive(cluster["a"])
        renew(stream, 7)
        cluster.settle()
        assert taken(stream) == [(7, 10)]
    finally:
        cluster.close()
