"""Calls over failing members: where they go, how often, and what the caller hears."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from revstore.api import errors
from revstore.api.errors import Code
from revstore.client.retry import OutcomeUnknown
from revstore.errors import ApiError, Unavailable, UsageError
from revstore.proto import rpc_pb2
from tests.client.fakes import (
    Answer,
    FakeCluster,
    message,
    put_answer,
    run,
    until,
)

LOST = ApiError(Code.UNAVAILABLE, "connection lost")


def range_answer(*_: object) -> bytes:
    """An empty range."""
    return message(rpc_pb2.RangeResponse(), 7)


def test_calls_take_turns_over_the_members() -> None:
    """Each of three healthy members gets its part."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.answer("Range", range_answer)
        async with await cluster.client() as client:
            await until(lambda: client.maintenance is not None, "probes")
            await asyncio.sleep(0.1)
            for _ in range(9):
                await client.get("k")
            assert client.revision == 7
        assert [len(member.named("Range")) for member in cluster.all] == [3, 3, 3]

    run(main())


def test_a_read_goes_on_at_another_member() -> None:
    """After a connection was lost in the midst of it."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.answer("Range", range_answer)
        cluster[0].answers["Range"] = cluster[1].answers["Range"] = lambda *_: LOST
        async with await cluster.client() as client:
            await asyncio.sleep(0.1)
            for _ in range(4):
                await client.get("k")
        assert len(cluster[2].named("Range")) == 4

    run(main())


def test_a_write_that_was_sent_is_sent_once() -> None:
    """A lost answer is told as an unknown outcome, and no member sees a second put."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.answer("Put", lambda *_: LOST)
        async with await cluster.client() as client:
            with pytest.raises(OutcomeUnknown) as caught:
                await client.put("k", "v")
            assert caught.value.code == Code.UNAVAILABLE
        assert len(cluster.calls("Put")) == 1

    run(main())


def test_a_write_without_an_answer_is_unknown_at_its_deadline() -> None:
    """It is not sent again while its time runs."""

    async def main() -> None:
        cluster = FakeCluster()
        loop = asyncio.get_running_loop()
        async with await cluster.client(timeout_s=3.0) as client:
            begin = loop.time()
            with pytest.raises(OutcomeUnknown):
                await client.put("k", "v")
            assert loop.time() - begin == pytest.approx(3.0)
        assert len(cluster.calls("Put")) == 1

    run(main())


def test_a_write_that_cannot_leave_waits_for_a_member() -> None:
    """While nothing listens it is tried again, and done once when somebody does."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.answer("Put", lambda *_: put_answer())
        async with await cluster.client() as client:
            for member in cluster.all:
                member.go_down()
            putting = asyncio.create_task(client.put("k", "v"))
            await asyncio.sleep(2.0)
            assert not putting.done()
            cluster[1].up = True
            assert (await putting).revision == 2
        assert cluster.calls("Put") == [cluster[1].url]

    run(main())


def test_a_write_that_never_left_says_so() -> None:
    """Unavailable, with the reason for each endpoint: it may be made again safely."""

    async def main() -> None:
        cluster = FakeCluster(2)
        async with await cluster.client(timeout_s=3.0) as client:
            for member in cluster.all:
                member.go_down()
            with pytest.raises(Unavailable, match=r"m0:1: .*; fake://m1:1: ") as caught:
                await client.put("k", "v")
            assert not isinstance(caught.value, ApiError)

    run(main())


def test_members_without_a_leader_are_passed_by() -> None:
    """A put is refused by one that knows no leader, done by another, and the first gets
    no more calls until it is well."""

    async def main() -> None:
        cluster = FakeCluster(2)
        cluster.answer("Put", lambda *_: put_answer())
        cluster[0].answers["Put"] = lambda *_: errors.NO_LEADER
        cluster[0].health = errors.NO_LEADER
        async with await cluster.client() as client:
            await asyncio.sleep(0.1)
            for _ in range(5):
                await client.put("k", "v")
            assert cluster.calls("Put") == [cluster[1].url] * 5
            cluster[0].health, cluster[0].answers["Put"] = (
                b"\x08\x01",
                lambda *_: put_answer(),
            )
            await asyncio.sleep(1.0)
            for _ in range(4):
                await client.put("k", "v")
            assert len(cluster[0].named("Put")) == 2

    run(main())


def test_all_without_a_leader_give_their_own_answer() -> None:
    """When nobody leads until the deadline the caller hears that, not a time-out."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.answer("Put", lambda *_: errors.NO_LEADER)
        for member in cluster.all:
            member.health = errors.NO_LEADER
        async with await cluster.client(timeout_s=2.0) as client:
            with pytest.raises(ApiError) as caught:
                await client.put("k", "v")
            assert caught.value == errors.NO_LEADER
            assert not isinstance(caught.value, OutcomeUnknown)
        assert len(cluster.calls("Put")) > 3

    run(main())


def test_a_repeated_read_goes_to_a_member_that_has_not_failed_it() -> None:
    """Also while the one that failed it looks healthy: its time-out says little."""

    async def main() -> None:
        cluster = FakeCluster(2)
        keys: list[bytes] = []

        def time_out(body: bytes, _: object) -> Answer:
            keys.append(rpc_pb2.RangeRequest.FromString(body).key)
            return errors.TIMEOUT

        cluster[0].answers["Range"] = time_out
        cluster[1].answers["Range"] = range_answer
        async with await cluster.client() as client:
            await asyncio.sleep(0.1)
            await asyncio.gather(*(client.get(str(number)) for number in range(7)))
        assert keys
        assert len(keys) == len(set(keys))

    run(main())


def test_refusals_are_handed_on_at_once() -> None:
    """What the cluster refuses is not tried again."""

    async def main() -> None:
        cluster = FakeCluster()
        cluster.answer("Range", lambda *_: errors.COMPACTED)
        async with await cluster.client() as client:
            with pytest.raises(ApiError) as caught:
                await client.get("k", revision=1)
            assert caught.value == errors.COMPACTED
        assert len(cluster.calls("Range")) == 1

    run(main())


def test_a_repeated_revocation_that_finds_nothing_was_done() -> None:
    """The first one ended the lease although its answer was lost; a revocation that
    finds nothing at once is still refused."""

    async def main() -> None:
        cluster = FakeCluster()
        answers: list[Answer] = [LOST, errors.LEASE_NOT_FOUND]
        cluster.answer("LeaseRevoke", lambda *_: answers.pop(0))
        async with await cluster.client() as client:
            await client.revoke(5)
            answers.append(errors.LEASE_NOT_FOUND)
            with pytest.raises(ApiError) as caught:
                await client.revoke(5)
            assert caught.value == errors.LEASE_NOT_FOUND

    run(main())


def test_nothing_listens() -> None:
    """Connecting fails in time, and says for each endpoint why."""

    async def main() -> None:
        cluster = FakeCluster(2)
        for member in cluster.all:
            member.up = False
        with pytest.raises(Unavailable, match=r"m0.*m1"):
            await cluster.client(connect_timeout_s=2.0)

    run(main())


class Users:
    """Members that ask for a token, and take back what they gave."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.valid = ""
        self.given = 0
        self.password = "secret"
        cluster.answer("Authenticate", self.authenticate)
        cluster.answer("Put", self.put)

    def authenticate(self, body: bytes, _: Mapping[str, str]) -> Answer:
        """A new token."""
        request = rpc_pb2.AuthenticateRequest.FromString(body)
        if request.password != self.password:
            return errors.AUTH_FAILED
        self.given += 1
        self.valid = f"token{self.given}"
        return message(rpc_pb2.AuthenticateResponse(token=self.valid))

    def put(self, _: bytes, metadata: Mapping[str, str]) -> Answer:
        """Only with the token that is valid now."""
        if metadata.get("token", "") != self.valid:
            return errors.INVALID_AUTH_TOKEN
        return put_answer()


def test_tokens_are_fetched_and_renewed() -> None:
    """One at the start, another when it is refused; one fetch serves all that wait."""

    async def main() -> None:
        cluster = FakeCluster()
        users = Users(cluster)
        async with await cluster.client(user="u", password="secret") as client:
            await client.put("k", "v")
            assert users.given == 1
            users.valid = "revoked"
            await asyncio.gather(*(client.put("k", str(n)) for n in range(5)))
            assert users.given == 2

    run(main())


def test_a_refused_password_is_told() -> None:
    """When connecting, and when a token is renewed after the password changed."""

    async def main() -> None:
        cluster = FakeCluster()
        users = Users(cluster)
        with pytest.raises(ApiError) as caught:
            await cluster.client(user="u", password="wrong")
        assert caught.value == errors.AUTH_FAILED
        async with await cluster.client(user="u", password="secret") as client:
            users.password, users.valid = "other", "revoked"
            with pytest.raises(ApiError) as caught:
                await client.put("k", "v")
            assert caught.value == errors.AUTH_FAILED

    run(main())


def test_a_cluster_without_users_needs_no_token() -> None:
    """A user is given, authentication is off: calls go without a token."""

    async def main() -> None:
        cluster = FakeCluster(1)
        cluster.answer("Authenticate", lambda *_: errors.AUTH_NOT_ENABLED)
        cluster.answer("Put", lambda *_: put_answer())
        async with await cluster.client(user="u", password="p") as client:
            await client.put("k", "v")
        metadata = cluster[0].named("Put")[0][1]
        assert "token" not in metadata

    run(main())


def test_what_calls_carry() -> None:
    """The version of the API, and the wish for a leader where it was asked for."""

    async def main() -> None:
        cluster = FakeCluster(1)
        cluster.answer("Range", range_answer)
        async with await cluster.client() as client:
            await client.get("k")
            await client.with_options(require_leader=True).get("k")
        plain, strict = (metadata for _, metadata in cluster[0].named("Range"))
        assert plain["client-api-version"].startswith("3.")
        assert "hasleader" not in plain
        assert strict["hasleader"] == "true"

    run(main())


def test_moving_the_leader_finds_it() -> None:
    """Only the leader can: the client asks the members who that is."""

    async def main() -> None:
        cluster = FakeCluster()
        for number, member in enumerate(cluster.all):
            status = rpc_pb2.StatusResponse(leader=3)
            status.header.member_id = number + 1
            body = status.SerializeToString()
            member.answers["Status"] = lambda *_, body=body: body
            member.answers["MoveLeader"] = lambda *_: b""
        async with await cluster.client() as client:
            await client.maintenance.move_leader(1)
        assert cluster.calls("MoveLeader") == [cluster[2].url]

    run(main())


@pytest.mark.parametrize("endpoints", ["", "http://host", "host:port", ["a:1", "b"]])
def test_endpoints_that_are_none(endpoints: str | list[str]) -> None:
    """The error shows the form."""
    from revstore.client.opening import parse_endpoints

    with pytest.raises(UsageError, match="http://"):
        parse_endpoints(endpoints)


def test_endpoints_as_people_write_them() -> None:
    """Commas, spaces, no scheme, doubled ones."""
    from revstore.client.opening import parse_endpoints

    assert parse_endpoints("a:1, tcp://b:2/,a:1") == ("http://a:1", "tcp://b:2")
    assert parse_endpoints(["a:1"], secure=True) == ("https://a:1",)


def test_endpoints_of_the_members() -> None:
    """The voters' URLs are taken, of the kind in use where there is one; calls go to
    them, and to those that were left no more."""

    async def main() -> None:
        cluster = FakeCluster(3)
        urls = list(cluster.members)
        members = [
            rpc_pb2.Member(ID=1, clientURLs=["tcp://m1:2", urls[1]]),
            rpc_pb2.Member(ID=2, clientURLs=[urls[2]]),
            rpc_pb2.Member(ID=3, clientURLs=[urls[0]], isLearner=True),
            rpc_pb2.Member(ID=4),
        ]
        listed = message(rpc_pb2.MemberListResponse(members=members))
        cluster.answer("MemberList", lambda *_: listed)
        cluster.answer("Range", range_answer)
        async with await cluster.client() as client:
            assert await client.sync_endpoints() == (urls[1], urls[2])
            await asyncio.sleep(0.1)
            for _ in range(6):
                await client.get("k")
        assert set(cluster.calls("Range")) == {urls[1], urls[2]}

    run(main())
