"""The client's side of a connection: calls go out, answers come in."""

from __future__ import annotations

from collections.abc import Iterable

from revstore_http2.connection import Connection
from revstore_http2.limits import Limits


class ClientConnection(Connection):
    """What a client makes for a connection it has opened.

    The preface and the settings are in the output from the beginning, and calls may be
    made at once.
    """

    def __init__(
        self,
        authority: str,
        limits: Limits | None = None,
        *,
        now: float,
        scheme: str = "http",
        user_agent: str = "grpc-python-revstore",
    ) -> None:
        super().__init__(limits or Limits(), now)

    @property
    def can_call(self) -> bool:
        """Whether another call may be made now (streams, GOAWAY). Raises: nothing."""
        raise NotImplementedError

    def call(
        self,
        path: str,
        message: bytes | None = None,
        *,
        timeout_s: float | None = None,
        pairs: Iterable[tuple[str, str | bytes]] = (),
    ) -> int:
        """Start a call; with a message, that is its only one.

        Without, ``send`` sends messages and ``half_close`` ends them. Returns the
        stream's number. The deadline is for the server: the shell keeps its own.

        Raises:
            Unavailable: ``can_call`` is False.
            UsageError: a name or value of the metadata cannot be sent.
        """
        raise NotImplementedError

    def half_close(self, stream_id: int) -> None:
        """Send no more messages in a call. Raises: nothing."""
        raise NotImplementedError
