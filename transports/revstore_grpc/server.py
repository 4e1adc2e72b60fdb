"""The serving end of a client's connection: from the machine's events to the table.

Rules of this file:

1. A call is a plain function call inside the handling of received bytes; no task.
2. All that is ready leaves in one write per turn of the loop. What is answered while
   received bytes are handled leaves when they are all handled.
3. Whatever a client does ends its call or its own connection and nothing else.
4. A deadline costs one comparison per call: one timer per connection stands at the
   earliest, and looks through the open calls when it fires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any, cast

from revstore import logs
from revstore.api.errors import STOPPED
from revstore.api.lookup import INTERNAL_ERROR, services_of, unimplemented
from revstore.interfaces.transport import (
    Method,
    MethodKind,
    ServeOptions,
    ServiceTable,
)
from revstore_grpc.calls import (
    CLIENT_NAME_KEY,
    DEADLINE_PASSED,
    GrpcStream,
    UnaryCall,
)
from revstore_grpc.http import HttpRoutes
from revstore_grpc.http1 import Http1
from revstore_grpc.limits import (
    DEADLINE_GRAIN_S,
    HTTP_BODY_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    STREAM_QUEUE_BYTES_FLOOR,
    STREAM_QUEUE_BYTES_RESUME,
    WRITE_HIGH_WATER,
)
from revstore_http2.events import (
    Cancelled,
    ConnectionFailed,
    Drained,
    Event,
    HalfClosed,
    HttpRequest,
    MessageReceived,
    OtherProtocol,
    Request,
    RequestHead,
    Route,
    StreamRefused,
    StreamStarted,
    Writable,
)
from revstore_http2.limits import Limits
from revstore_http2.server import ServerConnection

_log = logs.get(__name__)


class Serving:
    """What all connections of one server share."""

    def __init__(
        self, table: ServiceTable, options: ServeOptions, http: HttpRoutes
    ) -> None:
        self.http = http
        self.limits = limits_of(options)
        self.links: set[ServerLink] = set()
        self.draining = False
        self._services = services_of(table)
        self._routes = {path: _route(method) for path, method in table.items()}

    def route(self, path: str) -> Route:
        """The meaning of a path. Raises: nothing."""
        found = self._routes.get(path)
        if found is None:
            error = unimplemented(self._services, path)
            found = Route(refusal=(error.code, error.message))
        return found

    def queued_bytes(self) -> int:
        """What waits in all streams of all connections. Raises: nothing."""
        return sum([link.connection.queued_bytes for link in self.links])


def limits_of(options: ServeOptions) -> Limits:
    """The bounds of each connection."""
    streams_max = options.concurrent_streams_max
    more: dict[str, Any] = {}
    if streams_max:
        more = {"streams_max": streams_max, "tell_streams_max": True}
    return Limits(
        message_bytes_max=options.request_bytes_max,
        unfinished_bytes_max=max(64 * 1024 * 1024, 2 * options.request_bytes_max),
        plain_http=True,
        body_bytes_max=HTTP_BODY_BYTES_MAX,
        stream_high_bytes=STREAM_QUEUE_BYTES_FLOOR,
        stream_low_bytes=STREAM_QUEUE_BYTES_RESUME,
        ping_min_interval_s=options.keepalive_min_time_s,
        keepalive_interval_s=options.keepalive_interval_s,
        keepalive_timeout_s=options.keepalive_timeout_s,
        **more,
    )


def _route(method: Method) -> Route:
    if method.kind is MethodKind.UNARY:
        return Route(target=method.unary, single=True)
    return Route(target=method, single=method.kind is MethodKind.SERVER_STREAM)


class ServerLink(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, serving: Serving) -> None:
        self.loop = loop
        self.serving = serving
        self.transport: asyncio.Transport | None = None
        self.connection = ServerConnection(
            serving.route, serving.limits, now=loop.time()
        )
        self.calls: dict[int, UnaryCall] = {}
        """Unary calls that are not answered yet."""
        self.streams: dict[int, GrpcStream] = {}
        self.awake = False
        """Whether ``flush`` is sure to run in this turn of the loop."""
        self.closing = False
        self.closed: asyncio.Future[None] = loop.create_future()
        self.drained: asyncio.Future[None] = loop.create_future()
        self.peer_name = "unknown"
        self._draining = False
        self._http1: Http1 | None = None
        self._client_name = ""
        """Common name of a verified client certificate."""
        self._time: Callable[[], float] = loop.time
        self._paused = False
        self._choked = False
        """Whether the socket is not read because it takes nothing."""
        self._tick_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._deadline = inf
        """When the deadline timer fires. Invariant: no call expires before, but for the
        grain."""

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.peer_name = name_of(transport.get_extra_info("peername"))
        self._client_name = _common_name(transport.get_extra_info("peercert"))
        self.serving.links.add(self)
        self._set_tick()
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        if self._http1 is not None:
            self._http1.receive(data)
            return
        now = self._time()
        self.awake = True
        calls = self.calls
        for event in self.connection.receive(data, now):
            if type(event) is Request:
                head = event.head
                serve = head.route.target
                if type(serve) is Method:
                    self._open(event.stream_id, head, event.timeout_s, event.message)
                    continue
                call = UnaryCall(self, event.stream_id, head)
                try:
                    serve(call, event.message)
                except Exception:
                    _log.exception("the handler of a call raised", path=head.path)
                    call.fail(INTERNAL_ERROR)
                if not call.over:
                    calls[event.stream_id] = call
                    timeout_s = event.timeout_s
                    if timeout_s is not None:
                        call.expires = expires = now + timeout_s
                        if expires < self._deadline:
                            self._set_deadline(expires)
            else:
                self._handle(event, now)
        self.flush()
        if self._paused and self.connection.queued_bytes > OUTPUT_BYTES_MAX:
            self._choke()

    def pause_writing(self) -> None:
        self._paused = True
        self.connection.pause()

    def resume_writing(self) -> None:
        self._paused = False
        if self._choked and self.transport is not None and not self.closing:
            self._choked = False
            self.transport.resume_reading()
        self.handle(self.connection.resume())

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        for timer in (self._tick_timer, self._deadline_timer):
            if timer is not None:
                timer.cancel()
        reason = str(exc) if exc is not None else "the other side closed it"
        if self._http1 is not None:
            self._http1.lost()
        for event in self.connection.lost(reason):
            self._handle(event, 0.0)
        self.serving.links.discard(self)
        for future in (self.closed, self.drained):
            if not future.done():
                future.set_result(None)

    # Output.

    def wake(self) -> None:
        """Have what is ready sent in this turn of the loop. Raises: nothing."""
        if not self.awake:
            self.awake = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is ready. Raises: nothing."""
        self.awake = False
        if self.closing or self.transport is None:
            return
        pieces = self.connection.output()
        if pieces:
            self.transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self.connection.over:
            self.close()
        elif self._draining:
            now = self._time()
            for event in self.connection.tick(now):
                self._handle(event, now)

    def drain(self) -> None:
        """Take no new calls; ``drained`` is done when the last is over.

        Raises: nothing.
        """
        if self._http1 is not None or self.closing:
            if not self.drained.done():
                self.drained.set_result(None)
            return
        self._draining = True
        self.connection.drain(self._time())
        self.wake()

    def close(self) -> None:
        """Send what is ready and close. Raises: nothing."""
        transport = self.transport
        if self.closing or transport is None:
            return
        self.closing = True
        pieces = self.connection.output()
        # asyncio forgets how to abort a TLS connection that is closed twice, and closes
        # one itself whose acceptance was cancelled.
        if transport.is_closing():
            transport.abort()
            return
        if pieces:
            transport.write(b"".join(pieces))
        transport.close()

    def abort(self) -> None:
        """Close at once; what waits is lost. Raises: nothing."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    # For calls.

    def metadata_of(self, head: RequestHead) -> Mapping[str, str]:
        """What a service sees as metadata. Raises: nothing."""
        if not self._client_name:
            return head.metadata
        return {**head.metadata, CLIENT_NAME_KEY: self._client_name}

    def handle(self, events: Iterable[Event]) -> None:
        """Act on events that came otherwise than by received bytes. Raises: nothing."""
        now = self._time()
        for event in events:
            self._handle(event, now)
        self.wake()

    # Events.

    def _handle(self, event: Event, now: float) -> None:
        match event:
            case MessageReceived():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.take_message(event.message)
            case Request():
                # One that waited for the machine; the usual ones are handled above.
                self._request(event, now)
            case StreamStarted():
                self._open(event.stream_id, event.head, event.timeout_s, None)
            case HalfClosed():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.guard("on_half_close")
            case Cancelled():
                self._cancel(event.stream_id)
            case Writable():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.room()
            case HttpRequest():
                self._http(event)
            case OtherProtocol():
                self._other_protocol(event.data)
            case Drained():
                if not self.drained.done():
                    self.drained.set_result(None)
            case StreamRefused():
                _log.debug("stream refused", peer=self.peer_name, reason=event.reason)
            case ConnectionFailed():
                self._failed(event)
            case _:
                pass

    def _request(self, event: Request, now: float) -> None:
        head = event.head
        serve = head.route.target
        if type(serve) is Method:
            self._open(event.stream_id, head, event.timeout_s, event.message)
            return
        call = UnaryCall(self, event.stream_id, head)
        try:
            serve(call, event.message)
        except Exception:
            _log.exception("the handler of a call raised", path=head.path)
            call.fail(INTERNAL_ERROR)
        if not call.over:
            self.calls[event.stream_id] = call
            self._expire_at(call, event.timeout_s, now)

    def _open(
        self,
        stream_id: int,
        head: RequestHead,
        timeout_s: float | None,
        message: bytes | None,
    ) -> None:
        stream = GrpcStream(self, stream_id, head)
        if self.serving.draining:
            stream.fail(STOPPED)
            return
        self.streams[stream_id] = stream
        self._expire_at(stream, timeout_s, self._time())
        method: Method = head.route.target
        assert method.stream is not None
        try:
            stream.handler = method.stream(stream)
        except Exception:
            _log.exception("opening a stream raised", path=head.path)
            stream.fail(INTERNAL_ERROR)
        if message is not None:
            stream.take_message(message)

    def _cancel(self, stream_id: int) -> None:
        call = self.calls.get(stream_id) or self.streams.get(stream_id)
        if call is not None:
            call.cancel()

    def _http(self, request: HttpRequest) -> None:
        stream_id = request.stream_id

        def answer(status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.connection.respond(stream_id, status, headers.items(), body)
            self.wake()

        self.serving.http.serve(
            request.method, request.path, request.headers, request.body, answer
        )

    def _other_protocol(self, data: bytes) -> None:
        assert self.transport is not None
        self._http1 = Http1(self.loop, self.transport, self.serving.http)
        self._http1.receive(data)

    def _failed(self, event: ConnectionFailed) -> None:
        write = _log.warn if event.hostile else _log.debug
        write("connection ended", peer=self.peer_name, reason=event.reason)

    def _choke(self) -> None:
        if not self._choked and self.transport is not None and not self.closing:
            self._choked = True
            self.transport.pause_reading()

    # Time.

    def _set_tick(self) -> None:
        due = self.connection.next_tick()
        self._tick_timer = self.loop.call_at(due, self._tick) if due < inf else None

    def _tick(self) -> None:
        self._tick_timer = None
        if self.closing or self._http1 is not None:
            return
        now = self._time()
        if self.connection.next_tick() <= now:
            self.handle(self.connection.tick(now))
        self._set_tick()

    def _expire_at(
        self, call: UnaryCall | GrpcStream, timeout_s: float | None, now: float
    ) -> None:
        if timeout_s is not None:
            call.expires = now + timeout_s
            if call.expires < self._deadline:
                self._set_deadline(call.expires)

    def _set_deadline(self, expires: float) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._deadline = expires
        self._deadline_timer = self.loop.call_at(expires, self._expire)

    def _expire(self) -> None:
        """End what is due, and look again when the next is."""
        self._deadline_timer = None
        self._deadline = earliest = inf
        now = self._time()
        calls: list[UnaryCall | GrpcStream] = [*self.calls.values()]
        calls += self.streams.values()
        for call in calls:
            if call.expires <= now:
                call.cancel(DEADLINE_PASSED)
            elif call.expires < earliest:
                earliest = call.expires
        if earliest < self._deadline:
            self._set_deadline(max(earliest, now + DEADLINE_GRAIN_S))


def name_of(found: Any) -> str:
    """The address of the other side, for logs. Raises: nothing."""
    if isinstance(found, tuple):
        host, port = found[0], found[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"unix:{found or ''}"


def _common_name(certificate: Any) -> str:
    for part in (certificate or {}).get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""
