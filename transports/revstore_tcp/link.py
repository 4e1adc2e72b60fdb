"""One connection: records in, records out, on an asyncio transport.

Rules of this file:

1. All that is ready leaves in one write per turn of the loop. What is answered while
   received bytes are handled leaves when they are all handled.
2. ``sources`` give their records in turn, one each, so that a long payload or a busy
   stream delays another only by one record. They are asked only while the socket takes
   more; what they hold is their own to bound.
3. A ProtocolError ends this connection, with a GOAWAY that says why, and nothing else.
4. ``lost`` is called exactly once for a connection that was made.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from revstore import logs
from revstore.net.addresses import name_of
from revstore_tcp.framing import (
    FrameReader,
    FrameWriter,
    ProtocolError,
    Record,
    RecordType,
    record,
    records_of,
)
from revstore_tcp.limits import WRITE_HIGH_WATER
from revstore_tcp.messages import GoAway, write_goaway

_log = logs.get(__name__)

_PUMP_BYTES = WRITE_HIGH_WATER


class Source(Protocol):
    """Something with records to send, asked when there is room."""

    def next_record(self) -> bytes | None:
        """The next record; None to be asked no more until activated again."""
        ...


class Link(asyncio.Protocol):
    """A connection and what both of its ends do alike."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, greeting: bool) -> None:
        self.loop = loop
        self.reader = FrameReader(greeting=greeting)
        self.writer = FrameWriter()
        self.sources: deque[Source] = deque()
        self.transport: asyncio.Transport | None = None
        self.closing = False
        """Whether nothing is to be read or written any more."""
        self.received_bytes = 0
        self.sent_bytes = 0
        self.cut_bytes = 0
        """Length of the payloads that are being sent in parts."""
        self.closed: asyncio.Future[None] = loop.create_future()
        self.choked = False
        """Whether what comes is kept back until output has left."""
        self.on_empty: asyncio.Future[None] | None = None
        self._backlog: deque[Record] = deque()
        """Records that came while the connection was choked."""
        self._peer_name = "unknown"
        self._paused = False
        self._corked = False
        self._scheduled = False

    # For what is built on top.

    def handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """One record from the other side; may raise ProtocolError."""

    def made(self) -> None:
        """The connection stands."""

    def lost(self, reason: str) -> None:
        """The connection is gone."""

    def drained(self) -> None:
        """Records were handed to the socket layer, or it has taken some."""

    # Output.

    def add(self, one: bytes) -> None:
        """Queue a record; it leaves with all else of this turn. Raises: nothing."""
        if self.closing:
            return
        self.writer.add(one)
        if not self._corked and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.flush)

    def activate(self, source: Source) -> None:
        """Ask a source for records, in its turn. Raises: nothing."""
        self.sources.append(source)
        if not self._corked and not self._scheduled and not self._paused:
            self._scheduled = True
            self.loop.call_soon(self.flush)

    @property
    def roomy(self) -> bool:
        """Whether a record may be added without waiting in its source."""
        return not self._paused and self.writer.size < _PUMP_BYTES

    def output_bytes(self) -> int:
        """What waits here and in the socket layer. Raises: nothing."""
        transport = self.transport
        held = transport.get_write_buffer_size() if transport is not None else 0
        return self.writer.size + self.cut_bytes + held

    def flush(self) -> None:
        """Write what is ready, if the socket takes it. Raises: nothing."""
        self._scheduled = False
        transport = self.transport
        if self._paused or self.closing or transport is None:
            return
        sources = self.sources
        writer = self.writer
        if sources:
            while sources and writer.size < _PUMP_BYTES:
                source = sources.popleft()
                one = source.next_record()
                if one is not None:
                    writer.add(one)
                    sources.append(source)
        data = writer.take()
        if data:
            self.sent_bytes += len(data)
            transport.write(data)
        self.drained()
        if sources:
            if not self._paused and not self._scheduled:
                self._scheduled = True
                self.loop.call_soon(self.flush)
        elif self.on_empty is not None and not self.on_empty.done():
            self.on_empty.set_result(None)

    def unchoke(self) -> None:
        """Handle what was kept back; call it from the loop. Raises: nothing."""
        self.choked = False
        self._handle_all(())

    def close(self, code: GoAway | None = None, text: str = "") -> None:
        """Send what waits and close; with a code, a GOAWAY in the end. Raises: nothing."""
        transport = self.transport
        if self.closing or transport is None:
            return
        if code is not None:
            self.writer.add(record(RecordType.GOAWAY, 0, write_goaway(code, text)))
        data = self.writer.take()
        self.closing = True
        self.sources.clear()
        # asyncio forgets how to abort a TLS connection that is closed twice, and closes
        # one itself whose acceptance was cancelled.
        if transport.is_closing():
            transport.abort()
            return
        if data:
            transport.write(data)
        transport.close()

    def abort(self) -> None:
        """Close at once; what waits is lost. Raises: nothing."""
        self.closing = True
        self.sources.clear()
        if self.transport is not None:
            self.transport.abort()

    def fail(self, code: GoAway, text: str) -> None:
        """The other side broke the rules: say so and close. Raises: nothing."""
        if self.closing:
            return
        _log.warn("connection ended", peer=self.peer_name(), reason=text)
        self.close(code, text)

    def keep_alive(self) -> None:
        """Let the kernel notice a host that is gone without a word. Raises: nothing."""
        if self.transport is None:
            return
        found = self.transport.get_extra_info("socket")
        if found is not None and found.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def peer_name(self) -> str:
        """Address of the other side. Raises: nothing."""
        return self._peer_name

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._peer_name = name_of(self.transport.get_extra_info("peername"))
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.made()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self.received_bytes += len(data)
        try:
            bodies = self.reader.feed(data)
        except ProtocolError as error:
            self.fail(GoAway.PROTOCOL, str(error))
            return
        self._handle_all(bodies)

    def _handle_all(self, bodies: Sequence[bytes]) -> None:
        """Handle records, those kept back first, and write what they gave rise to."""
        backlog = self._backlog
        self._corked = True
        try:
            while backlog and not self.choked and not self.closing:
                self.handle(*backlog.popleft())
            for body in bodies:
                records = records_of(body)
                for number, one in enumerate(records):
                    if self.closing:
                        return
                    if self.choked:
                        backlog.extend(records[number:])
                        break
                    self.handle(*one)
        except ProtocolError as error:
            self.fail(GoAway.PROTOCOL, str(error))
        finally:
            self._corked = False
        if self.writer.size or self.sources:
            self.flush()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()
        self.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.sources.clear()
        if not self.closed.done():
            self.closed.set_result(None)
        self.lost(str(exc) if exc is not None else "the other side closed it")


class Cut:
    """A long payload as a source of its records; counted while it waits."""

    __slots__ = ("_link", "_records", "_size")

    def __init__(self, link: Link, payload: bytes, records: Iterator[bytes]) -> None:
        self._link = link
        self._size = len(payload)
        self._records = records
        link.cut_bytes += self._size

    def next_record(self) -> bytes | None:
        """The next part. Raises: nothing."""
        one = next(self._records, None)
        if one is None:
            self._link.cut_bytes -= self._size
        return one
