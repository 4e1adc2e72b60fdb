"""The state of one stream that is not over.

A unary call that arrives whole has none until its answer has to wait; see
``ServerConnection``.
"""

from __future__ import annotations

from collections import deque
from typing import Any

EMPTY: deque[bytes] = deque()
"""Stands for a queue as long as nothing waits, for most streams never need one.

Invariant: nothing is ever put into it.
"""


class Stream:
    """Both directions of one call."""

    __slots__ = (
        "attached",
        "body",
        "compressed",
        "congested",
        "credit",
        "ended_here",
        "ended_there",
        "ending",
        "given",
        "head_sent",
        "held",
        "left",
        "message",
        "need",
        "on_hold",
        "queue",
        "queued",
        "ready",
        "reserved",
        "send_window",
        "sent",
        "single",
        "stream_id",
        "timeout_s",
        "wanted",
    )

    def __init__(self, stream_id: int, send_window: int, credit: int) -> None:
        self.stream_id = stream_id
        self.attached: Any = None
        """What the role knows of the call: its ``KnownHead``, or the response's."""
        self.timeout_s: float | None = None
        self.given = False
        """Whether the shell was told of the call and not yet of its end."""

        # What comes in.
        self.single = False
        """Whether exactly one message may come; it waits in ``message`` for the end."""
        self.compressed = False
        self.body = bytearray()
        """The beginning of an unfinished message, with its prefix, or of a plain body."""
        self.need = 0
        """Length of that message with its prefix; 0 while the prefix is not there."""
        self.message: bytes | None = None
        self.credit = credit
        """What the other side may still send. Invariant: never below 0."""
        self.reserved = 0
        """Credit that was given for the unfinished message beyond the window."""
        self.wanted = 0
        """The same while it waits to be given."""
        self.left: int | None = None
        """Bytes that content-length still promises."""
        self.on_hold = False
        self.held = EMPTY
        self.ended_there = False
        """The other side has ended its direction."""

        # What goes out.
        self.send_window = send_window
        """Below 0 after the other side has made its windows smaller."""
        self.queue = EMPTY
        """Bytes of DATA that wait, in order. Invariant: no empty ones."""
        self.sent = 0
        """How much of the first of them has left."""
        self.queued = 0
        """What has not left of all of them."""
        self.ready = False
        """Whether the stream is in the sender's turn."""
        self.congested = False
        self.head_sent = False
        self.ending: Any = None
        """How this direction ends when the queue is empty; None while it is open."""
        self.ended_here = False
