"""What a machine can be told, and which combinations make sense."""

from __future__ import annotations

import msgspec

from revstore.errors import ConfigError
from revstore_raft.limits import (
    COMMITTED_BYTES_MAX,
    INFLIGHT_BYTES_MAX,
    INFLIGHT_MESSAGES_MAX,
    MESSAGE_BYTES_MAX,
    NO_LIMIT,
    UNCOMMITTED_BYTES_MAX,
)


class RaftConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the core; the defaults are those of a bare library."""

    id: int
    election_ticks: int
    """Ticks without a leader before a campaign; randomized up to twice as many."""
    heartbeat_ticks: int
    message_bytes_max: int = NO_LIMIT
    committed_bytes_max: int = NO_LIMIT
    uncommitted_bytes_max: int = NO_LIMIT
    inflight_messages_max: int = 1 << 30
    inflight_bytes_max: int = NO_LIMIT
    pre_vote: bool = False
    check_quorum: bool = False
    lease_reads: bool = False
    forward_proposals: bool = True
    validate_changes: bool = True
    """Refuse a membership change that does not fit the current membership."""
    step_down_on_removal: bool = False
    answer_old_candidates: bool = False
    """Tell a candidate of an older term ours (paper, section 5.1); etcd's library keeps
    silent. Without it, and without pre-vote, a candidate that the other one does not
    know may never catch up with the other one's term."""

    def __post_init__(self) -> None:
        """Check the relations. Raises: ConfigError."""
        if self.id == 0:
            raise ConfigError("member id 0 means 'none'; give the member another id")
        if self.heartbeat_ticks < 1:
            raise ConfigError("heartbeat_ticks must be at least 1")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ConfigError(
                f"election_ticks ({self.election_ticks}) must be larger than "
                f"heartbeat_ticks ({self.heartbeat_ticks})"
            )
        if self.inflight_messages_max < 1:
            raise ConfigError("inflight_messages_max must be at least 1")
        if self.inflight_bytes_max < self.message_bytes_max:
            raise ConfigError(
                f"inflight_bytes_max ({self.inflight_bytes_max}) must be at least "
                f"message_bytes_max ({self.message_bytes_max})"
            )
        if self.committed_bytes_max < 1:
            raise ConfigError("committed_bytes_max must be at least 1")
        if self.lease_reads and not self.check_quorum:
            raise ConfigError("lease_reads needs check_quorum; switch it on")


class RaftOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the plugin; the defaults suit a server."""

    pre_vote: bool = True
    check_quorum: bool = True
    lease_reads: bool = False
    """Serve reads without asking a quorum; trusts that clocks run at like speed."""
    step_down_on_removal: bool = True
    message_bytes_max: int = MESSAGE_BYTES_MAX
    inflight_messages_max: int = INFLIGHT_MESSAGES_MAX
    inflight_bytes_max: int = INFLIGHT_BYTES_MAX
    uncommitted_bytes_max: int = UNCOMMITTED_BYTES_MAX
    committed_bytes_max: int = COMMITTED_BYTES_MAX

    def config(self, id: int, election_ticks: int, heartbeat_ticks: int) -> RaftConfig:
        """The settings of the core. Raises: ConfigError."""
        return RaftConfig(
            id=id,
            election_ticks=election_ticks,
            heartbeat_ticks=heartbeat_ticks,
            message_bytes_max=self.message_bytes_max,
            committed_bytes_max=self.committed_bytes_max,
            uncommitted_bytes_max=self.uncommitted_bytes_max,
            inflight_messages_max=self.inflight_messages_max,
            inflight_bytes_max=self.inflight_bytes_max,
            pre_vote=self.pre_vote,
            check_quorum=self.check_quorum,
            lease_reads=self.lease_reads,
            step_down_on_removal=self.step_down_on_removal,
            answer_old_candidates=True,
        )
