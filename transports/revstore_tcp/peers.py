"""The links of one member to all others, over TCP; see ``revstore.interfaces.peers``.

Rules of this file:

1. Each lane to a member has a connection of its own that this member makes, and each
   lane from a member one that the other makes: what stands still in one is in nobody's
   way (P-05).
2. Callbacks run from here and nowhere else, none after ``close`` (P-12), and none from
   inside a method that the node called.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence

from revstore import logs
from revstore.errors import ConfigError, TransportError
from revstore.interfaces.peers import (
    QUESTION_BYTES_MAX,
    REMOVED,
    IncomingStream,
    Lane,
    OutgoingStream,
    PeerHandler,
    PeerOptions,
    Peers,
    PeerStats,
)
from revstore.net.listen import Listener
from revstore.net.tls import certificate_fits, peer_contexts
from revstore_tcp.addresses import parse_url
from revstore_tcp.framing import ProtocolError
from revstore_tcp.inbound import InboundLink
from revstore_tcp.limits import CLOSE_S
from revstore_tcp.messages import GoAway
from revstore_tcp.outbound import META_BYTES_MAX, PeerLane, State

_log = logs.get(__name__)


class Peer:
    """What is known about one other member."""

    def __init__(self, owner: TcpPeers, member: int, urls: Sequence[str]) -> None:
        self.owner = owner
        self.member = member
        self.addresses = [parse_url(url) for url in urls]
        self.sent_messages = 0
        self.sent_bytes = 0
        self.received_messages = 0
        self.received_bytes = 0
        self.dropped_messages = 0
        self.send_failures = 0
        self.round_trip_s: float | None = None
        self.lanes = [PeerLane(self, lane, owner.options.limits[lane]) for lane in Lane]

    def stats(self) -> PeerStats:
        """The figures. Raises: nothing."""
        return PeerStats(
            sent_messages=self.sent_messages,
            sent_bytes=self.sent_bytes,
            received_messages=self.received_messages,
            received_bytes=self.received_bytes,
            dropped_messages=self.dropped_messages,
            send_failures=self.send_failures,
            round_trip_s=self.round_trip_s,
            connected=self.lanes[Lane.CONTROL].state is State.OPEN,
        )


class TcpPeers(Peers):
    """See ``Peers``."""

    def __init__(
        self,
        options: PeerOptions,
        handler: PeerHandler,
        listener: Listener,
        calling_context: ssl.SSLContext | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.options = options
        self.calling_context = calling_context
        self.arrivals: set[InboundLink] = set()
        """All connections that others made."""
        self._handler = handler
        self._listener = listener
        self._peers: dict[int, Peer] = {}
        self._removed: set[int] = set()
        self._current: dict[tuple[int, Lane], InboundLink] = {}
        self._unreachable: set[int] = set()
        self._closed = False

    # The contract.

    def addresses(self) -> Sequence[str]:
        return tuple(self._listener.urls)

    def set_peer(self, member: int, urls: Sequence[str]) -> None:
        if not urls:
            raise ConfigError(f"member {member:x} has no URL; give at least one")
        addresses = [parse_url(url) for url in urls]
        if any(address.tls for address in addresses) and self.calling_context is None:
            raise ConfigError(
                f"member {member:x} is to be called by TLS, and this member has no "
                "certificate for that; name the peer certificate, key and trusted CA"
            )
        if self._closed:
            return
        self._removed.discard(member)
        known = self._peers.get(member)
        if known is None:
            known = self._peers[member] = Peer(self, member, urls)
            known.lanes[Lane.CONTROL].start()
            known.lanes[Lane.LOG].start()
        elif addresses != known.addresses:
            known.addresses = addresses
            for lane in known.lanes:
                lane.restart()

    def remove_peer(self, member: int) -> None:
        self._removed.add(member)
        known = self._peers.pop(member, None)
        if known is not None:
            for lane in known.lanes:
                lane.close()
        for link in tuple(self.arrivals):
            if link.sender == member:
                link.close(GoAway.REFUSED, REMOVED)

    def send(self, to: int, lane: Lane, payload: bytes) -> bool:
        peer = self._peers.get(to)
        if peer is not None and peer.lanes[lane].send(payload):
            peer.sent_messages += 1
            peer.sent_bytes += len(payload)
            return True
        if peer is not None:
            peer.dropped_messages += 1
        self.unreachable(to)
        return False

    async def open_stream(self, to: int, meta: bytes) -> OutgoingStream:
        peer = self._peers.get(to)
        if peer is None:
            raise TransportError(f"member {to:x} is not known; nothing was sent")
        if len(meta) > META_BYTES_MAX:
            raise TransportError(
                f"{len(meta)} bytes about a stream are too many; send them in it"
            )
        link = await peer.lanes[Lane.BULK].ready()
        return link.open_stream(meta)

    def stats(self, member: int) -> PeerStats:
        peer = self._peers.get(member)
        return peer.stats() if peer is not None else PeerStats()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._listener.close()
        waits: list[asyncio.Future[None]] = []
        for peer in self._peers.values():
            for lane in peer.lanes:
                waits += lane.close()
        self._peers.clear()
        await self._listener.settle()
        for link in tuple(self.arrivals):
            waits.append(link.closed)
            link.close()
        if waits:
            await asyncio.wait(waits, timeout=CLOSE_S)
        late = [link.closed for link in self.arrivals]
        for link in tuple(self.arrivals):
            link.abort()
        if late:
            await asyncio.wait(late, timeout=2 * CLOSE_S)

    # From the connections.

    def judge(self, member: int, link: InboundLink) -> tuple[GoAway | None, str]:
        """Whether a caller of the right cluster is let in. Raises: nothing."""
        if self._closed:
            return GoAway.DRAIN, "this member is stopping"
        tls = self.options.tls
        certificate = link.certificate()
        if tls is not None and certificate is not None:
            peer = self._peers.get(member)
            hosts = [address.host for address in peer.addresses] if peer else []
            hosts.append(link.remote_host())
            if not certificate_fits(certificate, tls.allowed_names, hosts):
                what = "an allowed name" if tls.allowed_names else "its address"
                return GoAway.CERTIFICATE, f"the certificate is not valid for {what}"
        if member in self._removed:
            return GoAway.REFUSED, REMOVED
        try:
            reason = self._handler.admit(member)
        except Exception:
            _log.exception("admitting a member raised", member=f"{member:x}")
            reason = "internal error of the called member; its log has the cause"
        return (GoAway.REFUSED, reason) if reason else (None, "")

    def answer(self, question: bytes, link: InboundLink) -> bytes:
        """The node's answer to a caller who is no member yet (P-15).

        Raises:
            ProtocolError: the question is too long, or the certificate does not fit.
        """
        if self._closed or len(question) > QUESTION_BYTES_MAX:
            raise ProtocolError("a question is over the limit, or came too late")
        tls, certificate = self.options.tls, link.certificate()
        if tls is not None and certificate is not None:
            hosts = [link.remote_host()]
            if not certificate_fits(certificate, tls.allowed_names, hosts):
                raise ProtocolError("the certificate of the asking side does not fit")
        try:
            return self._handler.on_question(question)[:QUESTION_BYTES_MAX]
        except Exception:
            _log.exception("answering a question raised")
            return b""

    def admitted(self, link: InboundLink) -> None:
        """A caller was let in. Raises: nothing."""
        key = (link.sender, link.lane)
        older = self._current.get(key)
        self._current[key] = link
        if older is not None:
            older.abort()
        link.keep_alive()
        peer = self._peers.get(link.sender)
        if peer is not None:
            for lane in peer.lanes:
                lane.hint()

    def departed(self, link: InboundLink) -> None:
        """A connection that was made to this member is gone. Raises: nothing."""
        self.arrivals.discard(link)
        key = (link.sender, link.lane)
        if self._current.get(key) is link:
            del self._current[key]

    def count_received(self, sender: int, size: int) -> None:
        """Something came. Raises: nothing."""
        peer = self._peers.get(sender)
        if peer is not None:
            peer.received_messages += 1
            peer.received_bytes += size

    def deliver(self, sender: int, lane: Lane, payload: bytes) -> None:
        """A message came. Raises: nothing."""
        if self._closed:
            return
        self.count_received(sender, len(payload))
        try:
            self._handler.on_message(sender, lane, payload)
        except Exception:
            _log.exception("taking a message raised", member=f"{sender:x}")

    def opened(self, stream: IncomingStream) -> None:
        """A member opened a stream. Raises: nothing."""
        if self._closed:
            return
        try:
            self._handler.on_stream(stream)
        except Exception:
            _log.exception("taking a stream raised", member=f"{stream.sender:x}")
            stream.refuse("internal error of the reading member; its log has the cause")

    def unreachable(self, member: int) -> None:
        """Something for a member was lost; said once a turn (P-04). Raises: nothing."""
        if self._closed or member in self._unreachable:
            return
        self._unreachable.add(member)
        self.loop.call_soon(self._say_unreachable, member)

    def refused(self, member: int, reason: str) -> None:
        """A member turned this one away. Raises: nothing."""
        if not self._closed:
            self.loop.call_soon(self._say_refused, member, reason)

    def _say_unreachable(self, member: int) -> None:
        self._unreachable.discard(member)
        self._say(lambda: self._handler.on_unreachable(member))

    def _say_refused(self, member: int, reason: str) -> None:
        self._say(lambda: self._handler.on_refused(member, reason))

    def _say(self, callback: Callable[[], None]) -> None:
        if self._closed:
            return
        try:
            callback()
        except Exception:
            _log.exception("a callback of the node raised")


async def join(options: PeerOptions, handler: PeerHandler) -> TcpPeers:
    """Listen for other members.

    Raises:
        ConfigError: an address or a certificate cannot be used; the message names it.
    """
    if not options.urls:
        raise ConfigError("no peer URL to listen on; name at least one")
    addresses = [parse_url(url) for url in options.urls]
    answering = calling = None
    if options.tls is not None:
        answering, calling = peer_contexts(options.tls)
    secret = next((address for address in addresses if address.tls), None)
    if secret is not None and answering is None:
        raise ConfigError(
            f"peer URL {secret.url!r} needs a certificate, a key and a trusted CA; "
            "name the three files"
        )
    loop = asyncio.get_running_loop()
    listener = Listener()
    peers = TcpPeers(options, handler, listener, calling)
    await listener.open(addresses, lambda: InboundLink(loop, peers), answering)
    return peers
