"""Watches and leases over failing members, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

import revstore
from revstore.api import errors
from revstore.api.errors import Code
from revstore.client import watch as watch_module
from revstore.errors import ApiError, Unavailable
from revstore.proto import rpc_pb2
from tests.client.fakes import (
    KEEP_ALIVE,
    WATCH,
    Answer,
    FakeCluster,
    FakeStream,
    message,
    run,
    until,
)
from tests.client.test_watching import response

LOST = ApiError(Code.UNAVAILABLE, "connection lost")


class Watched:
    """Members that serve watches of one shared history, each revision one event."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.revision = 1
        self.starts: list[int] = []
        self.places: dict[FakeStream, dict[int, int]] = {}
        for member in cluster.all:
            member.on_message = self.on_message

    def on_message(self, stream: FakeStream, body: bytes) -> None:
        """A request on a stream."""
        request = rpc_pb2.WatchRequest.FromString(body)
        kind = request.WhichOneof("request_union")
        places = self.places.setdefault(stream, {})
        if kind == "create_request":
            start = request.create_request.start_revision
            self.starts.append(start)
            watch_id = len(places)
            places[watch_id] = start or self.revision + 1
            created = response(revision=self.revision, watch_id=watch_id, created=True)
            stream.push(created)
            self.catch_up(stream)
        elif kind == "cancel_request":
            places[request.cancel_request.watch_id] = 1 << 60

    def write(self, count: int = 1) -> None:
        """New revisions, told on every stream."""
        self.revision += count
        for member in self.cluster.all:
            for stream in member.streams_of(WATCH):
                self.catch_up(stream)

    def catch_up(self, stream: FakeStream) -> None:
        """Send what is behind."""
        for watch_id, start in self.places[stream].items():
            if start <= self.revision:
                events = list(range(start, self.revision + 1))
                body = response(
                    revision=self.revision, watch_id=watch_id, events=events
                )
                stream.push(body)
                self.places[stream][watch_id] = self.revision + 1

    def streams(self) -> list[FakeStream]:
        """All open watch streams."""
        return [s for member in self.cluster.all for s in member.streams_of(WATCH)]


def refusal(reason: str) -> bytes:
    """What a member says to a watch that it does not take."""
    return response(revision=1, watch_id=-1, created=True, canceled=True, reason=reason)


async def read(watcher: revstore.client.AsyncWatcher, count: int) -> list[int]:
    """The revisions of the next events."""
    found = []
    for _ in range(count):
        event = await watcher.next_event()
        assert event is not None
        found.append(event.revision)
    return found


def test_a_watch_moves_on_when_its_member_fails() -> None:
    """It resumes behind the last event at another member; the reader notices nothing."""

    async def main() -> None:
        cluster = FakeCluster()
        watched = Watched(cluster)
        client = await cluster.client()
        async with client, client.watch("k") as watcher:
            watched.write(3)
            assert await read(watcher, 3) == [2, 3, 4]
            watched.streams()[0].member.go_down()
            watched.write(2)
            assert await read(watcher, 2) == [5, 6]
            assert watcher.revision == 6
        assert watched.starts == [0, 5]

    run(main())


def test_what_a_broken_stream_did_not_take_is_not_sent_twice() -> None:
    """Two watches whose first stream breaks at once are asked for once on the next."""

    async def main() -> None:
        cluster = FakeCluster(1)
        watched = Watched(cluster)
        cluster[0].refuse_stream = LOST
        async with await cluster.client() as client:
            watchers = [client.watch("k"), client.watch("k")]
            await until(lambda: WATCH in cluster[0].opened, "the first stream")
            cluster[0].refuse_stream = None
            for watcher in watchers:
                await watcher.started()
            assert watched.starts == [0, 0]
            watched.write()
            for watcher in watchers:
                assert await read(watcher, 1) == [2]
                watcher.close()

    run(main())


def test_many_watches_share_a_stream() -> None:
    """Ten watches are one stream, which ends with the last of them."""

    async def main() -> None:
        cluster = FakeCluster()
        watched = Watched(cluster)
        async with await cluster.client() as client:
            watchers = [await client.watch("k").started() for _ in range(10)]
            assert len(watched.streams()) == 1
            watched.write()
            for watcher in watchers:
                assert await read(watcher, 1) == [2]
                watcher.close()
                assert await watcher.next_event() is None
            await until(lambda: not watched.streams(), "the stream ends")
            async with client.watch("k") as again:
                watched.write()
                assert await read(again, 1) == [3]

    run(main())


def test_a_slow_reader_holds_up_nobody_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its queue is bounded: the rest stays at the server until it reads on."""
    monkeypatch.setattr(watch_module, "QUEUE_EVENTS_MAX", 10)

    async def main() -> None:
        cluster = FakeCluster(1)
        watched = Watched(cluster)
        async with await cluster.client() as client:
            slow = await client.watch("k").started()
            quick = await client.watch("k").started()
            got = []
            for _ in range(50):
                watched.write()
                got += await read(quick, 1)
            assert got == list(range(2, 52))
            assert len(slow._batches) <= 12
            assert await read(slow, 50) == got
            slow.close()
            quick.close()

    run(main())


def test_a_silent_member_is_left() -> None:
    """A stream whose member answers no probe any more is opened at another one."""

    async def main() -> None:
        cluster = FakeCluster(2)
        watched = Watched(cluster)
        client = await cluster.client()
        async with client, client.watch("k") as watcher:
            silent = watched.streams()[0].member
            silent.health = None
            await until(
                lambda: any(s.member is not silent for s in watched.streams()),
                "the stream moves",
            )
            watched.write()
            assert await read(watcher, 1) == [2]

    run(main())


def test_compaction_is_told() -> None:
    """Behind the events that arrived before it; with the revision to go on from."""

    async def main() -> None:
        cluster = FakeCluster(1)
        watched = Watched(cluster)
        async with await cluster.client() as client:
            watcher = await client.watch("k").started()
            watched.write()
            stream = watched.streams()[0]
            stream.push(response(revision=0, canceled=True, compact=40))
            assert await read(watcher, 1) == [2]
            for _ in range(2):
                with pytest.raises(revstore.WatchCanceled) as caught:
                    await watcher.next_event()
                assert caught.value.compact_revision == 40

    run(main())


def test_a_refused_watch_says_so_at_once() -> None:
    """Waiting for it to stand ends with the reason."""

    async def main() -> None:
        cluster = FakeCluster(1)

        def refuse(stream: FakeStream, _: bytes) -> None:
            stream.push(refusal("permission denied"))

        cluster[0].on_message = refuse
        async with await cluster.client() as client:
            with pytest.raises(revstore.WatchCanceled, match="permission denied"):
                async with client.watch("k"):
                    pass
            cluster[0].refuse_stream = errors.PERMISSION_DENIED
            with pytest.raises(ApiError) as caught:
                await client.watch("k").started()
            assert caught.value == errors.PERMISSION_DENIED

    run(main())


def test_a_stream_that_is_refused_its_token_comes_back_with_another() -> None:
    """By the status of the stream, or by a message on it."""

    async def main() -> None:
        cluster = FakeCluster(1)
        watched = Watched(cluster)
        tokens = iter(["one", "two", "three"])

        def authenticate(*_: object) -> Answer:
            return message(rpc_pb2.AuthenticateResponse(token=next(tokens)))

        cluster.answer("Authenticate", authenticate)
        serve = watched.on_message

        def gate(stream: FakeStream, body: bytes) -> None:
            token = stream.metadata["token"]
            if token == "one":
                stream.end(errors.INVALID_AUTH_TOKEN)
            elif token == "two":
                reason = f"rpc error: desc = {errors.INVALID_AUTH_TOKEN.message}"
                stream.push(refusal(reason))
            else:
                serve(stream, body)

        cluster[0].on_message = gate
        client = await cluster.client(user="u", password="p")
        async with client, client.watch("k") as watcher:
            watched.write()
            assert await read(watcher, 1) == [2]
            assert watched.streams()[0].metadata["token"] == "three"

    run(main())


def test_a_token_that_is_always_refused_is_not_asked_for_all_the_time() -> None:
    """Pauses grow: each renewal costs the members the hash of a password."""

    async def main() -> None:
        cluster = FakeCluster(1)
        given: list[int] = []

        def authenticate(*_: object) -> Answer:
            given.append(1)
            token = f"t{len(given)}"
            return message(rpc_pb2.AuthenticateResponse(token=token))

        def refuse(stream: FakeStream, _: bytes) -> None:
            reason = f"rpc error: desc = {errors.INVALID_AUTH_TOKEN.message}"
            stream.push(refusal(reason))

        cluster.answer("Authenticate", authenticate)
        cluster[0].on_message = refuse
        async with await cluster.client(user="u", password="p") as client:
            watcher = client.watch("k")
            await asyncio.sleep(60)
            assert 10 < len(given) < 100
            watcher.close()

    run(main())


def test_a_watch_that_nobody_takes_is_told_in_time() -> None:
    """Waiting for it to stand ends like a call without an endpoint."""

    async def main() -> None:
        cluster = FakeCluster(1)
        async with await cluster.client(timeout_s=3.0) as client:
            with pytest.raises(Unavailable, match="does not answer"):
                await client.watch("k").started()
            cluster[0].go_down()
            with pytest.raises(Unavailable, match="m0"):
                async with client.watch("k"):
                    pass

    run(main())


def test_closing_the_client_ends_its_watches() -> None:
    """A reader that waits gets None; nothing can be begun any more."""

    async def main() -> None:
        cluster = FakeCluster(1)
        Watched(cluster)
        client = await cluster.client()
        watcher = await client.watch("k").started()
        reading = asyncio.create_task(watcher.next_event())
        await asyncio.sleep(0.1)
        await client.close()
        await client.close()
        assert await reading is None
        with pytest.raises(Unavailable):
            client.watch("k")
        with pytest.raises(Unavailable):
            await client.get("k")

    run(main())


class Leases:
    """Members that grant and renew leases of ten seconds."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.alive = True
        self.silent: set[str] = set()
        self.renewed: list[tuple[float, str]] = []
        cluster.answer("LeaseGrant", self.grant)
        for member in cluster.all:
            member.on_message = self.renew

    def grant(self, body: bytes, _: Mapping[str, str]) -> Answer:
        """A lease."""
        return message(rpc_pb2.LeaseGrantResponse(ID=9, TTL=10))

    def renew(self, stream: FakeStream, body: bytes) -> None:
        """A renewal came."""
        url = stream.member.url
        now = asyncio.get_running_loop().time()
        self.renewed.append((now, url))
        if url not in self.silent:
            request = rpc_pb2.LeaseKeepAliveRequest.FromString(body)
            ttl = 10 if self.alive else 0
            stream.push(message(rpc_pb2.LeaseKeepAliveResponse(ID=request.ID, TTL=ttl)))


def test_a_kept_lease_is_renewed_three_times_a_life() -> None:
    """Over one stream, which ends when the lease is released."""

    async def main() -> None:
        cluster = FakeCluster()
        leases = Leases(cluster)
        async with await cluster.client() as client:
            lease = await client.lease(10, keep=True)
            await asyncio.sleep(60)
            assert not lease.lost
            assert 17 <= len(leases.renewed) <= 18
            assert len({url for _, url in leases.renewed}) == 1
            lease.release()
            await asyncio.sleep(1)
            assert not any(m.streams_of(KEEP_ALIVE) for m in cluster.all)
            lease.keep()
            await asyncio.sleep(0)
            client.keeper.release(lease.id)

    run(main())


def test_a_lease_let_go_while_its_stream_opens_leaves_no_stream() -> None:
    """The stream stayed open, although nobody needed it."""

    async def main() -> None:
        cluster = FakeCluster(1)
        Leases(cluster)
        cluster[0].up = False
        async with await cluster.client(wait=False) as client:
            now = asyncio.get_running_loop().time()
            lease = revstore.client.AsyncLease(client, 9, 10, now).keep()
            await asyncio.sleep(0.1)
            lease.release()
            await asyncio.sleep(0.1)
            cluster[0].up = True
            await asyncio.sleep(5)
            assert cluster[0].opened == [KEEP_ALIVE]
            assert not cluster[0].streams_of(KEEP_ALIVE)

    run(main())


def test_a_lease_lives_over_failed_members() -> None:
    """One dies, one answers nothing: the third renews before the time is up."""

    async def main() -> None:
        cluster = FakeCluster()
        leases = Leases(cluster)
        async with await cluster.client() as client:
            lease = await client.lease(10, keep=True)
            await until(lambda: leases.renewed, "the first renewal")
            by_url = cluster.members
            by_url[leases.renewed[-1][1]].go_down()
            seen = len(leases.renewed)
            await until(lambda: len(leases.renewed) > seen, "another member")
            leases.silent.add(leases.renewed[-1][1])
            await asyncio.sleep(60)
            assert not lease.lost
            assert leases.renewed[-1][1] not in leases.silent
            lease.release()

    run(main())


def test_a_lease_that_is_gone_is_told() -> None:
    """As soon as a member says so."""

    async def main() -> None:
        cluster = FakeCluster()
        leases = Leases(cluster)
        async with await cluster.client() as client:
            lease = await client.lease(10, keep=True)
            leases.alive = False
            assert "expired or was revoked" in await lease.wait_lost()
            assert lease.lost
            assert asyncio.get_running_loop().time() < 5

    run(main())


def test_a_lease_nobody_renews_is_given_up_in_time() -> None:
    """When the last renewal that was answered is a life ago, not a moment later."""

    async def main() -> None:
        cluster = FakeCluster()
        leases = Leases(cluster)
        async with await cluster.client() as client:
            loop = asyncio.get_running_loop()
            lease = await client.lease(10, keep=True)
            await until(lambda: len(leases.renewed) == 2, "two renewals")
            last = leases.renewed[-1][0]
            for member in cluster.all:
                member.go_down()
            assert "in time" in await lease.wait_lost()
            assert loop.time() == pytest.approx(last + 10, abs=0.02)

    run(main())


def test_one_renewal_goes_where_it_is_answered() -> None:
    """A renewal by hand is tried at other members until its time is up."""

    async def main() -> None:
        cluster = FakeCluster()
        leases = Leases(cluster)
        cluster[0].refuse_stream = cluster[1].refuse_stream = errors.NO_LEADER
        async with await cluster.client(timeout_s=5.0) as client:
            await asyncio.sleep(0.1)
            assert await client.keep_alive(9) == 10
            leases.alive = False
            assert await client.keep_alive(9) == 0
            cluster[2].refuse_stream = errors.NO_LEADER
            with pytest.raises(Unavailable, match="lease 9"):
                await client.keep_alive(9)

    run(main())
