"""A call that another member made and that was let in: a lane, or a stream of one.

Rule of this file: a call ends once, and takes along the streams that hang on it; the
first reason counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from revstore import logs
from revstore.api.errors import Code
from revstore.peer.lanes.wire import Hello, ProtocolError

if TYPE_CHECKING:
    from revstore.peer.lanes.content import Content
    from revstore.peer.lanes.owner import LanePeers

_log = logs.get(__name__)

GONE = "aborted by its sender, or the connection is lost"
"""Why a call is over that its caller, or nobody, has ended."""

Refusal = tuple[Code, str]
"""What a call is ended with."""


class LaneArrival(ABC):
    """See above; a transport adds how the call is written to and ended."""

    def __init__(self, owner: LanePeers, hello: Hello, caller: str) -> None:
        self.sender = hello.sender
        self.lane = hello.lane
        self.link = hello.link
        self.streams: set[LaneArrival] = set()
        """Of a lane: the streams that live and end with it."""
        self.content: Content | None = None
        self.end_with: Refusal | None = None
        """What the call ends with. Invariant: once set, nothing more is taken."""
        self._owner = owner
        self._caller = caller

    # For the transport.

    @abstractmethod
    def wake(self) -> None:
        """There is something to write (``Content.next_frame``). Raises: nothing."""

    @abstractmethod
    def _end_call(self, code: Code, reason: str) -> None:
        """End the call, behind what waits to be written. Raises: nothing."""

    def break_off(self, error: ProtocolError) -> None:
        """The caller broke the protocol (P-13). Raises: nothing."""
        if self.end_with is None:
            log_ended(self._caller, str(error))
            self.end(Code.INVALID_ARGUMENT, str(error))

    # For the owner and the content.

    def end(self, code: Code, reason: str) -> None:
        """End the call soon; the first reason counts. Raises: nothing."""
        if self.end_with is not None:
            return
        self.end_with = (code, reason)
        self._owner.departed(self)
        if self.content is not None:
            self.content.lost(reason)
        for stream in tuple(self.streams):
            stream.end(code, reason)
        self._end_call(code, reason)


def log_ended(caller: str, reason: str) -> None:
    """One line about a caller that broke the protocol (P-13). Raises: nothing."""
    _log.warn("connection ended", peer=caller, reason=reason)
