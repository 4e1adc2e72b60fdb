"""The call objects that services see, on top of a connection.

Rules of this file:

1. Everything runs on the connection's loop (T-06); no lock is needed.
2. A unary call that is answered inline leaves no trace: no entry in a table, no timer.
3. A stream takes no input while its output is over the bound: it waits in the inbox,
   which the stream's window bounds, so that a client that never reads cannot make the
   queue grow by asking.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from revstore import logs
from revstore.api.errors import Code
from revstore.api.lookup import INTERNAL_ERROR
from revstore.errors import ApiError
from revstore.interfaces.transport import Call, Stream, StreamHandler
from revstore_tcp.framing import ProtocolError, RecordType, cut, record
from revstore_tcp.limits import MESSAGE_COST, RECORD_PAYLOAD_MAX, STREAM_WINDOW
from revstore_tcp.link import Cut
from revstore_tcp.messages import REPLY_OK, read_metadata, write_end, write_number
from revstore_tcp.outgoing import Outgoing

if TYPE_CHECKING:
    from revstore_tcp.server import ServerLink

_log = logs.get(__name__)

CLIENT_NAME_KEY = ":client-common-name"
"""Metadata name for the common name of a verified client certificate.

No client can send it: names with a colon in front are the transport's own.
"""

DEADLINE_PASSED = ApiError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
"""What a client sees of its own deadline, in grpc-go's words."""

_END = int(RecordType.END)
_SMALL_REPLY = 4096
"""Answers to all requests of one read may be so long without a look at the output."""


class Served:
    """What unary calls and streams have in common."""

    __slots__ = ("_cancelled", "_link", "_metadata", "_raw", "_timer", "id")

    def __init__(self, link: ServerLink, number: int, raw: bytes) -> None:
        self._link = link
        self._raw = raw
        self._metadata: dict[str, str] | None = None
        self._cancelled = False
        self._timer: asyncio.TimerHandle | None = None
        self.id = number

    def metadata(self) -> Mapping[str, str]:
        """See ``Call``."""
        found = self._metadata
        if found is None:
            try:
                found = read_metadata(self._raw)
            except ProtocolError:
                # ServerLink checks metadata before a service sees the call.
                found = {}
            name = self._link.client_name
            if name:
                found[CLIENT_NAME_KEY] = name
            self._metadata = found
        return found

    def peer(self) -> str:
        """See ``Call``."""
        return self._link.peer_name()

    def cancelled(self) -> bool:
        """See ``Call``."""
        return self._cancelled

    def start_timer(self, seconds: float) -> None:
        """End the call when its deadline passes. Raises: nothing."""
        self._timer = self._link.loop.call_later(seconds, self._expire)

    def cancel(self, error: ApiError | None = None) -> None:
        """The call is over for a reason outside the service."""

    def _expire(self) -> None:
        self._timer = None
        self.cancel(DEADLINE_PASSED)

    def _forget(self) -> None:
        if self._link.calls.pop(self.id, None) is not None:
            self._link.call_ended()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class UnaryCall(Served, Call):
    """One unary call; ``over`` once it is answered or given up."""

    __slots__ = ("over",)

    def __init__(self, link: ServerLink, number: int, raw: bytes) -> None:
        super().__init__(link, number, raw)
        self.over = False

    def reply(self, message: bytes) -> None:
        if self.over:
            return
        self.over = True
        link = self._link
        if len(message) < RECORD_PAYLOAD_MAX - len(REPLY_OK):
            link.add(record(_END, self.id, REPLY_OK + message))
        else:
            payload = REPLY_OK + message
            link.activate(Cut(link, payload, cut(_END, self.id, payload)))
        if len(message) > _SMALL_REPLY:
            link.check_output()
        self._forget()

    def fail(self, error: ApiError) -> None:
        if self.over:
            return
        self.over = True
        self._link.add(record(_END, self.id, write_end(error)))
        self._forget()

    def cancel(self, error: ApiError | None = None) -> None:
        if self.over:
            return
        self._cancelled = True
        if error is not None:
            self.fail(error)
        else:
            self.over = True
            self._forget()


class TcpStream(Served, Stream):
    """One streaming call: a queue out, an inbox, and the credit of both."""

    __slots__ = (
        "_consumed",
        "_finished",
        "_inbox",
        "_out",
        "_over",
        "_told",
        "_window",
        "handler",
    )

    def __init__(self, link: ServerLink, number: int, raw: bytes) -> None:
        super().__init__(link, number, raw)
        self._out = Outgoing(link, number)
        self._out.on_room = self._room
        self._out.on_ended = self._forget
        self._inbox: deque[bytes] = deque()
        self._finished = False
        """Whether the client has said that no more will come."""
        self._window = STREAM_WINDOW
        """What the client may still send, as it sees it."""
        self._consumed = 0
        """Taken since credit was last granted."""
        self._over = False
        self._told = False
        """Whether the handler got ``on_cancel``. Invariant: nothing reaches it after."""
        self.handler = StreamHandler()

    def reply(self, message: bytes) -> None:
        self.send(message)
        self.finish()

    def fail(self, error: ApiError) -> None:
        self._end(error)

    def finish(self) -> None:
        self._end(None)

    def send(self, message: bytes) -> None:
        if not self._over:
            self._out.send(message)

    def writable(self) -> bool:
        return self._out.writable()

    @property
    def over(self) -> bool:
        """Whether the service or the client has ended the stream."""
        return self._over

    def cancel(self, error: ApiError | None = None) -> None:
        if error is None:
            self._out.discard()
            self._forget()
        elif self._over:
            # What the service ended may still wait for credit.
            return
        if self._over:
            return
        self._cancelled = True
        if error is None:
            self._over = True
            self._inbox.clear()
        else:
            self._out.discard_queue()
            self._end(error)
        self._told = True
        self._guard("on_cancel")

    # From the connection.

    def check_credit(self) -> None:
        """A message begins. Raises: ProtocolError if there is no credit for it."""
        if self._finished:
            raise ProtocolError("a message came after the client had finished")
        if self._window <= 0:
            raise ProtocolError("a message came without credit")

    def take_message(self, message: bytes) -> None:
        """Hand a message to the service, or keep it until there is room for answers."""
        if self._over:
            return
        self._window -= len(message) + MESSAGE_COST
        if self._inbox or not self._out.writable():
            self._inbox.append(message)
        else:
            self._consume(message)

    def take_finish(self) -> None:
        """The client sends no more. Raises: nothing."""
        if not self._finished:
            self._finished = True
            if not self._inbox and not self._over:
                self._guard("on_half_close")

    def take_credit(self, credit: int) -> None:
        """The client takes more. Raises: nothing."""
        self._out.grant(credit)

    # Inside.

    def _consume(self, message: bytes) -> None:
        self._consumed += len(message) + MESSAGE_COST
        if self._consumed >= STREAM_WINDOW // 2 and not self._finished:
            credit, self._consumed = self._consumed, 0
            self._window += credit
            self._link.add(record(RecordType.CREDIT, self.id, write_number(credit)))
        self._guard("on_message", message)

    def _room(self) -> None:
        inbox = self._inbox
        while inbox and not self._over:
            if not self._out.writable():
                return
            self._consume(inbox.popleft())
            if not inbox and self._finished and not self._over:
                self._guard("on_half_close")
        if not self._over:
            self._guard("on_writable")

    def _guard(self, step: str, *arguments: bytes) -> None:
        """Run one callback; an exception ends the stream (T-05)."""
        try:
            getattr(self.handler, step)(*arguments)
        except Exception:
            _log.exception("a stream handler raised", step=step)
            self._end(INTERNAL_ERROR)

    def _end(self, error: ApiError | None) -> None:
        if self._over:
            return
        self._over = True
        self._inbox.clear()
        self._out.end(record(_END, self.id, write_end(error)))
