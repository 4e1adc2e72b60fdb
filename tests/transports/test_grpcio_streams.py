"""How much a stream of the transport "grpcio" lets wait, alone and among others."""

from __future__ import annotations

import asyncio

import pytest

from revstore.interfaces.transport import StreamHandler
from revstore_grpcio.calls import GrpcStream, Waiting
from revstore_grpcio.limits import (
    STREAM_QUEUE_BYTES_FLOOR,
    STREAM_QUEUE_BYTES_MAX,
    STREAMS_QUEUE_BYTES_MAX,
)

MESSAGE = bytes(STREAM_QUEUE_BYTES_FLOOR // 2)


class SlowContext:
    """A client that reads one message for each permit."""

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(0)

    async def write(self, _message: bytes) -> None:
        """Wait for the client."""
        await self.permits.acquire()


class Told(StreamHandler):
    """Says when it is told that there is room."""

    def __init__(self) -> None:
        self.room = asyncio.Event()

    def on_writable(self) -> None:
        self.room.set()


def fill(stream: GrpcStream) -> int:
    """Send while there is room; how many messages."""
    sent = 0
    while stream.writable():
        stream.send(MESSAGE)
        sent += 1
    return sent


def test_many_streams_that_nobody_reads_share_a_bound() -> None:
    """Alone a stream has its full bound; in a crowd that nobody reads only a floor.

    200 watchers that read nothing held 300 MB.
    """
    waiting = Waiting()
    streams = [GrpcStream(SlowContext(), waiting) for _ in range(500)]
    sent = [fill(stream) for stream in streams]
    assert sent[0] >= STREAM_QUEUE_BYTES_MAX // len(MESSAGE)
    assert sent[-1] == STREAM_QUEUE_BYTES_FLOOR // len(MESSAGE)
    floors = len(streams) * (STREAM_QUEUE_BYTES_FLOOR + len(MESSAGE))
    assert waiting.total < STREAMS_QUEUE_BYTES_MAX + floors


def test_a_stream_in_a_crowd_goes_on_when_it_is_read() -> None:
    """Whoever reads is told of room although the others read nothing."""

    async def scenario() -> None:
        waiting = Waiting()
        for _ in range(100):
            fill(GrpcStream(SlowContext(), waiting))
        context, handler = SlowContext(), Told()
        stream = GrpcStream(context, waiting)
        stream.handler = handler
        fill(stream)
        writer = asyncio.create_task(stream.write_out())
        for _ in range(3):
            handler.room.clear()
            context.permits.release()
            await handler.room.wait()
            assert fill(stream) >= 1
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_an_ended_stream_leaves_the_account() -> None:
    """What waited in a stream counts no more once its writer has ended."""

    async def scenario() -> None:
        waiting = Waiting()
        stream = GrpcStream(SlowContext(), waiting)
        fill(stream)
        writer = asyncio.create_task(stream.write_out())
        await asyncio.sleep(0)
        assert waiting.total > 0
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer
        stream.send(MESSAGE)
        assert waiting.total == 0

    asyncio.run(asyncio.wait_for(scenario(), 20))
