"""The connection of a client's channel.

Rule of this file: there is at most one connection that takes new calls. It is made when
a call needs it, and made anew by the first call after it broke or was told to go away.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Generic, Protocol, TypeVar

from revstore.errors import ApiError
from revstore.interfaces.channel import Channel, NotSent


class ClientLink(Protocol):
    """What a channel knows of a connection."""

    @property
    def usable(self) -> bool:
        """Whether new calls may go here."""
        ...

    @property
    def closing(self) -> bool:
        """Whether nothing goes here any more."""
        ...

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the connection is gone."""
        ...

    @property
    def reason(self) -> str:
        """Why it is gone."""
        ...


LinkT = TypeVar("LinkT", bound=ClientLink)


class LinkChannel(Channel, Generic[LinkT]):
    """A channel that sees to its connection; a transport adds the calls."""

    def __init__(self) -> None:
        self._link: LinkT | None = None
        """The newest connection; calls look at it before they ask for another."""
        self._links: set[LinkT] = set()
        """All connections that stand: those that leave may still have calls."""
        self._connecting: asyncio.Task[LinkT] | None = None
        self._closed = False

    @abstractmethod
    async def _connect(self) -> LinkT:
        """Make a connection. Raises: NotSent."""

    async def _connected(self) -> LinkT:
        """The connection, made if there is none. Raises: NotSent."""
        link = self._link
        if self._closed:
            raise NotSent("the channel was closed")
        if link is not None and link.usable:
            return link
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
            self._connecting.add_done_callback(self._on_connected)
        connecting = self._connecting
        await asyncio.wait([connecting])
        if connecting.cancelled() or self._closed:
            raise NotSent("the channel was closed")
        error = connecting.exception()
        if isinstance(error, ApiError):
            raise NotSent(error.message) from error
        link = connecting.result()
        if link.closing:
            raise NotSent(link.reason)
        return link

    async def _connect_no_more(self) -> None:
        """The channel is closed: no connection is made from here on. Raises: nothing."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])

    def _on_connected(self, task: asyncio.Task[LinkT]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._link = task.result()
            self._links = {one for one in self._links if not one.closed.done()}
            self._links.add(self._link)
