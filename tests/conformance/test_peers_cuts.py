"""Members whose connections are cut and stalled at random bytes: what arrives is still
whole, once and in order (P-01, P-10), and the members find one another again (P-06)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from urllib.parse import urlsplit

import pytest
from tests.conformance.test_peers import GrpcHarness, GrpcioHarness, TcpHarness

from revstore.errors import TransportError
from revstore.interfaces.peers import IncomingStream, Lane
from revstore_conformance.peers_harness import (
    PATIENCE_S,
    Cluster,
    Harness,
    Member,
    body_of,
    run,
)

HARNESSES: dict[str, Harness] = {
    "tcp": TcpHarness(),
    "grpcio": GrpcioHarness(),
    "grpc": GrpcHarness(),
}
NUMBER = struct.Struct(">I")
ROUNDS = 150
STREAMS = 12
CHUNKS = 12
PASSED_MAX = 120_000
"""Bytes after which a connection is cut, at the latest."""


class Cutter:
    """A relay to a member that ends each connection after some bytes, or lets it
    stand still."""

    def __init__(self, target: str, random: Random) -> None:
        parts = urlsplit(target)
        self._scheme = parts.scheme
        self._target = (parts.hostname, parts.port)
        self._random = random
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.healed = False
        self.cuts = 0

    async def open(self) -> str:
        """Listen; returns the URL to call instead of the member's."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return f"{self._scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """End everything."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._tasks.add(asyncio.ensure_future(self._join(reader, writer)))

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            there = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(there[1])
        budget = self._random.randrange(PASSED_MAX)
        stalls = self._random.random() < 0.3
        await asyncio.gather(
            self._relay(reader, there[1], writer, budget, stalls),
            self._relay(there[0], writer, there[1], budget, stalls),
        )

    async def _relay(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        other: asyncio.StreamWriter,
        budget: int,
        stalls: bool,
    ) -> None:
        try:
            while data := await source.read(4096):
                if not self.healed and budget < len(data):
                    self.cuts += 1
                    target.write(data[:budget])
                    if stalls:
                        # Only a probe that nobody answers finds this out.
                        await asyncio.get_running_loop().create_future()
                    break
                budget -= len(data)
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.transport.abort()
            other.transport.abort()


@asynccontextmanager
async def cut_pair(
    cluster: Cluster, random: Random
) -> AsyncIterator[tuple[Member, Member, list[Cutter]]]:
    """Two members with a relay in each direction."""
    members = [
        await cluster.start(
            number,
            probe_interval_s=0.02,
            probe_timeout_s=0.1,
            connect_timeout_s=0.5,
            stream_window_bytes=50_000,
        )
        for number in (1, 2)
    ]
    one, two = members
    cutters = [Cutter(member.peers.addresses()[0], random) for member in members]
    try:
        two.peers.set_peer(1, [await cutters[0].open()])
        one.peers.set_peer(2, [await cutters[1].open()])
        yield one, two, cutters
    finally:
        await cluster.close()
        for cutter in cutters:
            await cutter.close()


def numbered(number: int, size: int) -> bytes:
    """A message that says which it is, and whose content follows from that."""
    return NUMBER.pack(number) + body_of(number, size)


async def check_messages(cluster: Cluster, random: Random) -> None:
    """Send on all lanes both ways while connections are cut."""
    async with cut_pair(cluster, random) as (one, two, cutters):
        count = 0
        for _ in range(ROUNDS):
            for source, target in ((one, 2), (two, 1)):
                for lane in Lane:
                    for _ in range(random.randrange(4)):
                        count += 1
                        size = random.choice((0, 10, 100, 1000, 20_000))
                        source.peers.send(target, lane, numbered(count, size))
            await asyncio.sleep(0.001)
        for cutter in cutters:
            cutter.healed = True
        await cluster.reach(one, two)
        await cluster.reach(two, one)
        assert sum(cutter.cuts for cutter in cutters) > 0
        assert sum([whole(member, lane) for member in (one, two) for lane in Lane]) > 0


def whole(member: Member, lane: Lane) -> int:
    """What came on a lane came unchanged, once and in order; how much that was."""
    came = [
        payload for payload in member.payloads(lane) if not payload.startswith(b"reach")
    ]
    numbers = [NUMBER.unpack_from(payload)[0] for payload in came]
    assert all(before < after for before, after in pairwise(numbers))
    for number, payload in zip(numbers, came, strict=True):
        assert payload == numbered(number, len(payload) - NUMBER.size)
    return len(numbers)


async def check_streams(cluster: Cluster, random: Random) -> None:
    """Streams while connections are cut: each is whole or fails on both ends."""
    async with cut_pair(cluster, random) as (one, two, cutters):
        await cluster.reach(one, two)
        ends: dict[int, list[bytes] | None] = {}
        readers: list[asyncio.Task[None]] = []
        answered: set[int] = set()
        for number in range(STREAMS):
            if number == STREAMS - 1:
                # The bulk lane may be in a pause; the last stream has to pass.
                cutters[1].healed = True
                await cluster.until(
                    lambda: one.peers.send(2, Lane.BULK, b"bulk"), "the lane"
                )
            sent = [body_of(chunk, random.randrange(20_000)) for chunk in range(CHUNKS)]
            writing = asyncio.ensure_future(write(one, number, sent))
            while not writing.done():
                readers += [
                    asyncio.ensure_future(read(stream, ends))
                    for stream in two.streams[len(readers) :]
                ]
                await asyncio.sleep(0.001)
            if writing.exception() is None:
                answered.add(number)
                assert ends[number] == sent
            else:
                assert isinstance(writing.exception(), TransportError)
                assert ends.get(number) in (None, sent)
        assert STREAMS - 1 in answered
        await asyncio.wait_for(asyncio.gather(*readers), PATIENCE_S)


async def write(one: Member, number: int, sent: list[bytes]) -> None:
    """Write a stream to its end."""
    writer = await one.peers.open_stream(2, NUMBER.pack(number))
    for chunk in sent:
        await writer.write(chunk)
    assert await writer.finish() == b"good"


async def read(stream: IncomingStream, ends: dict[int, list[bytes] | None]) -> None:
    """Read a stream to its end, and note what came if the end was seen."""
    (number,) = NUMBER.unpack(stream.meta)
    try:
        ends[number] = [chunk async for chunk in stream.chunks()]
    except TransportError:
        ends[number] = None
    else:
        stream.accept(b"good")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("harness", HARNESSES.values(), ids=HARNESSES)
@pytest.mark.parametrize(
    "check", [check_messages, check_streams], ids=["messages", "streams"]
)
def test_cuts(
    harness: Harness, seed: int, check: Callable[[Cluster, Random], Awaitable[None]]
) -> None:
    """However connections are cut, nothing arrives changed, twice, torn or disordered,
    and the members talk again as soon as they can."""
    random = Random(seed)
    run(lambda cluster: check(cluster, random), harness)
