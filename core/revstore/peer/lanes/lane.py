"""The calling end: one lane to one member, its connection and its queue.

Rules of this file:

1. A message is counted against the bound from ``send`` until its frame goes to the
   library, which takes one frame at a time.
2. Each attempt has a channel of its own: the library's own pauses and its sharing of
   connections never come into play.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from revstore.errors import TransportError
from revstore.interfaces.peers import Lane, LaneLimits, OutgoingStream
from revstore.peer.lane_states import LaneStates, State
from revstore.peer.lanes.wire import (
    Hello,
    Metadata,
    Outbox,
    Ping,
    check_welcome,
    encode,
    write_hello,
)

if TYPE_CHECKING:
    from revstore.peer.lanes.owner import Peer


class LaneLink(Protocol):
    """One connection of a lane, made by the transport (``LanePeers.make_link``)."""

    async def open(self, address: Any) -> None:
        """Connect, and see that the right member answers.

        Raises:
            TransportError: nobody, or another member answered, or it refused.
            OSError: the member cannot be reached.
        """
        ...

    async def read_in(self) -> None:
        """Read until the connection is over, which is always an error.

        Raises:
            TransportError: why it is over.
        """
        ...

    def wake(self) -> None:
        """There is something to send (``PeerLane.next_frame``). Raises: nothing."""
        ...

    def open_stream(self, meta: bytes) -> OutgoingStream:
        """Start a stream. Raises: nothing."""
        ...

    def give_up(self, reason: str) -> None:
        """Break the connection; ``read_in`` says why. Raises: nothing."""
        ...

    def close(self, reason: str) -> Sequence[asyncio.Task[None]]:
        """End everything; what to wait for. Raises: nothing."""
        ...


class PeerLane(LaneStates[LaneLink]):
    """One lane to one member."""

    peer: Peer

    def __init__(self, peer: Peer, lane: Lane, limits: LaneLimits) -> None:
        super().__init__(peer, lane, limits)
        self._outbox = Outbox()
        self._task: asyncio.Task[None] | None = None
        """Connects, and then reads until the connection is over."""
        self._probe_due = False

    # For the owner.

    def send(self, payload: bytes) -> bool:
        """Queue a message; False if it is over the bound or nobody can be reached."""
        if self.state is State.IDLE:
            self._become_connecting()
        elif self.state is not State.OPEN and self.state is not State.CONNECTING:
            return False
        outbox, limits = self._outbox, self._limits
        waiting = len(outbox)
        if waiting and (
            waiting >= limits.messages_max
            or outbox.held_bytes + len(payload) > limits.bytes_max
        ):
            return False
        outbox.add(payload)
        if self.link is not None:
            self.link.wake()
        return True

    # From the connection.

    def next_frame(self) -> bytes | None:
        """The next frame to send, None if nothing waits. Raises: nothing."""
        if self._probe_due:
            self._probe_due = False
            return encode(Ping(self._probe_number))
        return self._outbox.next_frame()

    def hello(self, link: int) -> Metadata:
        """Who calls whom, by which connection: of each call. Raises: nothing."""
        options = self.peer.owner.options
        hello = Hello(
            cluster_id=options.cluster_id,
            sender=options.member_id,
            to=self.peer.member,
            lane=self.lane,
            link=link,
        )
        return write_hello(hello)

    def check(self, metadata: Mapping[str, str | bytes]) -> None:
        """Judge who let a call in.

        Raises:
            ProtocolError: another member answered than was called.
        """
        peer = self.peer
        check_welcome(metadata, peer.owner.options.cluster_id, peer.member)

    # For the base.

    def _attempt(self) -> None:
        self._task = self._loop.create_task(self._run())

    def _drop(
        self, link: LaneLink | None, reason: str
    ) -> Sequence[asyncio.Future[None]]:
        tasks: list[asyncio.Future[None]] = []
        if link is not None:
            tasks += link.close(reason)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            tasks.append(task)
        self._probe_due = False
        self.peer.dropped_messages += self._outbox.clear()
        return tasks

    def _send_probe(self, link: LaneLink, number: int) -> None:
        self._probe_due = True
        link.wake()

    def _break(self, link: LaneLink, reason: str) -> None:
        link.give_up(reason)

    # Inside.

    async def _run(self) -> None:
        error: Exception = TransportError("no address")
        owner = self.peer.owner
        for address in self.peer.addresses:
            link = owner.make_link(self)
            try:
                async with asyncio.timeout(owner.options.connect_timeout_s):
                    await link.open(address)
                self._become_open(link)
                await link.read_in()
            except Exception as failure:
                error = self._why(failure)
            finally:
                link.close(str(error))
            if self.link is link:
                break
        self._task = None
        self._become_paused(error)
