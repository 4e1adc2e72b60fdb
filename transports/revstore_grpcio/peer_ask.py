"""The calling end of a question to a member, before any membership (P-15)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from revstore.errors import TransportError
from revstore.interfaces.peers import QUESTION_BYTES_MAX, PeerTls
from revstore.peer.lanes.wire import ASK_PATH
from revstore_grpcio.addresses import parse_url
from revstore_grpcio.peer_link import open_channel
from revstore_grpcio.peer_tls import Calling


async def ask(
    url: str, question: bytes, tls: PeerTls | None, timeout_s: float
) -> bytes:
    """See ``PeerTransport.ask``."""
    if len(question) > QUESTION_BYTES_MAX:
        raise TransportError(f"a question of {len(question)} bytes is too long")
    address = parse_url(url)
    calling = None
    if address.tls:
        if tls is None:
            raise TransportError(f"{url!r} is to be called by TLS: name certificates")
        calling = Calling(tls)
    try:
        async with asyncio.timeout(timeout_s):
            channel = await open_channel(address, calling)
            try:
                call: Any = channel.unary_unary(ASK_PATH)
                return bytes(await call(question))
            finally:
                await channel.close()
    except TimeoutError as error:
        raise TransportError(f"{url!r} did not answer in {timeout_s} s") from error
    except OSError as error:
        raise TransportError(f"{url!r} cannot be reached: {error}") from error
    except grpc.aio.AioRpcError as error:
        raise TransportError(f"{url!r}: {error.details() or error.code()}") from error
