"""The links of one member to all others on grpcio; see ``revstore.peer.lanes.owner``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio

from revstore.interfaces.peers import PeerHandler, PeerOptions
from revstore.net.addresses import Address
from revstore.net.listen import peer_addresses
from revstore.net.tls import misfit
from revstore.peer.lanes.lane import PeerLane
from revstore.peer.lanes.limits import (
    PEER_CALLS_MAX,
    PEER_END_GRACE_S,
    PEER_FRAME_BYTES_MAX,
    PEER_HANDSHAKE_TIMEOUT_S,
    PEER_KEEPALIVE_S,
)
from revstore.peer.lanes.owner import LanePeers
from revstore_grpcio.addresses import parse_listen_url, parse_url
from revstore_grpcio.gate import LOOPBACK, Caller, Gate
from revstore_grpcio.limits import LIBRARY_RECEIVE_FACTOR
from revstore_grpcio.listen import bind
from revstore_grpcio.peer_arrivals import PeerService
from revstore_grpcio.peer_link import OutboundLink
from revstore_grpcio.peer_tls import (
    Calling,
    answering_options,
    certificate_of_caller,
)
from revstore_grpcio.tls import server_credentials


class GrpcioPeers(LanePeers):
    """See ``Peers``."""

    def __init__(
        self, options: PeerOptions, handler: PeerHandler, calling: Calling | None
    ) -> None:
        super().__init__(options, handler)
        self.calling = calling
        self._server: Any = None
        self._gate = Gate()

    async def listen(self) -> None:
        """Take the calls of others.

        Raises:
            ConfigError: an address or a certificate cannot be used.
        """
        addresses = peer_addresses(self.options, parse_listen_url)
        tls = self.options.tls
        credentials = None
        if tls is not None:
            credentials = server_credentials(answering_options(tls))
        server = grpc.aio.server(options=_server_options(self.options))
        server.add_generic_rpc_handlers((PeerService(self),))
        try:
            own = [_bind(server, address, credentials) for address in addresses]
            await server.start()
            self._urls = tuple(
                [
                    url if address.path else await self._gate.open(address, url)
                    for address, url in zip(addresses, own, strict=True)
                ]
            )
        except BaseException:
            await self._gate.close()
            await server.stop(None)
            raise
        self._server = server

    # The contract.

    async def close(self) -> None:
        if self._closed:
            return
        tasks = self.close_lanes()
        self._gate.refuse()
        stopping = self.loop.create_task(self._server.stop(PEER_END_GRACE_S))
        # Calls are told after the listener has begun to refuse new ones.
        await asyncio.sleep(0)
        self.end_arrivals()
        tasks += self._background
        await asyncio.wait({stopping, *tasks}, timeout=2 * PEER_END_GRACE_S)
        await stopping
        await self._gate.close()

    # For the base.

    def parse_url(self, url: str) -> Address:
        return parse_url(url)

    @property
    def can_use_tls(self) -> bool:
        return self.calling is not None

    def make_link(self, lane: PeerLane) -> OutboundLink:
        return OutboundLink(lane, self.calling)

    # From the connections.

    def caller_of(self, context: Any) -> Caller:
        """Who makes a call. Raises: nothing."""
        return self._gate.caller_of(str(context.peer()))

    def misfit(self, context: Any, hosts: Sequence[str]) -> str:
        """Why the certificate of a caller is not good for it; empty if it is.

        Raises: nothing.
        """
        found = certificate_of_caller(context)
        return misfit(self.options.tls, found, (*hosts, self.caller_of(context).host))


async def join(options: PeerOptions, handler: PeerHandler) -> GrpcioPeers:
    """Listen for other members.

    Raises:
        ConfigError: an address or a certificate cannot be used; the message names it.
    """
    calling = Calling(options.tls) if options.tls is not None else None
    peers = GrpcioPeers(options, handler, calling)
    await peers.listen()
    return peers


def _bind(
    server: Any, address: Address, credentials: grpc.ServerCredentials | None
) -> str:
    """Let the library listen for what the gate takes at an address; returns the URL.

    A socket in the file system is the library's own: who may use it is for the
    file system to say, and a port of the loopback interface is open to this host.

    Raises:
        ConfigError: it cannot listen there.
    """
    if not address.path:
        address = parse_listen_url(f"{address.scheme}://{LOOPBACK}:0")
    return bind(server, address, credentials)


def _server_options(options: PeerOptions) -> list[tuple[str, int]]:
    return [
        # Two members on one port would share their callers in silence.
        ("grpc.so_reuseport", 0),
        (
            "grpc.max_receive_message_length",
            PEER_FRAME_BYTES_MAX * LIBRARY_RECEIVE_FACTOR,
        ),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", PEER_CALLS_MAX),
        # A caller that vanished without a word is found out, and its streams fail.
        ("grpc.keepalive_time_ms", int(PEER_KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.probe_timeout_s * 1000)),
        ("grpc.server_handshake_timeout_ms", int(PEER_HANDSHAKE_TIMEOUT_S * 1000)),
    ]
