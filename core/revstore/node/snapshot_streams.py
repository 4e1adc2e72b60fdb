"""Carrying snapshots over the transport between members: one asyncio task each.

Rules of this file:

1. It decides nothing: what is sent, taken and refused is up to ``Snapshots``.
2. Reading the backend, and writing what comes in, is done in threads of its own: the
   loop goes on serving, and the thread for writes goes on flushing.
3. A snapshot is given up only when no thread works for it any more.
4. Memory is bounded by a few pieces for each snapshot, since ``OutgoingStream.write``
   waits for the receiver, and the receiver takes pieces only as fast as it stores them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from revstore import logs
from revstore.errors import RevstoreError, TransportError
from revstore.interfaces.consensus import Message
from revstore.interfaces.peers import IncomingStream, OutgoingStream, Peers
from revstore.node.replica import Replica
from revstore.node.snapshots import Incoming, Outgoing, Refused

LOG = logs.get(__name__)

T = TypeVar("T")

THREADS = 2
"""More snapshots than that take turns in reading and writing."""
CHUNK_BYTES = 256 * 1024
"""What is written to a stream at once."""
STORE_BYTES = 1 << 20
"""So much is gathered before a thread writes it."""


class _Hands:
    """A thread's work for one snapshot: one piece at a time, never left alone."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._busy: asyncio.Future[Any] | None = None

    def begin(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Start a piece of work; await ``result`` before the next."""
        loop = asyncio.get_running_loop()
        found = loop.run_in_executor(self._threads, work, *arguments)
        self._busy = found
        return found

    async def result(self, working: asyncio.Future[T]) -> T:
        """What came of it; a cancelled wait leaves the work to ``rest``."""
        found = await asyncio.shield(working)
        self._busy = None
        return found

    async def do(self, work: Callable[..., T], *arguments: Any) -> T:
        """Start a piece of work and wait for it."""
        return await self.result(self.begin(work, *arguments))

    async def rest(self) -> None:
        """Wait until nothing is under way. Raises: nothing of the work."""
        if self._busy is not None:
            await asyncio.wait([self._busy])
            if not self._busy.cancelled():
                self._busy.exception()  # Known by now, or of no interest any more.


class SnapshotStreams:
    """The snapshots of one member that are on their way, out and in."""

    def __init__(self, replica: Replica, peers: Peers) -> None:
        self._snapshots = replica.snapshots
        self._peers = peers
        self._threads = ThreadPoolExecutor(
            THREADS, thread_name_prefix="revstore-snapshot"
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def send(self, message: Message) -> None:
        """Send what a message of type SNAP stands for. Raises: nothing."""
        self._snapshots.open(message, self._opened)

    def receive(self, stream: IncomingStream) -> None:
        """Take a stream that another member opened. Raises: nothing."""
        if self._closed:
            stream.refuse("the member stops")
        else:
            self._start(self._receive(stream))

    async def close(self) -> None:
        """Give up what is under way. Raises: nothing."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._threads.shutdown()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ----- out

    def _opened(self, outgoing: Outgoing) -> None:
        if self._closed:
            self._snapshots.sent(outgoing, "the member stops")
        else:
            self._start(self._send(outgoing))

    async def _send(self, outgoing: Outgoing) -> None:
        hands = _Hands(self._threads)
        stream: OutgoingStream | None = None
        failure = "the member stops"
        try:
            target = outgoing.message.to
            stream = await self._peers.open_stream(target, outgoing.offer)
            await self._pour(outgoing, stream, hands)
            await stream.finish()
            failure = ""
        except RevstoreError as exc:
            failure = f"{exc}"
        except Exception as exc:
            failure = f"{exc}"
            LOG.exception("sending a snapshot failed")
        finally:
            if failure and stream is not None:
                stream.abort()
            await hands.rest()
            self._snapshots.sent(outgoing, failure)

    async def _pour(
        self, outgoing: Outgoing, stream: OutgoingStream, hands: _Hands
    ) -> None:
        """Write all pieces; the next one is read while one is on its way."""
        reading = hands.begin(outgoing.read)
        while (piece := await hands.result(reading)) is not None:
            if not self._snapshots.wanted(outgoing):
                raise TransportError("it is not wanted any more")
            reading = hands.begin(outgoing.read)
            for start in range(0, len(piece), CHUNK_BYTES):
                await stream.write(piece[start : start + CHUNK_BYTES])

    # ----- in

    async def _receive(self, stream: IncomingStream) -> None:
        hands = _Hands(self._threads)
        incoming: Incoming | None = None
        refusal = "the member stops"
        try:
            incoming = self._snapshots.receive(stream.sender, stream.meta)
            await self._store(stream, incoming, hands)
            self._snapshots.received(incoming)
            stream.accept()
            refusal = ""
        except RevstoreError as exc:
            refusal = f"{exc}"
        except Exception as exc:
            refusal = f"{exc}"
            LOG.exception("receiving a snapshot failed")
        finally:
            if refusal:
                stream.refuse(refusal)
                LOG.warn(
                    "a snapshot was not taken",
                    sender=f"{stream.sender:x}",
                    reason=refusal,
                )
                await hands.rest()
                if incoming is not None:
                    self._snapshots.broken(incoming)

    async def _store(
        self, stream: IncomingStream, incoming: Incoming, hands: _Hands
    ) -> None:
        """Store and check everything."""
        gathered: list[bytes] = []
        size = 0
        async for chunk in stream.chunks():
            gathered.append(chunk)
            size += len(chunk)
            if size >= STORE_BYTES:
                await hands.do(incoming.write, b"".join(gathered))
                gathered, size = [], 0
            if incoming.over:
                raise Refused("a newer snapshot took its place")
        await hands.do(incoming.write, b"".join(gathered))
        await hands.do(incoming.finish)
