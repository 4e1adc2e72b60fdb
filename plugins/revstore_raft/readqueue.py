"""Reads that wait for a leader's confirmation, counted in rounds of heartbeats.

Rules of this file:

1. Each broadcast of heartbeats is a round with the next number. A read waits for the
   first round that begins after it arrived; an answer to a round confirms all before.
2. A follower's answer names the round and the leader's tick at which it began; so the
   leader knows of each follower a moment at which that still followed it.
3. Rounds belong to one leader in one term; the queue is made anew with each role.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

import msgspec

from revstore.interfaces.consensus import Message

_CONTEXT = struct.Struct(">QQ")


class WaitingRead(msgspec.Struct, frozen=True):
    """A read and the commit index when it arrived."""

    round: int
    index: int
    request: Message


class ReadQueue:
    """Rounds, answers and reads of one leader in one term."""

    __slots__ = ("_acked_round", "_acked_tick", "_round", "postponed", "waiting")

    def __init__(self) -> None:
        self._round = 0
        self._acked_round: dict[int, int] = {}
        self._acked_tick: dict[int, int] = {}
        self.waiting: deque[WaitingRead] = deque()
        self.postponed: list[Message] = []
        """Reads that came before an entry of the term was committed."""

    def size(self) -> int:
        """How many reads wait, for either reason."""
        return len(self.waiting) + len(self.postponed)

    def next_round(self, tick: int) -> bytes:
        """Begin a round; returns the context of its heartbeats."""
        self._round += 1
        return _CONTEXT.pack(self._round, tick)

    def add(self, index: int, request: Message) -> None:
        """A read waits for the next round."""
        self.waiting.append(WaitingRead(self._round + 1, index, request))

    def acknowledge(self, member: int, context: bytes) -> bool:
        """A follower answered a round; whether that was one of ours."""
        if len(context) != _CONTEXT.size:
            return False
        number, tick = _CONTEXT.unpack(context)
        if number > self._round:
            return False
        if number > self._acked_round.get(member, 0):
            self._acked_round[member] = number
            self._acked_tick[member] = tick
        return True

    def answered(self, round: int) -> list[int]:
        """Followers that answered this round, or a later one."""
        return [member for member, done in self._acked_round.items() if done >= round]

    def heard_since(self, tick: int) -> list[int]:
        """Followers that answered a round that began at this tick or later."""
        return [member for member, at in self._acked_tick.items() if at >= tick]

    def take(self, round: int) -> Iterator[WaitingRead]:
        """Remove and give the reads that waited for this round or an earlier one."""
        while self.waiting and self.waiting[0].round <= round:
            yield self.waiting.popleft()
