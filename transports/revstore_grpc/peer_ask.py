"""The calling end of a question to a member, before any membership (P-15)."""

from __future__ import annotations

from revstore.errors import ApiError, TransportError
from revstore.interfaces.peers import PeerTls
from revstore.net.dial import check_names
from revstore.net.tls import peer_contexts
from revstore.peer.asking import asking
from revstore.peer.lanes.wire import ASK_PATH
from revstore_grpc.addresses import parse_url
from revstore_grpc.client import ClientLink, connect_link
from revstore_grpc.peer_link import PEER_LIMITS


async def ask(
    url: str, question: bytes, tls: PeerTls | None, timeout_s: float
) -> bytes:
    """See ``PeerTransport.ask``."""
    address = parse_url(url)
    link: ClientLink | None = None
    try:
        async with asking(address, question, tls, timeout_s) as used:
            context = None
            if used is not None:
                context = peer_contexts(used)[1]
                context.set_alpn_protocols(["h2"])
            link = await connect_link(address, PEER_LIMITS, context)
            check_names(link.transport, address, used)
            return await link.call(ASK_PATH, question)
    except ApiError as error:
        raise TransportError(f"{url!r}: {error.message}") from error
    finally:
        if link is not None:
            link.connection.close()
            link.close()
            await link.wait_closed()
