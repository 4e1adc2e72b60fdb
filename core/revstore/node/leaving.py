"""When a member that was removed stops.

Rules of this file:

1. Those who stay may not know yet that the removal is committed, and may forget it in a
   power cut. Until they know, the old membership decides for them, and the removed
   member may be the voter that they miss. (In etcd it stops after a second.)
2. A member turns another away as removed only when it knows so durably. So whoever was
   turned away by a majority of the new voters is not needed any more, and after a while
   one of them will do, who can tell the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from revstore import logs

if TYPE_CHECKING:
    from revstore.node.replica import Replica

LOG = logs.get(__name__)

WAIT_TIMEOUTS = 5
"""Election timeouts after which one voter is enough (rule 2): those who did not hear of
the removal campaign within two of them, and are told by the refusals of those who did."""


class Leaving:
    """What one replica knows of its own removal, and of that of others."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._changed_at = 0
        self._since: float | None = None
        self._refusals: set[int] = set()

    def changed(self, index: int) -> None:
        """A change of the membership was applied."""
        self._changed_at = index

    @property
    def durable(self) -> bool:
        """Whether a power cut leaves the applied membership."""
        return self._replica.store.durable_index >= self._changed_at

    def removed(self) -> None:
        """This member was removed: by its log, or by what another says."""
        replica = self._replica
        if not replica.removed:
            replica.removed = True
            self._since = replica.clock.now()
            LOG.warn("this member was removed from the cluster; it stops soon")

    def turned_away(self, member: int) -> None:
        """Another member says that this one was removed."""
        self._refusals.add(member)
        self.removed()

    def tick(self, now: float) -> None:
        """Stop if nobody needs this member any more."""
        replica = self._replica
        if self._since is None or replica.stopped:
            return
        voters = replica.consensus.status().conf_state.voters
        refusals = self._refusals
        if replica.member_id not in voters:
            # It has applied its removal, so it knows who counts.
            refusals = refusals.intersection(voters)
        wait = WAIT_TIMEOUTS * replica.settings.election_timeout_s
        late = now >= self._since + wait
        if len(refusals) > len(voters) // 2 or (late and (refusals or not voters)):
            replica.stop()
