"""The server's side of a connection: calls come in, answers go out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from revstore_http2.connection import Connection
from revstore_http2.events import Route
from revstore_http2.limits import Limits


class ServerConnection(Connection):
    """What a server makes for each connection that it accepts.

    ``route`` is asked for the meaning of a path, once for each distinct head; it must
    not raise. The settings are in the output from the beginning.
    """

    def __init__(
        self,
        route: Callable[[str], Route],
        limits: Limits | None = None,
        *,
        now: float,
    ) -> None:
        super().__init__(limits or Limits(), now)

    def reply(self, stream_id: int, message: bytes) -> None:
        """Answer a call with one message and OK: the whole of a unary answer.

        Raises: nothing.
        """
        raise NotImplementedError

    def send_head(
        self, stream_id: int, pairs: Iterable[tuple[str, str | bytes]] = ()
    ) -> None:
        """Send the response's head with metadata before the first message.

        Without it, ``send`` sends one without metadata. Raises: nothing.
        """
        raise NotImplementedError

    def finish(self, stream_id: int) -> None:
        """End a call with OK after what was sent. Raises: nothing."""
        raise NotImplementedError

    def fail(
        self,
        stream_id: int,
        code: int,
        text: str,
        details: bytes = b"",
        pairs: Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        """End a call with an error after what was sent. Raises: nothing."""
        raise NotImplementedError

    def respond(
        self,
        stream_id: int,
        status: int,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        """Answer an ``HttpRequest``; content-length is added. Raises: nothing."""
        raise NotImplementedError

    def drain(self, now: float) -> None:
        """Take no new calls, in two steps, so that none is lost on the way.

        ``Drained`` follows when all running ones are over. Raises: nothing.
        """
        raise NotImplementedError
