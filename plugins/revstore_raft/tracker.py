"""The membership in force, everybody's progress, and the votes of an election.

Rules of this file:

1. Voters are two sets: ``incoming`` and, while a change is in its joint phase,
   ``outgoing``. A decision needs both (``quorum.py``).
2. A learner gets entries and has no say. ``learners_next`` are voters of the outgoing
   half that become learners when the joint phase ends.
3. Each voter and learner has a progress and nobody else has.
4. Members are visited in order of their ids, so that a run can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from revstore.types import ConfState
from revstore_raft.progress import Progress
from revstore_raft.quorum import (
    VoteResult,
    joint_vote,
    majority_committed,
)


class Membership(msgspec.Struct, frozen=True):
    """Who decides, and who only listens."""

    incoming: frozenset[int] = frozenset()
    outgoing: frozenset[int] = frozenset()
    """Empty outside of a joint phase."""
    learners: frozenset[int] = frozenset()
    learners_next: frozenset[int] = frozenset()
    """Subset of ``outgoing``."""
    auto_leave: bool = False
    """Whether a leader ends the joint phase by itself."""

    @property
    def joint(self) -> bool:
        """Whether a joint phase is on."""
        return bool(self.outgoing)

    def voters(self) -> list[int]:
        """All who vote, in either half, by id."""
        return sorted(self.incoming | self.outgoing)

    def conf_state(self) -> ConfState:
        """The same as it is stored in snapshots."""
        return ConfState(
            voters=tuple(sorted(self.incoming)),
            learners=tuple(sorted(self.learners)),
            voters_outgoing=tuple(sorted(self.outgoing)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )


class Tracker:
    """Membership, progress and votes; see the rules of the file."""

    __slots__ = (
        "_incoming",
        "_outgoing",
        "_progress",
        "get",
        "members",
        "membership",
        "votes",
    )

    def __init__(self) -> None:
        self.membership = Membership()
        self.votes: dict[int, bool] = {}
        """Votes of this term's election; the first answer of a member counts."""
        self.replace(Membership(), {})

    def replace(self, membership: Membership, progress: dict[int, Progress]) -> None:
        """Put a new membership in force."""
        self.membership = membership
        self._progress = progress
        self._incoming = [progress[voter] for voter in membership.incoming]
        self._outgoing = [progress[voter] for voter in membership.outgoing]
        self.get: Callable[[int], Progress | None] = progress.get
        """A member's progress, None if it is no member."""
        self.members = sorted(progress.items())
        """All members and their progress, by id; not to be changed."""

    def progress_map(self) -> dict[int, Progress]:
        """A copy of the map that a change of membership may edit."""
        return dict(self._progress)

    def alone(self, member: int) -> bool:
        """Whether ``member`` is the only voter there is."""
        return self.membership.incoming == {member} and not self.membership.outgoing

    def single_voter(self) -> bool:
        """Whether there is exactly one voter, and no joint phase."""
        return len(self.membership.incoming) == 1 and not self.membership.outgoing

    def committed(self) -> int:
        """The highest index that the voters have durably."""
        incoming, outgoing = self._incoming, self._outgoing
        if len(incoming) == 1 and not outgoing:
            return incoming[0].match
        index = majority_committed([row.match for row in incoming])
        if outgoing:
            index = min(index, majority_committed([row.match for row in outgoing]))
        return index

    def decided(self, votes: dict[int, bool]) -> VoteResult:
        """How the voters decided a question."""
        return joint_vote(self.membership.incoming, self.membership.outgoing, votes)

    def quorum_among(self, members: Iterable[int]) -> bool:
        """Whether ``members`` contain a quorum."""
        return self.decided(dict.fromkeys(members, True)) is VoteResult.WON

    def quorum_active(self) -> bool:
        """Whether a quorum was heard from since the last check."""
        active = [member for member, row in self.members if row.recent_active]
        return self.quorum_among(active)

    def record_vote(self, member: int, granted: bool) -> None:
        """Note a member's answer, unless it has answered before."""
        self.votes.setdefault(member, granted)
