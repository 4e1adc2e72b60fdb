"""The calling end of a question to a member, before any membership (P-15)."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from revstore.errors import TransportError
from revstore.interfaces.peers import PeerTls
from revstore.peer.asking import asking
from revstore.peer.lanes.wire import ASK_PATH
from revstore_grpcio.addresses import parse_url
from revstore_grpcio.peer_link import open_channel
from revstore_grpcio.peer_tls import Calling


async def ask(
    url: str, question: bytes, tls: PeerTls | None, timeout_s: float
) -> bytes:
    """See ``PeerTransport.ask``."""
    address = parse_url(url)
    try:
        async with asking(address, question, tls, timeout_s) as used:
            calling = None if used is None else Calling(used)
            channel = await open_channel(address, calling)
            try:
                call: Any = channel.unary_unary(ASK_PATH)
                return bytes(await call(question))
            finally:
                await channel.close()
    except grpc.aio.AioRpcError as error:
        raise TransportError(f"{url!r}: {error.details() or error.code()}") from error
