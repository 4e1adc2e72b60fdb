"""The state of one member, and its two outboxes.

Rules of this file:

1. Durable before it shows: ``term``, ``vote`` and the log are what a restart finds, as
   of the last batch that was persisted. A message that reveals them goes to
   ``after_append``, which leaves only when everything changed so far is durable:
   answers to appends and to vote requests, real or preliminary.
2. Other messages go to ``messages`` and may leave at once. Appends are among them: a
   leader may replicate what it has not yet written itself (thesis, section 10.2.1),
   because it counts itself only when its own answer comes back through ``after_append``.
3. A message to oneself is only ever in ``after_append``.
4. State changes role in ``roles.py`` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgspec

from revstore.errors import InvariantViolation
from revstore.interfaces.consensus import (
    Message,
    MessageType,
    ReadState,
    Role,
    Snapshot,
)
from revstore.types import Entry, HardState
from revstore_raft.config import RaftConfig
from revstore_raft.log import RaftLog
from revstore_raft.readqueue import ReadQueue
from revstore_raft.tracker import Tracker

NONE = 0
"""No member."""

LOCAL_APPEND = (1 << 64) - 1
"""Target of messages to the thread that appends (asynchronous storage writes)."""

LOCAL_APPLY = (1 << 64) - 2
"""Target of messages to the thread that applies."""

_CAMPAIGN_TYPES = frozenset(
    {
        MessageType.VOTE,
        MessageType.VOTE_RESP,
        MessageType.PRE_VOTE,
        MessageType.PRE_VOTE_RESP,
    }
)
_TERMLESS_TYPES = frozenset({MessageType.PROP, MessageType.READ_INDEX})
"""Messages on the way to whoever leads, in whatever term."""
_AFTER_APPEND_TYPES = frozenset(
    {MessageType.APP_RESP, MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP}
)


class SoftState(msgspec.Struct, frozen=True, gc=False):
    """What need not survive a restart."""

    leader: int
    role: Role


class Raft:
    """All state of a member; the rules that change it are in the other files."""

    __slots__ = (
        "after_append",
        "config",
        "election_elapsed",
        "heartbeat_elapsed",
        "id",
        "leader",
        "learner",
        "lease_broken",
        "log",
        "messages",
        "pending_change_index",
        "random",
        "randomized_election_ticks",
        "read_states",
        "reads",
        "role",
        "silent_until",
        "snapshot_source",
        "term",
        "ticks",
        "tracker",
        "transfer_target",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(
        self,
        config: RaftConfig,
        log: RaftLog,
        random: Random,
        snapshot_source: Callable[[], Snapshot | None],
    ) -> None:
        self.config = config
        self.id = config.id
        self.log = log
        self.random = random
        self.snapshot_source = snapshot_source
        """The newest snapshot there is; None if there is none at the moment."""

        # Durable (paper, figure 2).
        self.term = 0
        self.vote = NONE
        """Whom this member voted for in ``term``. Invariant: set once a term."""

        # What everybody has.
        self.role = Role.FOLLOWER
        self.leader = NONE
        self.learner = False
        """Whether this member itself is a learner."""
        self.tracker = Tracker()
        self.ticks = 0
        """Ticks since the start; never goes back."""
        self.election_elapsed = 0
        """Ticks since the leader was heard; on a leader since the last quorum check."""
        self.randomized_election_ticks = 0
        self.silent_until = 0
        """Tick until which no vote is given (``reads.py``, rules 3 to 6)."""

        # What a leader has.
        self.heartbeat_elapsed = 0
        self.transfer_target = NONE
        self.lease_broken = False
        """Whether somebody was told to campaign without regard to the lease."""
        self.pending_change_index = 0
        """No change may be proposed until this index is applied."""
        self.uncommitted_bytes = 0
        self.reads = ReadQueue()

        # Outboxes.
        self.messages: list[Message] = []
        self.after_append: list[Message] = []
        self.read_states: list[ReadState] = []

    def soft_state(self) -> SoftState:
        """Leader and role."""
        return SoftState(self.leader, self.role)

    def hard_state(self) -> HardState:
        """What a restart must find."""
        return HardState(self.term, self.vote, self.log.committed)

    def promotable(self) -> bool:
        """Whether this member may campaign."""
        row = self.tracker.get(self.id)
        return (
            row is not None and not row.learner and self.log.unstable.snapshot is None
        )

    def send(
        self,
        kind: MessageType,
        to: int,
        *,
        term: int = 0,
        sender: int = NONE,
        log_term: int = 0,
        index: int = 0,
        entries: tuple[Entry, ...] = (),
        commit: int = 0,
        snapshot: Snapshot | None = None,
        reject: bool = False,
        reject_hint: int = 0,
        context: bytes = b"",
    ) -> None:
        """Put a message into the outbox it belongs to (rules 1 to 3).

        Only requests for votes and answers to them give a term: the one they are
        about. The sender is this member unless a message is passed on.

        Raises:
            InvariantViolation: a term is there and must not be, or the reverse; or the
                message is to this member itself.
        """
        if (kind in _CAMPAIGN_TYPES) != (term != 0):
            raise InvariantViolation(f"{kind.name} sent with term {term}")
        if term == 0 and kind not in _TERMLESS_TYPES:
            term = self.term
        message = Message(
            kind,
            to,
            sender or self.id,
            term,
            log_term,
            index,
            entries,
            commit,
            NONE,
            snapshot,
            reject,
            reject_hint,
            context,
        )
        if kind in _AFTER_APPEND_TYPES:
            self.after_append.append(message)
        elif to == self.id:
            raise InvariantViolation(f"{kind.name} sent to oneself")
        else:
            self.messages.append(message)
