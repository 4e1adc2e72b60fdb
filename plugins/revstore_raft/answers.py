"""What a leader learns from answers.

Rules of this file:

1. Any answer shows that the follower is there (``recent_active``).
2. An acknowledged index only grows. A refusal lowers where to send from, never what is
   acknowledged; an old refusal changes nothing.
3. A follower's two hints, its highest entry of at most the refused term and ours of at
   most that term, skip whole terms at once (paper, end of section 5.3).
"""

from __future__ import annotations

from revstore.interfaces.consensus import Message
from revstore_raft import reads, transfer
from revstore_raft.progress import Progress, ProgressState
from revstore_raft.replication import (
    broadcast_append,
    maybe_commit,
    maybe_send_append,
)
from revstore_raft.state import Raft

_PROBE = ProgressState.PROBE
_REPLICATE = ProgressState.REPLICATE
_SNAPSHOT = ProgressState.SNAPSHOT


def handle_append_answer(raft: Raft, message: Message) -> None:
    """A follower, or this member's own disk, answered an append."""
    member = message.sender
    row = raft.tracker.get(member)
    if row is None:
        return
    row.recent_active = True
    if message.reject:
        _handle_refusal(raft, message, row)
        return
    if not _advance(raft, row, message.index):
        return
    other = member != raft.id
    if maybe_commit(raft):
        if raft.reads.postponed:
            reads.release_postponed(raft)
        broadcast_append(raft)
    elif other and row.can_bump_commit(raft.log.committed):
        maybe_send_append(raft, member, row, send_if_empty=True)
    if other:
        # The window may have room for several messages.
        while maybe_send_append(raft, member, row, send_if_empty=False):
            pass
    if member == raft.transfer_target:
        transfer.finish_if_caught_up(raft, member)


def _advance(raft: Raft, row: Progress, index: int) -> bool:
    """Note an acknowledged index; whether it changed anything."""
    if not row.maybe_update(index) and not (
        # An answer to an empty append brings a follower that was thought unreachable
        # back to replication, though it tells nothing new.
        row.match == index and row.state is _PROBE
    ):
        return False
    if row.state is _PROBE:
        row.become_replicate()
    elif row.state is _REPLICATE:
        row.inflights.free_up_to(index)
    elif row.match + 1 >= raft.log.first_index():
        # Wherever the snapshot that arrived stood: the log reaches far enough to go on
        # from there.
        row.become_probe()
        row.become_replicate()
    return True


def _handle_refusal(raft: Raft, message: Message, row: Progress) -> None:
    hint = message.reject_hint
    if message.log_term > 0:
        hint, _ = raft.log.conflict_by_term(hint, message.log_term)
    if row.maybe_decrease(message.index, hint):
        if row.state is _REPLICATE:
            row.become_probe()
        maybe_send_append(raft, message.sender, row, send_if_empty=True)


def handle_heartbeat_answer(raft: Raft, message: Message) -> None:
    """A follower is there, and still follows."""
    row = raft.tracker.get(message.sender)
    if row is None:
        return
    row.recent_active = True
    row.flow_paused = False
    if row.match < raft.log.last_index or row.state is _PROBE:
        maybe_send_append(raft, message.sender, row, send_if_empty=True)
    reads.handle_confirmation(raft, message)


def handle_snapshot_status(raft: Raft, message: Message) -> None:
    """A snapshot was delivered, or was not (``reject``)."""
    row = raft.tracker.get(message.sender)
    if row is None or row.state is not _SNAPSHOT:
        return
    if message.reject:
        # Probe from what is known, not from the snapshot that never arrived.
        row.pending_snapshot = 0
    row.become_probe()
    # If it arrived, its answer comes; if not, the next heartbeat is early enough.
    row.flow_paused = True


def handle_unreachable(raft: Raft, message: Message) -> None:
    """An append was probably lost; find out which."""
    row = raft.tracker.get(message.sender)
    if row is not None and row.state is _REPLICATE:
        row.become_probe()
