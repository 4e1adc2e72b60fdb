"""The calling end: one lane to one member, its connection and its queue.

A lane is in one of these states:

    IDLE        nothing is wanted (bulk), or not yet
    CONNECTING  an attempt runs; messages wait, within the bound
    OPEN        messages leave as fast as the call takes them; the others wait
    PAUSED      the last attempt failed; messages are dropped until the next
    CLOSED      the member was removed, or everything is closed

Rules of this file:

1. All changes of state are in the methods of ``PeerLane`` named ``_become_``.
2. A message is counted against the bound from ``send`` until its frame goes to the
   library, which takes one frame at a time.
3. Each attempt has a channel of its own: the library's own pauses and its sharing of
   connections never come into play.
4. Time is that of the event loop; the only randomness is the jitter of ``Backoff``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from revstore import logs
from revstore.errors import TransportError
from revstore.interfaces.peers import Lane, LaneLimits, OutgoingStream
from revstore.peer.backoff import Backoff
from revstore.peer.lanes.wire import Outbox, Ping, RefusedError, encode

if TYPE_CHECKING:
    from revstore.peer.lanes.owner import Peer

_log = logs.get(__name__)


class State(StrEnum):
    """See the table above."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    PAUSED = "paused"
    CLOSED = "closed"


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


class PeerLane:
    """One lane to one member."""

    def __init__(self, peer: Peer, lane: Lane, limits: LaneLimits) -> None:
        options = peer.owner.options
        self.peer = peer
        self.lane = lane
        self.state = State.IDLE
        self._loop = peer.owner.loop
        self._limits = limits
        self._outbox = Outbox()
        self._link: LaneLink | None = None
        self._task: asyncio.Task[None] | None = None
        """Connects, and then reads until the connection is over."""
        self._settled: asyncio.Future[None] | None = None
        """Done when the running attempt has come to its end."""
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = Backoff(
            options.retry_min_s, options.retry_max_s, options.random
        )
        self._failing = False
        """Whether the failure of this lane is in the log already."""
        self._probe_number = 0
        self._probe_at: float | None = None
        """When the probe that is not answered yet was sent."""
        self._probe_due = False

    # For the owner.

    @property
    def is_open(self) -> bool:
        """Whether there is a connection. Raises: nothing."""
        return self.state is State.OPEN

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
        if self._link is not None:
            self._link.wake()
        return True

    def start(self) -> None:
        """Connect without waiting for a message. Raises: nothing."""
        if self.state is State.IDLE:
            self._become_connecting()

    def hint(self) -> None:
        """The member was heard of: try again at once (P-06). Raises: nothing."""
        if self.state is State.PAUSED:
            self._backoff.reset()
            self._become_connecting()

    def restart(self) -> None:
        """The member has other addresses now. Raises: nothing."""
        if self.state is State.CLOSED:
            return
        wanted = self.state is not State.IDLE
        self._let_go("the member has moved")
        self._backoff.reset()
        self.state = State.IDLE
        if wanted:
            self._become_connecting()

    def close(self, reason: str) -> Sequence[asyncio.Task[None]]:
        """Give everything up; what to wait for. Raises: nothing."""
        self.state = State.CLOSED
        return self._let_go(reason)

    async def ready(self) -> LaneLink:
        """The open connection, made if need be. Raises: TransportError."""
        if self.state is State.IDLE:
            self._become_connecting()
        if self.state is State.CONNECTING and self._settled is not None:
            await asyncio.wait([self._settled])
        if self.state is not State.OPEN or self._link is None:
            raise TransportError(
                f"member {self.peer.member:x} cannot be reached now; try again later"
            )
        return self._link

    # From the connection.

    def next_frame(self) -> bytes | None:
        """The next frame to send, None if nothing waits. Raises: nothing."""
        if self._probe_due:
            self._probe_due = False
            return encode(Ping(self._probe_number))
        return self._outbox.next_frame()

    def answered(self, number: int) -> None:
        """A probe came back. Raises: nothing."""
        if self._probe_at is None or number != self._probe_number:
            return
        if self.lane is Lane.CONTROL:
            self.peer.round_trip_s = self._loop.time() - self._probe_at
        self._probe_at = None

    # States.

    def _become_connecting(self) -> None:
        self._stop_timer()
        self.state = State.CONNECTING
        self._settled = self._loop.create_future()
        self._task = self._loop.create_task(self._run())

    def _become_open(self, link: LaneLink) -> None:
        self.state = State.OPEN
        self._link = link
        self._settle()
        self._backoff.reset()
        if self._failing:
            self._failing = False
            _log.info(
                "member reached again",
                member=f"{self.peer.member:x}",
                lane=self.lane.name,
            )
        self._probe_at = None
        self._probe()

    def _become_paused(self, error: Exception) -> None:
        peer = self.peer
        self._task = None
        self._let_go(str(error))
        peer.send_failures += 1
        if isinstance(error, RefusedError):
            self._backoff.longest()
        if not self._failing:
            self._failing = True
            _log.warn(
                "member cannot be reached",
                member=f"{peer.member:x}",
                lane=self.lane.name,
                urls=[address.url for address in peer.addresses],
                reason=str(error),
            )
        self.state = State.PAUSED
        self._timer = self._loop.call_later(self._backoff.next_s(), self._pause_over)
        peer.owner.unreachable(peer.member)
        if isinstance(error, RefusedError):
            peer.owner.refused(peer.member, str(error))

    # Inside.

    def _pause_over(self) -> None:
        self._timer = None
        self.state = State.IDLE
        if self.lane is not Lane.BULK:
            self._become_connecting()

    def _let_go(self, reason: str) -> Sequence[asyncio.Task[None]]:
        """Drop connection, attempt, timer and what waits; what to wait for."""
        self._stop_timer()
        tasks: list[asyncio.Task[None]] = []
        link, self._link = self._link, None
        if link is not None:
            tasks += link.close(reason)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            tasks.append(task)
        self._settle()
        self._probe_due = False
        self.peer.dropped_messages += self._outbox.clear()
        return tasks

    def _settle(self) -> None:
        settled, self._settled = self._settled, None
        if settled is not None and not settled.done():
            settled.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _probe(self) -> None:
        link = self._link
        if link is None or self.state is not State.OPEN:
            return
        options = self.peer.owner.options
        now = self._loop.time()
        if self._probe_at is None:
            self._probe_number += 1
            self._probe_at = now
            self._probe_due = True
            link.wake()
        elif now - self._probe_at >= options.probe_timeout_s:
            link.give_up(f"no probe answered for {options.probe_timeout_s} s")
            return
        self._timer = self._loop.call_later(options.probe_interval_s, self._probe)

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
            except (OSError, TransportError) as failure:
                error = failure
                if isinstance(failure, TimeoutError) and not str(failure):
                    error = TransportError("no answer in time")
            except Exception as failure:
                _log.exception("a connection to a member raised")
                error = failure
            finally:
                link.close(str(error))
            if self._link is link:
                break
        self._become_paused(error)
