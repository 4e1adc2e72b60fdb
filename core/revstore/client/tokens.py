"""The token of a user, fetched once for all calls that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from revstore.api import errors
from revstore.errors import ApiError


class Tokens:
    """``token`` is what calls carry now; empty where the cluster asks for none."""

    def __init__(self, fetch: Callable[[], Awaitable[str]] | None) -> None:
        self._fetch = fetch
        self._lock = asyncio.Lock()
        self._fetched = fetch is None
        self.token = ""

    @property
    def password(self) -> bool:
        """Whether a token can be fetched."""
        return self._fetch is not None

    @property
    def missing(self) -> bool:
        """Whether the first token is still to be fetched."""
        return not self._fetched

    async def ensure(self) -> None:
        """Fetch the first token. Raises: ApiError: the user was refused."""
        if not self._fetched:
            await self.renew("")

    async def renew(self, stale: str) -> None:
        """Replace a token that was refused; one call does it for all.

        Raises:
            ApiError: the user was refused.
        """
        if self._fetch is None:
            return
        async with self._lock:
            if self._fetched and self.token != stale:
                return
            try:
                self.token = await self._fetch()
            except ApiError as error:
                if error != errors.AUTH_NOT_ENABLED:
                    raise
                self.token = ""
            self._fetched = True
