"""Both ends of a stream between members, on a connection of the bulk lane.

A stream without a word from its reader has ``STREAM_WINDOW`` of credit.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from revstore.api.errors import Code
from revstore.errors import ApiError
from revstore.peer.streams import StreamReader, StreamWriter
from revstore_tcp.framing import ProtocolError, RecordType, record
from revstore_tcp.limits import MESSAGE_COST, STREAM_WINDOW
from revstore_tcp.link import Link
from revstore_tcp.messages import REPLY_OK, write_end, write_number
from revstore_tcp.outgoing import Outgoing

_SUM = struct.Struct(">IQ")
"""CRC-32C and length of all chunks, the payload of FINISH."""


class TcpOutgoingStream(StreamWriter):
    """The writing end."""

    def __init__(
        self, link: Link, number: int, member: int, forget: Callable[[int], None]
    ) -> None:
        super().__init__(link.loop, member)
        self.out = Outgoing(link, number, queue_bytes_max=1)
        self.out.on_room = self._make_room
        self._link = link
        self._number = number
        self._forget = forget

    def abort(self) -> None:
        if not self._verdict.done():
            self._link.add(record(RecordType.CANCEL, self._number))
            self._forget(self._number)
        super().abort()

    def answer(self, outcome: bytes | ApiError) -> None:
        """The reader's END. Raises: nothing."""
        if isinstance(outcome, ApiError):
            self.refused(outcome.message)
        else:
            self.accepted(outcome)

    # For the base.

    def _has_room(self) -> bool:
        return self.out.writable()

    def _put(self, chunk: bytes) -> None:
        self.out.send(chunk)

    def _put_end(self) -> None:
        payload = _SUM.pack(self._crc, self._total)
        self.out.end(record(RecordType.FINISH, self._number, payload))

    def _drop(self) -> None:
        self.out.discard()


class TcpIncomingStream(StreamReader):
    """The reading end."""

    chunk_cost = MESSAGE_COST
    protocol_error = ProtocolError

    def __init__(
        self,
        link: Link,
        number: int,
        sender: int,
        meta: bytes,
        window: int,
        forget: Callable[[int], None],
    ) -> None:
        super().__init__(sender, meta, max(window, STREAM_WINDOW))
        self._link = link
        self._number = number
        self._forget = forget
        if window > STREAM_WINDOW:
            self._send_credit(window - STREAM_WINDOW)

    def take_finish(self, payload: bytes) -> None:
        """The sender wrote all. Raises: ProtocolError if FINISH is too short."""
        if len(payload) < _SUM.size:
            raise ProtocolError("FINISH of a member's stream is too short")
        self.take_end(*_SUM.unpack_from(payload))

    # For the base.

    def _send_credit(self, credit: int) -> None:
        payload = write_number(credit)
        self._link.add(record(RecordType.CREDIT, self._number, payload))

    def _send_accepted(self, answer: bytes) -> None:
        self._end(REPLY_OK + answer)

    def _send_refused(self, reason: str) -> None:
        self._end(write_end(ApiError(Code.FAILED_PRECONDITION, reason)))

    def _end(self, payload: bytes) -> None:
        self._link.add(record(RecordType.END, self._number, payload))
        self._forget(self._number)
