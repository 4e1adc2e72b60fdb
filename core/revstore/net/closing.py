"""Closing connections that may have something to say, and may not be heard."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Set
from typing import Protocol

from revstore.net.listen import CLOSE_S


class Connection(Protocol):
    """What is closed here."""

    closed: asyncio.Future[None]
    """Done when the connection is gone."""

    def close(self) -> None:
        """Send what waits and close. Raises: nothing."""
        ...

    def abort(self) -> None:
        """Close at once; what waits is lost. Raises: nothing."""
        ...


async def close_all(
    connections: Set[Connection], others: Iterable[asyncio.Future[None]] = ()
) -> None:
    """Close connections, by force if it takes long, and wait for others beside them.

    ``connections`` is the owner's own set, which each leaves when it is closed.
    Raises: nothing.
    """
    waits = [*others, *(found.closed for found in connections)]
    if not waits:
        return
    for found in tuple(connections):
        found.close()
    _, late = await asyncio.wait(waits, timeout=CLOSE_S)
    for found in tuple(connections):
        found.abort()
    # An aborted connection is told so in the next turn of the loop.
    if late:
        await asyncio.wait(late, timeout=2 * CLOSE_S)
