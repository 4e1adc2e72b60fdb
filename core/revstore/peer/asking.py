"""The calling end of a question to a member, before any membership (P-15)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from revstore.errors import TransportError
from revstore.interfaces.peers import QUESTION_BYTES_MAX, PeerTls
from revstore.net.addresses import Address


@asynccontextmanager
async def asking(
    address: Address, question: bytes, tls: PeerTls | None, timeout_s: float
) -> AsyncIterator[PeerTls | None]:
    """What is the same however a question travels: its bound, its time, its errors.

    Gives the certificates to call with, None if the address is plain.

    Raises:
        TransportError: the question cannot be asked, or what asked it failed.
    """
    url = address.url
    if len(question) > QUESTION_BYTES_MAX:
        raise TransportError(f"a question of {len(question)} bytes is too long")
    if address.tls and tls is None:
        raise TransportError(f"{url!r} is to be called by TLS: name certificates")
    try:
        async with asyncio.timeout(timeout_s):
            yield tls if address.tls else None
    except TimeoutError as error:
        raise TransportError(f"{url!r} did not answer in {timeout_s} s") from error
    except OSError as error:
        raise TransportError(f"{url!r} cannot be reached: {error}") from error
