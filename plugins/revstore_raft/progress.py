"""What a leader knows of one follower, and how fast it may send.

Rules of this file:

1. ``match`` is acknowledged as durable by the follower: it only grows while the leader
   leads, and ``match < next`` always.
2. PROBE: it is not known where the logs agree; one append at a time, then wait.
   REPLICATE: they agree up to ``match``; appends are sent optimistically ahead of the
   answers, as far as the window of inflights allows.
   SNAPSHOT: the follower needs entries that are gone; no append is sent until it has
   a snapshot.
3. A full window pauses appends but not for ever: an answer to a heartbeat lets one
   empty append out, whose answer tells where the follower really is.
4. ``sent_commit`` is the commit index that the follower knows if nothing was lost. It
   regresses when messages are thought lost, never below what cannot be lost.

::

            answer matched                  needs a compacted entry
    PROBE -----------------> REPLICATE         (any) ------> SNAPSHOT
      ^                          |                              |
      +--- refused, unreachable -+                              |
      +------------- snapshot failed, or arrived ---------------+
"""

from __future__ import annotations

from enum import StrEnum

from revstore.errors import InvariantViolation
from revstore_raft.inflights import Inflights


class ProgressState(StrEnum):
    """Rule 2."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


_PROBE = ProgressState.PROBE
_REPLICATE = ProgressState.REPLICATE
_SNAPSHOT = ProgressState.SNAPSHOT


class Progress:
    """One follower as the leader sees it; also the leader's own row."""

    __slots__ = (
        "flow_paused",
        "inflights",
        "learner",
        "match",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, next: int, inflights: Inflights, learner: bool = False) -> None:
        self.match = 0
        """Highest index known to be durable on the follower."""
        self.next = next
        """Next index to send. Invariant: match < next."""
        self.state = _PROBE
        self.pending_snapshot = 0
        """Index of the snapshot that was sent; valid in SNAPSHOT."""
        self.recent_active = False
        """Whether anything came from the follower since the last quorum check."""
        self.flow_paused = False
        """Whether appends wait for an answer; valid in PROBE and REPLICATE."""
        self.sent_commit = 0
        self.inflights = inflights
        self.learner = learner

    def copy(self) -> Progress:
        """A copy that shares the window."""
        twin = Progress(self.next, self.inflights, self.learner)
        twin.match = self.match
        twin.state = self.state
        twin.pending_snapshot = self.pending_snapshot
        twin.recent_active = self.recent_active
        twin.flow_paused = self.flow_paused
        twin.sent_commit = self.sent_commit
        return twin

    def restart(self, next: int) -> None:
        """Begin anew, as at the start of a term; only ``learner`` is kept."""
        self.match = 0
        self.next = next
        self.recent_active = False
        self.sent_commit = 0
        self._enter(_PROBE)

    def _enter(self, state: ProgressState) -> None:
        self.flow_paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.clear()

    def become_probe(self) -> None:
        """Find out where the follower is."""
        if self.state is _SNAPSHOT:
            # The snapshot may have arrived; probing starts behind it, and a refusal
            # would lead back.
            pending = self.pending_snapshot
            self._enter(_PROBE)
            self.next = max(self.match, pending) + 1
        else:
            self._enter(_PROBE)
            self.next = self.match + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """The logs agree up to ``match``; send ahead from there."""
        self._enter(_REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """A snapshot that stands at ``index`` was sent."""
        self._enter(_SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def paused(self) -> bool:
        """Whether appends must wait."""
        return self.flow_paused or self.state is _SNAPSHOT

    def sent_entries(self, count: int, size: int) -> None:
        """An append with ``count`` entries from ``next`` on was sent.

        Raises:
            InvariantViolation: a snapshot is pending.
        """
        if self.state is _REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size)
            # A message that fills the window, or one sent while it is full, is a
            # probe: nothing more until there is an answer.
            self.flow_paused = self.inflights.full()
        elif self.state is _PROBE:
            if count:
                self.flow_paused = True
        else:
            raise InvariantViolation("an append was sent while a snapshot is pending")

    def maybe_update(self, index: int) -> bool:
        """The follower acknowledged ``index``; whether that is news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.flow_paused = False
        return True

    def maybe_decrease(self, refused: int, hint: int) -> bool:
        """The follower refused an append behind ``refused``; whether that is news.

        ``hint`` is the highest index at which the logs may agree.
        """
        if self.state is _REPLICATE:
            if refused <= self.match:
                return False
            self.next = self.match + 1
            self.sent_commit = min(self.sent_commit, self.next - 1)
            return True
        if self.next - 1 != refused:
            # Probes go one at a time, so this answers an older one.
            return False
        self.next = max(min(refused, hint + 1), self.match + 1)
        self.sent_commit = min(self.sent_commit, self.next - 1)
        self.flow_paused = False
        return True

    def can_bump_commit(self, index: int) -> bool:
        """Whether telling commit index ``index`` could teach the follower anything."""
        return index > self.sent_commit and self.sent_commit < self.next - 1
