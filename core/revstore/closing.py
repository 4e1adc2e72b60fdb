"""What a ``with`` block closes at its end."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A context manager that is closed at the end."""

    def close(self) -> None:
        """Close it; see the class."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClosing:
    """An asynchronous context manager that is closed at the end."""

    async def close(self) -> None:
        """Close it; see the class."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.close()
