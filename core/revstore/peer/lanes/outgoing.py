"""The writing end of a stream between members; each stream is a call of its own."""

from __future__ import annotations

import asyncio
from abc import abstractmethod

from revstore.peer.lanes.limits import PEER_CHUNK_COST_BYTES
from revstore.peer.lanes.wire import (
    Credit,
    Finish,
    Open,
    Outbox,
    ProtocolError,
    Refused,
    encode,
    read_answer,
)
from revstore.peer.streams import StreamWriter


class LaneOutgoingStream(StreamWriter):
    """The writing end; a transport sends its frames and feeds it the answers."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, member: int, meta: bytes
    ) -> None:
        super().__init__(loop, member)
        self._opening: bytes | None = encode(Open(meta))
        self._outbox = Outbox()
        self._credit = 0
        self._end_due = False

    # For the transport.

    @abstractmethod
    def _wake_call(self) -> None:
        """There is something to send (``next_frame``). Raises: nothing."""

    def next_frame(self) -> bytes | None:
        """The next frame to send, None if nothing waits. Raises: nothing."""
        if self._opening is not None:
            opening, self._opening = self._opening, None
            return opening
        frame = self._outbox.next_frame()
        if frame is None and self._end_due:
            self._end_due = False
            frame = encode(Finish(self._crc, self._total))
        return frame

    def take(self, data: bytes) -> None:
        """The reader says something. Raises: nothing."""
        try:
            frame = read_answer(data)
        except ProtocolError as error:
            self.fail(str(error))
            return
        if isinstance(frame, Credit):
            self._credit += frame.amount
            if self._credit > 0:
                self._make_room()
        elif isinstance(frame, Refused):
            self.refused(frame.reason)
        else:
            self.accepted(frame.answer)

    # For the base.

    def _has_room(self) -> bool:
        return self._credit > 0

    def _put(self, chunk: bytes) -> None:
        self._credit -= len(chunk) + PEER_CHUNK_COST_BYTES
        self._outbox.add(chunk)
        self._wake_call()

    def _put_end(self) -> None:
        self._end_due = True
        self._wake_call()

    def _drop(self) -> None:
        self._outbox.clear()
        self._end_due = False
