"""How a link puts payloads on the wire: as they are, or in a transport's own framing.

A link draws one of ``FRAMINGS`` by the run's seed. A new transport whose framing is
free of I/O gets its line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from revstore.errors import TransportError
from revstore.peer.lanes.limits import PEER_FRAME_BYTES_MAX
from revstore.peer.lanes.wire import LANE_PATH, Inbox, Outbox, Ping, read_lane
from revstore_http2.client import ClientConnection
from revstore_http2.connection import Connection
from revstore_http2.events import MessageReceived, Route, StreamStarted
from revstore_http2.limits import Limits
from revstore_http2.server import ServerConnection
from revstore_tcp.framing import (
    MAGIC,
    Assembler,
    FrameReader,
    FrameWriter,
    RecordType,
    cut,
    records_of,
)

PEER_LIMITS = Limits(
    message_bytes_max=PEER_FRAME_BYTES_MAX,
    frame_bytes_max=PEER_FRAME_BYTES_MAX,
    stream_window_bytes=4 * PEER_FRAME_BYTES_MAX,
)
MESSAGE_BYTES_MAX = 1 << 30
_MESSAGE = int(RecordType.MESSAGE)


class Framing(Protocol):
    """Both ends of one connection, without its bytes' way between them."""

    notices_damage: bool
    """Whether a flipped bit is found. Where it is not, the transport relies on the
    checksums of TCP and TLS below it, and bits are not flipped."""

    def add(self, payload: bytes) -> None:
        """Queue a payload at the sending end."""
        ...

    def take(self) -> bytes:
        """The bytes for all that is queued."""
        ...

    def feed(self, data: bytes) -> list[bytes]:
        """Bytes reach the other end, in pieces of any size; whole payloads come out.

        Raises:
            TransportError: they are not what the sending end may have written.
        """
        ...


class TcpFraming:
    """The framing of the transport ``tcp``: greeting, records, frames, checksums."""

    notices_damage = True

    def __init__(self) -> None:
        self._writer = FrameWriter()
        self._greeting = MAGIC
        self._reader = FrameReader(greeting=True)
        self._assembler = Assembler()

    def add(self, payload: bytes) -> None:
        """See ``Framing``."""
        for one in cut(_MESSAGE, 0, payload):
            self._writer.add(one)

    def take(self) -> bytes:
        """See ``Framing``."""
        data = self._greeting + self._writer.take()
        self._greeting = b""
        return data

    def feed(self, data: bytes) -> list[bytes]:
        """See ``Framing``."""
        payloads = []
        for body in self._reader.feed(data):
            for kind, flags, stream, part in records_of(body):
                if kind != _MESSAGE:
                    raise TransportError(f"a record of type {kind} was never sent")
                whole = self._assembler.add(kind, flags, stream, part)
                if whole is not None:
                    payloads.append(whole[3])
        return payloads


class GrpcFraming:
    """That of ``grpc`` and ``grpcio``: frames of a lane in a call over HTTP/2.

    What the answering end says (settings, credit) reaches the calling end at once.
    """

    notices_damage = False

    def __init__(self) -> None:
        self._caller = ClientConnection("member", PEER_LIMITS, now=0.0)
        self._answerer = ServerConnection(lambda path: Route(), PEER_LIMITS, now=0.0)
        self._call = self._caller.call(LANE_PATH)
        self._outbox = Outbox()
        self._inbox = Inbox(MESSAGE_BYTES_MAX)

    def add(self, payload: bytes) -> None:
        """See ``Framing``."""
        self._outbox.add(payload)

    def take(self) -> bytes:
        """See ``Framing``; what has no credit yet leaves with a later one."""
        while (frame := self._outbox.next_frame()) is not None:
            self._caller.send(self._call, frame)
        return _output(self._caller)

    def feed(self, data: bytes) -> list[bytes]:
        """See ``Framing``."""
        payloads: list[bytes] = []
        for event in self._answerer.receive(data, 0.0):
            if isinstance(event, MessageReceived):
                payloads += self._payloads(event.message)
            elif not isinstance(event, StreamStarted):
                raise TransportError(f"the call of a lane met {event}")
        for event in self._caller.receive(_output(self._answerer), 0.0):
            raise TransportError(f"the calling end of a lane met {event}")
        return payloads

    def _payloads(self, message: bytes) -> list[bytes]:
        frame = read_lane(message)
        if isinstance(frame, Ping):
            raise TransportError("a probe was never sent")
        return self._inbox.payloads(frame)


def _output(end: Connection) -> bytes:
    pieces: list[bytes] = []
    while more := end.output():
        pieces += more
    return b"".join(pieces)


AS_IT_IS = "none"
"""No connection: each payload finds its own way, and may be overtaken or doubled."""

FRAMINGS: Mapping[str, Callable[[], Framing]] = {
    "tcp": TcpFraming,
    "grpc": GrpcFraming,
}
"""Framings of links that are connections, by name."""
