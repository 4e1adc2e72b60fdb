"""What becomes of the log when storage reports back.

Rules of this file:

1. A report names the last entry of the log at the time the batch was handed out. It is
   about entries of the term in which it was handed out: if the term has changed, the
   same (term, index) may have been replaced and come again, not yet written, so the
   report is ignored; a later one covers it (the "ABA" race).
2. A snapshot holds committed state, so its report counts in any term.
3. What is applied frees room for what is uncommitted, and may end a joint phase.
"""

from __future__ import annotations

from revstore.interfaces.consensus import Message
from revstore_raft import changes
from revstore_raft.sizes import entries_size, payload_size
from revstore_raft.state import Raft


def handle_append_done(raft: Raft, message: Message) -> None:
    """A batch is durable, in the term in which it was handed out."""
    if message.index:
        raft.log.stable_to(message.log_term, message.index)
    if message.snapshot is not None:
        handle_late_append_done(raft, message)


def handle_late_append_done(raft: Raft, message: Message) -> None:
    """A batch is durable, in whatever term (rules 1 and 2)."""
    if message.snapshot is not None:
        index = message.snapshot.meta.index
        raft.log.unstable.stable_snapshot_to(index)
        applied_to(raft, max(index, raft.log.applied), 0)


def handle_apply_done(raft: Raft, message: Message) -> None:
    """Entries are applied."""
    entries = message.entries
    if entries:
        applied_to(raft, entries[-1].index, entries_size(entries))
        release_uncommitted(raft, payload_size(entries))


def applied_to(raft: Raft, index: int, size: int) -> None:
    """Everything up to ``index`` is applied; ``size`` bytes of it were handed out."""
    log = raft.log
    log.applied_to(index if index > log.applied else log.applied, size)
    if raft.tracker.membership.auto_leave:
        changes.maybe_leave_joint(raft)


def release_uncommitted(raft: Raft, size: int) -> None:
    """Entries with ``size`` bytes of payload wait no more.

    The sum may be too small, since a new leader does not count what it found.
    """
    raft.uncommitted_bytes = max(raft.uncommitted_bytes - size, 0)
