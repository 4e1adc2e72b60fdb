"""The contract of a transport that serves clients.

The API layer hands a transport one ``ServiceTable``; the same table runs over gRPC,
over TCP and in-process. A unary call is a plain function call: bytes in, one answer
through the call object, nothing awaited and no task made.

T-01  Each unary call gets exactly one ``reply`` or ``fail``; the first one wins and
      later ones are ignored.
T-02  Messages of a stream arrive in order, one at a time; none arrive after
      ``on_cancel``.
T-03  ``send`` never blocks; ``writable`` is False while more than the transport's
      bound waits, and ``on_writable`` runs when there is room again.
T-04  After ``finish`` or ``fail`` the stream is over: later sends are ignored.
T-05  An exception from a handler ends that call with INTERNAL and is logged; other calls go on.
T-06  All callbacks run on the event loop that ``serve`` was called on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

import msgspec

from revstore.errors import ApiError, ConfigError
from revstore.interfaces.channel import Channel, ChannelOptions


class Call(ABC):
    """One call of a client, as a service sees it."""

    __slots__ = ()

    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """Request metadata, names in lower case. Raises: nothing.

        Where the certificate of the client was verified, its common name is under
        ``:client-common-name``; a client can send no name with a colon in front.
        """

    @abstractmethod
    def peer(self) -> str:
        """Address of the client, for logs. Raises: nothing."""

    @abstractmethod
    def reply(self, message: bytes) -> None:
        """Answer the call with a serialized message (T-01). Raises: nothing."""

    @abstractmethod
    def fail(self, error: ApiError) -> None:
        """End the call with an error (T-01, T-04). Raises: nothing."""

    @abstractmethod
    def cancelled(self) -> bool:
        """Whether the client gave up or its deadline passed. Raises: nothing."""


class Stream(Call):
    """A streaming call: any number of messages out (``reply`` is not used)."""

    __slots__ = ()

    @abstractmethod
    def send(self, message: bytes) -> None:
        """Queue one message (T-03, T-04). Raises: nothing."""

    @abstractmethod
    def writable(self) -> bool:
        """Whether more may be sent without growing the queue. Raises: nothing."""

    @abstractmethod
    def finish(self) -> None:
        """End the stream with OK after what was sent. Raises: nothing."""


class StreamHandler:
    """What a service does with a stream's input; the defaults do nothing."""

    def on_message(self, message: bytes) -> None:
        """One message from the client."""

    def on_half_close(self) -> None:
        """The client will send no more."""

    def on_cancel(self) -> None:
        """The stream is over: client gone, deadline passed or server stopping."""

    def on_writable(self) -> None:
        """There is room again after ``writable`` was False."""


UnaryFunction = Callable[[Call, bytes], None]
StreamFunction = Callable[[Stream], StreamHandler]


class MethodKind(StrEnum):
    """How many messages go each way."""

    UNARY = "unary"
    SERVER_STREAM = "server-stream"
    """The request arrives as the first and only ``on_message``."""
    BIDI_STREAM = "bidi-stream"


class Method(msgspec.Struct, frozen=True):
    """One entry of the service table."""

    path: str
    """``/package.Service/Method``."""
    kind: MethodKind
    unary: UnaryFunction | None = None
    stream: StreamFunction | None = None


ServiceTable = Mapping[str, Method]
"""Methods by path."""


class TransportCapabilities(msgspec.Struct, frozen=True):
    """What a transport can do."""

    clients: bool = False
    peers: bool = False
    tls: bool = False
    channel_schemes: Sequence[str] = ()
    """Schemes of the URLs that ``open_channel`` can call."""
    groups_calls: bool = False
    """Calls that arrive together reach their services in one turn of the event loop.

    So a call that comes alone has no other behind it, and the member may block the loop
    for the sync of its log, which is cheaper than a change of threads. Where it is not
    so, the member sleeps while a crowd's calls gather."""


class TlsOptions(msgspec.Struct, frozen=True):
    """Files of a TLS listener, PEM."""

    cert_file: str
    key_file: str
    trusted_ca_file: str = ""
    client_cert_auth: bool = False


class ServeOptions(msgspec.Struct, frozen=True):
    """How clients are served."""

    urls: Sequence[str]
    """``http://host:port``, ``https://host:port`` or ``unix:///path``; port 0 picks one."""
    request_bytes_max: int = 1_572_864 + 524_288
    """Largest message taken; larger: RESOURCE_EXHAUSTED in gRPC's own words."""
    concurrent_streams_max: int = 0
    """Per connection; 0 means no bound."""
    keepalive_min_time_s: float = 5.0
    keepalive_interval_s: float = 7200.0
    keepalive_timeout_s: float = 20.0
    tls: TlsOptions | None = None


class ClientServer(ABC):
    """A running listener for clients."""

    @abstractmethod
    def addresses(self) -> Sequence[str]:
        """The URLs really listened on, ports filled in. Raises: nothing."""

    @abstractmethod
    async def drain(self, grace_s: float) -> None:
        """Take no new calls, let running ones end within ``grace_s``, then close.

        Streams get ``on_cancel``. Raises: nothing.
        """


class Transport(ABC):
    """A way for bytes to reach a member."""

    capabilities: TransportCapabilities

    @abstractmethod
    async def serve_clients(
        self, table: ServiceTable, options: ServeOptions
    ) -> ClientServer:
        """Listen and serve the table.

        Raises:
            ConfigError: an address or a certificate cannot be used; the message names it.
        """

    def open_channel(self, url: str, options: ChannelOptions) -> Channel:
        """A channel to a server of this transport; it connects when it is used.

        Raises:
            ConfigError: the URL or a TLS file cannot be used, or the transport has no
                client's side.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot call servers; choose a transport that can "
            f"for {url}"
        )
