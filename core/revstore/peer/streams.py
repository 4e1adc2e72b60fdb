"""Both ends of a stream between members, whatever carries its chunks.

Rules of this file:

1. The end of a stream carries the length and the CRC-32C of everything that was written;
   a reader that cannot confirm both fails the stream on both ends (P-10).
2. What bounds the writer is credit, which is given back when a chunk is taken by the
   reader, not when it arrives (P-09).
3. A stream ends once: with the reader's answer, its refusal, an abort, or what carries
   it.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from typing import ClassVar

from google_crc32c import extend as crc32c_extend

from revstore.errors import TransportError, UsageError
from revstore.interfaces.peers import IncomingStream, OutgoingStream


class StreamWriter(OutgoingStream):
    """The writing end; a transport sends what is put, and says what the reader says."""

    def __init__(self, loop: asyncio.AbstractEventLoop, member: int) -> None:
        self._loop = loop
        self._member = member
        self._crc = 0
        self._total = 0
        self._finished = False
        self._room: asyncio.Future[None] | None = None
        self._verdict: asyncio.Future[bytes] = loop.create_future()

    # For the transport. Nothing of it raises.

    @abstractmethod
    def _has_room(self) -> bool:
        """Whether a chunk may be put now; else call ``_make_room`` when one may."""

    @abstractmethod
    def _put(self, chunk: bytes) -> None:
        """Send a chunk, now or later."""

    @abstractmethod
    def _put_end(self) -> None:
        """Send CRC and length behind the last chunk."""

    @abstractmethod
    def _drop(self) -> None:
        """The stream is over: send nothing more."""

    # The contract.

    async def write(self, chunk: bytes) -> None:
        while not self._verdict.done() and not self._has_room():
            self._room = self._loop.create_future()
            await self._room
        self._check()
        self._crc = crc32c_extend(self._crc, chunk)
        self._total += len(chunk)
        self._put(chunk)

    async def finish(self) -> bytes:
        self._check()
        self._finished = True
        self._put_end()
        return await asyncio.shield(self._verdict)

    def abort(self) -> None:
        self.fail("aborted by this member")

    # From the connection.

    def accepted(self, answer: bytes) -> None:
        """The reader has all of it. Raises: nothing."""
        if not self._verdict.done():
            # Before the end it is no success either: the writer's next step fails.
            self._verdict.set_result(answer)
            self._over()

    def refused(self, reason: str) -> None:
        """The reader does not want it. Raises: nothing."""
        self.fail(f"refused: {reason}")

    def fail(self, reason: str) -> None:
        """The stream is broken. Raises: nothing."""
        if self._verdict.done():
            return
        text = f"stream to member {self._member:x}: {reason}"
        self._verdict.set_exception(TransportError(text))
        # A writer that never asks again has given up by itself.
        self._verdict.exception()
        self._over()

    # Inside.

    def _make_room(self) -> None:
        wake(self._room)

    def _over(self) -> None:
        self._drop()
        wake(self._room)

    def _check(self) -> None:
        if self._finished:
            raise TransportError(
                f"stream to member {self._member:x} was finished already; open another"
            )
        if self._verdict.done():
            error = self._verdict.exception()
            if error is not None:
                raise TransportError(str(error))
            raise TransportError(
                f"stream to member {self._member:x}: the reader ended it before its end"
            )


class StreamReader(IncomingStream):
    """The reading end; a transport feeds it and sends what it answers."""

    chunk_cost: ClassVar[int]
    """What a chunk costs in credit besides its length."""
    protocol_error: ClassVar[type[TransportError]]
    """Of the transport: ends a connection whose other side broke the rules."""

    def __init__(self, sender: int, meta: bytes, window: int) -> None:
        self._sender = sender
        self._meta = meta
        self._inbox: deque[bytes] = deque()
        self._window = window
        """What the sender may still send, as it sees it."""
        self._consumed = 0
        self._grant_at = max(1, window // 2)
        self._crc = 0
        self._total = 0
        self._finished = False
        """Whether the end came and fitted."""
        self._read = False
        """Whether the reader has seen the end."""
        self._over = False
        """Whether nothing more will be sent to the writer but what it was sent."""
        self._error = ""
        self._wait: asyncio.Future[None] | None = None

    # For the transport. Nothing of it raises.

    @abstractmethod
    def _send_credit(self, credit: int) -> None:
        """Tell the writer that it may send more."""

    @abstractmethod
    def _send_accepted(self, answer: bytes) -> None:
        """Tell the writer that the reader has all of it; the last word."""

    @abstractmethod
    def _send_refused(self, reason: str) -> None:
        """Tell the writer that the reader does not want it; the last word."""

    # The contract.

    @property
    def sender(self) -> int:
        return self._sender

    @property
    def meta(self) -> bytes:
        return self._meta

    async def chunks(self) -> AsyncIterator[bytes]:
        inbox = self._inbox
        while True:
            if self._error:
                raise TransportError(self._error)
            if inbox:
                chunk = inbox.popleft()
                self._consume(len(chunk) + self.chunk_cost)
                yield chunk
            elif self._finished:
                self._read = True
                return
            else:
                self._wait = asyncio.get_running_loop().create_future()
                await self._wait

    def accept(self, answer: bytes = b"") -> None:
        if not self._read and not self._error:
            raise UsageError(
                "a stream is accepted after its chunks were read to the end"
            )
        if not self._over:
            self._over = True
            self._send_accepted(answer)

    def refuse(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._send_refused(reason)
        self.fail(f"refused by this member: {reason}")

    # From the connection.

    @property
    def over(self) -> bool:
        """Whether the stream has its end. Raises: nothing."""
        return self._over

    def check_credit(self) -> None:
        """A chunk begins. Raises: ``protocol_error`` if there is no credit for it."""
        if self._finished:
            raise self.protocol_error("a chunk came behind the end of its stream")
        if self._window <= 0:
            raise self.protocol_error("a chunk came without credit")

    def take(self, chunk: bytes) -> None:
        """A chunk came. Raises: ``protocol_error`` if there was no credit for it."""
        self.check_credit()
        self._window -= len(chunk) + self.chunk_cost
        self._crc = crc32c_extend(self._crc, chunk)
        self._total += len(chunk)
        if not self._over:
            self._inbox.append(chunk)
            wake(self._wait)

    def take_end(self, crc: int, total: int) -> None:
        """The sender wrote all. Raises: nothing."""
        if (crc, total) != (self._crc, self._total):
            self.refuse("what arrived is not what was written")
            return
        self._finished = True
        wake(self._wait)

    def fail(self, reason: str) -> None:
        """The stream is broken. Raises: nothing."""
        if not self._error:
            self._error = f"stream of member {self._sender:x}: {reason}"
        self._over = True
        self._inbox.clear()
        wake(self._wait)

    # Inside.

    def _consume(self, cost: int) -> None:
        self._consumed += cost
        if self._consumed >= self._grant_at and not self._over:
            credit, self._consumed = self._consumed, 0
            self._window += credit
            self._send_credit(credit)


def wake(future: asyncio.Future[None] | None) -> None:
    """Let go whoever waits, if anybody does. Raises: nothing."""
    if future is not None and not future.done():
        future.set_result(None)
