"""Calls of a service table without any transport between: tests and the embedded store.

Rules of this file:

1. Everything runs in the caller's thread, and a service that answers at once has
   answered when ``invoke`` returns.
2. The clauses T-01 to T-05 hold here as over any transport.
3. A stream's queue belongs to the client side, which empties it with ``take``; the
   service is told there is room again from inside ``take``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from revstore.api.lookup import INTERNAL_ERROR, services_of, unimplemented
from revstore.errors import ApiError
from revstore.interfaces.transport import (
    Call,
    ClientServer,
    Method,
    ServeOptions,
    ServiceTable,
    Stream,
    StreamHandler,
    Transport,
    TransportCapabilities,
)

_log = logging.getLogger(__name__)

NO_METADATA: Mapping[str, str] = MappingProxyType({})

QUEUE_MESSAGES_MAX = 64
"""Messages that may wait for the client before a stream is not writable."""


class DirectCall(Call):
    """A unary call; ``outcome`` is the answer, None until there is one."""

    __slots__ = ("_cancelled", "_metadata", "on_done", "outcome")

    def __init__(
        self,
        metadata: Mapping[str, str] = NO_METADATA,
        on_done: Callable[[DirectCall], None] | None = None,
    ) -> None:
        self._metadata = metadata
        self._cancelled = False
        self.on_done = on_done
        self.outcome: bytes | ApiError | None = None

    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def peer(self) -> str:
        return "inprocess"

    def reply(self, message: bytes) -> None:
        self._end(message)

    def fail(self, error: ApiError) -> None:
        self._end(error)

    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """The client gives up; a later answer is dropped. Raises: nothing."""
        self._cancelled = True

    def result(self) -> bytes:
        """The reply.

        Raises:
            ApiError: the call failed.
            LookupError: there is no answer yet.
        """
        if self.outcome is None:
            raise LookupError("the call has no answer yet")
        if isinstance(self.outcome, ApiError):
            raise self.outcome.fresh()
        return self.outcome

    def _end(self, outcome: bytes | ApiError) -> None:
        if self.outcome is not None or self._cancelled:
            return
        self.outcome = outcome
        if self.on_done is not None:
            self.on_done(self)


class DirectStream(Stream):
    """A streaming call, both ends of it.

    Client side: ``push``, ``half_close``, ``cancel``, ``take``. ``over`` turns True
    when the service has ended the stream or the client cancelled it; what was sent
    before can still be taken. ``error`` is why it ended, None for OK.
    """

    __slots__ = (
        "_blocked",
        "_cancelled",
        "_metadata",
        "error",
        "handler",
        "on_event",
        "over",
        "queue",
        "queue_messages_max",
    )

    def __init__(
        self,
        metadata: Mapping[str, str] = NO_METADATA,
        queue_messages_max: int = QUEUE_MESSAGES_MAX,
    ) -> None:
        self._metadata = metadata
        self._cancelled = False
        self._blocked = False
        self.handler = StreamHandler()
        self.queue: deque[bytes] = deque()
        self.queue_messages_max = queue_messages_max
        self.over = False
        self.error: ApiError | None = None
        self.on_event: Callable[[], None] | None = None
        """Runs after each message that was queued and at the end of the stream."""

    # The service's end.

    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def peer(self) -> str:
        return "inprocess"

    def reply(self, message: bytes) -> None:
        self.send(message)
        self.finish()

    def fail(self, error: ApiError) -> None:
        self._end(error)

    def cancelled(self) -> bool:
        return self._cancelled

    def send(self, message: bytes) -> None:
        if self.over:
            return
        self.queue.append(message)
        self._tell()

    def writable(self) -> bool:
        if len(self.queue) < self.queue_messages_max:
            return True
        self._blocked = True
        return False

    def finish(self) -> None:
        self._end(None)

    # The client's end.

    def push(self, message: bytes) -> None:
        """Send one message to the service; ignored when the stream is over."""
        if not self.over:
            self._guard(lambda: self.handler.on_message(message))

    def half_close(self) -> None:
        """Tell the service that no more will come."""
        if not self.over:
            self._guard(self.handler.on_half_close)

    def cancel(self) -> None:
        """The client gives up; the service gets ``on_cancel`` unless it had ended."""
        if self.over:
            return
        self._cancelled = True
        self.over = True
        self._guard(self.handler.on_cancel)
        self._tell()

    def take(self) -> bytes | None:
        """The next message of the service, None if there is none now."""
        if not self.queue:
            return None
        message = self.queue.popleft()
        if self._blocked and len(self.queue) < self.queue_messages_max:
            self._blocked = False
            if not self.over:
                self._guard(self.handler.on_writable)
        return message

    def take_all(self) -> list[bytes]:
        """All messages that the service sends without waiting for anything else."""
        messages = []
        while (message := self.take()) is not None:
            messages.append(message)
        return messages

    def _end(self, error: ApiError | None) -> None:
        if self.over:
            return
        self.over = True
        self.error = error
        self._tell()

    def _tell(self) -> None:
        if self.on_event is not None:
            self.on_event()

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            _log.exception("a stream handler raised")
            self._end(INTERNAL_ERROR)


def invoke(
    table: ServiceTable,
    path: str,
    message: bytes,
    metadata: Mapping[str, str] = NO_METADATA,
    on_done: Callable[[DirectCall], None] | None = None,
) -> DirectCall:
    """Make a unary call; its answer is in the returned object, now or later.

    Raises: nothing; also an unknown path is an answer.
    """
    call = DirectCall(metadata, on_done)
    method = table.get(path)
    if method is None or method.unary is None:
        call.fail(unimplemented(services_of(table), path))
        return call
    try:
        method.unary(call, message)
    except Exception:
        _log.exception("the handler of %s raised", path)
        call.fail(INTERNAL_ERROR)
    return call


def open_stream(
    table: ServiceTable,
    path: str,
    metadata: Mapping[str, str] = NO_METADATA,
    queue_messages_max: int = QUEUE_MESSAGES_MAX,
) -> DirectStream:
    """Open a streaming call. Raises: nothing; also an unknown path is an answer."""
    stream = DirectStream(metadata, queue_messages_max)
    method = table.get(path)
    if method is None or method.stream is None:
        stream.fail(unimplemented(services_of(table), path))
        return stream
    try:
        stream.handler = method.stream(stream)
    except Exception:
        _log.exception("opening a stream of %s raised", path)
        stream.fail(INTERNAL_ERROR)
    return stream


class InProcessServer(ClientServer):
    """A table that can be called until it is drained."""

    def __init__(self, table: ServiceTable) -> None:
        self.table = table
        self._streams: list[DirectStream] = []
        self._closed: dict[str, Method] = {}

    def addresses(self) -> Sequence[str]:
        return ("inprocess:",)

    def invoke(
        self,
        path: str,
        message: bytes,
        metadata: Mapping[str, str] = NO_METADATA,
        on_done: Callable[[DirectCall], None] | None = None,
    ) -> DirectCall:
        """See the function of the same name."""
        return invoke(self.table, path, message, metadata, on_done)

    def open_stream(
        self, path: str, metadata: Mapping[str, str] = NO_METADATA
    ) -> DirectStream:
        """See the function of the same name."""
        stream = open_stream(self.table, path, metadata)
        self._streams = [one for one in self._streams if not one.over]
        self._streams.append(stream)
        return stream

    async def drain(self, grace_s: float) -> None:
        self.table = self._closed
        for stream in self._streams:
            stream.cancel()
        self._streams.clear()


class InProcessTransport(Transport):
    """The table itself as a transport; ``urls`` and limits do not apply."""

    capabilities = TransportCapabilities(clients=True)

    async def serve_clients(
        self, table: ServiceTable, options: ServeOptions
    ) -> InProcessServer:
        return InProcessServer(table)
