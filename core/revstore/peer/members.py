"""The other members as one member sees them, whatever carries the messages.

Rules of this file:

1. Each lane to a member has a connection of its own that this member makes, and each
   lane from a member one that the other makes: what stands still in one is in nobody's
   way (P-05).
2. Callbacks run from here and nowhere else, none after ``close`` (P-12), and none from
   inside a method that the node called.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

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
from revstore.peer.lane_states import LaneStates, StreamLink

_log = logs.get(__name__)


class KnownPeer:
    """What is known about one other member; a transport adds its lanes."""

    lanes: Sequence[LaneStates[Any]]

    def __init__(
        self, owner: MemberPeers, member: int, addresses: Sequence[Any]
    ) -> None:
        self.owner = owner
        self.member = member
        self.addresses = list(addresses)
        self.sent_messages = 0
        self.sent_bytes = 0
        self.received_messages = 0
        self.received_bytes = 0
        self.dropped_messages = 0
        self.send_failures = 0
        self.round_trip_s: float | None = None

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
            connected=self.lanes[Lane.CONTROL].is_open,
        )


class MemberPeers(Peers):
    """See ``Peers``; a transport adds how connections are made and taken."""

    meta_bytes_max: int
    """Longest description of a stream; it travels in one piece."""

    def __init__(self, options: PeerOptions, handler: PeerHandler) -> None:
        self.loop = asyncio.get_running_loop()
        self.options = options
        self._handler = handler
        self._urls: tuple[str, ...] = ()
        self._peers: dict[int, KnownPeer] = {}
        self._removed: set[int] = set()
        self._unreachable: set[int] = set()
        self._closed = False

    # For the transport.

    @abstractmethod
    def parse_url(self, url: str) -> Any:
        """The address of a member, with ``url``, ``host`` and ``tls``.

        Raises:
            ConfigError: it is not of a known form; the message shows the forms.
        """

    @property
    @abstractmethod
    def can_use_tls(self) -> bool:
        """Whether this member has a certificate to call others with. Raises: nothing."""

    @abstractmethod
    def make_peer(self, member: int, addresses: Sequence[Any]) -> KnownPeer:
        """A member and its lanes, none of them started. Raises: nothing."""

    @abstractmethod
    def end_arrivals_of(self, member: int) -> None:
        """End what a removed member has to this one. Raises: nothing."""

    def close_lanes(self) -> list[asyncio.Future[None]]:
        """Give up all lanes to others; what to wait for. Raises: nothing."""
        self._closed = True
        waits: list[asyncio.Future[None]] = []
        for peer in self._peers.values():
            for lane in peer.lanes:
                waits += lane.close("this member is stopping")
        self._peers.clear()
        return waits

    # The contract.

    def addresses(self) -> Sequence[str]:
        return self._urls

    def set_peer(self, member: int, urls: Sequence[str]) -> None:
        if not urls:
            raise ConfigError(f"member {member:x} has no URL; give at least one")
        addresses = [self.parse_url(url) for url in urls]
        if any(address.tls for address in addresses) and not self.can_use_tls:
            raise ConfigError(
                f"member {member:x} is to be called by TLS, and this member has no "
                "certificate for that; name the peer certificate, key and trusted CA"
            )
        if self._closed:
            return
        self._removed.discard(member)
        known = self._peers.get(member)
        if known is None:
            known = self._peers[member] = self.make_peer(member, addresses)
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
                lane.close(REMOVED)
        self.end_arrivals_of(member)

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
        if len(meta) > self.meta_bytes_max:
            raise TransportError(
                f"{len(meta)} bytes about a stream are too many; send them in it"
            )
        link: StreamLink = await peer.lanes[Lane.BULK].ready()
        return link.open_stream(meta)

    def stats(self, member: int) -> PeerStats:
        peer = self._peers.get(member)
        return peer.stats() if peer is not None else PeerStats()

    # From the connections.

    def hosts_of(self, member: int) -> list[str]:
        """Where a member is known to be. Raises: nothing."""
        known = self._peers.get(member)
        return [address.host for address in known.addresses] if known else []

    def mistaken(self, cluster_id: int, to: int, sender: int) -> str:
        """Why a call was not meant for this member; empty if it was (P-07).

        Raises: nothing.
        """
        options = self.options
        if cluster_id != options.cluster_id:
            return (
                f"cluster id mismatch: the caller is of cluster {cluster_id:x}, "
                f"this member of {options.cluster_id:x}"
            )
        if to != options.member_id:
            return (
                f"member id mismatch: the call is for member {to:x}, "
                f"this is {options.member_id:x}"
            )
        if sender in (0, options.member_id):
            return f"the caller claims to be member {sender:x}"
        return ""

    def turned_away(self, member: int) -> str:
        """Why a member that proved itself is not let in; empty if it is.

        Raises: nothing.
        """
        if member in self._removed:
            return REMOVED
        try:
            return self._handler.admit(member)
        except Exception:
            _log.exception("admitting a member raised", member=f"{member:x}")
            return "internal error of the called member; its log has the cause"

    def heard_of(self, member: int) -> None:
        """A member has called: it can be called, too. Raises: nothing."""
        peer = self._peers.get(member)
        if peer is not None:
            for lane in peer.lanes:
                lane.hint()

    def answer(self, question: bytes, misfit: str) -> bytes | str:
        """The node's answer to a caller who is no member yet (P-15), or why there is
        none. Raises: nothing."""
        if self._closed or len(question) > QUESTION_BYTES_MAX:
            return "a question is over the limit, or came too late"
        if misfit:
            return misfit
        try:
            return self._handler.on_question(question)[:QUESTION_BYTES_MAX]
        except Exception:
            _log.exception("answering a question raised")
            return b""

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

    # Inside.

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
