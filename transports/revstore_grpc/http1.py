"""HTTP/1.1 on a connection that turned out to speak it.

Rules of this file:

1. One request at a time is answered; what was sent ahead waits, within the bounds.
2. Anything that is not understood ends the connection with an answer that says why: a
   request that two parties could read differently must not be read at all (RFC 9112,
   section 11.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

from revstore_grpc.http import TEXT, HttpRoutes
from revstore_grpc.limits import HTTP_BODY_BYTES_MAX, HTTP_HEAD_BYTES_MAX, HTTP_IDLE_S

_HEAD_END = b"\r\n\r\n"


class _RefusalError(Exception):
    """The request is answered with an error, and nothing more is read."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Http1:
    """The HTTP/1.1 side of one connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        routes: HttpRoutes,
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._routes = routes
        self._buffer = b""
        self._busy = False
        self._over = False
        self._last = False
        """Whether the connection closes behind the answer."""
        self._bodiless = False
        self._timer = loop.call_later(HTTP_IDLE_S, self._idle)

    def receive(self, data: bytes) -> None:
        """Take what arrived. Raises: nothing."""
        if self._over:
            return
        self._buffer += data
        if not self._busy:
            self._next()
        elif len(self._buffer) > HTTP_HEAD_BYTES_MAX + HTTP_BODY_BYTES_MAX:
            self._end()

    def lost(self) -> None:
        """The connection is gone. Raises: nothing."""
        self._over = True
        self._timer.cancel()

    def _next(self) -> None:
        """Serve the next request, if it is whole."""
        try:
            request = self._take()
        except _RefusalError as refusal:
            self._last = True
            self._write(refusal.status, TEXT, refusal.text.encode())
            return
        if request is None:
            return
        self._busy = True
        self._timer.cancel()
        method, target, headers, body = request
        self._routes.serve(method, target, headers, body, self._answer)

    def _take(self) -> tuple[str, str, dict[str, str], bytes] | None:
        head, mark, rest = self._buffer.partition(_HEAD_END)
        if len(head) > HTTP_HEAD_BYTES_MAX:
            raise _RefusalError(431, "the head of the request is too long\n")
        if not mark:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise _RefusalError(400, "this port speaks gRPC, HTTP/2 and HTTP/1.1\n")
        headers = _headers(lines)
        if "transfer-encoding" in headers:
            raise _RefusalError(411, "send the length of the body\n")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise _RefusalError(400, "the length of the body is not a number\n")
        if len(length) > 10 or int(length) > HTTP_BODY_BYTES_MAX:
            raise _RefusalError(413, "the body of the request is too long\n")
        if len(rest) < int(length):
            return None
        body, self._buffer = rest[: int(length)], rest[int(length) :]
        wish = headers.get("connection", "").lower()
        self._last = "close" in wish or (
            words[2] == "HTTP/1.0" and "keep-alive" not in wish
        )
        self._bodiless = words[0] == "HEAD"
        return words[0], words[1], headers, body

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        if self._over:
            return
        self._write(status, headers, body)
        self._busy = False
        if not self._last:
            self._timer.cancel()
            self._timer = self._loop.call_later(HTTP_IDLE_S, self._idle)
            # In another turn: answers to requests sent ahead must not nest.
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._busy and not self._over:
            self._next()

    def _write(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"content-length: {len(body)}")
        if self._last:
            lines.append("connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self._transport.write(head if self._bodiless else head + body)
        if self._last:
            self._end()

    def _idle(self) -> None:
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._timer.cancel()
            self._transport.close()


def _headers(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise _RefusalError(400, "a header of the request is malformed\n")
        name = name.lower()
        if name == "content-length" and found.get(name, value.strip()) != value.strip():
            raise _RefusalError(400, "the length of the body is given twice\n")
        found.setdefault(name, value.strip())
    return found
