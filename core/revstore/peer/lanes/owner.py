"""The links of one member to all others: what is decided however calls are made.

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
from itertools import count
from time import time_ns
from typing import Any, Protocol

from revstore import logs
from revstore.api.errors import Code
from revstore.errors import ConfigError, TransportError
from revstore.interfaces.peers import (
    QUESTION_BYTES_MAX,
    IncomingStream,
    Lane,
    OutgoingStream,
    PeerHandler,
    PeerOptions,
    Peers,
    PeerStats,
)
from revstore.peer.lanes.lane import LaneLink, PeerLane, State
from revstore.peer.lanes.limits import PEER_META_BYTES_MAX, PEER_STREAMS_MAX
from revstore.peer.lanes.wire import Hello

_log = logs.get(__name__)

REMOVED = "the member was removed from the cluster"
_RAISED = "internal error of the called member; its log has the cause"

Refusal = tuple[Code, str]
"""What a call is ended with."""


class LaneArrival(Protocol):
    """A call that another member made and that was let in."""

    sender: int
    lane: Lane
    link: int
    streams: set[Any]
    """Of a lane: the streams that live and end with it."""

    def end(self, code: Code, reason: str) -> None:
        """End the call soon; the first reason counts. Raises: nothing."""
        ...


class Peer:
    """What is known about one other member."""

    def __init__(self, owner: LanePeers, member: int, addresses: Sequence[Any]) -> None:
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


class LanePeers(Peers):
    """See ``Peers``; a transport adds how calls are made and taken."""

    def __init__(self, options: PeerOptions, handler: PeerHandler) -> None:
        self.loop = asyncio.get_running_loop()
        self.options = options
        self._handler = handler
        self._urls: tuple[str, ...] = ()
        self._peers: dict[int, Peer] = {}
        self._removed: set[int] = set()
        self._current: dict[tuple[int, Lane], LaneArrival] = {}
        """The lanes that others have to this member; their streams hang on them."""
        self._links = count(time_ns())
        self._unreachable: set[int] = set()
        self._background: set[asyncio.Task[None]] = set()
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
    def make_link(self, lane: PeerLane) -> LaneLink:
        """A connection for a lane, not made yet. Raises: nothing."""

    def close_lanes(self) -> list[asyncio.Task[None]]:
        """Give up all lanes to others; what to wait for. Raises: nothing."""
        self._closed = True
        tasks: list[asyncio.Task[None]] = []
        for peer in self._peers.values():
            for lane in peer.lanes:
                tasks += lane.close("this member is stopping")
        self._peers.clear()
        return tasks

    def end_arrivals(self) -> None:
        """End all lanes from others. Raises: nothing."""
        for arrival in tuple(self._current.values()):
            arrival.end(Code.UNAVAILABLE, "the member is stopping")

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
            known = self._peers[member] = Peer(self, member, addresses)
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
        for arrival in tuple(self._current.values()):
            if arrival.sender == member:
                arrival.end(Code.PERMISSION_DENIED, REMOVED)

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
        if len(meta) > PEER_META_BYTES_MAX:
            raise TransportError(
                f"{len(meta)} bytes about a stream are too many; send them in it"
            )
        link = await peer.lanes[Lane.BULK].ready()
        return link.open_stream(meta)

    def stats(self, member: int) -> PeerStats:
        peer = self._peers.get(member)
        return peer.stats() if peer is not None else PeerStats()

    # From the connections.

    def next_link(self) -> int:
        """A number that no other connection of this member has, nor had before it was
        started again. Raises: nothing."""
        return next(self._links)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done. Raises: nothing."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def judge(
        self, hello: Hello, misfit: Callable[[Sequence[str]], str]
    ) -> Refusal | None:
        """Why a caller is turned away, None to let it in. Raises: nothing.

        ``misfit`` says why the caller's certificate is not good for a member that is
        known to be at these hosts; empty if it is.
        """
        options, sender = self.options, hello.sender
        reason = ""
        if self._closed:
            return Code.UNAVAILABLE, "the member is stopping"
        if hello.cluster_id != options.cluster_id:
            reason = (
                f"cluster id mismatch: the caller is of cluster {hello.cluster_id:x}, "
                f"this member of {options.cluster_id:x}"
            )
        elif hello.to != options.member_id:
            reason = (
                f"member id mismatch: the call is for member {hello.to:x}, "
                f"this is {options.member_id:x}"
            )
        elif sender in (0, options.member_id):
            reason = f"the caller claims to be member {sender:x}"
        if reason:
            return Code.FAILED_PRECONDITION, reason
        known = self._peers.get(sender)
        hosts = [address.host for address in known.addresses] if known else []
        reason = misfit(hosts)
        if not reason and sender in self._removed:
            reason = REMOVED
        if not reason:
            reason = self._turned_away(sender)
        return (Code.PERMISSION_DENIED, reason) if reason else None

    def admitted_lane(self, arrival: LaneArrival) -> None:
        """A lane of a member begins. Raises: nothing."""
        key = (arrival.sender, arrival.lane)
        older = self._current.get(key)
        if older is not None:
            older.end(Code.UNAVAILABLE, "a newer connection took its place")
        self._current[key] = arrival
        peer = self._peers.get(arrival.sender)
        if peer is not None:
            for lane in peer.lanes:
                lane.hint()

    def admitted_stream(self, arrival: LaneArrival) -> Refusal | None:
        """A stream of a member begins, if there is room. Raises: nothing."""
        lane = self._current.get((arrival.sender, Lane.BULK))
        if lane is None or lane.link != arrival.link:
            return Code.UNAVAILABLE, "the lane of the stream is gone"
        if len(lane.streams) >= PEER_STREAMS_MAX:
            reason = f"more than {PEER_STREAMS_MAX} streams at once"
            return Code.RESOURCE_EXHAUSTED, reason
        lane.streams.add(arrival)
        return None

    def departed(self, arrival: LaneArrival) -> None:
        """A call that was made to this member is over. Raises: nothing."""
        lane = self._current.get((arrival.sender, arrival.lane))
        if lane is arrival:
            del self._current[arrival.sender, arrival.lane]
        elif lane is not None:
            lane.streams.discard(arrival)

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

    def _turned_away(self, member: int) -> str:
        try:
            return self._handler.admit(member)
        except Exception:
            _log.exception("admitting a member raised", member=f"{member:x}")
            return _RAISED

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
