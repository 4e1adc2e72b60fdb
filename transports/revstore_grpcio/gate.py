"""Where connections of other members arrive, before the library gets them.

The library ends a connection that is no HTTP/2, or whose handshake fails, without a
word that could be passed on; an operator wants to read who that was. So connections are
taken here, and each is handed on through one of its own to the library, which listens
on the loopback interface only.

Rules of this file:

1. Bytes go on as they come, both ways. Whoever sends waits while the other side does
   not take them.
2. What begins unlike HTTP/2, or unlike TLS where that is spoken, is refused here.
3. What the library ends before a call came through is in the log. Later ends are for
   the calls to tell.
4. Who made a call is known by the port of its connection to the library.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, cast

from revstore import logs
from revstore.net.addresses import Address, name_of
from revstore.net.closing import close_all
from revstore.net.listen import CLOSE_S, Listener
from revstore.peer.lanes.arrival import log_ended
from revstore_grpcio.addresses import parse_listen_url

LOOPBACK = "127.0.0.1"

HTTP2_BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113, section 3.4."""
TLS_BEGIN = b"\x16\x03"
"""A handshake record: RFC 8446, section 5.1."""

NOT_HTTP2 = "it does not speak HTTP/2"
NOT_TLS = "it does not speak TLS"
ENDED_BY_LIBRARY = {
    False: "what it sent is not HTTP/2 as gRPC speaks it",
    True: "its TLS handshake failed, or what it sent is not HTTP/2 as gRPC speaks it",
}
"""By whether TLS is spoken."""

_log = logs.get(__name__)


class Caller(NamedTuple):
    """Who made a call."""

    name: str
    """For logs."""
    host: str
    """Its address; empty where it has none."""


class Gate:
    """The addresses of one member, and the connections that came to them."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._connections: set[Connection] = set()
        self._by_port: dict[int, Connection] = {}
        self.loop = asyncio.get_running_loop()
        self.closing = False

    async def open(self, address: Address, library_url: str) -> str:
        """Take connections for the library; returns the URL with its real port.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        library_port = parse_listen_url(library_url).port

        def arrived() -> Half:
            return Connection(self, library_port, address.tls).caller

        listener = Listener()
        await listener.open([address], arrived, None)
        self._listeners.append(listener)
        return listener.urls[0]

    def caller_of(self, peer: str) -> Caller:
        """Who made a call that the library has from ``peer``.

        From then on the end of its connection is for its calls to tell (rule 3).
        Raises: nothing.
        """
        _, _, port = peer.rpartition(":")
        found = self._by_port.get(int(port)) if port.isdigit() else None
        if found is None:
            return Caller(peer, "")
        found.explained = True
        return Caller(found.name, found.host)

    def refuse(self) -> None:
        """Take no more connections; those that are there stay. Raises: nothing."""
        self.closing = True
        for listener in self._listeners:
            listener.close()

    async def close(self) -> None:
        """Take no more connections and end all. Raises: nothing."""
        self.refuse()
        for listener in self._listeners:
            await listener.settle()
        await close_all(self._connections)

    # From the connections.

    def came(self, connection: Connection) -> None:
        """A connection was made. Raises: nothing."""
        self._connections.add(connection)

    def reached(self, connection: Connection, port: int) -> None:
        """It goes on to the library from this port. Raises: nothing."""
        self._by_port[port] = connection

    def gone(self, connection: Connection, port: int) -> None:
        """Both of its ends are closed. Raises: nothing."""
        self._connections.discard(connection)
        if self._by_port.get(port) is connection:
            del self._by_port[port]


class Connection:
    """A connection of a caller and the one to the library that carries it on."""

    def __init__(self, gate: Gate, library_port: int, tls: bool) -> None:
        self.caller = Half(self)
        self.name = "unknown"
        self.host = ""
        self.explained = False
        """Whether its end is in the log, or is for its calls to tell."""
        self.closed: asyncio.Future[None] = gate.loop.create_future()
        self._gate = gate
        self._library = Half(self)
        self._library_port = library_port
        self._own_port = 0
        self._tls = tls
        self._begin = TLS_BEGIN if tls else HTTP2_BEGIN
        """What is still to come of how it has to begin."""
        self._early: list[bytes] = []
        """What came before the library was reached."""
        self._reaching: asyncio.Task[None] | None = None
        self._abort: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Send what waits and close. Raises: nothing."""
        self.caller.close()
        self._library.close()

    def abort(self) -> None:
        """Close at once; what waits is lost. Raises: nothing."""
        self.caller.abort()
        self._library.abort()

    # From its halves.

    def made(self, half: Half) -> None:
        """One of the two stands. Raises: nothing."""
        if half is self.caller:
            found = half.transport.get_extra_info("peername")
            self.name = name_of(found)
            self.host = found[0].partition("%")[0] if isinstance(found, tuple) else ""
            self._gate.came(self)
            self._reaching = self._gate.loop.create_task(self._reach())

    def received(self, half: Half, data: bytes) -> None:
        """Bytes from one side, for the other. Raises: nothing."""
        if half is self._library:
            self.caller.write(data)
            return
        if self._begin:
            size = min(len(data), len(self._begin))
            if data[:size] != self._begin[:size]:
                log_ended(self.name, NOT_TLS if self._tls else NOT_HTTP2)
                self.explained = True
                self.close()
                return
            self._begin = self._begin[size:]
        if self._library.made:
            self._library.write(data)
        else:
            self._early.append(data)
            self.caller.read(False)

    def full(self, half: Half, *, full: bool) -> None:
        """Whether one side takes no more for now: the other waits. Raises: nothing."""
        sender = self._library if half is self.caller else self.caller
        sender.read(not full)

    def lost(self, half: Half) -> None:
        """One side is gone: so goes the other, when it has what waits. Raises: nothing."""
        gate = self._gate
        if half is self._library and not (
            self.explained or self.caller.over or gate.closing
        ):
            log_ended(self.name, ENDED_BY_LIBRARY[self._tls])
        rest = self._library if half is self.caller else self.caller
        if not rest.over:
            rest.close()
            self._abort = gate.loop.call_later(CLOSE_S, rest.abort)
        elif not self.closed.done():
            self._ended()

    def _ended(self) -> None:
        if self._abort is not None:
            self._abort.cancel()
        self.closed.set_result(None)
        self._gate.gone(self, self._own_port)

    async def _reach(self) -> None:
        try:
            await self._gate.loop.create_connection(
                lambda: self._library, LOOPBACK, self._library_port
            )
        except OSError as error:
            if not self._gate.closing:
                _log.error("cannot hand a connection on", reason=str(error))
            self._library.over = True
            self.caller.abort()
            if self.caller.over and not self.closed.done():
                self._ended()
            return
        if self._library.over:
            return
        self._own_port = self._library.transport.get_extra_info("sockname")[1]
        self._gate.reached(self, self._own_port)
        if self.caller.over:
            self._library.abort()
        else:
            self._library.write(b"".join(self._early))
            self._early.clear()
            self.caller.read(True)


class Half(asyncio.Protocol):
    """One end: what asyncio says of it goes to the connection."""

    transport: asyncio.Transport

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.made = False
        """Whether it stands, or has stood."""
        self.over = False
        """Whether it is gone, or can never be."""

    def write(self, data: bytes) -> None:
        """Send, if it stands. Raises: nothing."""
        if self._stands():
            self.transport.write(data)

    def read(self, on: bool) -> None:
        """Take what comes, or let it wait. Raises: nothing."""
        if self._stands():
            if on:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def close(self) -> None:
        """Send what waits and close. Raises: nothing."""
        if self._stands():
            self.transport.close()

    def abort(self) -> None:
        """Close at once. Raises: nothing."""
        if self.made and not self.over:
            self.transport.abort()

    def _stands(self) -> bool:
        return self.made and not self.over and not self.transport.is_closing()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.made = True
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        self._connection.received(self, data)

    def pause_writing(self) -> None:
        self._connection.full(self, full=True)

    def resume_writing(self) -> None:
        self._connection.full(self, full=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        self._connection.lost(self)
