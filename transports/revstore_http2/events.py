"""What a connection tells its shell.

Events come in the order in which they happened, as lists: from ``receive``, and from
every other command that can cause some. They are values; nothing changes them later.

Rules of a stream's events:

1. A server's call whose method takes one message (``Route.single``) gives exactly one
   ``Request``, when the message is whole and the client has ended its side; a call that
   breaks off before gives nothing at all.
2. Any other call gives ``StreamStarted``, then ``MessageReceived`` for each message,
   then at most one ``HalfClosed``.
3. A call that was given ends with an answer of the shell or with one ``Cancelled``, not
   both; after either nothing more is said of it.
4. A client's call gives ``ResponseStarted`` (if there is more than an end), messages,
   and exactly one ``CallEnded``; after ``reset`` by its own shell, nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from revstore_http2.codes import ErrorCode

Pairs = tuple[tuple[str, str | bytes], ...]
"""Metadata in order; the values of names that end in ``-bin`` are bytes."""


class Route(msgspec.Struct, frozen=True, eq=False):
    """What the shell knows of a path, asked for once per distinct request head."""

    target: Any = None
    """For the shell alone."""
    single: bool = False
    """Whether the client sends exactly one message."""
    refusal: tuple[int, str] | None = None
    """Status and text that every call of this path is answered with, without an event."""


class RequestHead(msgspec.Struct, frozen=True, eq=False):
    """What the header block of a request says. One object for all calls that say it."""

    path: str
    route: Route
    metadata: Mapping[str, str]
    """Text metadata under lower-case names; of a repeated name the first counts. What
    HTTP and gRPC themselves use (content-type, te, grpc-...) is not in it."""
    pairs: Pairs
    """All metadata, repeated and binary ones as well."""
    authority: str
    user_agent: str
    compressed: bool
    """Whether messages may come compressed by gzip."""


class Request(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A whole call with its one message (rule 1)."""

    stream_id: int
    head: RequestHead
    timeout_s: float | None
    """How long the client waits, from the arrival of the head; None for ever."""
    message: bytes


class StreamStarted(msgspec.Struct, frozen=True, eq=False):
    """A call with any number of messages begins (rule 2)."""

    stream_id: int
    head: RequestHead
    timeout_s: float | None


class MessageReceived(msgspec.Struct, frozen=True, eq=False):
    """A message of a stream, decompressed."""

    stream_id: int
    message: bytes


class HalfClosed(msgspec.Struct, frozen=True, eq=False):
    """The client sends no more messages of this call."""

    stream_id: int


class Cancelled(msgspec.Struct, frozen=True, eq=False):
    """A call is over that the shell has not ended: nothing it sends arrives any more."""

    stream_id: int
    code: ErrorCode | int
    reason: str


class Writable(msgspec.Struct, frozen=True, eq=False):
    """A stream that had more than ``Limits.stream_high_bytes`` waiting is below
    ``Limits.stream_low_bytes`` again."""

    stream_id: int


class HttpRequest(msgspec.Struct, frozen=True, eq=False):
    """A whole request over HTTP/2 that is not gRPC (``Limits.plain_http``)."""

    stream_id: int
    method: str
    path: str
    authority: str
    headers: Mapping[str, str]
    body: bytes


class ResponseStarted(msgspec.Struct, frozen=True, eq=False):
    """A client's call is being answered; this is the metadata that comes first."""

    stream_id: int
    pairs: Pairs


class CallEnded(msgspec.Struct, frozen=True, eq=False):
    """A client's call is over."""

    stream_id: int
    code: int
    """gRPC status; that of a broken connection or stream is given by the machine."""
    text: str
    details: bytes = b""
    """``grpc-status-details-bin``."""
    pairs: Pairs = ()
    unprocessed: bool = False
    """Whether the server surely did nothing: the call may be made again at once."""


class CallsAllowed(msgspec.Struct, frozen=True, eq=False):
    """``can_call`` of a client's connection turned true again."""


class GoingAway(msgspec.Struct, frozen=True, eq=False):
    """The other side will take no new calls (GOAWAY); running ones go on."""

    last_stream_id: int
    code: ErrorCode | int
    reason: str


class PingAnswered(msgspec.Struct, frozen=True, eq=False):
    """A ping of the shell (``ping``) came back."""

    payload: bytes


class OtherProtocol(msgspec.Struct, frozen=True, eq=False):
    """What arrived first is not HTTP/2; the machine takes no more input."""

    data: bytes
    """All of what arrived."""


class StreamRefused(msgspec.Struct, frozen=True, eq=False):
    """For the log: the machine ended one stream for what the other side did."""

    stream_id: int
    code: ErrorCode
    reason: str


class ConnectionFailed(msgspec.Struct, frozen=True, eq=False):
    """The connection is over: send the output, then close it.

    ``Cancelled`` or ``CallEnded`` of all open calls came before.
    """

    code: ErrorCode | int
    reason: str
    hostile: bool = False
    """Whether a bound against abuse was crossed."""


class Drained(msgspec.Struct, frozen=True, eq=False):
    """After ``drain``: the last call has ended; send the output, then close."""


Event = (
    Request
    | StreamStarted
    | MessageReceived
    | HalfClosed
    | Cancelled
    | Writable
    | HttpRequest
    | ResponseStarted
    | CallEnded
    | CallsAllowed
    | GoingAway
    | PingAnswered
    | OtherProtocol
    | StreamRefused
    | ConnectionFailed
    | Drained
)
