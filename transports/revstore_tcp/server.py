"""The serving end of a client's connection: from records to the service table.

Rules of this file:

1. A call is a plain function call inside the handling of received bytes; no task.
2. What a client can make this member hold is bounded: calls by ``concurrent_streams_max``
   if set, parts of requests by PARTIAL_REQUESTS_MAX, a stream's input by its window, its
   output by ``writable``, and a connection whose output is over its bound is not read.
3. Whatever a client does ends its call or its own connection and nothing else.
"""

from __future__ import annotations

import asyncio

from revstore import logs
from revstore.api.errors import STOPPED, Code, message_too_large
from revstore.api.lookup import INTERNAL_ERROR, services_of, unimplemented
from revstore.errors import ApiError
from revstore.interfaces.transport import (
    Method,
    MethodKind,
    ServeOptions,
    ServiceTable,
)
from revstore.net.tls import common_name
from revstore_tcp.calls import Served, TcpStream, UnaryCall
from revstore_tcp.framing import (
    TOTAL,
    Assembler,
    Flag,
    ProtocolError,
    RecordType,
    record,
    total_of,
)
from revstore_tcp.limits import (
    HANDSHAKE_TIMEOUT_S,
    OUTPUT_BYTES_MAX,
    PARTIAL_REQUESTS_MAX,
    PING_STRIKES_MAX,
)
from revstore_tcp.link import Link
from revstore_tcp.messages import (
    GoAway,
    OpenHead,
    Role,
    Welcome,
    read_hello,
    read_metadata,
    read_number,
    read_open,
    write_end,
    write_welcome,
)

_log = logs.get(__name__)

_OPEN = int(RecordType.OPEN)
_MESSAGE = int(RecordType.MESSAGE)
_MORE = int(Flag.MORE)
_BODY = int(Flag.BODY)

_NO_MESSAGE = ApiError(
    Code.INTERNAL, "revstore: the call needs a message and came without one"
)
_TOO_MANY_PARTS = ApiError(
    Code.RESOURCE_EXHAUSTED, "revstore: too many long requests on one connection"
)


class Serving:
    """What all connections of one server share."""

    def __init__(self, table: ServiceTable, options: ServeOptions) -> None:
        self.options = options
        self.methods: dict[bytes, Method] = {
            path.encode(): method for path, method in table.items()
        }
        self.services = services_of(table)
        self.links: set[ServerLink] = set()
        self.draining = False

    def refusal(self, path: bytes) -> ApiError:
        """The answer to an unknown path. Raises: nothing."""
        return unimplemented(self.services, path.decode("utf-8", "replace"))


class ServerLink(Link):
    """One client's connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, serving: Serving) -> None:
        super().__init__(loop, greeting=True)
        self.calls: dict[int, Served] = {}
        self.client_name = ""
        """Common name of a verified client certificate."""
        self.on_idle: asyncio.Future[None] | None = None
        self._serving = serving
        self._request_bytes_max = serving.options.request_bytes_max
        self._streams_max = serving.options.concurrent_streams_max
        self._assembler = Assembler()
        self._greeted = False
        self._last_stream = 0
        self._unchoking = False
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0
        """``received_bytes`` when the keepalive timer last ran."""
        self._ping_at = 0.0
        self._ping_strikes = 0

    # The connection.

    def made(self) -> None:
        assert self.transport is not None
        self.client_name = common_name(self.transport.get_extra_info("peercert"))
        self._serving.links.add(self)
        self._timer = self.loop.call_later(HANDSHAKE_TIMEOUT_S, self._no_hello)

    def lost(self, reason: str) -> None:
        self._serving.links.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        for call in tuple(self.calls.values()):
            call.cancel()

    def call_ended(self) -> None:
        """A call has left the table. Raises: nothing."""
        if self.on_idle is not None and not self.calls and not self.on_idle.done():
            self.on_idle.set_result(None)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.check_output()

    def check_output(self) -> None:
        """Take no more from a client that does not take its answers. Raises: nothing."""
        if not self.choked and self.output_bytes() > OUTPUT_BYTES_MAX:
            self.choked = True
            if self.transport is not None and not self.closing:
                self.transport.pause_reading()

    def drained(self) -> None:
        if self.choked and not self._unchoking:
            if self.output_bytes() > OUTPUT_BYTES_MAX // 2:
                return
            self._unchoking = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._unchoking = False
        if self.closing:
            return
        self.unchoke()
        self.check_output()
        if not self.choked and self.transport is not None and not self.closing:
            self.transport.resume_reading()

    # Records.

    def handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if not self._greeted:
            self._greet(kind, payload)
        elif kind == _OPEN:
            self._open(flags, stream, payload)
        elif kind == _MESSAGE:
            self._message(flags, stream, payload)
        elif kind == RecordType.PING:
            self._ping(payload)
        elif kind in (RecordType.CREDIT, RecordType.FINISH, RecordType.CANCEL):
            self._steer(kind, stream, payload)
        # PONG has done its work by being heard; unknown types are of later versions.

    def _greet(self, kind: int, payload: bytes) -> None:
        if kind != RecordType.HELLO:
            raise ProtocolError("the first record is not HELLO")
        hello = read_hello(payload)
        if hello.role is not Role.CLIENT:
            raise ProtocolError("a member called the address for clients")
        self._greeted = True
        welcome = Welcome(
            message_bytes_max=self._request_bytes_max, streams_max=self._streams_max
        )
        self.add(record(RecordType.WELCOME, 0, write_welcome(welcome)))
        if self._timer is not None:
            self._timer.cancel()
        interval = self._serving.options.keepalive_interval_s
        self._timer = self.loop.call_later(interval, self._idle)

    def _open(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & _MORE or stream <= self._last_stream:
            whole = self._open_part(flags, stream, payload)
            if whole is None:
                return
            payload = whole
        self._last_stream = max(stream, self._last_stream)
        head = read_open(payload)
        size = len(payload) - head.message_at
        if size > self._request_bytes_max:
            self._refuse(stream, message_too_large(size, self._request_bytes_max))
            return
        self._call(flags, stream, head, payload[head.message_at :])

    def _open_part(self, flags: int, stream: int, payload: bytes) -> bytes | None:
        """One part of a long OPEN; the whole when it is complete."""
        assembler = self._assembler
        if stream > self._last_stream:
            self._last_stream = stream
            total = total_of(payload)
            head = read_open(payload[TOTAL.size :])
            size = total - head.message_at
            if size > self._request_bytes_max:
                self._refuse(stream, message_too_large(size, self._request_bytes_max))
                return None
            if self._too_many_parts(total):
                self._refuse(stream, _TOO_MANY_PARTS)
                return None
        elif not assembler.holds(stream):
            return None
        whole = assembler.add(_OPEN, flags, stream, payload)
        return whole[3] if whole is not None else None

    def _too_many_parts(self, more: int) -> bool:
        held = self._assembler.bytes_held
        return held + more > PARTIAL_REQUESTS_MAX * (self._request_bytes_max + 65536)

    def _call(self, flags: int, stream: int, head: OpenHead, message: bytes) -> None:
        if self._serving.draining:
            self._refuse(stream, STOPPED)
            return
        method = self._serving.methods.get(head.path)
        if method is None:
            self._refuse(stream, self._serving.refusal(head.path))
            return
        if self._streams_max and len(self.calls) >= self._streams_max:
            text = f"revstore: more than {self._streams_max} calls on one connection"
            self._refuse(stream, ApiError(Code.RESOURCE_EXHAUSTED, text))
            return
        if head.metadata:
            read_metadata(head.metadata)
        if method.kind is MethodKind.UNARY:
            self._unary(method, flags, stream, head, message)
        else:
            self._stream(method, flags, stream, head, message)

    def _unary(
        self, method: Method, flags: int, stream: int, head: OpenHead, message: bytes
    ) -> None:
        if not flags & _BODY:
            self._refuse(stream, _NO_MESSAGE)
            return
        assert method.unary is not None
        call = UnaryCall(self, stream, head.metadata)
        try:
            method.unary(call, message)
        except Exception:
            _log.exception("the handler of a call raised", path=method.path)
            call.fail(INTERNAL_ERROR)
        if not call.over:
            self.calls[stream] = call
            if head.timeout_ms:
                call.start_timer(head.timeout_ms / 1000)

    def _stream(
        self, method: Method, flags: int, stream: int, head: OpenHead, message: bytes
    ) -> None:
        if method.kind is MethodKind.SERVER_STREAM and not flags & _BODY:
            self._refuse(stream, _NO_MESSAGE)
            return
        assert method.stream is not None
        call = TcpStream(self, stream, head.metadata)
        self.calls[stream] = call
        if head.timeout_ms:
            call.start_timer(head.timeout_ms / 1000)
        try:
            call.handler = method.stream(call)
        except Exception:
            _log.exception("opening a stream raised", path=method.path)
            call.fail(INTERNAL_ERROR)
        if flags & _BODY:
            call.take_message(message)

    def _message(self, flags: int, stream: int, payload: bytes) -> None:
        if stream > self._last_stream:
            raise ProtocolError(f"a message came for stream {stream}, never opened")
        call = self.calls.get(stream)
        if not isinstance(call, TcpStream) or call.over:
            # The stream has ended meanwhile; what was on its way is nobody's.
            self._assembler.drop(stream)
            return
        size = len(payload)
        if not self._assembler.holds(stream):
            call.check_credit()
            if flags & _MORE:
                size = total_of(payload)
            limit = self._request_bytes_max
            if size > limit:
                call.cancel(message_too_large(size, limit))
                return
            if flags & _MORE and self._too_many_parts(size):
                call.cancel(_TOO_MANY_PARTS)
                return
        whole = self._assembler.add(_MESSAGE, flags, stream, payload)
        if whole is not None:
            call.take_message(whole[3])

    def _steer(self, kind: int, stream: int, payload: bytes) -> None:
        if stream > self._last_stream:
            raise ProtocolError(f"a record came for stream {stream}, never opened")
        call = self.calls.get(stream)
        if call is None:
            if kind == RecordType.CANCEL:
                self._assembler.drop(stream)
        elif kind == RecordType.CANCEL:
            self._assembler.drop(stream)
            call.cancel()
        elif isinstance(call, TcpStream):
            if kind == RecordType.CREDIT:
                call.take_credit(read_number(payload))
            else:
                call.take_finish()

    def _refuse(self, stream: int, error: ApiError) -> None:
        self.add(record(RecordType.END, stream, write_end(error)))

    # Keepalive.

    def _ping(self, payload: bytes) -> None:
        now = self.loop.time()
        if now - self._ping_at < self._serving.options.keepalive_min_time_s:
            self._ping_strikes += 1
            if self._ping_strikes > PING_STRIKES_MAX:
                self.fail(GoAway.PINGS, "too_many_pings")
                return
        else:
            self._ping_strikes = 0
        self._ping_at = now
        self.add(record(RecordType.PONG, 0, payload[:64]))

    def _no_hello(self) -> None:
        self.fail(GoAway.TIMEOUT, "no HELLO came in time")

    def _idle(self) -> None:
        options = self._serving.options
        if self.received_bytes != self._heard:
            self._heard = self.received_bytes
            delay = options.keepalive_interval_s
            self._timer = self.loop.call_later(delay, self._idle)
            return
        self.add(record(RecordType.PING, 0))
        delay = options.keepalive_timeout_s
        self._timer = self.loop.call_later(delay, self._unheard)

    def _unheard(self) -> None:
        if self.received_bytes == self._heard:
            _log.warn("a client answers no ping", peer=self.peer_name())
            self.abort()
        else:
            self._idle()
