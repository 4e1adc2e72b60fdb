"""The links of one member to all others; see ``revstore.peer.lanes.owner``."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from revstore.interfaces.peers import PeerHandler, PeerOptions
from revstore.net.addresses import Address
from revstore.net.closing import close_all
from revstore.net.listen import Listener, peer_addresses
from revstore.net.tls import misfit, peer_contexts
from revstore.peer.lanes.lane import PeerLane
from revstore.peer.lanes.limits import (
    PEER_CALLS_MAX,
    PEER_FRAME_BYTES_MAX,
    PEER_HANDSHAKE_TIMEOUT_S,
    PEER_KEEPALIVE_S,
)
from revstore.peer.lanes.owner import LanePeers
from revstore_grpc.addresses import parse_listen_url, parse_url
from revstore_grpc.peer_arrivals import peer_table
from revstore_grpc.peer_link import PeerLink
from revstore_grpc.server import ServerLink, Serving
from revstore_http2.limits import Limits


class GrpcPeers(LanePeers):
    """See ``Peers``."""

    def __init__(
        self,
        options: PeerOptions,
        handler: PeerHandler,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None,
    ) -> None:
        super().__init__(options, handler)
        self._contexts = contexts
        self._listener = Listener()
        self._serving = Serving(peer_table(self), limits_of(options), None)

    async def listen(self) -> None:
        """Take the calls of others.

        Raises:
            ConfigError: an address cannot be used.
        """
        addresses = peer_addresses(self.options, parse_listen_url)
        await self._listener.open(
            addresses,
            lambda: ServerLink(self.loop, self._serving),
            None if self._contexts is None else self._contexts[0],
        )
        self._urls = tuple(self._listener.urls)

    async def close(self) -> None:
        if self._closed:
            return
        tasks = self.close_lanes()
        self._listener.close()
        await self._listener.settle()
        self.end_arrivals()
        for link in tuple(self._serving.links):
            link.flush()
        await close_all(self._serving.links, [*tasks, *self._background])

    # For the base.

    def parse_url(self, url: str) -> Address:
        return parse_url(url)

    @property
    def can_use_tls(self) -> bool:
        return self._contexts is not None

    def make_link(self, lane: PeerLane) -> PeerLink:
        return PeerLink(lane, None if self._contexts is None else self._contexts[1])

    # From the connections.

    def misfit(self, link: ServerLink, hosts: Sequence[str]) -> str:
        """Why the certificate of a caller is not good for it; empty if it is.

        Raises: nothing.
        """
        return misfit(self.options.tls, link.certificate(), (*hosts, link.host()))


def limits_of(options: PeerOptions) -> Limits:
    """The bounds of each connection that another member makes."""
    return Limits(
        message_bytes_max=PEER_FRAME_BYTES_MAX,
        frame_bytes_max=PEER_FRAME_BYTES_MAX,
        stream_window_bytes=4 * PEER_FRAME_BYTES_MAX,
        streams_max=PEER_CALLS_MAX,
        preface_timeout_s=PEER_HANDSHAKE_TIMEOUT_S,
        # A caller that vanished without a word is found out, and its streams fail.
        keepalive_interval_s=PEER_KEEPALIVE_S,
        keepalive_timeout_s=options.probe_timeout_s,
    )


async def join(options: PeerOptions, handler: PeerHandler) -> GrpcPeers:
    """Listen for other members.

    Raises:
        ConfigError: an address or a certificate cannot be used; the message names it.
    """
    contexts = None
    if options.tls is not None:
        contexts = peer_contexts(options.tls)
        for context in contexts:
            context.set_alpn_protocols(["h2"])
    peers = GrpcPeers(options, handler, contexts)
    await peers.listen()
    return peers
