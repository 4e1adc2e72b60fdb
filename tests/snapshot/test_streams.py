"""Snapshots over a transport: real loops and threads, links in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from revstore.api.replica import MemberChange, MemberChangeKind, Tag
from revstore.errors import ApiError, TransportError
from revstore.interfaces.peers import IncomingStream, OutgoingStream
from revstore.node.aio import AsyncNode
from revstore.node.peering import PeerSettings
from revstore.node.settings import MemberSettings, PluginChoice
from revstore.node.snapshot_streams import SnapshotStreams
from revstore.peer.memory import MemoryNetwork
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult
from tests.snapshot.support import content

KEYS = 400
DEADLINE_S = 30.0
LEADER, JOINER = "memory://leader", "memory://joiner"


class Pair:
    """A leader with a purged log, and a member that joins it."""

    def __init__(self, path: Path, stack: AsyncExitStack) -> None:
        self.network = MemoryNetwork()
        self._path = path
        self._stack = stack

    async def open(self, name: str, backend: str) -> AsyncNode:
        """Start a member."""
        cluster = {"leader": (LEADER,)}
        if name == "joiner":
            cluster["joiner"] = (JOINER,)
        settings = MemberSettings(
            data_dir=self._path / name,
            name=name,
            backend=PluginChoice(backend),
            wal=PluginChoice("segment", {"segment_bytes": 4096}),
            consensus=PluginChoice("raft"),
            peer_urls=cluster[name],
            initial_cluster=cluster,
            initial_cluster_state="new" if name == "leader" else "existing",
            snapshot_count=10,
            catchup_entries=10,
            heartbeat_s=0.02,
            election_timeout_s=0.2,
        )
        peers = PeerSettings(self.network.transport(), settings.peer_urls)
        node = await AsyncNode.open(settings, random=Random(3), peers=peers)
        self._stack.push_async_callback(node.close)
        return node

    async def leader(self, backend: str) -> AsyncNode:
        """A leader whose log does not go back to the beginning."""
        node = await self.open("leader", backend)
        for number in range(KEYS):
            await put(node, b"key/%06d" % number, b"v" * 200)
        await until(lambda: node.replica.wal.first_index() > 10, "the purge")
        done = asyncio.get_running_loop().create_future()
        change = MemberChange(MemberChangeKind.ADD, 0, (JOINER,), True)
        node.replica.change_members(change, done.set_result)
        assert await done is None
        return node


@asynccontextmanager
async def pair(path: Path) -> AsyncIterator[Pair]:
    """See ``Pair``."""
    async with AsyncExitStack() as stack:
        yield Pair(path, stack)


async def put(node: AsyncNode, key: bytes, value: bytes) -> None:
    """One acknowledged write."""
    done: asyncio.Future[ApplyResult | ApiError] = asyncio.Future()
    request = rpc_pb2.PutRequest(key=key, value=value)
    node.replica.propose(Tag.PUT, request.SerializeToString(), request, done.set_result)
    result = await done
    assert not isinstance(result, ApiError), result


async def until(condition: Callable[[], object], what: str) -> None:
    """Poll until a condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(0.005)
    assert condition(), what


async def flushed(node: AsyncNode) -> None:
    """Bring what was applied to the backend."""
    done: asyncio.Future[ApiError | None] = asyncio.Future()
    node.replica.housekeeping.when_flushed(done.set_result)
    assert await done is None


async def same_content(one: AsyncNode, other: AsyncNode) -> None:
    """Both hold the same, once the second has applied all."""
    await until(lambda: other.replica.applied == one.replica.applied, "the rest")
    await flushed(one)
    await flushed(other)
    ours, theirs = content(one.replica.backend), content(other.replica.backend)
    assert {**ours, "meta": []} == {**theirs, "meta": []}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target"),
    [("lmdb", "rocksdb"), ("rocksdb", "lmdb"), ("lmdb", "memory")],
)
def test_a_member_that_joins_gets_everything(
    tmp_path: Path, source: str, target: str
) -> None:
    """Whatever the two store it in; and it goes on from there, also after a restart."""

    async def run() -> None:
        async with pair(tmp_path) as members:
            leader = await members.leader(source)
            joiner = await members.open("joiner", target)
            await put(leader, b"after", b"1")
            await same_content(leader, joiner)
            await joiner.close()
            # What the memory has lost, the snapshot and the log give back.
            kept = 1 if target == "memory" else 0
            assert len(list((tmp_path / "joiner/member").glob("snapshot*"))) == kept
            await same_content(leader, await members.open("joiner", target))

    asyncio.run(run())


class Spoiled(OutgoingStream):
    """A stream that does something to one of its chunks."""

    def __init__(self, stream: OutgoingStream, spoil: Callable[[bytes], bytes]) -> None:
        self._stream = stream
        self._spoil = spoil

    async def write(self, chunk: bytes) -> None:
        """See ``OutgoingStream``."""
        await self._stream.write(self._spoil(chunk))

    async def finish(self) -> bytes:
        """See ``OutgoingStream``."""
        return await self._stream.finish()

    def abort(self) -> None:
        """See ``OutgoingStream``."""
        self._stream.abort()


def flip(chunk: bytes) -> bytes:
    """One bit changed."""
    return chunk[:-1] + bytes((chunk[-1] ^ 1,))


def cut(chunk: bytes) -> bytes:
    """The connection breaks."""
    raise TransportError("the connection broke")


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [flip, cut])
def test_what_is_spoiled_is_sent_again(
    tmp_path: Path, spoil: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage and breaks leave nothing behind, and the member catches up after all."""

    async def run() -> None:
        async with pair(tmp_path) as members:
            leader = await members.leader("lmdb")
            assert leader.peering is not None
            peers = leader.peering.peers
            open_stream = peers.open_stream
            opened = 0

            async def open_spoiled(to: int, meta: bytes) -> OutgoingStream:
                nonlocal opened
                opened += 1
                stream = await open_stream(to, meta)
                return Spoiled(stream, spoil) if opened < 3 else stream

            monkeypatch.setattr(peers, "open_stream", open_spoiled)
            joiner = await members.open("joiner", "lmdb")
            await same_content(leader, joiner)
            assert opened >= 3
            assert sorted((tmp_path / "joiner/member").glob("snapshot*")) == []

    asyncio.run(run())


@pytest.mark.slow
def test_closing_does_not_wait_for_the_other_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ends can be closed while a snapshot is on its way; no thread is left."""

    async def run() -> None:
        async with pair(tmp_path) as members:
            leader = await members.leader("lmdb")
            taken: list[IncomingStream] = []

            def take(self: SnapshotStreams, stream: IncomingStream) -> None:
                taken.append(stream)

            # A receiver that takes nothing: the sender waits for room, or for the end.
            monkeypatch.setattr(SnapshotStreams, "receive", take)
            opening = asyncio.ensure_future(members.open("joiner", "lmdb"))
            await until(lambda: taken, "the stream")
            async with asyncio.timeout(DEADLINE_S):
                await leader.close()
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)

    asyncio.run(run())
