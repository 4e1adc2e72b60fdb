"""How a link puts payloads on the wire: as they are, or in a transport's own framing.

A link draws one of ``FRAMINGS`` by the run's seed. A new transport whose framing is
free of I/O gets its line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from revstore.errors import TransportError
from revstore_tcp.framing import (
    MAGIC,
    Assembler,
    FrameReader,
    FrameWriter,
    RecordType,
    cut,
    records_of,
)

_MESSAGE = int(RecordType.MESSAGE)


class Framing(Protocol):
    """Both ends of one connection, without its bytes' way between them."""

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


AS_IT_IS = "none"
"""No connection: each payload finds its own way, and may be overtaken or doubled."""

FRAMINGS: Mapping[str, Callable[[], Framing]] = {"tcp": TcpFraming}
"""Framings of links that are connections, by name."""
