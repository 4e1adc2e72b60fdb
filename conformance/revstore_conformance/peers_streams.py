"""Checks of the streams between members (P-05, P-09, P-10, and P-11 for streams)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from revstore.errors import TransportError, UsageError
from revstore.interfaces.peers import IncomingStream, Lane, OutgoingStream
from revstore_conformance.peers_harness import (
    LOST_HERE,
    PATIENCE_S,
    Check,
    Cluster,
    Member,
    body_of,
)

CHUNK = 64 * 1024
WINDOW = 256 * 1024


async def opened(
    cluster: Cluster, one: Member, two: Member, meta: bytes = b"meta"
) -> tuple[OutgoingStream, IncomingStream]:
    """A stream from one member to the other, both ends."""
    await cluster.reach(one, two)
    count = len(two.streams)
    writer = await one.peers.open_stream(two.member, meta)
    await cluster.until(lambda: len(two.streams) > count, "on_stream")
    return writer, two.streams[-1]


async def failure_of(work: Awaitable[object]) -> str:
    """The text of the TransportError that something ends with."""
    try:
        found = await asyncio.wait_for(work, PATIENCE_S)
    except TransportError as error:
        return str(error)
    raise AssertionError(f"it gave {found!r} instead of an error")


async def read_all(stream: IncomingStream) -> list[bytes]:
    """The chunks of a stream to its end."""
    return [chunk async for chunk in stream.chunks()]


async def fill(writer: OutgoingStream, written: list[int], size: int = CHUNK) -> None:
    """Write until somebody stops it."""
    while True:
        await writer.write(bytes(size))
        written.append(size)


async def check_p05_bulk_does_not_delay(cluster: Cluster) -> None:
    """P-05: with a stream whose reader stands still and a lane full of messages, a
    heartbeat and an entry pass at once."""
    one, two = await cluster.pair(stream_window_bytes=WINDOW)
    writer, _ = await opened(cluster, one, two)
    written: list[int] = []
    filling = asyncio.ensure_future(fill(writer, written))
    before = -1
    while len(written) != before:
        before = len(written)
        await cluster.settle()
    two.messages.clear()
    while one.peers.send(2, Lane.BULK, bytes(4 * 1024 * 1024)):
        pass
    assert one.peers.send(2, Lane.CONTROL, b"heartbeat")
    assert one.peers.send(2, Lane.LOG, b"entry")
    await cluster.until(
        lambda: bool(two.payloads(Lane.CONTROL) and two.payloads(Lane.LOG)),
        "heartbeat and entry",
    )
    assert len(written) == before, "the reader stood still"
    filling.cancel()
    await asyncio.wait([filling])
    writer.abort()


async def check_p09_whole_and_in_order(cluster: Cluster) -> None:
    """P-09, P-10: a stream of chunks of many sizes arrives whole and in order, and the
    writer gets the reader's answer."""
    one, two = await cluster.pair(stream_window_bytes=WINDOW)
    writer, reader = await opened(cluster, one, two, b"snapshot 7")
    assert (reader.sender, reader.meta) == (1, b"snapshot 7")
    sizes = [0, 1, 1000, 65_536, 65_537, 1_000_000, 5, *[30_000] * 40]
    sent = [body_of(number, size) for number, size in enumerate(sizes)]
    reading = asyncio.ensure_future(read_all(reader))
    for chunk in sent:
        await asyncio.wait_for(writer.write(chunk), PATIENCE_S)
    finishing = asyncio.ensure_future(writer.finish())
    assert await asyncio.wait_for(reading, PATIENCE_S) == sent
    assert not finishing.done(), "finish returned before the reader accepted"
    reader.accept(b"installed")
    assert await asyncio.wait_for(finishing, PATIENCE_S) == b"installed"
    assert "finished already" in await failure_of(writer.write(b"more"))
    reader.refuse("too late")


async def check_p09_empty_stream(cluster: Cluster) -> None:
    """P-09: a stream without chunks is a stream."""
    one, two = await cluster.pair()
    writer, reader = await opened(cluster, one, two, b"")
    finishing = asyncio.ensure_future(writer.finish())
    assert await asyncio.wait_for(read_all(reader), PATIENCE_S) == []
    reader.accept()
    assert await asyncio.wait_for(finishing, PATIENCE_S) == b""


async def check_p09_writer_waits(cluster: Cluster) -> None:
    """P-09: the writer is never further ahead of the reader than the bound and two
    chunks, and goes on as the reader does."""
    one, two = await cluster.pair(stream_window_bytes=WINDOW)
    writer, reader = await opened(cluster, one, two)
    written: list[int] = []
    filling = asyncio.ensure_future(fill(writer, written))
    bound = WINDOW + 2 * CHUNK
    await cluster.until(lambda: sum(written) >= WINDOW, "a full window")
    await cluster.settle()
    assert sum(written) <= bound
    read = 0
    async for chunk in reader.chunks():
        read += len(chunk)
        assert sum(written) <= read + bound
        if read >= 20 * CHUNK:
            break
    await cluster.until(lambda: sum(written) >= 20 * CHUNK, "the writer")
    filling.cancel()
    await asyncio.wait([filling])
    writer.abort()


async def check_p09_accept_needs_the_end(cluster: Cluster) -> None:
    """P-09: a stream cannot be accepted before it was read to the end."""
    one, two = await cluster.pair()
    writer, reader = await opened(cluster, one, two)
    await writer.write(b"x")
    with pytest.raises(UsageError, match="read to the end"):
        reader.accept()
    writer.abort()


async def check_p09_two_streams(cluster: Cluster) -> None:
    """P-09: a stream that nobody reads holds up no other stream."""
    one, two = await cluster.pair(stream_window_bytes=WINDOW)
    stuck, _ = await opened(cluster, one, two)
    filling = asyncio.ensure_future(fill(stuck, []))
    await cluster.settle()
    writer, reader = await opened(cluster, one, two)
    reading = asyncio.ensure_future(read_all(reader))
    sent = [body_of(number, 50_000) for number in range(20)]
    for chunk in sent:
        await asyncio.wait_for(writer.write(chunk), PATIENCE_S)
    finishing = asyncio.ensure_future(writer.finish())
    assert await asyncio.wait_for(reading, PATIENCE_S) == sent
    reader.accept()
    await asyncio.wait_for(finishing, PATIENCE_S)
    filling.cancel()
    await asyncio.wait([filling])
    stuck.abort()


async def check_p10_aborted(cluster: Cluster) -> None:
    """P-10: a stream that its writer gives up ends with an error at the reader, who
    never sees an end."""
    one, two = await cluster.pair()
    writer, reader = await opened(cluster, one, two)
    await writer.write(b"part")
    reading = asyncio.ensure_future(read_all(reader))
    await cluster.settle()
    writer.abort()
    assert "aborted" in await failure_of(reading)
    await failure_of(writer.write(b"more"))
    reader.accept(b"ignored")


async def check_p10_refused(cluster: Cluster) -> None:
    """P-10: a reader that refuses ends the writer's work with its reason."""
    one, two = await cluster.pair(stream_window_bytes=WINDOW)
    writer, reader = await opened(cluster, one, two)
    filling = asyncio.ensure_future(fill(writer, []))
    await cluster.settle()
    reader.refuse("no room on the disk")
    assert "no room on the disk" in await failure_of(filling)
    await failure_of(read_all(reader))


async def check_p10_refused_at_the_end(cluster: Cluster) -> None:
    """P-10: what the reader finds wrong at the end is what ``finish`` raises."""
    one, two = await cluster.pair()
    writer, reader = await opened(cluster, one, two)
    await writer.write(b"x")
    finishing = asyncio.ensure_future(writer.finish())
    assert await asyncio.wait_for(read_all(reader), PATIENCE_S) == [b"x"]
    reader.refuse("bad contents")
    assert "bad contents" in await failure_of(finishing)


async def check_p10_reader_stops(cluster: Cluster) -> None:
    """P-10: when the reading member stops, the writer gets an error."""
    one, two = await cluster.pair(stream_window_bytes=WINDOW)
    writer, _ = await opened(cluster, one, two)
    filling = asyncio.ensure_future(fill(writer, []))
    await cluster.settle()
    await two.peers.close()
    assert "stream" in await failure_of(filling)


async def check_p10_writer_stops(cluster: Cluster) -> None:
    """P-10: when the writing member stops, the reader gets an error, and a new stream
    is another one."""
    one, two = await cluster.pair()
    writer, reader = await opened(cluster, one, two)
    await writer.write(b"part")
    reading = asyncio.ensure_future(read_all(reader))
    await cluster.settle()
    await one.peers.close()
    assert "stream" in await failure_of(reading)
    again = await cluster.start(1)
    again.peers.set_peer(2, two.peers.addresses())
    writer, reader = await opened(cluster, again, two)
    await writer.write(b"whole")
    finishing = asyncio.ensure_future(writer.finish())
    assert await asyncio.wait_for(read_all(reader), PATIENCE_S) == [b"whole"]
    reader.accept()
    await asyncio.wait_for(finishing, PATIENCE_S)


async def check_p10_nobody_there(cluster: Cluster) -> None:
    """P-10: a stream to an unknown or unreachable member is refused at once."""
    one = await cluster.start(1)
    assert "not known" in await failure_of(one.peers.open_stream(9, b""))
    two = await cluster.start(2)
    one.peers.set_peer(2, two.peers.addresses())
    await two.peers.close()
    text = await failure_of(one.peers.open_stream(2, b""))
    assert "cannot be reached" in text


async def check_p11_streams_of_a_removed_member(cluster: Cluster) -> None:
    """P-11: removing a member fails its streams on both ends."""
    one, two = await cluster.pair(stream_window_bytes=WINDOW)
    writer, reader = await opened(cluster, one, two)
    filling = asyncio.ensure_future(fill(writer, []))
    await cluster.settle()
    two.peers.remove_peer(1)
    await failure_of(filling)
    await failure_of(read_all(reader))


async def check_p14_stream_handler_raises(cluster: Cluster) -> None:
    """P-14: a node that raises at a stream fails that stream and nothing else."""
    one, two = await cluster.pair()
    two.explode = LOST_HERE
    writer, _ = await opened(cluster, one, two, LOST_HERE)
    assert "internal error" in await failure_of(writer.finish())
    writer, reader = await opened(cluster, one, two)
    finishing = asyncio.ensure_future(writer.finish())
    assert await asyncio.wait_for(read_all(reader), PATIENCE_S) == []
    reader.accept()
    await asyncio.wait_for(finishing, PATIENCE_S)


STREAM_CHECKS: tuple[Check, ...] = (
    check_p05_bulk_does_not_delay,
    check_p09_whole_and_in_order,
    check_p09_empty_stream,
    check_p09_writer_waits,
    check_p09_accept_needs_the_end,
    check_p09_two_streams,
    check_p10_aborted,
    check_p10_refused,
    check_p10_refused_at_the_end,
    check_p10_reader_stops,
    check_p10_writer_stops,
    check_p10_nobody_there,
    check_p11_streams_of_a_removed_member,
    check_p14_stream_handler_raises,
)
