"""The transport "grpcio": a service table on grpc.aio with bytes in and bytes out.

The reference transport: correct and complete before fast. A unary handler is a plain
function call inside the coroutine that grpcio starts anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from revstore.api.errors import STOPPED, message_too_large
from revstore.api.lookup import INTERNAL_ERROR, services_of, unimplemented
from revstore.interfaces.channel import Channel, ChannelOptions
from revstore.interfaces.peers import (
    PeerHandler,
    PeerOptions,
    Peers,
    PeerTls,
    PeerTransport,
)
from revstore.interfaces.transport import (
    ClientServer,
    Method,
    MethodKind,
    ServeOptions,
    ServiceTable,
    StreamFunction,
    UnaryFunction,
)
from revstore.net.listen import client_addresses
from revstore_grpcio.addresses import parse_listen_url
from revstore_grpcio.calls import (
    Context,
    GrpcStream,
    UnaryCall,
    Waiting,
    abort,
)
from revstore_grpcio.limits import LIBRARY_RECEIVE_FACTOR
from revstore_grpcio.listen import bind
from revstore_grpcio.plugin import CAPABILITIES
from revstore_grpcio.tls import server_credentials

_log = logging.getLogger(__name__)

UnaryHandler = Callable[[bytes, Context], Awaitable[bytes]]


class TableHandler(grpc.GenericRpcHandler):
    """Serves one table; handlers are made once per method, not per call."""

    def __init__(self, table: ServiceTable, request_bytes_max: int) -> None:
        self.streams: set[GrpcStream] = set()
        self._waiting = Waiting()
        self._services = services_of(table)
        self._request_bytes_max = request_bytes_max
        self._handlers: dict[str, Any] = {
            path: self._handler(method) for path, method in table.items()
        }

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; an unknown path gets one that says so."""
        path = handler_call_details.method
        found = self._handlers.get(path)
        return found if found is not None else self._refuse(path)

    def _handler(self, method: Method) -> Any:
        if method.kind is MethodKind.UNARY:
            assert method.unary is not None
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method.path, method.unary)
            )
        assert method.stream is not None
        if method.kind is MethodKind.SERVER_STREAM:
            return grpc.unary_stream_rpc_method_handler(
                self._server_stream(method.path, method.stream)
            )
        return grpc.stream_stream_rpc_method_handler(
            self._bidi_stream(method.path, method.stream)
        )

    def _unary(self, path: str, function: UnaryFunction) -> UnaryHandler:
        size_max = self._request_bytes_max

        async def handle(request: bytes, context: Context) -> bytes:
            if len(request) > size_max:
                await abort(context, message_too_large(len(request), size_max))
            call = UnaryCall(context)
            try:
                function(call, request)
            except Exception:
                _log.exception("the handler of %s raised", path)
                call.fail(INTERNAL_ERROR)
            outcome = call.outcome
            if outcome is None:
                outcome = await call.wait()
            if isinstance(outcome, bytes):
                return outcome
            await abort(context, outcome)
            raise AssertionError("abort does not return")

        return handle

    def _server_stream(
        self, path: str, function: StreamFunction
    ) -> Callable[[bytes, Context], Awaitable[None]]:
        size_max = self._request_bytes_max

        async def handle(request: bytes, context: Context) -> None:
            if len(request) > size_max:
                await abort(context, message_too_large(len(request), size_max))
            stream = self._open(path, function, context)
            try:
                if not stream.over:
                    stream.guard("on_message", request)
                await stream.write_out()
            finally:
                self.streams.discard(stream)

        return handle

    def _bidi_stream(
        self, path: str, function: StreamFunction
    ) -> Callable[[Any, Context], Awaitable[None]]:
        size_max = self._request_bytes_max

        async def handle(_requests: Any, context: Context) -> None:
            stream = self._open(path, function, context)
            reader = asyncio.create_task(stream.read_in(size_max))
            try:
                await stream.write_out()
            finally:
                self.streams.discard(stream)
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reader

        return handle

    def _open(
        self, path: str, function: StreamFunction, context: Context
    ) -> GrpcStream:
        stream = GrpcStream(context, self._waiting)
        self.streams.add(stream)
        try:
            stream.handler = function(stream)
        except Exception:
            _log.exception("opening a stream of %s raised", path)
            stream.fail(INTERNAL_ERROR)
        return stream

    def _refuse(self, path: str) -> Any:
        error = unimplemented(self._services, path)

        async def handle(_requests: Any, context: Context) -> None:
            await abort(context, error)

        return grpc.stream_stream_rpc_method_handler(handle)


class GrpcioServer(ClientServer):
    """A running grpc.aio server."""

    def __init__(
        self, server: Any, handler: TableHandler, addresses: Sequence[str]
    ) -> None:
        self._server = server
        self._handler = handler
        self._addresses = tuple(addresses)

    def addresses(self) -> Sequence[str]:
        return self._addresses

    async def drain(self, grace_s: float) -> None:
        stopping = asyncio.create_task(self._server.stop(grace_s))
        # A stream lives as long as its client wants, so the grace is for unary calls;
        # streams are told at once, after the listener has begun to refuse new ones.
        await asyncio.sleep(0)
        for stream in tuple(self._handler.streams):
            stream.cancel(STOPPED)
        await stopping


class GrpcioTransport(PeerTransport):
    """See ``revstore.interfaces.transport`` and ``peers`` for the contracts."""

    capabilities = CAPABILITIES

    async def serve_clients(
        self, table: ServiceTable, options: ServeOptions
    ) -> GrpcioServer:
        addresses, tls = client_addresses(options, parse_listen_url)
        credentials = None if tls is None else server_credentials(tls)
        handler = TableHandler(table, options.request_bytes_max)
        server = grpc.aio.server(options=_channel_options(options))
        server.add_generic_rpc_handlers((handler,))
        try:
            urls = [bind(server, address, credentials) for address in addresses]
        except BaseException:
            await server.stop(None)
            raise
        await server.start()
        return GrpcioServer(server, handler, urls)

    async def join(self, options: PeerOptions, handler: PeerHandler) -> Peers:
        from revstore_grpcio.peers import join

        return await join(options, handler)

    async def ask(
        self, url: str, question: bytes, tls: PeerTls | None, timeout_s: float
    ) -> bytes:
        from revstore_grpcio.peer_ask import ask

        return await ask(url, question, tls, timeout_s)

    def open_channel(self, url: str, options: ChannelOptions) -> Channel:
        from revstore_grpcio.client import open_channel

        return open_channel(url, options)


def _channel_options(options: ServeOptions) -> list[tuple[str, int]]:
    receive_max = options.request_bytes_max * LIBRARY_RECEIVE_FACTOR
    found = [
        ("grpc.max_receive_message_length", receive_max),
        ("grpc.max_send_message_length", -1),
        # Two members on one port would share its clients in silence.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", int(options.keepalive_interval_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_s * 1000)),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            int(options.keepalive_min_time_s * 1000),
        ),
    ]
    if options.concurrent_streams_max:
        found.append(("grpc.max_concurrent_streams", options.concurrent_streams_max))
    return found
