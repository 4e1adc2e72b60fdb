"""How watchers are read, wherever the store is: by a loop, within a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from revstore.closing import Closing
from revstore.embedded.values import WatchEvent


class EventReader(Closing):
    """An iterator over changes that ends when it is closed."""

    @abstractmethod
    def next_event(self, timeout_s: float | None = None) -> WatchEvent | None:
        """The next change; None if none came in time or it was closed."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchEvent:
        event = self.next_event()
        if event is None:
            raise StopIteration
        return event


class AsyncEventReader(ABC):
    """An asynchronous iterator over changes that ends when it is closed."""

    @abstractmethod
    async def next_event(self) -> WatchEvent | None:
        """The next change; None once it is closed."""

    @abstractmethod
    def close(self) -> None:
        """End the watch."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchEvent:
        event = await self.next_event()
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
