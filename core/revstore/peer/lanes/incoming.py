"""The reading end of a stream between members; each stream is a call of its own.

Rules of this file:

1. Finish carries the length and the CRC-32C of everything that was written; a reader
   that cannot confirm both fails the stream on both ends (P-10).
2. Frames are taken as they come, so that HTTP/2 never stands still; what bounds the
   writer is credit, which is given back when a chunk is taken by the reader (P-09).
3. A stream ends once: with the reader's answer, its refusal, an abort, or the call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from google_crc32c import extend as crc32c_extend

from revstore.errors import TransportError, UsageError
from revstore.interfaces.peers import IncomingStream
from revstore.peer.lanes.limits import PEER_CHUNK_COST_BYTES
from revstore.peer.lanes.wire import (
    Accepted,
    Credit,
    Finish,
    ProtocolError,
    Refused,
    encode,
)


class LaneIncomingStream(IncomingStream):
    """The reading end; a transport feeds it and sends what it answers."""

    def __init__(
        self, sender: int, meta: bytes, window: int, answer: Callable[[], None]
    ) -> None:
        self._sender = sender
        self._meta = meta
        self._on_answer = answer
        self._inbox: deque[bytes] = deque()
        self._window = window
        """What the sender may still send, as it sees it."""
        self._grant = window
        """Credit that has not been sent yet."""
        self._consumed = 0
        self._grant_at = max(1, window // 2)
        self._crc = 0
        self._total = 0
        self._finished = False
        """Whether Finish came and fitted."""
        self._read = False
        """Whether the reader has seen the end."""
        self._verdict: bytes | None = None
        self._over = False
        """Whether nothing more will be sent to the writer but the verdict."""
        self._error = ""
        self._wait: asyncio.Future[None] | None = None

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
                self._consume(len(chunk) + PEER_CHUNK_COST_BYTES)
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
        self._answer(encode(Accepted(answer)))

    def refuse(self, reason: str) -> None:
        self._answer(encode(Refused(reason)))
        self.fail(f"refused by this member: {reason}")

    # From the call.

    @property
    def over(self) -> bool:
        """Whether the stream has its end. Raises: nothing."""
        return self._over

    def next_answer(self) -> bytes | None:
        """The next frame for the writer, if there is one. Raises: nothing."""
        if self._verdict is not None:
            verdict, self._verdict = self._verdict, None
            return verdict
        if self._grant and not self._over:
            credit, self._grant = self._grant, 0
            return encode(Credit(credit))
        return None

    def check_credit(self) -> None:
        """A chunk begins. Raises: ProtocolError if there is no credit for it."""
        if self._finished:
            raise ProtocolError("a chunk came behind the end of its stream")
        if self._window <= 0:
            raise ProtocolError("a chunk came without credit")

    def take(self, chunk: bytes) -> None:
        """A chunk came. Raises: ProtocolError if there was no credit for it."""
        self.check_credit()
        self._window -= len(chunk) + PEER_CHUNK_COST_BYTES
        self._crc = crc32c_extend(self._crc, chunk)
        self._total += len(chunk)
        if not self._over:
            self._inbox.append(chunk)
            _wake(self._wait)

    def take_finish(self, frame: Finish) -> None:
        """The sender wrote all. Raises: nothing."""
        if (frame.crc, frame.total) != (self._crc, self._total):
            self.refuse("what arrived is not what was written")
            return
        self._finished = True
        _wake(self._wait)

    def fail(self, reason: str) -> None:
        """The stream is broken. Raises: nothing."""
        if not self._error:
            self._error = f"stream of member {self._sender:x}: {reason}"
        self._over = True
        self._inbox.clear()
        _wake(self._wait)

    # Inside.

    def _answer(self, verdict: bytes) -> None:
        if self._over:
            return
        self._over = True
        self._verdict = verdict
        self._on_answer()

    def _consume(self, cost: int) -> None:
        self._consumed += cost
        if self._consumed >= self._grant_at and not self._over:
            self._window += self._consumed
            self._grant += self._consumed
            self._consumed = 0
            self._on_answer()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
