"""Changing the membership, and handing over leadership.

Rules of this file:

1. A change is judged twice: before it is proposed, against what is applied here, and
   when it is applied, because another one may have come first. A change that is refused
   then is applied as one that changes nothing.
2. With the strict check a voter is added or removed only if the members that are there
   would still be a quorum (etcd, "strict reconfiguration check").
3. A member that has applied a change knows it after a power cut, too, and one that was
   removed stays until it is not needed (``leaving``). Whoever forgot that the change is
   committed would have to campaign in the old membership.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from revstore import logs
from revstore.api import errors
from revstore.api.replica import MemberChange, MemberChangeKind
from revstore.apply.cluster import decode_conf_change, member_context
from revstore.errors import ApiError, ConfigError, UsageError
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
    ProposalDropped,
)
from revstore.node import ids
from revstore.node.leaving import Leaving
from revstore.node.reads import Finished
from revstore.proto import membership_pb2
from revstore.snapshot.format import require_arrow
from revstore.types import Entry

if TYPE_CHECKING:
    from revstore.node.replica import Replica

LOG = logs.get(__name__)

READY_SHARE = 0.9
"""A learner is ready when it has this share of the leader's log."""

NOTHING = ConfChange((ConfChangeSingle(ConfChangeType.UPDATE_NODE, 0),))
"""A change of member 0, who does not exist: consensus applies it without effect."""


class _Waiting(NamedTuple):
    change: ConfChange
    done: Finished
    deadline: float


class _Transfer(NamedTuple):
    target: int
    done: Finished
    deadline: float


class Membership:
    """The changes that one replica asks for and applies."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.leaving = Leaving(replica)
        self._waiting: list[_Waiting] = []
        self._transfers: list[_Transfer] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._transfers)

    # ----- asking

    def change(self, wanted: MemberChange, done: Finished) -> None:
        """Propose a change; ``done`` hears when it is applied or refused."""
        replica = self._replica
        try:
            if wanted.kind == MemberChangeKind.ADD:
                _check_snapshots()
            change = self._make(wanted)
            refusal = replica.cluster.refusal(change) or self._strict(wanted)
            if refusal is not None:
                done(refusal)
                return
            replica.consensus.propose_conf_change(change)
        except ProposalDropped:
            done(errors.PROPOSAL_DROPPED if replica.leader else errors.NO_LEADER)
            return
        except UsageError as exc:
            done(ApiError(errors.Code.FAILED_PRECONDITION, f"revstore: {exc}"))
            return
        deadline = replica.clock.now() + replica.settings.request_timeout_s
        self._waiting.append(_Waiting(change, done, deadline))
        replica.shell.request_pump()

    def _make(self, wanted: MemberChange) -> ConfChange:
        replica = self._replica
        member_id = wanted.member_id
        learner = wanted.is_learner
        if wanted.kind == MemberChangeKind.ADD:
            now = int(replica.wall_now())
            token = replica.settings.cluster_token
            member_id = ids.member_id(wanted.peer_urls, token, now)
        kinds = {
            MemberChangeKind.ADD: ConfChangeType.ADD_NODE,
            MemberChangeKind.REMOVE: ConfChangeType.REMOVE_NODE,
            MemberChangeKind.UPDATE: ConfChangeType.UPDATE_NODE,
            MemberChangeKind.PROMOTE: ConfChangeType.ADD_NODE,
        }
        kind = kinds[wanted.kind]
        if kind == ConfChangeType.ADD_NODE and learner:
            kind = ConfChangeType.ADD_LEARNER_NODE
        context = b""
        if wanted.peer_urls:
            urls = membership_pb2.RaftAttributes(
                peer_urls=sorted(wanted.peer_urls), is_learner=learner
            )
            member = membership_pb2.Member(ID=member_id, raft_attributes=urls)
            context = member_context(member)
        return ConfChange((ConfChangeSingle(kind, member_id),), context=context)

    def _strict(self, wanted: MemberChange) -> ApiError | None:
        """Rule 2, and the limits on learners; only the leader knows enough."""
        replica = self._replica
        members = replica.cluster.members()
        voters = [m for m in members if not m.raft_attributes.is_learner]
        learners = len(members) - len(voters)
        adds = wanted.kind == MemberChangeKind.ADD
        if adds and wanted.is_learner and learners >= replica.settings.max_learners:
            return errors.TOO_MANY_LEARNERS
        if not replica.is_leader:
            return None
        status = replica.consensus.status()
        active = {row.id for row in status.progress if row.recent_active}
        active.add(replica.member_id)
        if wanted.kind == MemberChangeKind.PROMOTE:
            rows = {row.id: row.match for row in status.progress}
            if rows.get(wanted.member_id, 0) < READY_SHARE * status.last_index:
                return errors.LEARNER_NOT_READY
        if not replica.strict_reconfig_check:
            return None
        there = sum(1 for member in voters if member.ID in active)
        total = len(voters)
        if wanted.kind == MemberChangeKind.REMOVE:
            if wanted.member_id not in {member.ID for member in voters}:
                return None
            total -= 1
            there -= wanted.member_id in active
        elif wanted.kind == MemberChangeKind.PROMOTE or (
            adds and not wanted.is_learner
        ):
            total += 1
            there += wanted.kind == MemberChangeKind.PROMOTE
        if adds and not wanted.is_learner and len(voters) == 1:
            # A member alone must be able to grow, although the second one, until it
            # is started, holds up everything (etcd: IsReadyToAddVotingMember).
            return None
        if there < total // 2 + 1:
            return errors.MEMBER_NOT_ENOUGH_STARTED
        if adds and not wanted.is_learner and there < total - 1:
            return errors.UNHEALTHY
        return None

    # ----- applying

    def apply(self, entry: Entry) -> None:
        """A membership change is committed (rule 1)."""
        replica = self._replica
        change = decode_conf_change(entry)
        refusal = replica.cluster.refusal(change)
        conf = replica.consensus.apply_conf_change(
            change if refusal is None else NOTHING
        )
        if refusal is None:
            replica.cluster.apply_change(change)
            LOG.info("membership changed", voters=len(conf.voters))
        replica.cluster.set_conf_state(conf)
        self.leaving.changed(entry.index)
        replica.housekeeping.sync_soon()
        replica.members_changed()
        for waiting in self._waiting:
            if waiting.change == change:
                self._waiting.remove(waiting)
                waiting.done(refusal)
                break
        # While a joint phase is on, both memberships decide: whoever leaves is needed
        # until the phase has ended.
        leaving = replica.member_id in conf.voters_outgoing
        if replica.cluster.is_removed(replica.member_id) and not leaving:
            self.leaving.removed()

    # ----- leadership

    def transfer(self, target: int, done: Finished) -> None:
        """Hand leadership over; ``done`` hears when the target leads."""
        replica = self._replica
        if not replica.is_leader:
            done(errors.NOT_LEADER)
            return
        try:
            replica.consensus.transfer_leader(target)
        except UsageError:
            done(errors.BAD_LEADER_TRANSFEREE)
            return
        deadline = replica.clock.now() + replica.settings.request_timeout_s
        self._transfers.append(_Transfer(target, done, deadline))
        replica.shell.request_pump()

    def heir(self) -> int:
        """The voter that is closest to this leader's log and was heard of, 0 if none."""
        replica = self._replica
        status = replica.consensus.status()
        voters = set(status.conf_state.voters) - {replica.member_id}
        rows = [
            one for one in status.progress if one.id in voters and one.recent_active
        ]
        return max(rows, key=lambda row: row.match).id if rows else 0

    def leader_changed(self, leader: int) -> None:
        """Somebody leads now: transfers to it are done."""
        for transfer in [one for one in self._transfers if one.target == leader]:
            self._transfers.remove(transfer)
            transfer.done(None)

    # ----- the end

    def expire(self, now: float) -> None:
        """Tell those whose time is up."""
        self.leaving.tick(now)
        for waiting in [one for one in self._waiting if one.deadline <= now]:
            self._waiting.remove(waiting)
            waiting.done(errors.TIMEOUT)
        for transfer in [one for one in self._transfers if one.deadline <= now]:
            self._transfers.remove(transfer)
            transfer.done(errors.TIMEOUT_LEADER_TRANSFER)

    def fail_all(self, error: ApiError) -> None:
        """Tell everybody that the outcome will not be known here."""
        waiting = [one.done for one in self._waiting]
        waiting += [one.done for one in self._transfers]
        self._waiting, self._transfers = [], []
        for done in waiting:
            done(error)


def _check_snapshots() -> None:
    """A member that is added may need a snapshot. Raises: UsageError."""
    try:
        require_arrow()
    except ConfigError as exc:
        raise UsageError(f"no member can be added: {exc}") from exc
