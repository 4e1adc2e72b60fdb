"""The calling end of a question to a member, before any membership (P-15)."""

from __future__ import annotations

import asyncio

from revstore.errors import ApiError, TransportError
from revstore.interfaces.peers import QUESTION_BYTES_MAX, PeerTls
from revstore.net.dial import check_names
from revstore.net.tls import peer_contexts
from revstore.peer.lanes.wire import ASK_PATH
from revstore_grpc.addresses import parse_url
from revstore_grpc.client import ClientLink, connect_link
from revstore_grpc.peer_link import PEER_LIMITS


async def ask(
    url: str, question: bytes, tls: PeerTls | None, timeout_s: float
) -> bytes:
    """See ``PeerTransport.ask``."""
    if len(question) > QUESTION_BYTES_MAX:
        raise TransportError(f"a question of {len(question)} bytes is too long")
    address = parse_url(url)
    context = None
    if address.tls:
        if tls is None:
            raise TransportError(f"{url!r} is to be called by TLS: name certificates")
        context = peer_contexts(tls)[1]
        context.set_alpn_protocols(["h2"])
    link: ClientLink | None = None
    try:
        async with asyncio.timeout(timeout_s):
            link = await connect_link(address, PEER_LIMITS, context)
            check_names(link.transport, address, tls)
            return await link.call(ASK_PATH, question)
    except TimeoutError as error:
        raise TransportError(f"{url!r} did not answer in {timeout_s} s") from error
    except OSError as error:
        raise TransportError(f"{url!r} cannot be reached: {error}") from error
    except ApiError as error:
        raise TransportError(f"{url!r}: {error.message}") from error
    finally:
        if link is not None:
            link.connection.close()
            link.close()
            await link.wait_closed()
