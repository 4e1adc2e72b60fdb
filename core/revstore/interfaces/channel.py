"""The contract of the client's side of a transport.

A channel makes calls of the service table at one server: serialized messages in and
out, errors as ``ApiError`` with the server's code and text. It repeats nothing and
chooses nothing; that is the work of ``revstore.client``.

H-01  A call that fails with ``NotSent`` never left this process: whoever made it may
      make it again, anywhere. Any other failure leaves open whether it was done.
H-02  A call is sent at most once.
H-03  A channel connects when it must, and anew after its connection broke.
H-04  The messages of a stream arrive in order, none lost, none twice; a stream never
      goes on over another connection.
H-05  A cancelled call or stream tells the server so and holds nothing any more.
H-06  After ``close`` every call and stream has failed and no socket is open.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from revstore.closing import AsyncClosing
from revstore.errors import ApiError

UNAVAILABLE = 14
NO_METADATA: Mapping[str, str] = MappingProxyType({})


class NotSent(ApiError):  # noqa: N818 - says what happened to the call
    """The call failed before any of it was sent (H-01); UNAVAILABLE as an answer."""

    def __init__(self, message: str) -> None:
        super().__init__(UNAVAILABLE, message)

    def fresh(self) -> NotSent:
        """A copy to raise."""
        return NotSent(self.message)

    def __reduce__(self) -> tuple[type[NotSent], tuple[str]]:  # type: ignore[override]  # one argument less
        return type(self), (self.message,)


class ChannelTls(msgspec.Struct, frozen=True):
    """How a client proves itself and whom it trusts; all files are PEM."""

    trusted_ca_file: str = ""
    """Who signs the servers' certificates; without it those the system trusts."""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    """Name the certificate must have, if not that of the URL."""
    insecure_skip_verify: bool = False
    """Take any certificate; encrypts, but does not tell who answers."""


class ChannelOptions(msgspec.Struct, frozen=True):
    """What a channel is opened with."""

    tls: ChannelTls | None = None
    """For a URL with TLS; None means ``ChannelTls()``."""
    connect_timeout_s: float = 5.0
    keepalive_s: float = 0.0
    """Probe a silent connection so often; 0 means never."""
    keepalive_timeout_s: float = 5.0
    """A connection that answers no probe for so long is given up."""


class ChannelStream(ABC):
    """The client's end of a streaming call; one task reads, one writes."""

    @abstractmethod
    async def send(self, message: bytes) -> None:
        """Send one message, once there is room. Raises: ApiError: the stream failed."""

    @abstractmethod
    async def half_close(self) -> None:
        """Say that no more will come. Raises: nothing."""

    @abstractmethod
    async def receive(self) -> bytes | None:
        """The next message, None at the end. Raises: ApiError: the stream failed."""

    @abstractmethod
    async def cancel(self) -> None:
        """Give up (H-05); twice is allowed. Raises: nothing."""


class Channel(AsyncClosing):
    """Calls to one server; an async context manager, for one event loop."""

    @abstractmethod
    async def connect(self) -> None:
        """Connect if there is no connection. Raises: NotSent."""

    @abstractmethod
    async def unary(
        self,
        path: str,
        message: bytes,
        metadata: Mapping[str, str] = NO_METADATA,
        timeout_s: float | None = None,
    ) -> bytes:
        """The answer to a call; ``timeout_s`` counts from here, connecting included.

        Raises:
            NotSent: there is no connection to be had.
            ApiError: the server's refusal, or UNAVAILABLE, DEADLINE_EXCEEDED.
        """

    @abstractmethod
    async def server_stream(
        self, path: str, message: bytes, metadata: Mapping[str, str] = NO_METADATA
    ) -> ChannelStream:
        """Open a stream of answers to one message. Raises: NotSent: no connection."""

    @abstractmethod
    async def bidi_stream(
        self, path: str, metadata: Mapping[str, str] = NO_METADATA
    ) -> ChannelStream:
        """Open a stream both ways. Raises: NotSent: no connection."""

    @abstractmethod
    async def close(self) -> None:
        """End all calls and the connection (H-06); twice is allowed. Raises: nothing."""
