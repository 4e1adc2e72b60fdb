"""Everything at once on virtual time: members that go, hang, refuse and come back at
random under a writer, watches and a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random

import pytest

from revstore.api import errors
from revstore.api.errors import Code
from revstore.client import AsyncClient, OutcomeUnknown
from revstore.client.methods import KEEP_ALIVE, WATCH
from revstore.errors import ApiError, Unavailable
from revstore.proto import kv_pb2, rpc_pb2
from tests.client.fakes import (
    SERVING,
    Answer,
    FakeCluster,
    FakeMember,
    FakeStream,
    message,
    run,
)

LOST = ApiError(Code.UNAVAILABLE, "connection lost")
ROUNDS = 150
LEASE_S = 20


class Store:
    """One history behind all members; each change is done once, whoever is asked."""

    def __init__(self, cluster: FakeCluster, random: Random) -> None:
        self.cluster = cluster
        self.random = random
        self.history: list[bytes] = []
        self.places: dict[FakeStream, dict[int, int]] = {}
        self.lease_until = 0.0
        self.hanging: set[str] = set()
        for member in cluster.all:
            member.answers["Put"] = self.put_at(member)
            member.answers["LeaseGrant"] = self.grant
            member.on_message = self.on_message

    @property
    def revision(self) -> int:
        """The newest one."""
        return 1 + len(self.history)

    def put_at(
        self, member: FakeMember
    ) -> Callable[[bytes, Mapping[str, str]], Answer]:
        """A member's put: done, refused, or done without an answer."""

        def put(body: bytes, _: Mapping[str, str]) -> Answer:
            if member.url in self.hanging:
                return None
            chance = self.random.random()
            if chance < 0.1:
                return errors.NO_LEADER
            key = rpc_pb2.PutRequest.FromString(body).key
            if chance < 0.15:
                return errors.TIMEOUT
            self.history.append(key)
            self.tell()
            if chance < 0.25:
                return LOST
            return message(rpc_pb2.PutResponse(), self.revision)

        return put

    def grant(self, *_: object) -> Answer:
        """The lease."""
        self.lease_until = asyncio.get_running_loop().time() + LEASE_S
        return message(rpc_pb2.LeaseGrantResponse(ID=9, TTL=LEASE_S))

    def on_message(self, stream: FakeStream, body: bytes) -> None:
        """A renewal, or a watch."""
        if stream.member.url in self.hanging:
            return
        if stream.member.streams.get(stream) == KEEP_ALIVE:
            self.renew(stream)
            return
        request = rpc_pb2.WatchRequest.FromString(body)
        places = self.places.setdefault(stream, {})
        if request.WhichOneof("request_union") == "create_request":
            start = request.create_request.start_revision or self.revision + 1
            places[len(places)] = max(start, 2)
            created = rpc_pb2.WatchResponse(watch_id=len(places) - 1, created=True)
            stream.push(message(created, self.revision))
            self.tell()

    def renew(self, stream: FakeStream) -> None:
        """Renew the lease if it lives."""
        now = asyncio.get_running_loop().time()
        alive = now < self.lease_until
        if alive:
            self.lease_until = now + LEASE_S
        ttl = LEASE_S if alive else 0
        stream.push(message(rpc_pb2.LeaseKeepAliveResponse(ID=9, TTL=ttl)))

    def tell(self) -> None:
        """Send some of the watches what is new, in pieces."""
        for member in self.cluster.all:
            for stream in member.streams_of(WATCH):
                if member.url in self.hanging:
                    continue
                for watch_id, start in self.places.get(stream, {}).items():
                    last = self.random.randint(start - 1, max(self.revision, start - 1))
                    self.send(stream, watch_id, start, min(last, self.revision))

    def send(self, stream: FakeStream, watch_id: int, start: int, last: int) -> None:
        """The events of some revisions, perhaps in two parts."""
        if last < start:
            return
        events = [
            kv_pb2.Event(
                kv=kv_pb2.KeyValue(key=self.history[rev - 2], mod_revision=rev)
            )
            for rev in range(start, last + 1)
        ]
        cut = self.random.randint(0, len(events) - 1)
        parts = [events[:cut], events[cut:]] if cut else [events]
        for place, part in enumerate(parts):
            more = place < len(parts) - 1
            body = rpc_pb2.WatchResponse(watch_id=watch_id, events=part, fragment=more)
            stream.push(message(body, self.revision))
        self.places[stream][watch_id] = last + 1


class Storm:
    """What happens to the members."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.random = store.random

    def act(self) -> None:
        """One thing."""
        member = self.random.choice(self.store.cluster.all)
        deed = self.random.choice(["down", "hang", "break", "limp", "well", "well"])
        if deed == "down":
            member.go_down()
        elif deed == "hang":
            self.store.hanging.add(member.url)
            member.health = None
        elif deed == "break":
            member.break_streams(self.random.choice([LOST, errors.NO_LEADER]))
        elif deed == "limp":
            member.health = errors.NO_LEADER
        else:
            self.heal(member)

    def heal(self, member: FakeMember) -> None:
        """The member is well again."""
        self.store.hanging.discard(member.url)
        member.up, member.health = True, SERVING
        self.store.tell()


async def write(client: AsyncClient, done: dict[bytes, bool]) -> None:
    """Put one key after the other; True: acknowledged, False: perhaps done."""
    number = 0
    while True:
        number += 1
        key = b"%06d" % number
        try:
            await client.put(key, b"v")
            done[key] = True
        except OutcomeUnknown:
            done[key] = False
        except (Unavailable, ApiError):
            pass
        await asyncio.sleep(0.05)


async def weather(seed: int) -> None:
    """A storm, then fair weather, then everything must be there."""
    random = Random(seed)
    cluster = FakeCluster()
    store = Store(cluster, random)
    storm = Storm(store)
    done: dict[bytes, bool] = {}
    async with await cluster.client(timeout_s=5.0) as client:
        lease = await client.lease(LEASE_S, keep=True)
        watchers = [await client.watch("k", start_revision=1).started()]
        writing = asyncio.ensure_future(write(client, done))
        for step in range(ROUNDS):
            storm.act()
            await asyncio.sleep(random.random())
            if step == ROUNDS // 2:
                watchers.append(client.watch("k", start_revision=1))
        for member in cluster.all:
            storm.heal(member)
        await asyncio.sleep(30)
        writing.cancel()
        expected = list(enumerate(store.history, 2))
        for watcher in watchers:
            got: list[tuple[int, bytes]] = []
            while len(got) < len(expected):
                store.tell()
                async with asyncio.timeout(60):
                    event = await watcher.next_event()
                assert event is not None
                got.append((event.revision, event.key))
            assert got == expected
            watcher.close()
        assert len(set(store.history)) == len(store.history), "a put was done twice"
        kept = {key for key, acknowledged in done.items() if acknowledged}
        assert len(kept) > 20
        assert kept <= set(store.history)
        alive = asyncio.get_running_loop().time() < store.lease_until
        assert lease.lost != alive, (lease.loss, alive)


@pytest.mark.parametrize("seed", range(12))
def test_a_storm_loses_and_doubles_nothing(seed: int) -> None:
    """Puts are done once, watches see each once, the lease is as it is called."""
    try:
        run(weather(seed), limit_s=10_000)
    except BaseException as error:
        error.add_note(
            f"replay: pytest tests/client/test_storm.py -k 'nothing and {seed}'"
        )
        raise
