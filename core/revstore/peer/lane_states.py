"""The states of one lane to one member, whatever connects and however it is queued.

A lane is in one of these states:

    IDLE        nothing is wanted (bulk), or not yet
    CONNECTING  an attempt runs; messages wait, within the bound
    OPEN        messages go to the connection, within the bound
    PAUSED      the last attempt failed; messages are dropped until the next
    CLOSED      the member was removed, or everything is closed

Rules of this file:

1. All changes of state are here: in the methods named ``_become_``, in ``restart`` and
   ``close``, and at the end of a pause.
2. Time is that of the event loop; the only randomness is the jitter of ``Backoff``.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from revstore import logs
from revstore.errors import TransportError
from revstore.interfaces.peers import Lane, LaneLimits, OutgoingStream
from revstore.peer.backoff import Backoff

if TYPE_CHECKING:
    from revstore.peer.members import KnownPeer

_log = logs.get(__name__)


class RefusedError(TransportError):
    """The other member does not want to talk to this one."""


class State(StrEnum):
    """See the table above."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    PAUSED = "paused"
    CLOSED = "closed"


class StreamLink(Protocol):
    """An open connection; streams are for that of the bulk lane."""

    def open_stream(self, meta: bytes) -> OutgoingStream:
        """Start a stream. Raises: nothing."""
        ...


LinkT = TypeVar("LinkT", bound=StreamLink)


class LaneStates(ABC, Generic[LinkT]):
    """One lane to one member; a transport adds attempts and the queue."""

    def __init__(self, peer: KnownPeer, lane: Lane, limits: LaneLimits) -> None:
        options = peer.owner.options
        self.peer = peer
        self.lane = lane
        self.state = State.IDLE
        self.link: LinkT | None = None
        """The connection. Invariant: there is one exactly in the state OPEN."""
        self._loop = peer.owner.loop
        self._limits = limits
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

    # For the transport.

    @abstractmethod
    def send(self, payload: bytes) -> bool:
        """Queue a message; False if it is over the bound or nobody can be reached."""

    @abstractmethod
    def _attempt(self) -> None:
        """Begin to connect; ends in ``_become_open`` or ``_become_paused``."""

    @abstractmethod
    def _drop(self, link: LinkT | None, reason: str) -> Sequence[asyncio.Future[None]]:
        """Give up connection, attempt and what waits; what to wait for."""

    @abstractmethod
    def _send_probe(self, link: LinkT, number: int) -> None:
        """Send what the member answers at once, and then call ``answered``."""

    @abstractmethod
    def _break(self, link: LinkT, reason: str) -> None:
        """Nobody answers: break the connection, now or soon."""

    # For the owner.

    @property
    def is_open(self) -> bool:
        """Whether there is a connection. Raises: nothing."""
        return self.state is State.OPEN

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

    def close(self, reason: str) -> Sequence[asyncio.Future[None]]:
        """Give everything up; what to wait for. Raises: nothing."""
        self.state = State.CLOSED
        return self._let_go(reason)

    async def ready(self) -> LinkT:
        """The open connection, made if need be. Raises: TransportError."""
        self.start()
        if self.state is State.CONNECTING and self._settled is not None:
            await asyncio.wait([self._settled])
        if self.state is not State.OPEN or self.link is None:
            raise TransportError(
                f"member {self.peer.member:x} cannot be reached now; try again later"
            )
        return self.link

    # From the connection.

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
        self._attempt()

    def _become_open(self, link: LinkT) -> None:
        self.state = State.OPEN
        self.link = link
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

    def _let_go(self, reason: str) -> Sequence[asyncio.Future[None]]:
        self._stop_timer()
        self._settle()
        link, self.link = self.link, None
        return self._drop(link, reason)

    def _why(self, failure: Exception) -> Exception:
        """What is said of an attempt that failed."""
        if isinstance(failure, TimeoutError) and not str(failure):
            return TransportError("no answer in time")
        if not isinstance(failure, (OSError, TransportError)):
            _log.exception("a connection to a member raised")
        return failure

    def _settle(self) -> None:
        settled, self._settled = self._settled, None
        if settled is not None and not settled.done():
            settled.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _probe(self) -> None:
        link = self.link
        if link is None or self.state is not State.OPEN:
            return
        options = self.peer.owner.options
        now = self._loop.time()
        if self._probe_at is None:
            self._probe_number += 1
            self._probe_at = now
            self._send_probe(link, self._probe_number)
        elif now - self._probe_at >= options.probe_timeout_s:
            self._break(link, f"no probe answered for {options.probe_timeout_s} s")
            return
        self._timer = self._loop.call_later(options.probe_interval_s, self._probe)
