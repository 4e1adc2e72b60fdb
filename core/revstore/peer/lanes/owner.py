"""The links of one member to all others by calls, however the calls are made.

A call is a lane to a member or a stream to it. What does not depend on calls is in
``revstore.peer.members``.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from time import time_ns
from typing import Any

from revstore import logs
from revstore.api.errors import Code
from revstore.interfaces.peers import REMOVED, Lane, PeerHandler, PeerOptions
from revstore.peer.lanes.arrival import LaneArrival, Refusal, log_ended
from revstore.peer.lanes.lane import LaneLink, PeerLane
from revstore.peer.lanes.limits import PEER_META_BYTES_MAX, PEER_STREAMS_MAX
from revstore.peer.lanes.wire import Hello, ProtocolError, read_hello
from revstore.peer.members import KnownPeer, MemberPeers

_log = logs.get(__name__)


class Peer(KnownPeer):
    """What is known about one other member, and the lanes to it."""

    owner: LanePeers

    def __init__(self, owner: LanePeers, member: int, addresses: Sequence[Any]) -> None:
        super().__init__(owner, member, addresses)
        self.lanes = [PeerLane(self, lane, owner.options.limits[lane]) for lane in Lane]


class LanePeers(MemberPeers):
    """See ``Peers``; a transport adds how calls are made and taken."""

    meta_bytes_max = PEER_META_BYTES_MAX

    def __init__(self, options: PeerOptions, handler: PeerHandler) -> None:
        super().__init__(options, handler)
        self._current: dict[tuple[int, Lane], LaneArrival] = {}
        """The lanes that others have to this member; their streams hang on them."""
        self._links = count(time_ns())
        self._background: set[asyncio.Task[None]] = set()

    # For the transport.

    @abstractmethod
    def make_link(self, lane: PeerLane) -> LaneLink:
        """A connection for a lane, not made yet. Raises: nothing."""

    def end_arrivals(self) -> None:
        """End all lanes from others. Raises: nothing."""
        for arrival in tuple(self._current.values()):
            arrival.end(Code.UNAVAILABLE, "the member is stopping")

    # For the base.

    def make_peer(self, member: int, addresses: Sequence[Any]) -> Peer:
        return Peer(self, member, addresses)

    def end_arrivals_of(self, member: int) -> None:
        for arrival in tuple(self._current.values()):
            if arrival.sender == member:
                arrival.end(Code.PERMISSION_DENIED, REMOVED)

    # From the connections.

    def next_link(self) -> int:
        """A number that no other connection of this member has, nor had before it was
        started again. Raises: nothing."""
        return next(self._links)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it is done. Raises: nothing."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def let_in(
        self,
        metadata: Iterable[tuple[str, str | bytes]] | None,
        caller: str,
        misfit: Callable[[Sequence[str]], str],
    ) -> Hello | Refusal:
        """Who makes a call, or what to end it with; that is in the log then.

        ``misfit`` says why the caller's certificate is not good for a member that is
        known to be at these hosts; empty if it is. Raises: nothing.
        """
        try:
            hello = read_hello(metadata)
        except ProtocolError as error:
            log_ended(caller, str(error))
            return Code.INVALID_ARGUMENT, str(error)
        refusal = self._judge(hello, misfit)
        if refusal is None:
            return hello
        if refusal[0] is not Code.UNAVAILABLE:
            _log.warn(
                "refused a member",
                member=f"{hello.sender:x}",
                peer=caller,
                reason=refusal[1],
            )
        return refusal

    def admitted_lane(self, arrival: LaneArrival) -> None:
        """A lane of a member begins. Raises: nothing."""
        key = (arrival.sender, arrival.lane)
        older = self._current.get(key)
        if older is not None:
            older.end(Code.UNAVAILABLE, "a newer connection took its place")
        self._current[key] = arrival
        self.heard_of(arrival.sender)

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

    # Inside.

    def _judge(
        self, hello: Hello, misfit: Callable[[Sequence[str]], str]
    ) -> Refusal | None:
        if self._closed:
            return Code.UNAVAILABLE, "the member is stopping"
        sender = hello.sender
        reason = self.mistaken(hello.cluster_id, hello.to, sender)
        if reason:
            return Code.FAILED_PRECONDITION, reason
        reason = misfit(self.hosts_of(sender)) or self.turned_away(sender)
        return (Code.PERMISSION_DENIED, reason) if reason else None
