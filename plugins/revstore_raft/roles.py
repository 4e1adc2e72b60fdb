"""All changes of role, and nothing else changes a role.

Rules of this file:

1. ``TRANSITIONS`` is complete; any other change raises. docs/design/raft-roles.md
   shows the same table.
2. A new term means: no vote, no known leader. A member never goes back to a term.
3. A new leader appends an empty entry at once: only an entry of its own term can tell
   what is committed (paper, section 5.4.2 and 8).
4. What a role remembers is gone when the role is left: votes, progress, reads, a
   transfer on its way.
"""

from __future__ import annotations

from typing import Final

from revstore.errors import InvariantViolation
from revstore.interfaces.consensus import Role
from revstore.types import Entry
from revstore_raft import replication
from revstore_raft.readqueue import ReadQueue
from revstore_raft.state import NONE, Raft

_F, _P, _C, _L = Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER

TRANSITIONS: Final[dict[tuple[Role, Role], str]] = {
    (_F, _F): "a higher term, or the leader of this term, is heard of",
    (_F, _P): "the leader is silent; pre-vote is on",
    (_F, _C): "the leader is silent, or hands over; pre-vote is off or skipped",
    (_P, _P): "the pre-vote took too long and starts again",
    (_P, _C): "a quorum would vote for this member",
    (_P, _F): (
        "the pre-vote is lost, or a leader, a higher term or a committed change of "
        "membership is heard of"
    ),
    (_C, _P): "the election took too long; pre-vote is on",
    (_C, _C): "the election took too long; pre-vote is off",
    (_C, _L): "a quorum voted for this member",
    (_C, _F): (
        "the election is lost, or a leader, a higher term or a committed change of "
        "membership is heard of"
    ),
    (_L, _F): "a higher term is heard of, the quorum is silent, or it was removed",
}


def become_follower(raft: Raft, term: int, leader: int) -> None:
    """Follow ``leader`` (0: not known yet) in ``term``."""
    _enter(raft, Role.FOLLOWER)
    _reset(raft, term)
    raft.leader = leader


def become_pre_candidate(raft: Raft) -> None:
    """Ask whether a campaign would be won; neither term nor vote change."""
    _enter(raft, Role.PRE_CANDIDATE)
    raft.tracker.votes.clear()
    raft.leader = NONE


def become_candidate(raft: Raft) -> None:
    """Begin a new term and vote for oneself."""
    _enter(raft, Role.CANDIDATE)
    _reset(raft, raft.term + 1)
    raft.vote = raft.id


def become_leader(raft: Raft) -> None:
    """Lead the term (rule 3)."""
    _enter(raft, Role.LEADER)
    _reset(raft, raft.term)
    raft.leader = raft.id
    own = raft.tracker.get(raft.id)
    if own is None:
        raise InvariantViolation("a member that is not in the membership was elected")
    own.become_replicate()
    own.recent_active = True
    # There may be a change of membership in the log that is not committed. Looking
    # for it costs more than waiting until everything up to here is applied.
    raft.pending_change_index = raft.log.last_index
    empty = Entry(raft.term, raft.log.last_index + 1)
    if not replication.append_own(raft, (empty,)):
        raise InvariantViolation("the empty entry of a new leader was refused")


def _enter(raft: Raft, role: Role) -> None:
    if (raft.role, role) not in TRANSITIONS:
        raise InvariantViolation(f"a {raft.role} cannot become {role}")
    raft.role = role


def _reset(raft: Raft, term: int) -> None:
    if term < raft.term:
        raise InvariantViolation(f"term {term} after term {raft.term}")
    if term != raft.term:
        raft.term = term
        raft.vote = NONE
    raft.leader = NONE
    raft.election_elapsed = 0
    raft.heartbeat_elapsed = 0
    randomize_election_timeout(raft)
    raft.transfer_target = NONE
    raft.lease_broken = False
    raft.tracker.votes.clear()
    next_index = raft.log.last_index + 1
    for member, row in raft.tracker.members:
        row.restart(next_index)
        if member == raft.id:
            row.match = raft.log.last_index
    raft.pending_change_index = 0
    raft.uncommitted_bytes = 0
    raft.reads = ReadQueue()


def randomize_election_timeout(raft: Raft) -> None:
    """Draw a timeout, so that members rarely campaign at once (paper, section 5.2)."""
    base = raft.config.election_ticks
    raft.randomized_election_ticks = base + raft.random.randrange(base)
