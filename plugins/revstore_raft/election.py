"""Campaigns and votes.

Rules of this file:

1. A member votes for at most one candidate in a term, and only for one whose log is at
   least as complete as its own (paper, sections 5.2 and 5.4.1).
2. A candidate's vote for itself counts once it is durable: it is an answer to itself
   among the messages that wait for the disk.
3. A pre-vote changes neither term nor vote of anybody; it is granted by whoever would
   vote (thesis, section 9.6).
4. With check-quorum, a member that heard from a leader within an election timeout
   ignores candidates, unless the leader handed over (thesis, sections 4.2.3, 6.4.1).
5. Learners vote when asked: whoever asks knows a newer membership, in which they are
   voters.
6. Nobody campaigns while a committed change of membership waits to be applied: it
   would be counting the votes of a membership that is gone. Who learns of one while it
   campaigns (rule 7) gives up.
7. A refusal says what the refuser knows to be committed, and a candidate whose log has
   that entry learns it. Without this a change that leaves a single voter can leave
   that voter for ever unaware of it: whoever knows is no voter any more, refuses for
   having a longer log, and cannot lead. (etcd's messages have no field for it; it is
   in ``context``, which etcd ignores here.)
"""

from __future__ import annotations

import struct
from enum import Enum

from revstore.interfaces.consensus import Message, MessageType, Role
from revstore_raft import replication, roles
from revstore_raft.quorum import VoteResult
from revstore_raft.state import NONE, Raft

CAMPAIGN_TRANSFER = b"CampaignTransfer"
"""Context of a vote request that a leader asked for (rule 4)."""

_COMMITTED = struct.Struct(">QQ")
"""Index and term of a committed entry (rule 7)."""


class Campaign(Enum):
    """Why and how to campaign."""

    PRE_VOTE = "pre-vote"
    ELECTION = "election"
    TRANSFER = "transfer"


def start_campaign(raft: Raft, kind: Campaign) -> None:
    """Campaign, unless this member leads already or must not."""
    if raft.role is Role.LEADER or not raft.promotable():
        return
    if raft.log.has_unapplied_change(raft.config.committed_bytes_max):
        return
    campaign(raft, kind)


def campaign(raft: Raft, kind: Campaign) -> None:
    """Ask all voters."""
    if kind is Campaign.PRE_VOTE:
        roles.become_pre_candidate(raft)
        request, answer, term = (
            MessageType.PRE_VOTE,
            MessageType.PRE_VOTE_RESP,
            raft.term + 1,
        )
    else:
        roles.become_candidate(raft)
        request, answer, term = MessageType.VOTE, MessageType.VOTE_RESP, raft.term
    context = CAMPAIGN_TRANSFER if kind is Campaign.TRANSFER else b""
    last_index, last_term = raft.log.last_index, raft.log.last_term()
    for member in raft.tracker.membership.voters():
        if member == raft.id:
            raft.send(answer, member, term=term)
            continue
        raft.send(
            request,
            member,
            term=term,
            log_term=last_term,
            index=last_index,
            context=context,
        )


def in_lease(raft: Raft) -> bool:
    """Whether a leader may still rely on this member (rule 4)."""
    if not raft.config.check_quorum:
        return False
    return raft.leader != NONE and raft.election_elapsed < raft.config.election_ticks


def handle_vote_request(raft: Raft, message: Message) -> None:
    """Answer a candidate; its term is not above ours unless it is a pre-vote."""
    preliminary = message.type is MessageType.PRE_VOTE
    answer = MessageType.PRE_VOTE_RESP if preliminary else MessageType.VOTE_RESP
    may_vote = (
        raft.vote == message.sender
        or (raft.vote == NONE and raft.leader == NONE)
        or (preliminary and message.term > raft.term)
    )
    if may_vote and raft.log.up_to_date(message.log_term, message.index):
        # The answer has the term of the request: a pre-candidate asks about a term
        # that we are not in, and would take our own for an old one.
        raft.send(answer, message.sender, term=message.term)
        if not preliminary:
            raft.election_elapsed = 0
            raft.vote = message.sender
    else:
        log = raft.log
        known = _COMMITTED.pack(log.committed, log.term(log.committed) or 0)
        raft.send(answer, message.sender, term=raft.term, reject=True, context=known)


def _learn_commit(raft: Raft, message: Message) -> bool:
    """Rule 7. The logs agree up to an entry that both have (log matching).

    Whether a change of membership is known to be committed now that was not before.
    """
    if len(message.context) != _COMMITTED.size:
        return False
    index, term = _COMMITTED.unpack(message.context)
    return raft.log.maybe_commit(term, index) and raft.log.has_unapplied_change(
        raft.config.committed_bytes_max
    )


def handle_vote_answer(raft: Raft, message: Message) -> None:
    """Count an answer to the campaign that is on; answers to another are ignored."""
    preliminary = raft.role is Role.PRE_CANDIDATE
    expected = MessageType.PRE_VOTE_RESP if preliminary else MessageType.VOTE_RESP
    if message.type is not expected:
        return
    if message.reject and _learn_commit(raft, message):
        roles.become_follower(raft, raft.term, NONE)
        return
    tracker = raft.tracker
    tracker.record_vote(message.sender, not message.reject)
    result = tracker.decided(tracker.votes)
    if result is VoteResult.WON:
        if preliminary:
            campaign(raft, Campaign.ELECTION)
        else:
            roles.become_leader(raft)
            replication.broadcast_append(raft)
    elif result is VoteResult.LOST:
        roles.become_follower(raft, raft.term, NONE)


def check_quorum(raft: Raft) -> None:
    """Step down if a quorum was silent for an election timeout (thesis, 6.2)."""
    if not raft.tracker.quorum_active():
        roles.become_follower(raft, raft.term, NONE)
    for member, row in raft.tracker.members:
        if member != raft.id:
            row.recent_active = False
