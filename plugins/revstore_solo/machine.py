"""Consensus of one member: every durable entry is committed.

Rules of this file:

1. The member is leader from the start, in a term of its own: the term is one more than
   any it remembers, and its first entry is empty, as with Raft. So a data directory can
   move between ``solo`` and ``raft``.
2. An entry is committed when the batch that carries it is reported durable, never
   before, however lonely the member is (etcd #14370).
3. What was in the log at the start is durable, hence committed; it is handed out
   together with the first entry of the new term.
4. Reads are confirmed once an entry of the own term is committed; until then they wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from revstore.errors import InvariantViolation, UsageError
from revstore.interfaces.consensus import (
    ConfChange,
    Consensus,
    ConsensusCapabilities,
    ConsensusStart,
    Message,
    Persist,
    ReadState,
    Ready,
    Role,
    Status,
)
from revstore.types import ConfState, Entry, HardState

CAPABILITIES = ConsensusCapabilities(multi_member=False)

COMMITTED_ENTRIES_MAX = 10_000
"""Most entries that one Ready hands out to be applied."""

REFUSAL = "consensus 'solo' has exactly one member; use consensus 'raft' for more"


class SoloConsensus(Consensus):
    """The machine; see the rules of the file."""

    capabilities = CAPABILITIES

    def __init__(self, start: ConsensusStart) -> None:
        """Make the machine of the only voter.

        Raises:
            UsageError: the membership has another voter, or a learner.
        """
        others = {*start.conf_state.voters, *start.conf_state.learners} - {start.id}
        if others:
            raise UsageError(f"{REFUSAL}; this log knows {len(others)} more")
        self._id = start.id
        self._log = start.log
        self._conf_state = start.conf_state
        self._term = start.hard_state.term + 1
        self._commit = max(start.hard_state.commit, start.applied)
        self._last = max(start.log.last_index(), start.applied)
        self._handed_out = start.applied
        self._applied = start.applied
        self._sequence = 0
        self._persisted = 0
        self._in_flight: deque[tuple[int, int]] = deque()
        """(sequence, last index) of batches that are not durable yet."""
        self._new_entries: list[Entry] = []
        self._recent: deque[Entry] = deque()
        """Entries not handed out yet, from the first of this term on."""
        self._hard_state: HardState | None = HardState(
            self._term, self._id, self._commit
        )
        self._announce = True
        self._waiting_reads: list[bytes] = []
        self._read_states: list[ReadState] = []
        self._first_own = self._last + 1
        self.propose([b""])

    def tick(self) -> None:
        """Time does not matter here."""

    def step(self, message: Message) -> None:
        """There is nobody to hear from; messages are ignored."""

    def propose(self, data: Sequence[bytes]) -> tuple[int, int]:
        """Append entries; see ``Consensus.propose``."""
        term = self._term
        first = index = self._last + 1
        for item in data:
            entry = Entry(term, index, item)
            self._new_entries.append(entry)
            self._recent.append(entry)
            index += 1
        self._last = index - 1
        return term, first

    def propose_conf_change(self, change: ConfChange) -> tuple[int, int] | None:
        """Refused: the membership of one never changes."""
        raise UsageError(REFUSAL)

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Accept the change that made this member; refuse any other."""
        if any(step.node_id != self._id for step in change.changes):
            raise InvariantViolation(REFUSAL)
        self._conf_state = ConfState(voters=(self._id,))
        return self._conf_state

    def read_index(self, context: bytes) -> None:
        """Confirm a read as soon as rule 4 allows."""
        if self._commit >= self._first_own:
            self._read_states.append(ReadState(self._commit, context))
        else:
            self._waiting_reads.append(context)

    def read_index_now(self) -> int | None:
        """The commit index, once rule 4 allows reads."""
        return self._commit if self._commit >= self._first_own else None

    def transfer_leader(self, target: int) -> None:
        """Refused: there is nobody to transfer to."""
        raise UsageError(REFUSAL)

    def campaign(self) -> None:
        """The member is always leader."""

    def report_unreachable(self, member: int) -> None:
        """There is no other member."""

    def report_snapshot(self, member: int, ok: bool) -> None:
        """There is no other member."""

    def has_ready(self) -> bool:
        """See ``Consensus.has_ready``."""
        return bool(
            self._new_entries
            or self._handed_out < self._commit
            or self._read_states
            or self._announce
        )

    def ready(self) -> Ready:
        """See ``Consensus.ready``."""
        persist = self._take_persist()
        committed = self._take_committed()
        read_states = tuple(self._read_states)
        self._read_states.clear()
        announce, self._announce = self._announce, False
        return Ready(
            persist=persist,
            committed=committed,
            read_states=read_states,
            role=Role.LEADER if announce else None,
            leader=self._id if announce else None,
        )

    def _take_persist(self) -> Persist | None:
        if not self._new_entries:
            return None
        self._sequence += 1
        entries = tuple(self._new_entries)
        self._new_entries.clear()
        self._in_flight.append((self._sequence, entries[-1].index))
        hard_state, self._hard_state = self._hard_state, None
        return Persist(self._sequence, hard_state, entries)

    def _take_committed(self) -> tuple[Entry, ...]:
        first = self._handed_out + 1
        last = min(self._commit, self._handed_out + COMMITTED_ENTRIES_MAX)
        if last < first:
            return ()
        out: list[Entry] = []
        if first < self._first_own:
            out = self._log.read(first, min(last + 1, self._first_own))
            last = out[-1].index if out[-1].index < self._first_own - 1 else last
        while self._recent and self._recent[0].index <= last:
            out.append(self._recent.popleft())
        self._handed_out = last
        return tuple(out)

    def persisted(self, sequence: int) -> None:
        """The batch is durable, so its entries are committed (rule 2)."""
        if not self._persisted <= sequence <= self._sequence:
            raise InvariantViolation(
                f"persisted({sequence}) after {self._persisted} of {self._sequence}"
            )
        self._persisted = sequence
        while self._in_flight and self._in_flight[0][0] <= sequence:
            self._commit = self._in_flight.popleft()[1]
        if self._waiting_reads and self._commit >= self._first_own:
            self._read_states += [
                ReadState(self._commit, context) for context in self._waiting_reads
            ]
            self._waiting_reads.clear()

    def applied(self, index: int) -> None:
        """See ``Consensus.applied``."""
        if not self._applied <= index <= self._handed_out:
            raise InvariantViolation(f"applied({index}) after {self._applied}")
        self._applied = index

    def status(self) -> Status:
        """See ``Consensus.status``."""
        return Status(
            id=self._id,
            role=Role.LEADER,
            leader=self._id,
            term=self._term,
            vote=self._id,
            commit=self._commit,
            applied=self._applied,
            last_index=self._last,
            conf_state=self._conf_state,
        )
