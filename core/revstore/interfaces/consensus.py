"""The contract of a consensus plugin: a value machine without any I/O.

The shell feeds it ticks, messages and proposals and asks for a ``Ready``: what to
persist, what to send, what to apply. The machine owns no clock, thread, file, socket
and no global randomness, so a run can be replayed from its seed.

C-01  Within one term a member votes at most once, and the vote is in a ``Ready`` whose
      ``persist`` carries it before any message that reveals it may leave.
C-02  ``messages`` may leave at once. ``messages_after_persist`` may leave only when the
      ``persist`` of the same Ready is durable.
C-03  Batches are persisted in order of ``persist.sequence``; the shell reports each by
      ``persisted(sequence)``. ``ready`` may be called again before that.
C-04  ``committed`` entries are durable on a quorum (that includes this member's own
      durability if it was counted), each is handed out once, in order, without holes.
C-05  A read state is confirmed: its index is at least every index that was committed
      anywhere when ``read_index`` was called.
C-06  ``propose`` returns the (term, index) that the entry will have if it commits, or
      None when it was forwarded to the leader.
C-07  A proposal that cannot be accepted raises ProposalDropped; nothing was changed.
C-08  The same inputs in the same order with the same random source give the same outputs.
C-09  ``applied(index)`` tells how far the state machine is; the machine never asks to
      apply more than ``limits`` allow ahead of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from random import Random
from typing import Protocol

import msgspec

from revstore.errors import RevstoreError
from revstore.types import ConfState, Entry, HardState, SnapshotMeta


class ProposalDropped(RevstoreError):  # noqa: N818 - the field's own term
    """The proposal was not taken: no leader, a transfer is running, or too much waits."""


class Role(StrEnum):
    """What a member is in its current term."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class MessageType(IntEnum):
    """Kinds of messages (raftpb.MessageType, the same numbers)."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19
    STORAGE_APPEND_RESP = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESP = 22
    FORGET_LEADER = 23


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot as it travels in a message: where it stands, and opaque data."""

    meta: SnapshotMeta = SnapshotMeta()
    data: bytes = b""


class Message(msgspec.Struct, frozen=True):
    """A message between members (raftpb.Message, the same meaning field by field)."""

    type: MessageType
    to: int = 0
    sender: int = 0
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: tuple[Entry, ...] = ()
    commit: int = 0
    vote: int = 0
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""
    responses: tuple[Message, ...] = ()


class ConfChangeType(IntEnum):
    """What one step of a membership change does (raftpb.ConfChangeType)."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class ConfChangeTransition(IntEnum):
    """How a change enters and leaves joint consensus (raftpb, same numbers)."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


class ConfChangeSingle(msgspec.Struct, frozen=True):
    """One step of a membership change."""

    type: ConfChangeType
    node_id: int


class ConfChange(msgspec.Struct, frozen=True):
    """A membership change (raftpb.ConfChangeV2); no changes means "leave joint"."""

    changes: tuple[ConfChangeSingle, ...] = ()
    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    context: bytes = b""


class Persist(msgspec.Struct, frozen=True):
    """What must become durable together, in order of ``sequence``."""

    sequence: int
    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    must_sync: bool = True
    """False if only the commit index moved, which a crash may lose."""


class ReadState(msgspec.Struct, frozen=True, gc=False):
    """A confirmed read: serve ``context`` once applied >= ``index`` (C-05)."""

    index: int
    context: bytes


class Ready(msgspec.Struct, frozen=True):
    """What the shell has to do now."""

    persist: Persist | None = None
    messages: tuple[Message, ...] = ()
    messages_after_persist: tuple[Message, ...] = ()
    committed: tuple[Entry, ...] = ()
    read_states: tuple[ReadState, ...] = ()
    dropped_reads: tuple[bytes, ...] = ()
    """Contexts of reads that will not be confirmed (leader changed); fail them."""
    role: Role | None = None
    """Set when role or leader changed since the last Ready."""
    leader: int | None = None
    """Set together with ``role``; 0 means "no leader known"."""


class MemberProgress(msgspec.Struct, frozen=True):
    """How far a leader knows another member to be."""

    id: int
    match: int
    next: int
    state: str
    learner: bool
    recent_active: bool


class Status(msgspec.Struct, frozen=True):
    """The machine as seen from outside."""

    id: int
    role: Role
    leader: int
    term: int
    vote: int
    commit: int
    applied: int
    last_index: int
    conf_state: ConfState
    transferring_to: int = 0
    progress: tuple[MemberProgress, ...] = ()
    """Filled on a leader only."""


class ConsensusCapabilities(msgspec.Struct, frozen=True):
    """What a consensus plugin can do."""

    multi_member: bool
    learner: bool = False
    transfer_leader: bool = False
    pre_vote: bool = False
    joint: bool = False
    check_quorum: bool = False
    lease_read: bool = False


class LogReader(Protocol):
    """The persisted log as the machine may read it (``Wal`` satisfies this)."""

    def first_index(self) -> int:
        """Index of the first entry kept. Raises: nothing."""
        ...

    def last_index(self) -> int:
        """Index of the last entry appended. Raises: nothing."""
        ...

    def term(self, index: int) -> int | None:
        """Term at an index, None if it is not kept. Raises: StorageError."""
        ...

    def read(self, lo: int, hi: int, bytes_max: int = 0) -> list[Entry]:
        """Entries lo <= index < hi, bounded. Raises: StorageError."""
        ...


class ConsensusStart(msgspec.Struct, frozen=True):
    """What a machine is made from."""

    id: int
    hard_state: HardState
    conf_state: ConfState
    """The membership at ``applied``."""
    applied: int
    """Entries up to here are in the state machine and are not handed out again."""
    log: LogReader
    random: Random
    election_ticks: int = 10
    heartbeat_ticks: int = 1


class Consensus(ABC):
    """A member's part in deciding the order of entries."""

    capabilities: ConsensusCapabilities

    @abstractmethod
    def tick(self) -> None:
        """One unit of time has passed. Raises: nothing."""

    @abstractmethod
    def step(self, message: Message) -> None:
        """Take a message from another member; stale or foreign ones are ignored.

        Raises:
            ProposalDropped: the message is a forwarded proposal that cannot be taken.
        """

    @abstractmethod
    def propose(self, data: Sequence[bytes]) -> tuple[int, int] | None:
        """Ask for entries to be appended in order (C-06, C-07).

        Returns (term, index of the first one), or None if they were forwarded.

        Raises:
            ProposalDropped: see C-07.
        """

    @abstractmethod
    def propose_conf_change(self, change: ConfChange) -> tuple[int, int] | None:
        """Ask for a membership change; answers like ``propose``.

        Raises:
            ProposalDropped: see C-07; also while another change is not applied yet.
            UsageError: ``capabilities`` excludes the change.
        """

    @abstractmethod
    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """A committed membership change takes effect; returns the new membership.

        Raises:
            InvariantViolation: the change is not valid from the current membership.
        """

    @abstractmethod
    def read_index(self, context: bytes) -> None:
        """Ask for a confirmed read (C-05); the answer comes in a Ready.

        Raises:
            ProposalDropped: no leader is known.
        """

    def read_index_now(self) -> int | None:
        """The index of a read that is confirmed without asking anybody, or None.

        Not None where this member alone is the quorum, or holds a valid leader lease,
        and has committed an entry of its term. A shell asks this first, and falls back
        to ``read_index``. Raises: nothing.
        """
        return None

    @abstractmethod
    def transfer_leader(self, target: int) -> None:
        """Ask that ``target`` become leader; given up after an election timeout.

        Raises:
            UsageError: ``capabilities`` excludes it, or the target is no voter.
        """

    @abstractmethod
    def campaign(self) -> None:
        """Start an election now. Raises: nothing."""

    @abstractmethod
    def report_unreachable(self, member: int) -> None:
        """The last message to ``member`` could not be sent. Raises: nothing."""

    @abstractmethod
    def report_snapshot(self, member: int, ok: bool) -> None:
        """A snapshot sent to ``member`` arrived, or failed. Raises: nothing."""

    @abstractmethod
    def has_ready(self) -> bool:
        """Whether ``ready`` would return anything to do. Raises: nothing."""

    @abstractmethod
    def ready(self) -> Ready:
        """What is to be done now; each thing is handed out once. Raises: nothing."""

    @abstractmethod
    def persisted(self, sequence: int) -> None:
        """Everything up to this ``Persist.sequence`` is durable (C-03).

        Raises:
            InvariantViolation: the number was never handed out, or went back.
        """

    @abstractmethod
    def applied(self, index: int) -> None:
        """The state machine has applied up to ``index`` (C-09).

        Raises:
            InvariantViolation: ``index`` went back or was not handed out.
        """

    @abstractmethod
    def status(self) -> Status:
        """The machine as seen from outside. Raises: nothing."""
