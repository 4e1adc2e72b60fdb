"""The reading end of a stream between members; each stream is a call of its own.

Frames are taken as they come, so that HTTP/2 never stands still. What the writer is told
waits in two slots, never in a queue: credit adds up, and there is one last word.
"""

from __future__ import annotations

from collections.abc import Callable

from revstore.peer.lanes.limits import PEER_CHUNK_COST_BYTES
from revstore.peer.lanes.wire import Accepted, Credit, ProtocolError, Refused, encode
from revstore.peer.streams import StreamReader


class LaneIncomingStream(StreamReader):
    """The reading end; a transport feeds it and sends what it answers."""

    chunk_cost = PEER_CHUNK_COST_BYTES
    protocol_error = ProtocolError

    def __init__(
        self, sender: int, meta: bytes, window: int, answer: Callable[[], None]
    ) -> None:
        super().__init__(sender, meta, window)
        self._on_answer = answer
        self._credit = window
        """Credit that has not been sent yet."""
        self._verdict: bytes | None = None

    def next_answer(self) -> bytes | None:
        """The next frame for the writer, if there is one. Raises: nothing."""
        if self._verdict is not None:
            verdict, self._verdict = self._verdict, None
            return verdict
        if self._credit and not self._over:
            credit, self._credit = self._credit, 0
            return encode(Credit(credit))
        return None

    # For the base.

    def _send_credit(self, credit: int) -> None:
        self._credit += credit
        self._on_answer()

    def _send_accepted(self, answer: bytes) -> None:
        self._say(encode(Accepted(answer)))

    def _send_refused(self, reason: str) -> None:
        self._say(encode(Refused(reason)))

    def _say(self, verdict: bytes) -> None:
        self._verdict = verdict
        self._on_answer()
