"""The sending half of a stream: a queue, its credit, and the end behind it.

Rules of this file:

1. A message may be begun while credit is above zero and is charged whole, so credit may
   go below zero by one message and no size can lock a stream up.
2. A stream without credit holds its messages here and takes no part in the turns of the
   connection: other streams do not notice it.
3. The end leaves after the last message. Nothing leaves after the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from revstore_tcp.framing import RecordType, cut, record
from revstore_tcp.limits import (
    MESSAGE_COST,
    RECORD_PAYLOAD_MAX,
    STREAM_QUEUE_BYTES_MAX,
    STREAM_WINDOW,
)
from revstore_tcp.link import Link

_MESSAGE = int(RecordType.MESSAGE)


def _nothing() -> None:
    pass


class Outgoing:
    """What one side sends on one stream."""

    __slots__ = (
        "_active",
        "_congested",
        "_cutting",
        "_end",
        "_ended",
        "_link",
        "_queue",
        "_queue_bytes_max",
        "_stream",
        "credit",
        "on_ended",
        "on_room",
        "queued_bytes",
    )

    def __init__(
        self,
        link: Link,
        stream: int,
        credit: int = STREAM_WINDOW,
        queue_bytes_max: int = STREAM_QUEUE_BYTES_MAX,
    ) -> None:
        self._queue_bytes_max = queue_bytes_max
        self._link = link
        self._stream = stream
        self._queue: deque[bytes] = deque()
        self._cutting: Iterator[bytes] | None = None
        self._end: bytes | None = None
        self._ended = False
        self._active = False
        self._congested = False
        self.credit = credit
        self.queued_bytes = 0
        self.on_room: Callable[[], None] = _nothing
        """Runs when there is room again after ``writable`` said no."""
        self.on_ended: Callable[[], None] = _nothing
        """Runs when the end has left."""

    def send(self, message: bytes) -> None:
        """Queue a message; nothing after the end. Raises: nothing."""
        if self._end is not None:
            return
        cost = len(message) + MESSAGE_COST
        if (
            not self._queue
            and not self._active
            and self.credit > 0
            and len(message) <= RECORD_PAYLOAD_MAX
            and self._link.roomy
        ):
            self.credit -= cost
            self._link.add(record(_MESSAGE, self._stream, message))
            return
        self._queue.append(message)
        self.queued_bytes += cost
        self._activate()

    def end(self, one: bytes) -> None:
        """Let a record follow the last message; the first end counts. Raises: nothing."""
        if self._end is None:
            self._end = one
            self._activate()

    def discard(self) -> None:
        """Forget what waits; nothing leaves any more. Raises: nothing."""
        self._queue.clear()
        self.queued_bytes = 0
        self._cutting = None
        self._end = b""
        self._ended = True
        self.on_room = self.on_ended = _nothing

    def discard_queue(self) -> None:
        """Forget the messages that have not been begun. Raises: nothing."""
        self._queue.clear()
        self.queued_bytes = 0

    def writable(self) -> bool:
        """Whether less than the bound waits. Raises: nothing."""
        if self.queued_bytes < self._queue_bytes_max:
            return True
        self._congested = True
        return False

    def __len__(self) -> int:
        """Messages that have not been begun. Raises: nothing."""
        return len(self._queue)

    def grant(self, credit: int) -> None:
        """The other side takes more. Raises: nothing."""
        self.credit += credit
        self._activate()

    def next_record(self) -> bytes | None:
        """See ``Source``. Raises: nothing."""
        if self._cutting is not None:
            one = next(self._cutting, None)
            if one is not None:
                return one
            self._cutting = None
        if self._queue:
            if self.credit > 0:
                return self._begin(self._queue.popleft())
        elif self._end is not None and not self._ended:
            self._ended = True
            self.on_ended()
            return self._end
        self._active = False
        return None

    def _begin(self, message: bytes) -> bytes:
        cost = len(message) + MESSAGE_COST
        self.credit -= cost
        self.queued_bytes -= cost
        if self._congested and self.queued_bytes <= self._queue_bytes_max // 2:
            self._congested = False
            self._link.loop.call_soon(self._room)
        if len(message) <= RECORD_PAYLOAD_MAX:
            return record(_MESSAGE, self._stream, message)
        self._cutting = cut(_MESSAGE, self._stream, message)
        return next(self._cutting)

    def _room(self) -> None:
        self.on_room()

    def _activate(self) -> None:
        if self._active or self._ended:
            return
        if self._queue:
            if self.credit <= 0:
                return
        elif self._end is None:
            return
        self._active = True
        self._link.activate(self)
