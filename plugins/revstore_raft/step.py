"""Where every input goes in: ticks and messages.

Rules of this file:

1. The term decides first: a message of a higher term makes this member a follower in
   that term, one of a lower term is not obeyed (paper, section 5.1).
2. What a message means depends on the role alone; the tables at the end say what each
   role does, and a pair that is not there is ignored.
3. A message without a term is local, or on its way to whoever leads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from revstore.interfaces.consensus import Message, MessageType, ProposalDropped, Role
from revstore_raft import (
    answers,
    changes,
    durability,
    election,
    follower,
    reads,
    replication,
    roles,
    transfer,
)
from revstore_raft.election import CAMPAIGN_TRANSFER, Campaign
from revstore_raft.state import NONE, Raft

Handler = Callable[[Raft, Message], None]

_VOTE_REQUESTS = frozenset({MessageType.VOTE, MessageType.PRE_VOTE})
_FROM_LEADER = frozenset({MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP})


def tick(raft: Raft) -> None:
    """One unit of time has passed."""
    raft.ticks += 1
    if raft.role is Role.LEADER:
        _tick_leader(raft)
        return
    raft.election_elapsed += 1
    if raft.election_elapsed >= raft.randomized_election_ticks and raft.promotable():
        raft.election_elapsed = 0
        step(raft, Message(MessageType.HUP, sender=raft.id))


def _tick_leader(raft: Raft) -> None:
    raft.heartbeat_elapsed += 1
    raft.election_elapsed += 1
    if raft.election_elapsed >= raft.config.election_ticks:
        raft.election_elapsed = 0
        if raft.config.check_quorum:
            election.check_quorum(raft)
        # A transfer that took an election timeout is given up.
        raft.transfer_target = NONE
    if raft.role is not Role.LEADER:
        return
    if raft.heartbeat_elapsed >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        replication.broadcast_heartbeat(raft)


def step(raft: Raft, message: Message) -> None:
    """Take a message.

    Raises:
        ProposalDropped: it is a proposal, and this member can neither take it nor
            send it on.
    """
    kind = message.type
    if message.term != 0:
        if kind in _VOTE_REQUESTS and message.context != CAMPAIGN_TRANSFER:
            if reads.keeps_silent(raft):
                return
            if message.term > raft.term and election.in_lease(raft):
                return
        if message.term > raft.term:
            _see_higher_term(raft, message)
        elif message.term < raft.term:
            _see_lower_term(raft, message)
            return
    handler = _ANY_ROLE.get(kind) or _BY_ROLE[raft.role].get(kind)
    if handler is not None:
        handler(raft, message)


def _see_higher_term(raft: Raft, message: Message) -> None:
    kind = message.type
    if kind is MessageType.PRE_VOTE:
        return
    if kind is MessageType.PRE_VOTE_RESP and not message.reject:
        # The term that we asked about. It becomes ours if a quorum agrees.
        return
    leader = message.sender if kind in _FROM_LEADER else NONE
    roles.become_follower(raft, message.term, leader)


def _see_lower_term(raft: Raft, message: Message) -> None:
    kind = message.type
    config = raft.config
    if kind in (MessageType.HEARTBEAT, MessageType.APP):
        if config.check_quorum or config.pre_vote:
            # We may be in a higher term than the leader without having unseated it,
            # since nobody listens to our campaigns. Tell it, so that it steps down and
            # the cluster meets again in a higher term (thesis, section 4.2.3 and 9.6).
            raft.send(MessageType.APP_RESP, message.sender)
    elif kind is MessageType.PRE_VOTE:
        # Silence would leave a candidate of an older term without an answer for ever.
        raft.send(
            MessageType.PRE_VOTE_RESP, message.sender, term=raft.term, reject=True
        )
    elif kind is MessageType.VOTE:
        if config.answer_old_candidates:
            raft.send(
                MessageType.VOTE_RESP, message.sender, term=raft.term, reject=True
            )
    elif kind is MessageType.STORAGE_APPEND_RESP:
        durability.handle_late_append_done(raft, message)


def _hup(raft: Raft, message: Message) -> None:
    kind = Campaign.PRE_VOTE if raft.config.pre_vote else Campaign.ELECTION
    election.start_campaign(raft, kind)


def _leader_proposal(raft: Raft, message: Message) -> None:
    if not changes.handle_proposal(raft, message):
        raise ProposalDropped("raft proposal dropped")


def _follower_proposal(raft: Raft, message: Message) -> None:
    if raft.leader == NONE or not raft.config.forward_proposals:
        raise ProposalDropped("raft proposal dropped")
    raft.send(
        MessageType.PROP, raft.leader, sender=message.sender, entries=message.entries
    )


def _drop_proposal(raft: Raft, message: Message) -> None:
    raise ProposalDropped("raft proposal dropped")


def _from_leader(handler: Handler) -> Handler:
    """A follower hears its leader."""

    def handle(raft: Raft, message: Message) -> None:
        raft.election_elapsed = 0
        raft.leader = message.sender
        handler(raft, message)

    return handle


def _give_way(handler: Handler) -> Handler:
    """A candidate hears that its term has a leader."""

    def handle(raft: Raft, message: Message) -> None:
        roles.become_follower(raft, message.term, message.sender)
        handler(raft, message)

    return handle


def _pass_on(raft: Raft, message: Message) -> None:
    """A follower sends on to its leader what is for the leader."""
    if raft.leader != NONE:
        raft.send(
            message.type, raft.leader, sender=message.sender, entries=message.entries
        )


def _forget_leader(raft: Raft, message: Message) -> None:
    # A member that forgot its leader would vote, against its promise to it.
    if not raft.config.lease_reads:
        raft.leader = NONE


def _timeout_now(raft: Raft, message: Message) -> None:
    election.start_campaign(raft, Campaign.TRANSFER)


_ANY_ROLE: Final[dict[MessageType, Handler]] = {
    MessageType.HUP: _hup,
    MessageType.VOTE: election.handle_vote_request,
    MessageType.PRE_VOTE: election.handle_vote_request,
    MessageType.STORAGE_APPEND_RESP: durability.handle_append_done,
    MessageType.STORAGE_APPLY_RESP: durability.handle_apply_done,
}

_LEADER: Final[dict[MessageType, Handler]] = {
    MessageType.BEAT: lambda raft, message: replication.broadcast_heartbeat(raft),
    MessageType.CHECK_QUORUM: lambda raft, message: election.check_quorum(raft),
    MessageType.PROP: _leader_proposal,
    MessageType.READ_INDEX: reads.handle_request,
    MessageType.APP_RESP: answers.handle_append_answer,
    MessageType.HEARTBEAT_RESP: answers.handle_heartbeat_answer,
    MessageType.SNAP_STATUS: answers.handle_snapshot_status,
    MessageType.UNREACHABLE: answers.handle_unreachable,
    MessageType.TRANSFER_LEADER: transfer.handle_transfer,
}

_FOLLOWER: Final[dict[MessageType, Handler]] = {
    MessageType.PROP: _follower_proposal,
    MessageType.APP: _from_leader(follower.handle_append),
    MessageType.HEARTBEAT: _from_leader(follower.handle_heartbeat),
    MessageType.SNAP: _from_leader(follower.handle_snapshot),
    MessageType.TRANSFER_LEADER: _pass_on,
    MessageType.READ_INDEX: _pass_on,
    MessageType.READ_INDEX_RESP: reads.handle_answer,
    MessageType.FORGET_LEADER: _forget_leader,
    MessageType.TIMEOUT_NOW: _timeout_now,
}

_CANDIDATE: Final[dict[MessageType, Handler]] = {
    MessageType.PROP: _drop_proposal,
    MessageType.APP: _give_way(follower.handle_append),
    MessageType.HEARTBEAT: _give_way(follower.handle_heartbeat),
    MessageType.SNAP: _give_way(follower.handle_snapshot),
    MessageType.VOTE_RESP: election.handle_vote_answer,
    MessageType.PRE_VOTE_RESP: election.handle_vote_answer,
}

_BY_ROLE: Final[dict[Role, dict[MessageType, Handler]]] = {
    Role.LEADER: _LEADER,
    Role.FOLLOWER: _FOLLOWER,
    Role.PRE_CANDIDATE: _CANDIDATE,
    Role.CANDIDATE: _CANDIDATE,
}
