"""What the tests of the transport "tcp" share: a server, a raw connection to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.transports.server_support import Maker

from revstore.interfaces.transport import (
    Method,
)
from revstore_conformance.transport import (
    PATIENCE_S,
)
from revstore_tcp.framing import (
    MAGIC,
    FrameReader,
    Record,
    RecordType,
    frame,
    record,
    records_of,
)
from revstore_tcp.messages import (
    Hello,
    Role,
    write_hello,
)
from revstore_tcp.transport import TcpServer, TcpTransport

LOCAL = "tcp://127.0.0.1:0"
HELLO = MAGIC + frame(record(RecordType.HELLO, 0, write_hello(Hello(Role.CLIENT))))


@asynccontextmanager
async def serving(*methods: Method, **options: Any) -> AsyncIterator[TcpServer]:
    """A server of these methods."""
    async with Maker(TcpTransport, "tcp").serving(*methods, **options) as server:
        assert isinstance(server, TcpServer)
        yield server


class Raw:
    """A client that sends what it likes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self.writer = writer
        self._frames = FrameReader()
        self.records: list[Record] = []

    async def until(self, kind: RecordType) -> bytes:
        """The payload of the next record of a type."""
        return (await self._next(kind))[3]

    async def stream_of(self, kind: RecordType) -> int:
        """The stream of the next record of a type."""
        return (await self._next(kind))[2]

    async def _next(self, kind: RecordType) -> Record:
        while True:
            while self.records:
                found = self.records.pop(0)
                if found[0] == kind:
                    return found
            data = await asyncio.wait_for(self._reader.read(65536), PATIENCE_S)
            assert data, f"the server closed before {kind.name}"
            for body in self._frames.feed(data):
                self.records += records_of(body)

    async def closed(self) -> None:
        """Wait until the server has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(self._reader.read(65536), PATIENCE_S):
                pass

    def send(self, *records: bytes) -> None:
        """Send records in one frame."""
        self.writer.write(frame(b"".join(records)))


@asynccontextmanager
async def raw(server: TcpServer, greeting: bytes = HELLO) -> AsyncIterator[Raw]:
    """A connection without a client behind it."""
    parts = urlsplit(server.addresses()[0])
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(greeting)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
