"""Changing the membership: proposing, applying, leaving a joint phase.

Rules of this file:

1. A change takes effect on a member when that member applies it (a deviation from the
   paper, section 6, which lets it count when it is appended; etcd does the same).
   That is safe because at most one change is between proposed and applied, and because
   nobody campaigns with a committed change unapplied (``election.py``, rule 6).
2. A change that does not fit the membership is replaced by an empty entry when it is
   proposed, never when it is applied: applying must not fail on any member.
3. A joint phase that is to end by itself is ended by the leader, once the change that
   began it is applied; the proposal is empty, so no bound can refuse it.
4. A leader that is no voter any more goes on until it is told otherwise, or steps down
   (``step_down_on_removal``); it never counts itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from revstore.errors import CorruptionError
from revstore.interfaces.consensus import (
    ConfChange,
    Message,
    MessageType,
    ProposalDropped,
    Role,
)
from revstore.types import ConfState, Entry, EntryType
from revstore_raft import reads, replication, roles
from revstore_raft.confcodec import decode_change
from revstore_raft.membership import (
    Changer,
    InvalidChangeError,
    carry_out,
    leaves_joint,
)
from revstore_raft.membership import restore as restore_membership
from revstore_raft.progress import Progress
from revstore_raft.state import NONE, Raft
from revstore_raft.tracker import Membership, Tracker


class ChangePendingError(ProposalDropped):
    """An earlier change may still have to be applied."""


def check(raft: Raft, change: ConfChange) -> None:
    """Check that a leader may take a change now.

    Raises:
        ChangePendingError: it may later.
        InvalidChangeError: it does not fit the membership.
    """
    applied = raft.log.applied
    if raft.pending_change_index > applied:
        raise ChangePendingError(
            f"possible unapplied conf change at index {raft.pending_change_index} "
            f"(applied to {applied})"
        )
    joint = raft.tracker.membership.joint
    leaving = leaves_joint(change)
    if joint and not leaving:
        raise InvalidChangeError("must transition out of joint config first")
    if not joint and leaving:
        raise InvalidChangeError("not in joint state; refusing empty conf change")
    # Nothing else is pending, so this is the membership it will be applied to.
    carry_out(_changer(raft), change)


def screen(raft: Raft, entries: Sequence[Entry]) -> Sequence[Entry]:
    """Replace changes that cannot be taken by empty entries (rule 2)."""
    if all(entry.type is EntryType.NORMAL for entry in entries):
        return entries
    out: list[Entry] = []
    for index, entry in enumerate(entries, raft.log.last_index + 1):
        if entry.type is EntryType.NORMAL:
            out.append(entry)
        elif _refused(raft, entry):
            out.append(Entry(0, 0))
        else:
            raft.pending_change_index = index
            out.append(entry)
    return out


def _refused(raft: Raft, entry: Entry) -> bool:
    try:
        change = decode_change(entry.type, entry.data)
        if raft.config.validate_changes:
            check(raft, change)
    except (CorruptionError, ChangePendingError, InvalidChangeError):
        # It may come from another member. Bytes that cannot be read, nobody could
        # apply.
        return True
    return False


def apply(raft: Raft, change: ConfChange) -> ConfState:
    """A committed change takes effect.

    Raises:
        InvalidChangeError: it is not allowed from the membership in force; nothing changed.
    """
    return _switch(raft, *carry_out(_changer(raft), change))


def restore(raft: Raft, state: ConfState) -> None:
    """A snapshot's membership replaces the one in force.

    Raises:
        InvalidChangeError: it is none that changes can lead to.
    """
    result = restore_membership(state, raft.log.last_index, _window(raft))
    raft.tracker = Tracker()
    _switch(raft, *result)


def maybe_leave_joint(raft: Raft) -> None:
    """Propose the end of a joint phase that ends by itself (rule 3).

    While leadership is being transferred the proposal is dropped; it is made again
    when more is applied, by whoever leads then.
    """
    if (
        raft.tracker.membership.auto_leave
        and raft.role is Role.LEADER
        and raft.log.applied >= raft.pending_change_index
    ):
        handle_proposal(
            raft,
            Message(
                MessageType.PROP, entries=(Entry(0, 0, b"", EntryType.CONF_CHANGE_V2),)
            ),
        )


def handle_proposal(raft: Raft, message: Message) -> bool:
    """A leader takes entries; False if it cannot."""
    if raft.tracker.get(raft.id) is None or raft.transfer_target != NONE:
        return False
    pending = raft.pending_change_index
    if replication.propose(raft, screen(raft, message.entries)):
        return True
    raft.pending_change_index = pending
    return False


def _window(raft: Raft) -> tuple[int, int]:
    return raft.config.inflight_messages_max, raft.config.inflight_bytes_max


def _changer(raft: Raft) -> Changer:
    tracker = raft.tracker
    return Changer(
        tracker.membership,
        tracker.progress_map(),
        raft.log.last_index,
        _window(raft),
    )


def _switch(
    raft: Raft, membership: Membership, progress: dict[int, Progress]
) -> ConfState:
    tracker = raft.tracker
    tracker.replace(membership, progress)
    own = tracker.get(raft.id)
    raft.learner = own is not None and own.learner
    state = membership.conf_state()
    if raft.role is not Role.LEADER:
        return state
    if own is None or own.learner:
        if raft.config.step_down_on_removal:
            roles.become_follower(raft, raft.term, NONE)
        return state
    if replication.maybe_commit(raft):
        # A smaller quorum may have had more all along.
        reads.release_postponed(raft)
        replication.broadcast_append(raft)
    else:
        # New members need not wait for the next proposal or heartbeat.
        for member, row in tracker.members:
            if member != raft.id:
                replication.maybe_send_append(raft, member, row, send_if_empty=False)
    if raft.transfer_target and raft.transfer_target not in membership.voters():
        raft.transfer_target = NONE
    return state
