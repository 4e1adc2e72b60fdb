"""The follower's half of replication.

Rules of this file:

1. Entries are taken only behind an entry that both logs have (paper, section 5.3).
2. What is committed is never replaced; an append from before that is answered with
   the commit index.
3. An answer waits for the disk (``state.py``, rule 1): acknowledged means durable.
4. A snapshot is taken only if it knows more than is committed here, and names this
   member. If the log reaches it, the log is kept and only the commit index moves.
"""

from __future__ import annotations

from revstore.interfaces.consensus import Message, MessageType, Role, Snapshot
from revstore_raft import changes, reads
from revstore_raft.state import Raft


def handle_append(raft: Raft, message: Message) -> None:
    """Take entries from the leader, or say where the logs may agree."""
    log = raft.log
    sender, index = message.sender, message.index
    if index < log.committed:
        raft.send(MessageType.APP_RESP, sender, index=log.committed)
        return
    last = log.maybe_append(message.log_term, index, message.entries, message.commit)
    if last is not None:
        raft.send(MessageType.APP_RESP, sender, index=last)
        return
    # Not at ``index``, then: at best at the last entry of at most that term.
    hint, term = log.conflict_by_term(min(index, log.last_index), message.log_term)
    raft.send(
        MessageType.APP_RESP,
        sender,
        index=index,
        log_term=term,
        reject=True,
        reject_hint=hint,
    )


def handle_heartbeat(raft: Raft, message: Message) -> None:
    """Learn the commit index; the answer may leave at once, it reveals nothing."""
    raft.log.commit_to(message.commit)
    reads.promise_silence(raft)
    raft.send(MessageType.HEARTBEAT_RESP, message.sender, context=message.context)


def handle_snapshot(raft: Raft, message: Message) -> None:
    """Take a snapshot from the leader."""
    snapshot = message.snapshot or Snapshot()
    taken = _maybe_restore(raft, snapshot)
    index = raft.log.last_index if taken else raft.log.committed
    raft.send(MessageType.APP_RESP, message.sender, index=index)


def _maybe_restore(raft: Raft, snapshot: Snapshot) -> bool:
    meta = snapshot.meta
    if meta.index <= raft.log.committed or raft.role is not Role.FOLLOWER:
        return False
    conf = meta.conf_state
    if raft.id not in (*conf.voters, *conf.learners, *conf.voters_outgoing):
        return False
    if raft.log.matches(meta.term, meta.index):
        raft.log.commit_to(meta.index)
        return False
    raft.log.restore(snapshot)
    changes.restore(raft, conf)
    return True
