"""One connection: the machine on an asyncio transport, alike for both roles.

Rules of this file:

1. All that is ready leaves in one write per turn of the loop.
2. The machine is asked for output only while the socket takes it; so what waits for a
   slow reader waits in the machine, within its bounds.
3. ``on_lost`` is called exactly once for a connection that was made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from math import inf
from typing import cast

from revstore import logs
from revstore.net.addresses import name_of
from revstore_grpc.limits import CLOSE_S, WRITE_HIGH_WATER
from revstore_http2.connection import Connection
from revstore_http2.events import ConnectionFailed, Event, StreamRefused

_log = logs.get(__name__)


class Link(asyncio.Protocol):
    """A connection and what both of its ends do alike."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.awake = False
        """Whether ``flush`` is sure to run in this turn of the loop."""
        self.closing = False
        """Whether nothing is to be read or written any more."""
        self.closed: asyncio.Future[None] = loop.create_future()
        self.peer_name = "unknown"
        self._machine = connection
        self._paused = False
        self._tick_timer: asyncio.TimerHandle | None = None

    # For the roles.

    def on_made(self) -> None:
        """The connection stands."""

    def on_event(self, event: Event) -> None:
        """An event of the machine; what is only for the log goes to ``note``."""

    def on_over(self) -> None:
        """The machine has said all that it had to say."""
        self.close()

    def on_lost(self, reason: str) -> None:
        """The connection is gone."""

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.peer_name = name_of(transport.get_extra_info("peername"))
        self.on_made()
        self.set_tick()

    def pause_writing(self) -> None:
        self._paused = True
        self._machine.pause()

    def resume_writing(self) -> None:
        self._paused = False
        self.handle(self._machine.resume())

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        reason = str(exc) if exc is not None else "the other side closed it"
        for event in self._machine.lost(reason):
            self.on_event(event)
        self.on_lost(reason)
        if not self.closed.done():
            self.closed.set_result(None)

    # Output.

    def wake(self) -> None:
        """Have what is ready sent in this turn of the loop. Raises: nothing."""
        if not self.awake:
            self.awake = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is ready. Raises: nothing."""
        self.awake = False
        transport, machine = self.transport, self._machine
        if self.closing or transport is None:
            return
        while pieces := machine.output():
            transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if machine.pending:
            self.handle(machine.take_pending())
        if machine.over:
            self.on_over()

    def handle(self, events: Iterable[Event]) -> None:
        """Act on events that came otherwise than by received bytes. Raises: nothing."""
        for event in events:
            self.on_event(event)
        self.wake()

    def note(self, event: Event) -> None:
        """Log what the machine had to refuse. Raises: nothing."""
        if isinstance(event, ConnectionFailed):
            write = _log.warn if event.hostile else _log.debug
            write("connection ended", peer=self.peer_name, reason=event.reason)
        elif isinstance(event, StreamRefused):
            _log.debug("stream refused", peer=self.peer_name, reason=event.reason)

    def close(self) -> None:
        """Send what is ready and close. Raises: nothing."""
        transport = self.transport
        if self.closing or transport is None:
            return
        self.closing = True
        # asyncio forgets how to abort a TLS connection that is closed twice, and closes
        # one itself whose acceptance was cancelled.
        if transport.is_closing():
            transport.abort()
            return
        pieces = self._machine.output()
        if pieces:
            transport.write(b"".join(pieces))
        transport.close()

    def abort(self) -> None:
        """Close at once; what waits is lost. Raises: nothing."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    async def wait_closed(self) -> None:
        """Return when the connection is closed, by force if it takes long.

        Raises: nothing.
        """
        await asyncio.wait([self.closed], timeout=CLOSE_S)
        if not self.closed.done():
            self.abort()
            await asyncio.wait([self.closed], timeout=CLOSE_S)

    # Time.

    def set_tick(self) -> None:
        """Ask the machine when it wants to be ticked next. Raises: nothing."""
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        due = self._machine.next_tick()
        self._tick_timer = self.loop.call_at(due, self._tick) if due < inf else None

    def _tick(self) -> None:
        self._tick_timer = None
        if self.closing:
            return
        now = self.loop.time()
        if self._machine.next_tick() <= now:
            self.handle(self._machine.tick(now))
        self.set_tick()
