"""The serving end of a client's connection: from the machine's events to the table.

Rules of this file:

1. A call is a plain function call inside the handling of received bytes; no task.
2. What is answered while received bytes are handled leaves when they are all handled.
3. Whatever a client does ends its call or its own connection and nothing else.
4. A deadline costs one comparison per call: one timer per connection stands at the
   earliest, and looks through the open calls when it fires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from revstore import logs
from revstore.api.errors import STOPPED
from revstore.api.lookup import INTERNAL_ERROR, services_of, unimplemented
from revstore.interfaces.transport import (
    Method,
    MethodKind,
    ServeOptions,
    ServiceTable,
)
from revstore.net.tls import common_name
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
    HEADER_BLOCK_BYTES_MAX,
    HTTP_BODY_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    STREAM_QUEUE_BYTES_FLOOR,
    STREAM_QUEUE_BYTES_RESUME,
)
from revstore_grpc.link import Link
from revstore_http2.codes import FRAME_BYTES_LEAST, PREFACE
from revstore_http2.events import (
    Cancelled,
    Event,
    HalfClosed,
    HttpRequest,
    MessageReceived,
    OtherProtocol,
    Request,
    RequestHead,
    Route,
    StreamStarted,
    Writable,
)
from revstore_http2.limits import Limits
from revstore_http2.server import ServerConnection

_log = logs.get(__name__)


class Serving:
    """What all connections of one server share."""

    def __init__(
        self, table: ServiceTable, limits: Limits, http: HttpRoutes | None
    ) -> None:
        self.http = http
        """What answers plain HTTP; without it another protocol ends its connection."""
        self.limits = limits
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
        header_block_bytes_max=HEADER_BLOCK_BYTES_MAX,
        continuations_max=HEADER_BLOCK_BYTES_MAX // FRAME_BYTES_LEAST + 1,
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


class ServerLink(Link):
    """One client's connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, serving: Serving) -> None:
        self.connection = ServerConnection(
            serving.route, serving.limits, now=loop.time()
        )
        super().__init__(loop, self.connection)
        self.serving = serving
        self.calls: dict[int, UnaryCall] = {}
        """Unary calls that are not answered yet."""
        self.streams: dict[int, GrpcStream] = {}
        self.drained: asyncio.Future[None] = loop.create_future()
        self._http1: Http1 | None = None
        self._unheard = len(PREFACE)
        """Bytes to come before it is clear which protocol the client speaks; nothing is
        said before, for it would be nonsense to one that speaks HTTP/1.1."""
        self._client_name = ""
        """Common name of a verified client certificate."""
        self._time: Callable[[], float] = loop.time
        self._choked = False
        """Whether the socket is not read because it takes nothing."""
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._deadline = inf
        """When the deadline timer fires. Invariant: no call expires before, but for the
        grain."""

    # The connection.

    def on_made(self) -> None:
        assert self.transport is not None
        self._client_name = common_name(self.transport.get_extra_info("peercert"))
        self.serving.links.add(self)

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
                self.on_event(event)
        if self._unheard > 0:
            self._unheard -= len(data)
            if self._unheard > 0:
                self.awake = False
                return
        self.flush()
        if self._paused and self.connection.queued_bytes > OUTPUT_BYTES_MAX:
            self._choke()

    def resume_writing(self) -> None:
        if self._choked and self.transport is not None and not self.closing:
            self._choked = False
            self.transport.resume_reading()
        super().resume_writing()

    def on_over(self) -> None:
        # The machine is over, too, when the other side speaks HTTP/1.1.
        if self._http1 is None:
            self.close()

    def on_lost(self, reason: str) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        if self._http1 is not None:
            self._http1.lost()
        self.serving.links.discard(self)
        if not self.drained.done():
            self.drained.set_result(None)

    def close(self) -> None:
        if self._unheard > 0:
            # What waits is for a client of HTTP/2.
            self.connection.output()
        super().close()

    def drain(self) -> None:
        """Take no new calls; ``drained`` is done when the last is over and the
        connection closed, or when there is nobody to wait for.

        Raises: nothing.
        """
        if self._http1 is not None or self._unheard > 0 or self.closing:
            # There is nobody to wait for.
            if not self.drained.done():
                self.drained.set_result(None)
            return
        self.connection.drain(self._time())
        self.set_tick()
        self.wake()

    # For calls.

    def certificate(self) -> Mapping[str, Any] | None:
        """What the other side has proved itself with, None without TLS.

        Raises: nothing.
        """
        assert self.transport is not None
        found: Mapping[str, Any] | None = self.transport.get_extra_info("peercert")
        return found

    def host(self) -> str:
        """The address that the connection comes from, empty if it has none.

        Raises: nothing.
        """
        assert self.transport is not None
        found = self.transport.get_extra_info("peername")
        return str(found[0]).partition("%")[0] if isinstance(found, tuple) else ""

    def metadata_of(self, head: RequestHead) -> Mapping[str, str]:
        """What a service sees as metadata. Raises: nothing."""
        if not self._client_name:
            return head.metadata
        return {**head.metadata, CLIENT_NAME_KEY: self._client_name}

    # Events.

    def on_event(self, event: Event) -> None:
        match event:
            case MessageReceived():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.take_message(event.message)
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
            case _:
                self.note(event)

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
        if timeout_s is not None:
            stream.expires = expires = self._time() + timeout_s
            if expires < self._deadline:
                self._set_deadline(expires)
        method: Method = head.route.target
        assert method.stream is not None
        try:
            stream.handler = method.stream(stream)
        except Exception:
            _log.exception("opening a stream raised", path=head.path)
            stream.fail(INTERNAL_ERROR)
        if stream.over:
            stream.part()
        elif message is not None:
            stream.take_message(message)

    def _cancel(self, stream_id: int) -> None:
        call = self.calls.get(stream_id) or self.streams.get(stream_id)
        if call is not None:
            call.cancel()

    def _http(self, request: HttpRequest) -> None:
        stream_id = request.stream_id
        assert self.serving.http is not None, "asked for by the limits"

        def answer(status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.connection.respond(stream_id, status, headers.items(), body)
            self.wake()

        self.serving.http.serve(
            request.method, request.path, request.headers, request.body, answer
        )

    def _other_protocol(self, data: bytes) -> None:
        assert self.transport is not None
        if self.serving.http is None:
            _log.warn("connection ended", peer=self.peer_name, reason="no HTTP/2")
            self.close()
            return
        self._http1 = Http1(self.loop, self.transport, self.serving.http)
        self._http1.receive(data)

    def _choke(self) -> None:
        if not self._choked and self.transport is not None and not self.closing:
            self._choked = True
            self.transport.pause_reading()

    # Time.

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
