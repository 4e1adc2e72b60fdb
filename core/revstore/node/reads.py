"""Linearizable reads: a confirmed index, then a wait until it is applied.

One confirmation serves every read that waits for it (Raft thesis, section 6.4).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from struct import pack

from revstore.api import errors
from revstore.errors import ApiError
from revstore.interfaces.consensus import Consensus, ProposalDropped, ReadState

NUMBER_MAX = (1 << 64) - 1

Finished = Callable[[ApiError | None], None]


class Reads:
    """Reads on their way to being served."""

    def __init__(self, consensus: Consensus, member_id: int, seed: int) -> None:
        """``member_id`` makes the contexts differ between members, ``seed`` between
        starts: a late answer to a read of an earlier start must confirm nothing."""
        self._consensus = consensus
        self._member_id = member_id
        self.asked: list[Finished] = []
        """Those that wait for the next ``confirm``."""
        self._unconfirmed: dict[bytes, tuple[list[Finished], float]] = {}
        self._unapplied: deque[tuple[int, Finished]] = deque()
        self._until: list[tuple[int, float, Finished]] = []
        self._number = seed & NUMBER_MAX

    def __len__(self) -> int:
        waiting = len(self._unapplied) + len(self._until)
        return len(self.asked) + len(self._unconfirmed) + waiting

    def ask(self, done: Finished) -> None:
        """Queue a read for the next ``confirm``."""
        self.asked.append(done)

    def wait_applied(self, index: int, done: Finished) -> None:
        """Serve a read that is confirmed already once ``index`` is applied."""
        self._unapplied.append((index, done))

    def wait_until(self, index: int, deadline: float, done: Finished) -> None:
        """``done(None)`` once ``index`` is applied, or TIMEOUT_WAIT_APPLIED_INDEX.

        For an index that another member has told; it may never be applied here.
        """
        self._until.append((index, deadline, done))

    def confirm(self, deadline: float) -> None:
        """Ask for one confirmation for all reads queued so far."""
        if not self.asked:
            return
        batch, self.asked = self.asked, []
        self._number = self._number + 1 & NUMBER_MAX
        context = pack(">QQ", self._member_id, self._number)
        try:
            self._consensus.read_index(context)
        except ProposalDropped:
            for done in batch:
                done(errors.NO_LEADER)
            return
        self._unconfirmed[context] = (batch, deadline)

    def confirmed(self, state: ReadState) -> None:
        """Consensus confirmed a batch."""
        batch, _ = self._unconfirmed.pop(state.context, ((), 0.0))
        for done in batch:
            self._unapplied.append((state.index, done))

    def dropped(self, context: bytes) -> None:
        """Consensus will not confirm a batch: the leader changed."""
        batch, _ = self._unconfirmed.pop(context, ((), 0.0))
        for done in batch:
            done(errors.LEADER_CHANGED)

    def serve(self, applied: int) -> None:
        """Let the reads go on whose index is applied."""
        waiting = self._unapplied
        while waiting and waiting[0][0] <= applied:
            waiting.popleft()[1](None)
        if self._until:
            ready = [one for one in self._until if one[0] <= applied]
            self._until = [one for one in self._until if one[0] > applied]
            for _, _, done in ready:
                done(None)

    def expire(self, now: float) -> None:
        """Tell the reads whose time is up."""
        late_until = [one for one in self._until if one[1] <= now]
        self._until = [one for one in self._until if one[1] > now]
        for _, _, done in late_until:
            done(errors.TIMEOUT_WAIT_APPLIED_INDEX)
        late = [key for key, (_, at) in self._unconfirmed.items() if at <= now]
        for key in late:
            for done in self._unconfirmed.pop(key)[0]:
                done(errors.TIMEOUT)

    def fail_all(self, error: ApiError) -> None:
        """Tell every read that it will not be served."""
        waiting = [*self.asked, *(done for _, done in self._unapplied)]
        waiting += [done for _, _, done in self._until]
        for batch, _ in self._unconfirmed.values():
            waiting += batch
        self.asked, self._unconfirmed, self._until = [], {}, []
        self._unapplied.clear()
        for done in waiting:
            done(error)
