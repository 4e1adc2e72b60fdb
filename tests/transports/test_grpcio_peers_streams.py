"""Streams between members over gRPC, with hostile writers and readers (P-09, P-10)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google_crc32c import value as crc32c
from tests.transports.grpcio_support import (
    FAKE,
    STRANGER,
    answering,
    calling,
    forever,
    hello_of,
    run,
    streaming,
    undisturbed,
)

from revstore.errors import TransportError
from revstore.interfaces.peers import Lane
from revstore.peer.lanes.limits import PEER_META_BYTES_MAX, PEER_STREAMS_MAX
from revstore.peer.lanes.wire import (
    STREAM_PATH,
    Accepted,
    Credit,
    Finish,
    Messages,
    Open,
    Part,
    Ping,
    Pong,
    Refused,
    encode,
    read_answer,
)
from revstore_conformance.peers_harness import (
    PATIENCE_S,
    Cluster,
    captured_logs,
    said,
)


def test_a_stream_without_credit() -> None:
    """P-09: a writer beyond its credit is cut off; memory stays bounded."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2, stream_window_bytes=100_000)
        with captured_logs() as lines:
            async with streaming(two, STRANGER) as caller:
                await caller.send(Open(b"meta"))
                assert (await caller.next(read_answer)) == Credit(100_000)
                await caller.send(*[Messages([bytes(60_000)])] * 3)
                assert "without credit" in (await caller.end())[1]
        assert said(lines, "connection ended", "without credit")
        (stream,) = two.streams
        with pytest.raises(TransportError, match="without credit"):
            [chunk async for chunk in stream.chunks()]

    run(check)


def test_a_long_chunk_without_credit() -> None:
    """P-09: a chunk in parts needs credit when it begins, not when it is whole."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2, stream_window_bytes=1000)
        async with streaming(two, STRANGER) as caller:
            await caller.send(Open(b""), Messages([bytes(1000)]), Part(9000, b"x"))
            assert "without credit" in (await caller.end())[1]

    run(check)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([Messages([b"x"])], "does not open it"),
        ([Open(b""), Open(b"")], "opened twice"),
        ([Open(b""), Ping(1)], "no frame of the protocol"),
        ([Open(b""), Part(5, b"x"), Finish(0, 0)], "before all parts"),
        ([Open(b""), Finish(0, 0), Messages([b"x"])], "behind the end"),
        ([Open(bytes(PEER_META_BYTES_MAX + 1))], "too many"),
    ],
)
def test_garbage_on_a_stream(frames: list[Any], reason: str) -> None:
    """P-13: a stream that breaks the rules is ended, with a log line."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair()
        await cluster.reach(one, two)
        one.unreachable.clear()
        with captured_logs() as lines:
            async with streaming(two, STRANGER) as caller:
                await caller.send(*frames)
                assert reason in (await caller.end())[1]
        assert said(lines, "connection ended", reason)
        await undisturbed(cluster)

    run(check)


def test_a_stream_with_a_wrong_sum() -> None:
    """P-10: a stream whose sum does not fit what arrived fails on both ends."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        async with streaming(two, STRANGER) as caller:
            crc = crc32c(b"chunk")
            await caller.send(Open(b""), Messages([b"chunk"]), Finish(crc ^ 1, 5))
            assert isinstance(await caller.next(read_answer), Credit)
            assert await caller.next(read_answer) == Refused(
                "what arrived is not what was written"
            )
            await caller.end()
        (stream,) = two.streams
        with pytest.raises(TransportError, match="not what was written"):
            [chunk async for chunk in stream.chunks()]

    run(check)


def test_a_stream_that_is_accepted_too_early() -> None:
    """P-10: an answer before the end of a stream is no success."""

    async def accept(context: Any) -> None:
        found = dict(context.invocation_metadata())
        if found["revstore-lane"] == str(int(Lane.BULK)):
            await context.write(encode(Accepted(b"") if streams else Pong(0)))
            streams.append(1)
        await forever(context)

    streams: list[int] = []

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1)
        async with answering(accept) as urls:
            one.peers.set_peer(FAKE, urls)
            writer = await one.peers.open_stream(FAKE, b"")
            with pytest.raises(TransportError, match="before its end"):
                await asyncio.wait_for(writer.write(b"x"), PATIENCE_S)
            await one.peers.close()

    run(check)


def test_a_stream_lives_with_its_lane() -> None:
    """P-10: a stream needs the bulk lane of its own connection, and ends with it; so a
    reader hears when a writer has given up a connection that stands still."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        older = hello_of(STRANGER, 2, Lane.BULK, link=1)
        newer = hello_of(STRANGER, 2, Lane.BULK, link=2)
        async with calling(two, older, STREAM_PATH) as alone:
            assert "lane of the stream is gone" in (await alone.end())[1]
        async with calling(two, older) as lane:
            await lane.call.initial_metadata()
            async with calling(two, newer, STREAM_PATH) as other:
                assert "lane of the stream is gone" in (await other.end())[1]
            async with calling(two, older, STREAM_PATH) as caller:
                await caller.send(Open(b""), Messages([b"x"]))
                await cluster.until(lambda: bool(two.streams), "the stream")
                async with calling(two, newer) as replacing:
                    await replacing.call.initial_metadata()
                    assert "newer connection" in (await caller.end())[1]
                    with pytest.raises(TransportError, match="newer connection"):
                        [chunk async for chunk in two.streams[0].chunks()]

    run(check)


def test_too_many_streams() -> None:
    """Streams of one member are bounded; one over the bound is refused by itself, and
    the place of one that ended is free."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair()
        await cluster.reach(one, two)
        writers = [await one.peers.open_stream(2, b"") for _ in range(PEER_STREAMS_MAX)]
        await cluster.until(
            lambda: len(two.streams) == PEER_STREAMS_MAX, "all that fit"
        )
        # Many, for one in ten used to say "Internal error from Core" instead.
        for _ in range(150):
            extra = await one.peers.open_stream(2, b"")
            with pytest.raises(TransportError, match="streams at once"):
                await asyncio.wait_for(extra.finish(), PATIENCE_S)
        two.streams[0].refuse("enough")
        with pytest.raises(TransportError, match="enough"):
            await asyncio.wait_for(writers[0].finish(), PATIENCE_S)
        await one.peers.open_stream(2, b"")
        await cluster.until(
            lambda: len(two.streams) == PEER_STREAMS_MAX + 1, "another one"
        )
        with pytest.raises(TransportError, match="too many"):
            await one.peers.open_stream(2, bytes(PEER_META_BYTES_MAX + 1))

    run(check)
