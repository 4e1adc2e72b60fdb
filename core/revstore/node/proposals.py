"""Who waits for which log entry, and for how long.

Rules of this file:

1. A waiter is found by the index its entry got; it gets the entry's result only if the
   term matches too. Another term at that index means that the proposal was lost.
   Where the entry was forwarded to the leader it is found by its request id.
2. Every waiter hears exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from revstore.api import errors
from revstore.apply import entries
from revstore.auth.info import Identity
from revstore.errors import ApiError
from revstore.types import ApplyResult

Done = Callable[[ApplyResult | ApiError], None]


class Proposal(msgspec.Struct, eq=False):
    """A request on its way into the log."""

    tag: int
    data: bytes
    """The entry's bytes."""
    request: Any
    """The request itself, parsed, so that applying need not parse it again."""
    done: Done
    info: Identity | None


class Waiting(msgspec.Struct, eq=False):
    """A proposal that has its place in the log."""

    term: int
    proposal: Proposal
    deadline: float


class Proposals:
    """Waiters by log index."""

    def __init__(self) -> None:
        self._by_index: dict[int, Waiting] = {}
        self._forwarded: dict[int, Waiting] = {}

    def __len__(self) -> int:
        return len(self._by_index) + len(self._forwarded)

    def add(
        self, term: int, first_index: int, batch: list[Proposal], deadline: float
    ) -> None:
        """The batch got the indexes from ``first_index`` on, in ``term``."""
        by_index = self._by_index
        index = first_index
        for proposal in batch:
            lost = by_index.get(index)
            by_index[index] = Waiting(term, proposal, deadline)
            if lost is not None:
                lost.proposal.done(errors.LEADER_CHANGED)
            index += 1

    def add_forwarded(self, batch: list[Proposal], deadline: float) -> None:
        """The batch went to the leader: its entries are known by their request ids."""
        for proposal in batch:
            request_id = entries.decode(proposal.data).request_id
            self._forwarded[request_id] = Waiting(0, proposal, deadline)

    def take_forwarded(self, request_id: int) -> Proposal | None:
        """The proposal that was forwarded under an id, now that it is applied."""
        waiting = self._forwarded.pop(request_id, None)
        return None if waiting is None else waiting.proposal

    def take(self, index: int, term: int) -> Proposal | None:
        """The proposal whose entry is applied now, if it is one of ours."""
        waiting = self._by_index.pop(index, None)
        if waiting is None:
            return None
        if waiting.term != term:
            waiting.proposal.done(errors.LEADER_CHANGED)
            return None
        return waiting.proposal

    def expire(self, now: float, error_of: Callable[[float], ApiError]) -> None:
        """Tell those whose time is up; their entries may still be applied later.

        ``error_of`` makes what they hear from their deadline.
        """
        for table in (self._by_index, self._forwarded):
            late = []
            for key, waiting in table.items():
                if waiting.deadline > now:
                    break
                late.append(key)
            for key in late:
                waiting = table.pop(key)
                waiting.proposal.done(error_of(waiting.deadline))

    def fail_all(self, error: ApiError) -> None:
        """Tell everybody that the outcome will not be known here."""
        waiting = [*self._by_index.values(), *self._forwarded.values()]
        self._by_index, self._forwarded = {}, {}
        for item in waiting:
            item.proposal.done(error)
