"""The contract of a transport between the members of a cluster.

A transport moves opaque bytes: it knows members, lanes and streams, and nothing of
Raft. What it may lose, Raft sends again; what it must not do is change, double or
reorder, or let one kind of traffic hold up another.

P-01  Messages of one lane to one member arrive in the order of sending. Some may be
      lost; none arrives changed or twice, and none at another member than ``to``.
P-02  ``send`` never blocks and never raises for a peer's state. It answers whether the
      message was taken.
P-03  What waits for one lane of one member is bounded in messages and in bytes; a
      message beyond the bound is dropped, and so is one for a member that is unknown or
      cannot be reached. Other lanes and members do not notice.
P-04  Each loss that the sender can know of is followed by ``on_unreachable``: drops, and
      a connection that broke. Several losses may be reported by one call.
P-05  A lane never waits for another lane, however full that is: a stream or a lane
      whose reader stands still delays no message of ``CONTROL``.
P-06  A broken or refused connection is tried again after a pause that grows up to a
      bound, with jitter from the given random source. A peer that calls is called back
      at once.
P-07  Both sides check cluster id and member id before a message passes. A wrong one is
      refused with a log line on the refusing side and ``on_refused`` on the other.
P-08  ``admit`` decides about each member that connects; whoever it turns away hears
      the reason through ``on_refused``.
P-09  A stream's chunks arrive in order; ``write`` waits while the reader is behind by
      more than the bound. ``finish`` returns only after the reader accepted the whole.
P-10  A stream is delivered whole or fails on both ends: a reader that saw its end saw
      every byte that was written. A broken one is never continued; its sender starts
      another.
P-11  Members may be added, moved to other addresses and removed at any time. After
      ``remove_peer`` nothing more is sent to the member or taken from it, and its
      streams fail.
P-12  After ``close`` there are no callbacks, no tasks and no open sockets.
P-13  Bytes that are not the protocol end the connection they came on and nothing else.
P-14  All callbacks run on the event loop that ``join`` was called on; an exception from
      one is logged and disturbs nothing else.
P-15  ``ask`` needs no membership: whoever reaches the address (and, with TLS, shows a
      certificate that is let in) gets the answer of ``on_question``, which is all a
      member that wants to join can know before it knows the ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from enum import IntEnum
from random import Random

import msgspec

from revstore.errors import UsageError
from revstore.interfaces.transport import Transport


class Lane(IntEnum):
    """Kinds of traffic that must not wait for one another (P-05)."""

    CONTROL = 0
    """Votes, heartbeats, acknowledgements: small and urgent."""
    LOG = 1
    """Entries."""
    BULK = 2
    """Snapshots; streams run here."""


class LaneLimits(msgspec.Struct, frozen=True):
    """What may wait in one lane to one member (P-03)."""

    messages_max: int
    bytes_max: int


LANE_LIMITS: tuple[LaneLimits, LaneLimits, LaneLimits] = (
    LaneLimits(messages_max=4096, bytes_max=4 * 1024 * 1024),
    LaneLimits(messages_max=4096, bytes_max=64 * 1024 * 1024),
    LaneLimits(messages_max=64, bytes_max=64 * 1024 * 1024),
)
"""The bounds in use where none are given, by lane."""


class PeerTls(msgspec.Struct, frozen=True):
    """Certificates between members; each side proves itself to the other.

    ``allowed_names`` are common names or subject alternative names; with none given a
    certificate must be valid for the address of the member that shows it.
    """

    cert_file: str
    key_file: str
    trusted_ca_file: str
    allowed_names: Sequence[str] = ()


class PeerOptions(msgspec.Struct, frozen=True):
    """How a member takes part."""

    cluster_id: int
    member_id: int
    urls: Sequence[str]
    """Where to listen for other members; port 0 picks one."""
    random: Random
    """For the jitter of pauses; nothing else is random."""
    tls: PeerTls | None = None
    message_bytes_max: int = 512 * 1024 * 1024
    """Largest message or chunk taken from a peer; a larger one ends its connection."""
    limits: tuple[LaneLimits, LaneLimits, LaneLimits] = LANE_LIMITS
    stream_window_bytes: int = 1024 * 1024
    """How far a stream's writer may be ahead of its reader (P-09)."""
    retry_min_s: float = 0.05
    retry_max_s: float = 2.0
    """The pause between attempts doubles between these (P-06)."""
    connect_timeout_s: float = 5.0
    probe_interval_s: float = 1.0
    probe_timeout_s: float = 5.0
    """A connection that answers no probe for so long is given up."""


class PeerStats(msgspec.Struct, frozen=True):
    """What passed between this member and another, since ``set_peer``."""

    sent_messages: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    dropped_messages: int = 0
    send_failures: int = 0
    """Attempts to connect that failed, and connections that broke."""
    round_trip_s: float | None = None
    """Of the newest probe on the control lane; None before the first."""
    connected: bool = False
    """Whether the control lane to the member is open."""


class OutgoingStream(ABC):
    """The writing end of a stream; used by one task at a time."""

    @abstractmethod
    async def write(self, chunk: bytes) -> None:
        """Send a chunk, once the reader is close enough (P-09).

        Raises:
            TransportError: the stream is broken, refused or aborted.
        """

    @abstractmethod
    async def finish(self) -> bytes:
        """End the stream; returns what the reader accepted it with (P-10).

        Raises:
            TransportError: broken, or the reader refused; the message gives its reason.
        """

    @abstractmethod
    def abort(self) -> None:
        """Give up; the reader gets an error. After the end nothing. Raises: nothing."""


class IncomingStream(ABC):
    """The reading end of a stream; the handler answers with accept or refuse."""

    @property
    @abstractmethod
    def sender(self) -> int:
        """The member that opened the stream. Raises: nothing."""

    @property
    @abstractmethod
    def meta(self) -> bytes:
        """What the sender said about it. Raises: nothing."""

    @abstractmethod
    def chunks(self) -> AsyncIterator[bytes]:
        """The chunks in order; its end means that all came (P-10).

        Taking a chunk is what lets the sender go on (P-09).

        Raises:
            TransportError: the stream broke; what was read is to be thrown away.
        """

    @abstractmethod
    def accept(self, answer: bytes = b"") -> None:
        """All was read and is good; ``finish`` returns ``answer``.

        Raises:
            UsageError: the chunks were not read to the end.
        """

    @abstractmethod
    def refuse(self, reason: str) -> None:
        """Fail the stream at any time; the sender gets the reason. Raises: nothing."""


class PeerHandler:
    """What a member does with what comes; the defaults do nothing."""

    def on_message(self, sender: int, lane: Lane, payload: bytes) -> None:
        """A message from another member."""

    def on_stream(self, stream: IncomingStream) -> None:
        """A member opened a stream; start a task that reads it.

        A stream that is let go without an answer fails when its sender gives up.
        """

    def on_unreachable(self, member: int) -> None:
        """Messages to a member were lost (P-04)."""

    def on_refused(self, member: int, reason: str) -> None:
        """A member refused to talk to this one (P-07, P-08)."""

    def admit(self, member: int) -> str:
        """Why a member that connects is turned away; empty to let it in (P-08)."""
        return ""

    def on_question(self, question: bytes) -> bytes:
        """The answer to somebody who is no member yet, empty for none (P-15)."""
        return b""


class Peers(ABC):
    """The links of one member to all others."""

    @abstractmethod
    def addresses(self) -> Sequence[str]:
        """The URLs really listened on, ports filled in. Raises: nothing."""

    @abstractmethod
    def set_peer(self, member: int, urls: Sequence[str]) -> None:
        """Know a member, or its new addresses (P-11). Connects in the background.

        The same addresses again change nothing.

        Raises:
            ConfigError: no URL, or one of no known form; nothing was changed.
        """

    @abstractmethod
    def remove_peer(self, member: int) -> None:
        """Forget a member (P-11); one that is not known is none. Raises: nothing."""

    @abstractmethod
    def send(self, to: int, lane: Lane, payload: bytes) -> bool:
        """Queue a message; False if it was dropped (P-02, P-03). Raises: nothing."""

    @abstractmethod
    async def open_stream(self, to: int, meta: bytes) -> OutgoingStream:
        """Start a stream on the bulk lane.

        Raises:
            TransportError: the member is unknown or cannot be reached now.
        """

    @abstractmethod
    def stats(self, member: int) -> PeerStats:
        """Figures about a member, all zero for one not known. Raises: nothing."""

    @abstractmethod
    async def close(self) -> None:
        """Break all links and stop listening (P-12). Raises: nothing."""


class PeerTransport(Transport):
    """A transport whose ``capabilities.peers`` is True."""

    @abstractmethod
    async def join(self, options: PeerOptions, handler: PeerHandler) -> Peers:
        """Listen for other members, and be ready to call them.

        Raises:
            ConfigError: an address or a certificate cannot be used; the message names it.
        """

    @abstractmethod
    async def ask(
        self, url: str, question: bytes, tls: PeerTls | None, timeout_s: float
    ) -> bytes:
        """Ask the member that listens at an address (P-15); ``join`` is not needed.

        Raises:
            ConfigError: the URL has no known form, or a certificate cannot be used.
            TransportError: nobody answered in time, or what answered is no member.
        """


REMOVED = "the member was removed from the cluster"
"""What a member hears through ``on_refused`` after ``remove_peer`` (P-11)."""

QUESTION_BYTES_MAX = 16 * 1024
"""Longest question, and longest answer."""


def peer_transport(name: str, transport: Transport) -> PeerTransport:
    """A configured transport in its role between members.

    Raises:
        UsageError: it has no such role.
    """
    if transport.capabilities.peers and isinstance(transport, PeerTransport):
        return transport
    raise UsageError(f"the transport {name!r} does not connect members; choose another")
