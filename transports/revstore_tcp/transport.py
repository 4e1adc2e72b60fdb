"""The transport "tcp": the service table and the links between members on sockets."""

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
from revstore_tcp.addresses import parse_url
from revstore_tcp.calls import TcpStream
from revstore_tcp.framing import RecordType, record
from revstore_tcp.limits import CLOSE_S
from revstore_tcp.messages import GoAway, write_goaway
from revstore_tcp.plugin import CAPABILITIES
from revstore_tcp.server import ServerLink, Serving


class TcpServer(ClientServer):
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
        goaway = write_goaway(GoAway.DRAIN, STOPPED.message)
        for link in tuple(serving.links):
            link.add(record(RecordType.GOAWAY, 0, goaway))
            for call in tuple(link.calls.values()):
                if isinstance(call, TcpStream):
                    call.cancel(STOPPED)
        await self._idle(grace_s)
        await self._emptied(tuple(serving.links))
        await close_all(serving.links)

    async def _emptied(self, links: Sequence[ServerLink]) -> None:
        """Let long answers that were begun leave."""
        waits = []
        for link in links:
            link.flush()
            if link.sources and not link.closing:
                link.on_empty = link.loop.create_future()
                waits.append(link.on_empty)
        if waits:
            await asyncio.wait(waits, timeout=CLOSE_S)

    async def _idle(self, grace_s: float) -> None:
        waits = []
        for link in tuple(self._serving.links):
            if link.calls and not link.closing:
                link.on_idle = link.loop.create_future()
                waits.append(link.on_idle)
        if waits and grace_s > 0:
            await asyncio.wait(waits, timeout=grace_s)


class TcpTransport(PeerTransport):
    """See ``revstore.interfaces.transport`` and ``peers`` for the contracts."""

    capabilities = CAPABILITIES

    async def serve_clients(
        self, table: ServiceTable, options: ServeOptions
    ) -> TcpServer:
        addresses, tls = client_addresses(options, parse_url)
        context = None if tls is None else server_context(tls)
        loop = asyncio.get_running_loop()
        serving = Serving(table, options)
        listener = Listener()
        await listener.open(addresses, lambda: ServerLink(loop, serving), context)
        return TcpServer(listener, serving)

    def open_channel(self, url: str, options: ChannelOptions) -> Channel:
        from revstore_tcp.client import open_channel

        return open_channel(url, options)

    async def join(self, options: PeerOptions, handler: PeerHandler) -> Peers:
        from revstore_tcp.peers import join

        return await join(options, handler)

    async def ask(
        self, url: str, question: bytes, tls: PeerTls | None, timeout_s: float
    ) -> bytes:
        from revstore_tcp.asking import ask

        return await ask(url, question, tls, timeout_s)
