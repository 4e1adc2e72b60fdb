"""The calling end of a question to a member, before any membership (P-15)."""

from __future__ import annotations

import asyncio

from revstore.errors import TransportError
from revstore.interfaces.peers import QUESTION_BYTES_MAX, PeerTls
from revstore.net.dial import check_names, dial
from revstore.net.tls import peer_contexts
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
    if len(question) > QUESTION_BYTES_MAX:
        raise TransportError(f"a question of {len(question)} bytes is too long")
    address = parse_url(url)
    context = None
    if address.tls:
        if tls is None:
            raise TransportError(f"{url!r} is to be called by TLS: name certificates")
        context = peer_contexts(tls)[1]
    link = AskingLink(asyncio.get_running_loop(), question)
    try:
        async with asyncio.timeout(timeout_s):
            await dial(address, lambda: link, context)
            check_names(link.transport, address, tls)
            return await link.answer
    except TimeoutError as error:
        raise TransportError(f"{url!r} did not answer in {timeout_s} s") from error
    except OSError as error:
        raise TransportError(f"{url!r} cannot be reached: {error}") from error
    finally:
        link.abort()
