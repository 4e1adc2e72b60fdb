"""Listening sockets: what happens to connections while they are closed."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from tests.transports.loops import LOOPS

from revstore.net.addresses import Address
from revstore.net.listen import Listener

ANY_PORT = Address("tcp://127.0.0.1:0", "tcp", "127.0.0.1", 0)


class ClosesItsListener(asyncio.Protocol):
    """The listener is closed at the very moment that the connection stands."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.made = asyncio.get_running_loop().create_future()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._listener.close()
        self.made.set_result(cast(asyncio.Transport, transport))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_stands_hears_of_its_end(loop: str) -> None:
    """It was cancelled with the listener, and servers waited seconds for its end."""

    async def check() -> None:
        listener = Listener()
        protocol = ClosesItsListener(listener)
        await listener.open([ANY_PORT], lambda: protocol, None)
        port = int(listener.urls[0].rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        transport = await protocol.made
        await listener.settle()
        transport.close()
        await asyncio.wait_for(protocol.lost, 10)
        assert await reader.read() == b""
        writer.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(check())
