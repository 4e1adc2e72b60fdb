"""The leader's half of replication.

Rules of this file:

1. A leader only appends to its own log (paper, section 5.3).
2. An append names the entry before it, and a follower that lacks that refuses it.
3. An entry is committed once a quorum has it durably and it is of the leader's term
   (section 5.4.2); all before it are committed with it.
4. A leader counts itself like a follower: by an answer that waits for its own disk.
5. A follower that needs entries that are compacted away gets a snapshot, if it was
   heard from lately.
6. Per entry there is no work here but the slicing of a tuple.
"""

from __future__ import annotations

from collections.abc import Sequence

from revstore.errors import InvariantViolation
from revstore.interfaces.consensus import Message, MessageType
from revstore.types import Entry
from revstore_raft.progress import Progress, ProgressState
from revstore_raft.sizes import payload_size
from revstore_raft.state import Raft

_APP = MessageType.APP
_APP_RESP = MessageType.APP_RESP
_REPLICATE = ProgressState.REPLICATE
_SNAPSHOT = ProgressState.SNAPSHOT


def append_own(raft: Raft, entries: tuple[Entry, ...]) -> bool:
    """Append to the leader's log; False if too much is uncommitted already.

    The entries have this term and the indexes behind the last one. While nothing waits
    anything is taken, and entries without payload always are.
    """
    size = payload_size(entries)
    waiting = raft.uncommitted_bytes
    if waiting and size and waiting + size > raft.config.uncommitted_bytes_max:
        return False
    raft.uncommitted_bytes = waiting + size
    raft.log.append(entries)
    id, last = raft.id, entries[-1].index
    raft.after_append.append(Message(_APP_RESP, id, id, raft.term, 0, last))
    return True


def broadcast_append(raft: Raft) -> None:
    """Bring everybody up to date, with an empty append where nothing is new."""
    for member, row in raft.tracker.members:
        if member != raft.id:
            maybe_send_append(raft, member, row, send_if_empty=True)


def maybe_send_append(
    raft: Raft, to: int, row: Progress, *, send_if_empty: bool
) -> bool:
    """Send the entries that a follower lacks, or a snapshot; whether anything left."""
    if row.flow_paused or row.state is _SNAPSHOT:
        return False
    log = raft.log
    previous = row.next - 1
    previous_term = log.term(previous)
    if previous_term is None:
        return _maybe_send_snapshot(raft, to, row)
    entries: tuple[Entry, ...] = ()
    if row.state is not _REPLICATE or not row.inflights.full():
        # With a full window only an empty append may leave: were all messages in the
        # window lost, its answer is what frees the window.
        found = log.entries(row.next, raft.config.message_bytes_max)
        if found is None:
            return _maybe_send_snapshot(raft, to, row)
        entries = tuple(found)
    if not entries and not send_if_empty:
        return False
    committed = log.committed
    raft.messages.append(
        Message(
            _APP, to, raft.id, raft.term, previous_term, previous, entries, committed
        )
    )
    row.sent_entries(len(entries), payload_size(entries))
    row.sent_commit = committed
    return True


def _maybe_send_snapshot(raft: Raft, to: int, row: Progress) -> bool:
    if not row.recent_active:
        return False
    snapshot = raft.snapshot_source()
    if snapshot is None:
        return False
    if snapshot.meta.index == 0:
        raise InvariantViolation("the log is compacted, and there is no snapshot")
    row.become_snapshot(snapshot.meta.index)
    raft.send(MessageType.SNAP, to, snapshot=snapshot)
    return True


def maybe_commit(raft: Raft) -> bool:
    """Commit what a quorum has (rule 3); whether that is news."""
    return raft.log.maybe_commit(raft.term, raft.tracker.committed())


def broadcast_heartbeat(raft: Raft) -> None:
    """Tell everybody who leads; it begins a round that answers refer to."""
    context = raft.reads.next_round(raft.ticks)
    committed = raft.log.committed
    for member, row in raft.tracker.members:
        if member == raft.id:
            continue
        # A follower may have other entries behind what it is known to share.
        commit = min(row.match, committed)
        raft.send(MessageType.HEARTBEAT, member, commit=commit, context=context)
        row.sent_commit = commit


def propose(raft: Raft, payloads: Sequence[Entry]) -> bool:
    """Append entries whose term and index are still to be set; see ``append_own``."""
    term = raft.term
    first = raft.log.last_index + 1
    entries = tuple(
        [
            Entry(term, index, entry.data, entry.type)
            for index, entry in enumerate(payloads, first)
        ]
    )
    if not append_own(raft, entries):
        return False
    broadcast_append(raft)
    return True
