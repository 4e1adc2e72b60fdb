"""Which change of membership is allowed, and what it gives.

Rules of this file:

1. A simple change adds or removes at most one voter, so that each quorum before it
   and each quorum after it have a member in common (thesis, section 4.1).
2. Any other change goes through a joint phase: the voters before it become the
   outgoing half, and decisions need both halves until it is left (section 4.3).
3. There is no change within a joint phase, and no membership without a voter.
4. Steps are idempotent: adding a member that is there, or removing one that is not,
   changes nothing. Steps for id 0 are ignored: so a shell refuses a committed change.
5. A voter that is demoted in a joint phase stays a voter of the outgoing half until
   that is left. Its progress is kept.
6. A change gives new values; what is in force is not touched, so that a refused
   change has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence

from revstore.errors import InvariantViolation, UsageError
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
)
from revstore.types import ConfState
from revstore_raft.inflights import Inflights
from revstore_raft.progress import Progress
from revstore_raft.tracker import Membership

Result = tuple[Membership, dict[int, Progress]]


class InvalidChangeError(UsageError):
    """The change is not allowed from the membership in force; the text says why."""


class Changer:
    """Works out one change from a membership; used once."""

    __slots__ = (
        "_auto_leave",
        "_before",
        "_incoming",
        "_last_index",
        "_learners",
        "_learners_next",
        "_outgoing",
        "_progress",
        "_window",
    )

    def __init__(
        self,
        membership: Membership,
        progress: dict[int, Progress],
        last_index: int,
        window: tuple[int, int],
    ) -> None:
        """``window`` has the bounds of a new member's inflights."""
        self._before = membership
        self._incoming = set(membership.incoming)
        self._outgoing = set(membership.outgoing)
        self._learners = set(membership.learners)
        self._learners_next = set(membership.learners_next)
        self._auto_leave = membership.auto_leave
        self._progress = {member: row.copy() for member, row in progress.items()}
        self._last_index = last_index
        self._window = window

    def simple(self, steps: Sequence[ConfChangeSingle]) -> Result:
        """Change at most one voter, at once (rule 1).

        Raises:
            InvalidChangeError: a joint phase is on, two voters change, or none remains.
        """
        if self._outgoing:
            raise InvalidChangeError("can't apply simple config change in joint config")
        self._apply(steps)
        if len(self._incoming ^ self._before.incoming) > 1:
            raise InvalidChangeError(
                "more than one voter changed without entering joint config"
            )
        return self._result()

    def enter_joint(
        self, auto_leave: bool, steps: Sequence[ConfChangeSingle]
    ) -> Result:
        """Begin a joint phase (rule 2).

        Raises:
            InvalidChangeError: one is on, or there is no voter before or after.
        """
        if self._outgoing:
            raise InvalidChangeError("config is already joint")
        if not self._incoming:
            # Adding to nothing is what a bootstrap does, with simple changes.
            raise InvalidChangeError("can't make a zero-voter config joint")
        self._outgoing = set(self._incoming)
        self._apply(steps)
        self._auto_leave = auto_leave
        return self._result()

    def leave_joint(self) -> Result:
        """End the joint phase.

        Raises:
            InvalidChangeError: none is on.
        """
        if not self._outgoing:
            raise InvalidChangeError("can't leave a non-joint config")
        for member in self._learners_next:
            self._learners.add(member)
            self._progress[member].learner = True
        self._learners_next.clear()
        for member in self._outgoing - self._incoming - self._learners:
            del self._progress[member]
        self._outgoing.clear()
        self._auto_leave = False
        return self._result()

    def _apply(self, steps: Sequence[ConfChangeSingle]) -> None:
        for step in steps:
            member = step.node_id
            if member == 0:
                continue
            if step.type == ConfChangeType.ADD_NODE:
                self._make_voter(member)
            elif step.type == ConfChangeType.ADD_LEARNER_NODE:
                self._make_learner(member)
            elif step.type == ConfChangeType.REMOVE_NODE:
                self._remove(member)
        if not self._incoming:
            raise InvalidChangeError("removed all voters")

    def _make_voter(self, member: int) -> None:
        row = self._progress.get(member)
        if row is None:
            self._add(member, learner=False)
        else:
            row.learner = False
        self._learners.discard(member)
        self._learners_next.discard(member)
        self._incoming.add(member)

    def _make_learner(self, member: int) -> None:
        row = self._progress.get(member)
        if row is None:
            self._add(member, learner=True)
            self._learners.add(member)
            return
        if row.learner:
            return
        self._remove(member)
        self._progress[member] = row
        if member in self._outgoing:
            self._learners_next.add(member)
        else:
            row.learner = True
            self._learners.add(member)

    def _remove(self, member: int) -> None:
        self._incoming.discard(member)
        self._learners.discard(member)
        self._learners_next.discard(member)
        if member not in self._outgoing:
            self._progress.pop(member, None)

    def _add(self, member: int, learner: bool) -> None:
        # Probing starts at the end of the log. A new member most likely has nothing,
        # and its first refusal says so.
        row = Progress(max(self._last_index, 1), Inflights(*self._window), learner)
        # It has had no chance to be heard yet, and must not cost the leader its quorum.
        row.recent_active = True
        self._progress[member] = row

    def _result(self) -> Result:
        membership = Membership(
            frozenset(self._incoming),
            frozenset(self._outgoing),
            frozenset(self._learners),
            frozenset(self._learners_next),
            self._auto_leave,
        )
        must_be_consistent(membership, self._progress)
        return membership, self._progress


def must_be_consistent(membership: Membership, progress: dict[int, Progress]) -> None:
    """Check what ``tracker.py`` promises of a membership.

    Raises:
        InvariantViolation: a bug of this file.
    """
    voters = membership.incoming | membership.outgoing
    learners = membership.learners
    problem = ""
    if progress.keys() != voters | learners:
        problem = "members without progress, or progress without members"
    elif not membership.learners_next <= membership.outgoing:
        problem = "a coming learner is no outgoing voter"
    elif learners & voters:
        problem = "a learner is a voter"
    elif {member for member, row in progress.items() if row.learner} != learners:
        problem = "progress and membership differ in who is a learner"
    elif not membership.outgoing and (
        membership.learners_next or membership.auto_leave
    ):
        problem = "traces of a joint phase"
    if problem:
        raise InvariantViolation(f"{problem}: {membership}")


def enters_joint(change: ConfChange) -> bool | None:
    """Whether the joint phase that a change needs is left automatically.

    None if it needs none. Two steps might do without one in some memberships; which
    ones is not worth the thought, so they always use one.
    """
    if change.transition == ConfChangeTransition.AUTO and len(change.changes) <= 1:
        return None
    return change.transition != ConfChangeTransition.JOINT_EXPLICIT


def leaves_joint(change: ConfChange) -> bool:
    """Whether a change is the one that ends a joint phase."""
    return not change.changes and change.transition == ConfChangeTransition.AUTO


def carry_out(changer: Changer, change: ConfChange) -> Result:
    """Make the change in the way it asks for.

    Raises:
        InvalidChangeError: it is not allowed.
    """
    if leaves_joint(change):
        return changer.leave_joint()
    auto_leave = enters_joint(change)
    if auto_leave is not None:
        return changer.enter_joint(auto_leave, change.changes)
    return changer.simple(change.changes)


def restore(state: ConfState, last_index: int, window: tuple[int, int]) -> Result:
    """The membership that a snapshot names, as a sequence of allowed changes.

    Raises:
        InvalidChangeError: the state is not one that changes can lead to.
    """

    def steps(kind: ConfChangeType, members: Sequence[int]) -> list[ConfChangeSingle]:
        return [ConfChangeSingle(kind, member) for member in members]

    arriving = [
        *steps(ConfChangeType.ADD_NODE, state.voters),
        *steps(ConfChangeType.ADD_LEARNER_NODE, state.learners),
        *steps(ConfChangeType.ADD_LEARNER_NODE, state.learners_next),
    ]
    result: Result = (Membership(), {})
    if not state.voters_outgoing:
        for step in arriving:
            result = Changer(*result, last_index, window).simple([step])
    else:
        for step in steps(ConfChangeType.ADD_NODE, state.voters_outgoing):
            result = Changer(*result, last_index, window).simple([step])
        leaving = steps(ConfChangeType.REMOVE_NODE, state.voters_outgoing)
        result = Changer(*result, last_index, window).enter_joint(
            state.auto_leave, [*leaving, *arriving]
        )
    normal = ConfState(
        tuple(sorted(state.voters)),
        tuple(sorted(state.learners)),
        tuple(sorted(state.voters_outgoing)),
        tuple(sorted(state.learners_next)),
        state.auto_leave,
    )
    if result[0].conf_state() != normal:
        raise InvalidChangeError(f"{state} is no membership that changes can lead to")
    return result
