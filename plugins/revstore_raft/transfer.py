"""Handing leadership over.

Rules of this file (thesis, section 3.10):

1. While a transfer runs the leader takes no proposals, so that the target can catch up.
2. The target is told to campaign once its log is as long as the leader's; it skips the
   pre-vote, and voters do not ask whether they still hear the old leader.
3. A transfer that is not over within an election timeout is given up, and proposals
   are taken again. The target may campaign all the same, so whoever relies on the
   leader lease must not rely on it again in this term (``reads.py``).
4. Learners are no targets.
"""

from __future__ import annotations

from revstore.interfaces.consensus import Message, MessageType
from revstore_raft import replication
from revstore_raft.state import NONE, Raft


def handle_transfer(raft: Raft, message: Message) -> None:
    """The leader is asked to hand over to ``message.sender``."""
    target = message.sender
    row = raft.tracker.get(target)
    if row is None or row.learner or raft.transfer_target == target:
        return
    raft.transfer_target = NONE
    if target == raft.id:
        return
    raft.election_elapsed = 0
    raft.transfer_target = target
    if row.match == raft.log.last_index:
        send_timeout_now(raft, target)
    else:
        replication.maybe_send_append(raft, target, row, send_if_empty=True)


def finish_if_caught_up(raft: Raft, member: int) -> None:
    """The target caught up further; it may be time."""
    row = raft.tracker.get(member)
    if row is not None and row.match == raft.log.last_index:
        send_timeout_now(raft, member)


def send_timeout_now(raft: Raft, target: int) -> None:
    """Tell the target to campaign."""
    raft.lease_broken = True
    raft.send(MessageType.TIMEOUT_NOW, target)
