"""Who leads and since when, and what that says about requests that took too long.

Rules of this file:

1. A request whose time is up names the reason as far as this member knows it (etcd,
   ``parseProposeCtxErr``): it began while the leader before was being lost, or the
   members that it needed cannot be reached.
2. Streams that ask for a leader hear once when there was none for three election
   timeouts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from revstore.api import errors
from revstore.errors import ApiError
from revstore.interfaces.consensus import Role

if TYPE_CHECKING:
    from revstore.node.replica import Replica

NEVER = float("inf")
LOST_TIMEOUTS = 3
ELECTION_TIMEOUTS = 2
"""How long before an election its predecessor may have been lost."""


class Leadership:
    """What one replica knows of its leader."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._led_since = -NEVER
        self._leaderless_since: float | None = None

    def changed(self) -> None:
        """Another leader, or none, is known now. Raises: nothing."""
        if self._replica.leader:
            self._led_since = self._replica.clock.now()

    def tick(self, now: float) -> None:
        """Time passes; with no leader rule 2 applies. Raises: nothing."""
        replica = self._replica
        if replica.leader:
            self._leaderless_since = None
            return
        self._campaign_if_alone()
        if self._leaderless_since is None:
            self._leaderless_since = now
        timeout = replica.settings.election_timeout_s
        lost_at = self._leaderless_since + LOST_TIMEOUTS * timeout
        if now >= lost_at and replica.on_leader_lost is not None:
            self._leaderless_since = NEVER
            replica.on_leader_lost()

    def _campaign_if_alone(self) -> None:
        """The only voter need not wait for an election timeout: nobody else can lead."""
        replica = self._replica
        status = replica.consensus.status()
        alone = status.conf_state.voters == (replica.member_id,)
        if alone and status.role == Role.FOLLOWER:
            replica.consensus.campaign()

    def late(self, began: float) -> ApiError:
        """What a request hears whose time is up (rule 1). Raises: nothing."""
        timeout = self._replica.settings.election_timeout_s
        lost = self._led_since - ELECTION_TIMEOUTS * timeout
        if lost < began < self._led_since:
            return errors.TIMEOUT_DUE_TO_LEADER_FAIL
        if self._cut_off():
            return errors.TIMEOUT_DUE_TO_CONNECTION_LOST
        return errors.TIMEOUT

    def _cut_off(self) -> bool:
        """Whether a leader misses its quorum, or a follower its leader."""
        replica = self._replica
        reaches = replica.reaches
        if reaches is None or not replica.leader:
            return False
        if not replica.is_leader:
            return not reaches(replica.leader)
        voters = replica.consensus.status().conf_state.voters
        there = sum(one == replica.member_id or reaches(one) for one in voters)
        return there <= len(voters) // 2
