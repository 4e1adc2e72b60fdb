"""Both ends of a stream between members, on a connection of the bulk lane.

Rules of this file:

1. FINISH carries the length and the CRC-32C of everything that was written; a reader
   that cannot confirm both fails the stream on both ends (P-10).
2. Credit is given back when a chunk is taken by the reader, not when it arrives (P-09).
3. A stream ends once: with the reader's answer, its refusal, an abort, or the
   connection.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable

from google_crc32c import extend as crc32c_extend

from revstore.api.errors import Code
from revstore.errors import ApiError, TransportError, UsageError
from revstore.interfaces.peers import IncomingStream, OutgoingStream
from revstore_tcp.framing import ProtocolError, RecordType, record
from revstore_tcp.limits import MESSAGE_COST, STREAM_WINDOW
from revstore_tcp.link import Link
from revstore_tcp.messages import REPLY_OK, write_end, write_number
from revstore_tcp.outgoing import Outgoing

_SUM = struct.Struct(">IQ")
"""CRC-32C and length of all chunks, the payload of FINISH."""


class TcpOutgoingStream(OutgoingStream):
    """The writing end."""

    def __init__(
        self, link: Link, number: int, member: int, forget: Callable[[int], None]
    ) -> None:
        self.out = Outgoing(link, number, queue_bytes_max=1)
        self.out.on_room = self._wake
        self._link = link
        self._number = number
        self._member = member
        self._forget = forget
        self._crc = 0
        self._total = 0
        self._finished = False
        self._room: asyncio.Future[None] | None = None
        self._verdict: asyncio.Future[bytes] = link.loop.create_future()

    async def write(self, chunk: bytes) -> None:
        while not self._verdict.done() and not self.out.writable():
            self._room = self._link.loop.create_future()
            await self._room
        self._check()
        self._crc = crc32c_extend(self._crc, chunk)
        self._total += len(chunk)
        self.out.send(chunk)

    async def finish(self) -> bytes:
        self._check()
        self._finished = True
        payload = _SUM.pack(self._crc, self._total)
        self.out.end(record(RecordType.FINISH, self._number, payload))
        return await asyncio.shield(self._verdict)

    def abort(self) -> None:
        if self._verdict.done():
            return
        self._link.add(record(RecordType.CANCEL, self._number))
        self._forget(self._number)
        self.fail("aborted by this member")

    def answer(self, outcome: bytes | ApiError) -> None:
        """The reader's END. Raises: nothing."""
        if isinstance(outcome, ApiError):
            self.fail(f"refused: {outcome.message}")
        elif not self._verdict.done():
            self._verdict.set_result(outcome)
            self._finish()

    def fail(self, reason: str) -> None:
        """The stream is broken. Raises: nothing."""
        if self._verdict.done():
            return
        text = f"stream to member {self._member:x}: {reason}"
        self._verdict.set_exception(TransportError(text))
        # A writer that never asks again has given up by itself.
        self._verdict.exception()
        self._finish()

    def _finish(self) -> None:
        self.out.discard()
        self._wake()

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

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class TcpIncomingStream(IncomingStream):
    """The reading end."""

    def __init__(
        self,
        link: Link,
        number: int,
        sender: int,
        meta: bytes,
        window: int,
        forget: Callable[[int], None],
    ) -> None:
        self._link = link
        self._number = number
        self._sender = sender
        self._meta = meta
        self._forget = forget
        self._inbox: deque[bytes] = deque()
        self._window = STREAM_WINDOW
        """What the sender may still send, as it sees it."""
        self._consumed = 0
        self._grant_at = max(window, STREAM_WINDOW) // 2
        self._crc = 0
        self._total = 0
        self._finished = False
        """Whether FINISH came and fitted."""
        self._read = False
        """Whether the reader has seen the end."""
        self._answered = False
        self._error = ""
        self._wait: asyncio.Future[None] | None = None
        if window > STREAM_WINDOW:
            self._grant(window - STREAM_WINDOW)

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
                self._consume(len(chunk) + MESSAGE_COST)
                yield chunk
            elif self._finished:
                self._read = True
                return
            else:
                self._wait = self._link.loop.create_future()
                await self._wait

    def accept(self, answer: bytes = b"") -> None:
        if not self._read and not self._error:
            raise UsageError(
                "a stream is accepted after its chunks were read to the end"
            )
        self._answer(REPLY_OK + answer)

    def refuse(self, reason: str) -> None:
        self._answer(write_end(ApiError(Code.FAILED_PRECONDITION, reason)))
        self.fail(f"refused by this member: {reason}")

    # From the connection.

    def check_credit(self) -> None:
        """A chunk begins. Raises: ProtocolError if there is no credit for it."""
        if self._finished or self._window <= 0:
            raise ProtocolError("a chunk came without credit")

    def take(self, chunk: bytes) -> None:
        """A chunk came. Raises: nothing."""
        self._window -= len(chunk) + MESSAGE_COST
        self._crc = crc32c_extend(self._crc, chunk)
        self._total += len(chunk)
        self._inbox.append(chunk)
        self._wake()

    def take_finish(self, payload: bytes) -> None:
        """The sender wrote all. Raises: ProtocolError if FINISH is too short."""
        if len(payload) < _SUM.size:
            raise ProtocolError("FINISH of a member's stream is too short")
        if _SUM.unpack_from(payload) != (self._crc, self._total):
            self.refuse("what arrived is not what was written")
            return
        self._finished = True
        self._wake()

    def fail(self, reason: str) -> None:
        """The stream is broken. Raises: nothing."""
        if not self._error:
            self._error = f"stream of member {self._sender:x}: {reason}"
        self._answered = True
        self._inbox.clear()
        self._wake()

    # Inside.

    def _answer(self, payload: bytes) -> None:
        if self._answered:
            return
        self._answered = True
        self._link.add(record(RecordType.END, self._number, payload))
        self._forget(self._number)

    def _consume(self, cost: int) -> None:
        self._consumed += cost
        if self._consumed >= self._grant_at and not self._answered:
            credit, self._consumed = self._consumed, 0
            self._grant(credit)

    def _grant(self, credit: int) -> None:
        self._window += credit
        payload = write_number(credit)
        self._link.add(record(RecordType.CREDIT, self._number, payload))

    def _wake(self) -> None:
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(None)
