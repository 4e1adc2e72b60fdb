"""The transport "grpc": the service table on asyncio and our own HTTP/2 machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from revstore.api.errors import STOPPED
from revstore.interfaces.channel import Channel, ChannelOptions
from revstore.interfaces.peers import (
    PeerHandler,
    PeerOptions,
    Peers,
    PeerTls,
    PeerTransport,
)
from revstore.interfaces.transport import ClientServer, ServeOptions, ServiceTable
from revstore.net.closing import close_all
from revstore.net.listen import Listener, client_addresses
from revstore.net.tls import server_context
from revstore_grpc.addresses import parse_listen_url
from revstore_grpc.health import add_routes
from revstore_grpc.http import HttpRoutes
from revstore_grpc.limits import CLOSE_S
from revstore_grpc.plugin import CAPABILITIES
from revstore_grpc.server import ServerLink, Serving, limits_of

ALPN = ("h2", "http/1.1")


class GrpcServer(ClientServer):
    """A running listener and its connections."""

    def __init__(self, listener: Listener, serving: Serving) -> None:
        self._listener = listener
        self._serving = serving

    def addresses(self) -> Sequence[str]:
        return tuple(self._listener.urls)

    async def drain(self, grace_s: float) -> None:
        serving = self._serving
        serving.draining = True
        self._listener.close()
        await self._listener.settle()
        # A stream lives as long as its client wants, so the grace is for unary calls.
        for link in tuple(serving.links):
            link.drain()
            for stream in tuple(link.streams.values()):
                stream.cancel(STOPPED)
        if serving.links:
            idle = [link.drained for link in serving.links]
            await asyncio.wait(idle, timeout=max(grace_s, CLOSE_S / 10))
        await close_all(serving.links)


class GrpcTransport(PeerTransport):
    """See ``revstore.interfaces.transport`` and ``peers`` for the contracts.

    ``http`` are the routes for plain HTTP on the same port; what is registered there
    before ``serve_clients`` is served beside /health and /version.
    """

    capabilities = CAPABILITIES

    def __init__(self) -> None:
        self.http = HttpRoutes()

    async def serve_clients(
        self, table: ServiceTable, options: ServeOptions
    ) -> GrpcServer:
        addresses, tls = client_addresses(options, parse_listen_url)
        context = None if tls is None else server_context(tls)
        if context is not None:
            context.set_alpn_protocols(ALPN)
        add_routes(self.http, table)
        loop = asyncio.get_running_loop()
        serving = Serving(table, limits_of(options), self.http)
        listener = Listener()
        await listener.open(addresses, lambda: ServerLink(loop, serving), context)
        return GrpcServer(listener, serving)

    def open_channel(self, url: str, options: ChannelOptions) -> Channel:
        from revstore_grpc.client import open_channel

        return open_channel(url, options)

    async def join(self, options: PeerOptions, handler: PeerHandler) -> Peers:
        from revstore_grpc.peers import join

        return await join(options, handler)

    async def ask(
        self, url: str, question: bytes, tls: PeerTls | None, timeout_s: float
    ) -> bytes:
        from revstore_grpc.peer_ask import ask

        return await ask(url, question, tls, timeout_s)
