"""The links of one member to all others, over TCP; see ``revstore.peer.members``."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from revstore.interfaces.peers import REMOVED, Lane, PeerHandler, PeerOptions
from revstore.net.closing import close_all
from revstore.net.listen import Listener, peer_addresses
from revstore.net.tls import misfit, peer_contexts
from revstore.peer.members import KnownPeer, MemberPeers
from revstore_tcp.addresses import Address, parse_url
from revstore_tcp.inbound import InboundLink
from revstore_tcp.messages import GoAway
from revstore_tcp.outbound import META_BYTES_MAX, PeerLane


class Peer(KnownPeer):
    """What is known about one other member, and the lanes to it."""

    owner: TcpPeers

    def __init__(
        self, owner: TcpPeers, member: int, addresses: Sequence[Address]
    ) -> None:
        super().__init__(owner, member, addresses)
        self.lanes = [PeerLane(self, lane, owner.options.limits[lane]) for lane in Lane]


class TcpPeers(MemberPeers):
    """See ``Peers``."""

    meta_bytes_max = META_BYTES_MAX

    def __init__(
        self,
        options: PeerOptions,
        handler: PeerHandler,
        listener: Listener,
        calling_context: ssl.SSLContext | None,
    ) -> None:
        super().__init__(options, handler)
        self.calling_context = calling_context
        self.arrivals: set[InboundLink] = set()
        """All connections that others made."""
        self._listener = listener
        self._current: dict[tuple[int, Lane], InboundLink] = {}

    # The contract.

    def addresses(self) -> Sequence[str]:
        return tuple(self._listener.urls)

    async def close(self) -> None:
        if self._closed:
            return
        self._listener.close()
        waits = self.close_lanes()
        await self._listener.settle()
        await close_all(self.arrivals, waits)

    # For the base.

    def parse_url(self, url: str) -> Address:
        return parse_url(url)

    @property
    def can_use_tls(self) -> bool:
        return self.calling_context is not None

    def make_peer(self, member: int, addresses: Sequence[Address]) -> Peer:
        return Peer(self, member, addresses)

    def end_arrivals_of(self, member: int) -> None:
        for link in tuple(self.arrivals):
            if link.sender == member:
                link.close(GoAway.REFUSED, REMOVED)

    # From the connections.

    def judge(self, member: int, link: InboundLink) -> tuple[GoAway | None, str]:
        """Whether a caller of the right cluster is let in. Raises: nothing."""
        if self._closed:
            return GoAway.DRAIN, "this member is stopping"
        reason = self.misfit(link, self.hosts_of(member))
        if reason:
            return GoAway.CERTIFICATE, reason
        reason = self.turned_away(member)
        return (GoAway.REFUSED, reason) if reason else (None, "")

    def misfit(self, link: InboundLink, hosts: Sequence[str]) -> str:
        """Why the certificate of a caller is not good for it; empty if it is.

        Raises: nothing.
        """
        return misfit(
            self.options.tls, link.certificate(), (*hosts, link.remote_host())
        )

    def admitted(self, link: InboundLink) -> None:
        """A caller was let in. Raises: nothing."""
        key = (link.sender, link.lane)
        older = self._current.get(key)
        self._current[key] = link
        if older is not None:
            older.abort()
        link.keep_alive()
        self.heard_of(link.sender)

    def departed(self, link: InboundLink) -> None:
        """A connection that was made to this member is gone. Raises: nothing."""
        self.arrivals.discard(link)
        key = (link.sender, link.lane)
        if self._current.get(key) is link:
            del self._current[key]


async def join(options: PeerOptions, handler: PeerHandler) -> TcpPeers:
    """Listen for other members.

    Raises:
        ConfigError: an address or a certificate cannot be used; the message names it.
    """
    addresses = peer_addresses(options, parse_url)
    answering = calling = None
    if options.tls is not None:
        answering, calling = peer_contexts(options.tls)
    loop = asyncio.get_running_loop()
    listener = Listener()
    peers = TcpPeers(options, handler, listener, calling)
    await listener.open(addresses, lambda: InboundLink(loop, peers), answering)
    return peers
