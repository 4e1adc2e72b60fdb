"""What a quorum has decided. Pure functions.

Rules of this file:

1. A quorum of n voters is floor(n/2) + 1 of them.
2. An index is committed by a majority if a quorum has acknowledged it or one above.
3. A joint configuration decides what both of its halves decide: the smaller index,
   and a vote is won only if both halves are won and lost once one half is lost.
4. An empty half has no opinion: it commits everything and is won at once. So a joint
   configuration with an empty half decides like the other half alone.

Raft paper section 5.3 and 5.4; thesis section 4.3 for joint consensus.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum

from revstore_raft.limits import NO_LIMIT


class VoteResult(Enum):
    """How an election stands."""

    PENDING = "VotePending"
    LOST = "VoteLost"
    WON = "VoteWon"


def majority_committed(acknowledged: Collection[int]) -> int:
    """The highest index that a quorum acknowledged, given one index per voter."""
    count = len(acknowledged)
    if count == 0:
        return NO_LIMIT
    return sorted(acknowledged)[count - (count // 2 + 1)]


def joint_committed(incoming: Collection[int], outgoing: Collection[int]) -> int:
    """The highest index that both halves committed."""
    return min(majority_committed(incoming), majority_committed(outgoing))


def majority_vote(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """How the voters decided; one without an entry in ``votes`` has not voted."""
    if not voters:
        return VoteResult.WON
    granted = missing = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            granted += 1
    quorum = len(voters) // 2 + 1
    if granted >= quorum:
        return VoteResult.WON
    if granted + missing >= quorum:
        return VoteResult.PENDING
    return VoteResult.LOST


def joint_vote(
    incoming: Collection[int], outgoing: Collection[int], votes: Mapping[int, bool]
) -> VoteResult:
    """How both halves together decided."""
    one = majority_vote(incoming, votes)
    other = majority_vote(outgoing, votes)
    if one is other:
        return one
    if VoteResult.LOST in (one, other):
        return VoteResult.LOST
    return VoteResult.PENDING
