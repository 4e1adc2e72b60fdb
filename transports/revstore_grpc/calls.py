"""The call objects that services see, on top of a connection.

Rules of this file:

1. Everything runs on the connection's loop (T-06); no lock is needed.
2. A unary call that is answered inline leaves no trace: no entry in a table, no timer.
3. A stream's output waits in the machine, its input is held there while the output is
   over its bound, so that a client that never reads cannot make it grow by asking.
4. What waits in all streams of a server together is bounded, too: over that bound a
   stream has room only below a floor, so that many streams that nobody reads neither
   fill the memory nor shut out the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING

from revstore import logs
from revstore.api.errors import Code
from revstore.api.lookup import INTERNAL_ERROR
from revstore.errors import ApiError
from revstore.interfaces.transport import Call, Stream, StreamHandler
from revstore_grpc.limits import (
    STREAM_QUEUE_BYTES_FLOOR,
    STREAM_QUEUE_BYTES_MAX,
    STREAMS_QUEUE_BYTES_MAX,
)
from revstore_http2.events import RequestHead

if TYPE_CHECKING:
    from revstore_grpc.server import ServerLink

_log = logs.get(__name__)

CLIENT_NAME_KEY = ":client-common-name"
"""Metadata name for the common name of a verified client certificate.

No client can send it: HTTP/2 keeps names with a colon for itself.
"""

DEADLINE_PASSED = ApiError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
"""What a client sees of its own deadline, in grpc-go's words."""


_NOBODY = StreamHandler()


class UnaryCall(Call):
    """One unary call; ``over`` once it is answered or given up."""

    __slots__ = ("_cancelled", "_head", "expires", "id", "link", "over")

    def __init__(self, link: ServerLink, stream_id: int, head: RequestHead) -> None:
        self.link = link
        self._head = head
        self._cancelled = False
        self.id = stream_id
        self.over = False
        self.expires = inf
        """When its deadline passes, in the loop's time; set if it is not answered at
        once."""

    def metadata(self) -> Mapping[str, str]:
        return self.link.metadata_of(self._head)

    def peer(self) -> str:
        return self.link.peer_name

    def reply(self, message: bytes) -> None:
        if self.over:
            return
        self.over = True
        link = self.link
        link.calls.pop(self.id, None)
        link.connection.reply(self.id, message)
        if not link.awake:
            link.wake()

    def fail(self, error: ApiError) -> None:
        if self.over:
            return
        self.over = True
        link = self.link
        link.calls.pop(self.id, None)
        link.connection.fail(self.id, error.code, error.message)
        link.wake()

    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self, error: ApiError | None = None) -> None:
        """The call is over for a reason outside the service. Raises: nothing."""
        if self.over:
            return
        self._cancelled = True
        if error is not None:
            self.fail(error)
        else:
            self.over = True
            self.link.calls.pop(self.id, None)


class GrpcStream(Stream):
    """One streaming call."""

    __slots__ = (
        "_cancelled",
        "_congested",
        "_head",
        "_held",
        "_queued",
        "expires",
        "handler",
        "id",
        "link",
        "over",
    )

    def __init__(self, link: ServerLink, stream_id: int, head: RequestHead) -> None:
        self.link = link
        self._head = head
        self._cancelled = False
        self._congested = False
        self._held = False
        """Whether the machine keeps input back."""
        self._queued = 0
        """What waited after the last message: at least what waits now."""
        self.id = stream_id
        self.over = False
        """Whether the service or the client has ended it. Invariant: nothing but
        ``on_cancel`` reaches the handler after, and that at most once."""
        self.expires = inf
        self.handler = StreamHandler()

    def metadata(self) -> Mapping[str, str]:
        return self.link.metadata_of(self._head)

    def peer(self) -> str:
        return self.link.peer_name

    def reply(self, message: bytes) -> None:
        self.send(message)
        self.finish()

    def send(self, message: bytes) -> None:
        if self.over:
            return
        link = self.link
        self._queued = link.connection.send(self.id, message)
        if not link.awake:
            link.wake()

    def send_head(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Send metadata before the first message. Raises: nothing."""
        if not self.over:
            self.link.connection.send_head(self.id, pairs)
            self.link.wake()

    def finish(self) -> None:
        if not self.over:
            self._forget()
            self.part()
            self.link.connection.finish(self.id)
            self.link.wake()

    def fail(self, error: ApiError) -> None:
        if not self.over:
            self._forget()
            self.part()
            self.link.connection.fail(self.id, error.code, error.message)
            self.link.wake()

    def cancelled(self) -> bool:
        return self._cancelled

    def writable(self) -> bool:
        if self._queued < STREAM_QUEUE_BYTES_FLOOR or self.over:
            return True
        link = self.link
        queued = self._queued = link.connection.waiting(self.id)
        if queued < STREAM_QUEUE_BYTES_FLOOR or (
            queued < STREAM_QUEUE_BYTES_MAX
            and link.serving.queued_bytes() < STREAMS_QUEUE_BYTES_MAX
        ):
            return True
        self._congested = True
        return False

    # From the connection.

    def take_message(self, message: bytes) -> None:
        """Hand a message to the service. Raises: nothing."""
        if self.over:
            return
        self.guard("on_message", message)
        if not self.over and not self._held and not self.writable():
            self._held = True
            self.link.connection.hold(self.id)

    def room(self) -> None:
        """What waits has become little. Raises: nothing."""
        if self.over:
            return
        self._queued = self.link.connection.waiting(self.id)
        if self._congested:
            self._congested = False
            self.guard("on_writable")
        if self._held and not self.over and self.writable():
            self._held = False
            self.link.handle(self.link.connection.release(self.id))

    def cancel(self, error: ApiError | None = None) -> None:
        """The stream is over for a reason outside the service. Raises: nothing."""
        if self.over:
            return
        self._cancelled = True
        self._forget()
        if error is not None:
            self.link.connection.fail(self.id, error.code, error.message)
            self.link.wake()
        self.guard("on_cancel")
        self.part()

    def guard(self, step: str, *arguments: bytes) -> None:
        """Run one callback; an exception ends the stream (T-05). Raises: nothing."""
        try:
            getattr(self.handler, step)(*arguments)
        except Exception:
            _log.exception("a stream handler raised", step=step)
            self.fail(INTERNAL_ERROR)

    def _forget(self) -> None:
        self.over = True
        self.link.streams.pop(self.id, None)

    def part(self) -> None:
        """Let go of the handler, which knows the stream: the cycle may hold much.

        Raises: nothing.
        """
        self.handler = _NOBODY
