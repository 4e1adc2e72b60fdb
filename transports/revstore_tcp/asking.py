"""The calling end of a question to a member, before any membership (P-15)."""

from __future__ import annotations

import asyncio

from revstore.errors import TransportError
from revstore.interfaces.peers import PeerTls
from revstore.net.dial import check_names, dial
from revstore.net.tls import peer_contexts
from revstore.peer.asking import asking
from revstore_tcp.addresses import parse_url
from revstore_tcp.framing import MAGIC, ProtocolError, RecordType, frame, record
from revstore_tcp.link import Link
from revstore_tcp.messages import read_goaway


class AskingLink(Link):
    """A connection for one question."""

    def __init__(self, loop: asyncio.AbstractEventLoop, question: bytes) -> None:
        super().__init__(loop, greeting=False)
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self._question = question
        self._refusal = ""

    def made(self) -> None:
        assert self.transport is not None
        asked = frame(record(RecordType.QUESTION, 0, self._question))
        self.transport.write(MAGIC + asked)

    def handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == RecordType.GOAWAY:
            self._refusal = read_goaway(payload)[1]
            self.abort()
        elif kind != RecordType.ANSWER:
            raise ProtocolError("the answer to a question is of another type")
        elif not self.answer.done():
            self.answer.set_result(payload)

    def lost(self, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(TransportError(self._refusal or reason))
            # The asking side may have given up already.
            self.answer.exception()


async def ask(
    url: str, question: bytes, tls: PeerTls | None, timeout_s: float
) -> bytes:
    """See ``PeerTransport.ask``."""
    address = parse_url(url)
    link = AskingLink(asyncio.get_running_loop(), question)
    try:
        async with asking(address, question, tls, timeout_s) as used:
            context = None if used is None else peer_contexts(used)[1]
            await dial(address, lambda: link, context)
            check_names(link.transport, address, used)
            return await link.answer
    finally:
        link.abort()
