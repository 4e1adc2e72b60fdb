"""A member without its shell: proposals in, durable and applied results out.

The way of a write: ``propose`` queues; ``pump`` hands the queue to consensus, appends
what consensus wants persisted to the write-ahead log, and goes on; when the log reports
the batch durable, consensus commits it, ``pump`` applies it and answers the waiters.

Rules of this file:

1. A waiter is answered after its entry was applied, and an entry is applied after
   consensus committed it, which needs it durable. There is no shortcut.
2. Messages marked "after persist" leave only when their batch is durable.
3. Everything runs on one thread, the shell's loop, but for the log's ``on_durable``,
   which only notes a number and wakes the loop.
4. After a storage failure the replica is stopped: it answers nothing any more, since it
   cannot know what is on disk. The same after any error while it applies: an entry may
   be half applied, and only a restart applies it as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message as ProtoMessage

from revstore import logs
from revstore.api import errors
from revstore.api.replica import MemberChange, SnapshotReady, Tag
from revstore.apply import entries
from revstore.apply.alarms import Alarms
from revstore.apply.cluster import Cluster
from revstore.apply.dispatch import StateMachine
from revstore.auth.info import AuthInfo, Identity
from revstore.auth.permissions import ROOT
from revstore.auth.store import AuthStore
from revstore.errors import ApiError
from revstore.interfaces.backend import Backend
from revstore.interfaces.consensus import (
    Consensus,
    Message,
    MessageType,
    Persist,
    ProposalDropped,
    Ready,
    Role,
    Snapshot,
)
from revstore.interfaces.ports import Clock
from revstore.interfaces.wal import Wal
from revstore.lease.lessor import Lessor
from revstore.mvcc.store import Store
from revstore.node.appends import Appends
from revstore.node.corruption import Corruption
from revstore.node.facts import ReplicaFacts
from revstore.node.forwarding import Forwarding
from revstore.node.headers import Headers
from revstore.node.housekeeping import Housekeeping
from revstore.node.leadership import Leadership
from revstore.node.membership import Membership
from revstore.node.proposals import Done, Proposal, Proposals
from revstore.node.reads import Finished, Reads
from revstore.node.settings import MemberSettings
from revstore.node.shell import Shell
from revstore.node.snapshots import Snapshots
from revstore.peer.calls import Answered, PeerCalls
from revstore.snapshot.inbox import Inbox
from revstore.types import ApplyResult, Entry, EntryType
from revstore.watch.hub import WatchHub

LOG = logs.get(__name__)

APPLY_BATCH_MAX = 2_000
"""Entries applied before the loop gets a turn."""

BATCH_ENOUGH = 64
"""Proposals that do not wait for a sync to end."""

APPLY_LAG_MAX = 5_000
"""Committed entries that may wait to be applied; beyond it requests are refused."""


class Parts:
    """What a replica is put together from."""

    def __init__(
        self,
        backend: Backend,
        store: Store,
        wal: Wal,
        consensus: Consensus,
        hub: WatchHub,
        lessor: Lessor,
        auth: AuthStore,
        inbox: Inbox,
    ) -> None:
        self.backend = backend
        self.store = store
        self.wal = wal
        self.consensus = consensus
        self.hub = hub
        self.lessor = lessor
        self.auth = auth
        self.inbox = inbox


class Replica(ReplicaFacts):
    """One member; see the module's rules. Satisfies ``revstore.api.replica.Replica``."""

    def __init__(
        self,
        settings: MemberSettings,
        parts: Parts,
        shell: Shell,
        member_id: int,
        cluster_id: int,
        request_id_seed: int,
        wall_now: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.backend = parts.backend
        self.store = parts.store
        self.wal = parts.wal
        self.consensus = parts.consensus
        self.hub = parts.hub
        self.lessor = parts.lessor
        self.auth = parts.auth
        self.member_id = member_id
        self.cluster_id = cluster_id
        self.alarms = Alarms(parts.store)
        self.cluster = Cluster(parts.store)
        self.machine = StateMachine(
            parts.store, parts.lessor, parts.auth, self.alarms, self.cluster
        )
        self.shell = shell
        self.clock: Clock = shell.clock
        self.appends = Appends(parts.wal, shell)
        self.stopped = False
        self.failure: Exception | None = None
        self.role = Role.FOLLOWER
        self.leader = 0
        self.installing = False
        """Whether a snapshot is being taken over."""
        self.removed = False
        """Whether this member was removed from its cluster."""
        self.wall_now = wall_now
        """Seconds since 1970; only ids of new members depend on it."""
        self.send: Callable[[Sequence[Message]], None] | None = None
        """Where messages to other members go; set by whoever has peers. Those of type
        SNAP have no data: see ``Snapshots.open``."""
        self.calls = PeerCalls(shell.clock, self._send_call, request_id_seed)
        status = parts.consensus.status()
        self._term = status.term
        self._commit = status.commit
        self._applied = status.applied
        self._headers = Headers(cluster_id, member_id)
        self._headers.set_term(self._term)
        self._encoder = entries.RequestEncoder(request_id_seed)
        self._timeout_s = settings.request_timeout_s
        self._queue: list[Proposal] = []
        self._waiting = Proposals()
        self._to_apply: deque[Entry] = deque()
        self._unsent: deque[tuple[int, tuple[Message, ...]]] = deque()
        self._reported = 0
        self._held: list[Persist] = []
        """What waits to be persisted until a snapshot is installed."""
        self._answers: list[tuple[Proposal, ApplyResult | ApiError]] = []
        self._when_idle: list[Callable[[], None]] = []
        self._pumping = False
        self.unsettled = False
        """Whether entries were applied that consensus was not told of."""
        self._make_helpers(parts.inbox, request_id_seed)
        self.members_changed()

    def _make_helpers(self, inbox: Inbox, seed: int) -> None:
        """The parts that each look after one concern of this replica."""
        self.reads = Reads(self.consensus, self.member_id, seed)
        self.leadership = Leadership(self)
        self.membership = Membership(self)
        self.forwarding = Forwarding(self)
        self.corruption = Corruption(self)
        self.snapshots = Snapshots(self, inbox)
        self.housekeeping = Housekeeping(self)

    # ----- requests

    def propose(
        self,
        tag: int,
        payload: bytes,
        request: Any,
        done: Done,
        info: Identity | None = None,
    ) -> None:
        """Have a request agreed on, made durable and applied.

        ``request`` is the message that ``payload`` holds, or ``PlainPuts``.
        """
        if self.stopped:
            done(self.stop_error())
            return
        if info is None:
            data = self._encoder.encode(tag, payload)
        else:
            data = self._encoder.encode_for_user(
                tag, payload, info.username, info.revision
            )
        if len(data) > self.settings.max_request_bytes:
            done(errors.REQUEST_TOO_LARGE)
            return
        queue = self._queue
        if not queue:
            if self._commit - self._applied > APPLY_LAG_MAX:
                done(errors.TOO_MANY_REQUESTS)
                return
            if self._gathered():
                self.shell.request_pump()
        queue.append(Proposal(tag, data, request, done, info))

    def read(self, done: Finished) -> None:
        """Linearizable barrier; see ``revstore.api.replica.Replica.read``."""
        if self.stopped:
            done(self.stop_error())
            return
        index = self.consensus.read_index_now()
        if index is None:
            self.reads.ask(done)
            self.shell.request_pump()
        elif index <= self._applied:
            done(None)
        else:
            self.reads.wait_applied(index, done)

    def has_space(self, cost: int) -> bool:
        """Whether the backend may grow by ``cost`` bytes under its quota."""
        quota = self.settings.quota_bytes
        if quota <= 0 or self.housekeeping.size_bytes + cost <= quota:
            return True
        self.housekeeping.raise_no_space()
        return False

    def change_members(self, change: MemberChange, done: Finished) -> None:
        """Have a membership change agreed on."""
        if self.stopped:
            done(self.stop_error())
        elif self.is_leader or self.send_call is None:
            self.membership.change(change, done)
        else:
            self.forwarding.change_members(change, done)

    def ask_leader(self, name: str, message: bytes, answered: Answered) -> None:
        """Have the leader answer; see ``revstore.api.replica.Replica.ask_leader``."""
        self.forwarding.ask(name, message, answered)

    def transfer_leader(self, target: int, done: Finished) -> None:
        """Hand leadership to another voter."""
        if self.stopped:
            done(self.stop_error())
        else:
            self.membership.transfer(target, done)

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages of other members, in order."""
        if self.stopped:
            return
        for message in messages:
            if message.type is MessageType.SNAP and not self.snapshots.is_expected(
                message
            ):
                LOG.warn("a snapshot came as a message", sender=f"{message.sender:x}")
                continue
            try:
                self.consensus.step(message)
            except ProposalDropped:
                LOG.debug("a forwarded proposal was dropped", sender=message.sender)
        self.shell.request_pump()

    def receive_call(self, sender: int, payload: bytes) -> None:
        """Take another member's call, or its answer to one of ours."""
        if not self.stopped:
            self.calls.receive(sender, payload)

    def _send_call(self, member: int, payload: bytes) -> bool:
        send = self.send_call
        return send is not None and send(member, payload)

    def defragment(self, done: Finished) -> None:
        """Give free space back in the background while serving goes on."""
        self.housekeeping.defragment(done)

    def open_snapshot(self, done: SnapshotReady) -> None:
        """A consistent reader that has everything applied so far."""
        self.housekeeping.open_snapshot(done)

    def schedule(self, work: Callable[[], None], delay_s: float = 0.0) -> None:
        """Run ``work`` on the loop, not before ``delay_s``."""
        self.shell.schedule(work, delay_s)

    def run_in_thread(
        self, work: Callable[[], Any], done: Callable[[Any], None]
    ) -> None:
        """Run blocking work elsewhere; ``done`` gets result or exception."""
        self.shell.run_in_thread(work, done)

    # ----- the machine

    def pump(self, *, settle: bool = True, propose: bool = True) -> None:
        """Do everything that can be done now. Called by the shell, on the loop.

        Without ``settle`` the shell calls that soon, when the answers have left.
        Without ``propose`` what waits to be proposed goes on gathering.
        """
        if self._pumping or self.stopped:
            return
        self._pumping = True
        try:
            self._settle()
            self._pump(propose)
            if settle:
                self._settle()
        except Exception as exc:
            # Whatever it was, an entry may be half handled: going on could skip it.
            self.fail(exc)
        finally:
            self._pumping = False

    def settle(self) -> None:
        """Start what applied entries made necessary, if ``pump`` has not."""
        if self.unsettled and not self.stopped:
            try:
                self._settle()
            except Exception as exc:
                self.fail(exc)

    def _settle(self) -> None:
        if self.unsettled:
            self.unsettled = False
            self.consensus.applied(self._applied)
            self.housekeeping.after_apply()

    def _pump(self, propose: bool) -> None:
        consensus = self.consensus
        while True:
            if self.appends.news:
                self._report_durable()
            if propose and self._queue and self._gathered():
                self._propose_queue()
            if self.reads.asked:
                self.reads.confirm(self.clock.now() + self._timeout_s)
            if not consensus.has_ready():
                break
            self._handle(consensus.ready())
        if self._to_apply and not self.installing:
            self._apply()
        if not self.installing:
            self.reads.serve(self._applied)
        if self._when_idle and not self.busy():
            self._tell_idle()

    def _report_durable(self) -> None:
        durable = self.appends.durable()
        if durable > self._reported:
            self._reported = durable
            self.consensus.persisted(durable)
            while self._unsent and self._unsent[0][0] <= durable:
                self._send(self._unsent.popleft()[1])

    def _gathered(self) -> bool:
        """Whether what waits is to be proposed now.

        While the log syncs nothing would be gained: it wakes the shell soon, and what
        has come until then is one batch, for followers too.
        """
        if self.appends.idle or not self.appends.wakes:
            return True
        return len(self._queue) >= BATCH_ENOUGH

    def _propose_queue(self) -> None:
        batch, self._queue = self._queue, []
        try:
            place = self.consensus.propose([proposal.data for proposal in batch])
        except ProposalDropped:
            error = errors.PROPOSAL_DROPPED if self.leader else errors.NO_LEADER
            for proposal in batch:
                proposal.done(error)
            return
        deadline = self.clock.now() + self._timeout_s
        if place is None:
            self._waiting.add_forwarded(batch, deadline)
        else:
            self._waiting.add(place[0], place[1], batch, deadline)

    def _handle(self, ready: Ready) -> None:
        if ready.role is not None:
            self._role_changed(ready)
        if ready.messages:
            self._send(ready.messages)
        persist = ready.persist
        if persist is not None:
            if ready.messages_after_persist:
                item = (persist.sequence, ready.messages_after_persist)
                self._unsent.append(item)
            if persist.hard_state is not None:
                self._set_term(persist.hard_state.term)
            self._persist(persist)
        elif ready.messages_after_persist:
            self._send(ready.messages_after_persist)
        for state in ready.read_states:
            self.reads.confirmed(state)
        for context in ready.dropped_reads:
            self.reads.dropped(context)
        if ready.committed:
            self._to_apply.extend(ready.committed)
            self._commit = ready.committed[-1].index

    def _send(self, messages: Sequence[Message]) -> None:
        if self.send is not None:
            self.send(messages)

    def _append(self, persist: Persist) -> None:
        nobody_else_waits = self.is_only_member and not self._queue
        self.appends.add(persist, nobody_else_waits=nobody_else_waits)

    def _persist(self, persist: Persist) -> None:
        if self.installing:
            # It goes behind the snapshot, or replaces what is installed.
            self._held.append(persist)
        elif persist.snapshot is not None:
            self._take_over(persist, persist.snapshot)
        else:
            self._append(persist)

    def _take_over(self, persist: Persist, snapshot: Snapshot) -> None:
        """Everything up to the snapshot's index is replaced by what it holds.

        It goes through the thread that flushes, behind a flush that is running. The
        member goes on hearing and answering the others meanwhile.
        """
        self.installing = True
        self._to_apply.clear()
        self.store.suspend()

        def installed(error: Exception | None) -> None:
            if self.stopped:
                return
            try:
                if error is not None:
                    raise error
                self.snapshots.adopt(snapshot)
                self.members_changed()
                self.installing = False
                self._applied = snapshot.meta.index
                self._commit = max(self._commit, self._applied)
                self._append(persist)
                held, self._held = self._held, []
                for later in held:
                    self._persist(later)
                self.housekeeping.installed()
            except Exception as exc:
                self.fail(exc)
                return
            self.shell.request_pump()

        self.snapshots.install(snapshot, installed)

    def _set_term(self, term: int) -> None:
        if term != self._term:
            self._term = term
            self._headers.set_term(term)

    def _role_changed(self, ready: Ready) -> None:
        assert ready.role is not None
        was_leader = self.is_leader
        self.role = ready.role
        self.leader = ready.leader or 0
        self._set_term(self.consensus.status().term)
        if was_leader and not self.is_leader:
            self.lessor.demote()
        self.leadership.changed()
        self.membership.leader_changed(self.leader)
        self.forwarding.leader_changed()
        LOG.info(
            "role changed",
            role=str(self.role),
            leader=f"{self.leader:x}",
            term=self._term,
        )

    def _apply(self) -> None:
        """Apply a bounded number of committed entries, then tell the watchers."""
        store, take = self.store, self._waiting.take
        to_apply, machine = self._to_apply, self.machine.apply
        count = 0
        while to_apply and count < APPLY_BATCH_MAX and not store.overloaded():
            entry = to_apply.popleft()
            count += 1
            index, term = entry.index, entry.term
            proposal = take(index, term)
            if entry.type is not EntryType.NORMAL:
                self.membership.apply(entry)
                store.set_applied(index, term)
            elif proposal is not None:
                try:
                    result = machine(proposal.tag, proposal.request, proposal.info)
                except Exception as exc:
                    self.fail(exc)
                    self._tell(proposal, self.stop_error())
                    return
                store.set_applied(index, term)
                self._applied = index
                self._tell(proposal, result)
            else:
                self._apply_foreign(entry)
                store.set_applied(index, term)
            self._applied = index
            if self._answers:
                self._answer()
        if count:
            self.unsettled = True
            self.hub.notify(store.drain_events())
        if to_apply and not store.overloaded():
            self.shell.request_pump()

    def _apply_foreign(self, entry: Entry) -> None:
        """An entry that nobody here waits for: another member's, or a replayed one."""
        if not entry.data:
            self._term_began(entry)
            return
        decoded = entries.decode(entry.data)
        if decoded.request is None:
            return
        info = None
        if decoded.username:
            info = AuthInfo(decoded.username, decoded.auth_revision)
        result = self.machine.apply(decoded.tag, decoded.request, info)
        proposal = self._waiting.take_forwarded(decoded.request_id)
        if proposal is not None:
            self._answers.append((proposal, result))

    def _answer(self) -> None:
        answers, self._answers = self._answers, []
        for proposal, result in answers:
            self._tell(proposal, result)

    def _tell(self, proposal: Proposal, result: ApplyResult | ApiError) -> None:
        """Answer a waiter; what goes wrong there concerns nobody else."""
        try:
            proposal.done(result)
        except Exception:
            LOG.exception("a waiter failed on its answer", tag=proposal.tag)

    def _term_began(self, entry: Entry) -> None:
        """The empty first entry of a term: its leader takes over the leases."""
        if self.is_leader and entry.term == self._term:
            self.lessor.promote(self.settings.election_timeout_s)

    # ----- time and end

    def tick(self) -> None:
        """One heartbeat interval has passed. Called by the shell, on the loop."""
        if self.stopped:
            return
        now = self.clock.now()
        self.consensus.tick()
        self.leadership.tick(now)
        self._waiting.expire(now, self._late)
        self.reads.expire(now)
        self.membership.expire(now)
        self.calls.expire(now)
        self.forwarding.tick(now)
        self.corruption.tick(now)
        self.housekeeping.tick(now)
        self.pump()

    def _late(self, deadline: float) -> ApiError:
        return self.leadership.late(deadline - self._timeout_s)

    def members_changed(self) -> None:
        """The applied membership is another one now, or is looked at first."""
        cluster = self.cluster
        self.is_learner = self.member_id in cluster.learners()
        self.is_only_member = len(cluster.members()) < 2
        if self.on_members is not None:
            self.on_members()

    def fail(self, error: Exception) -> None:
        """A storage failure or a broken invariant: stop answering (rule 4)."""
        if self.failure is None:
            self.failure = error
            LOG.error("stopped after a failure", error=f"{error}", exc_info=error)
        self.stop()

    def stop(self) -> None:
        """Take no more requests and tell all waiters that the outcome is unknown."""
        if self.stopped:
            return
        self.stopped = True
        error = self.stop_error()
        queue, self._queue = self._queue, []
        for proposal in queue:
            proposal.done(error)
        self._waiting.fail_all(error)
        self.reads.fail_all(error)
        self.membership.fail_all(error)
        self.forwarding.fail_all(error)
        self.calls.fail_all(error)
        self._tell_idle()

    def stop_error(self) -> ApiError:
        """What requests get once the replica is stopped."""
        if self.failure is None:
            return errors.STOPPED
        text = f"revstore: storage failed, restart the member: {self.failure}"
        return ApiError(errors.Code.UNAVAILABLE, text)

    def when_idle(self, done: Callable[[], None]) -> None:
        """``done()`` once nobody waits for a result, or the replica is stopped."""
        self._when_idle.append(done)
        if self.stopped:
            self._tell_idle()

    def _tell_idle(self) -> None:
        waiting, self._when_idle = self._when_idle, []
        for done in waiting:
            done()

    @property
    def queued(self) -> int:
        """How many proposals wait for the next ``pump``."""
        return len(self._queue)

    @property
    def unanswered(self) -> int:
        """How many proposals wait for the next ``pump``, or for their result."""
        return len(self._queue) + len(self._waiting)

    def busy(self) -> bool:
        """Whether somebody still waits for a result."""
        return bool(self._queue or len(self._waiting) or self._to_apply)

    def propose_as_leader(self, tag: Tag, request: ProtoMessage, done: Done) -> None:
        """Like ``propose_internal``, but never passed on to another leader.

        What waits in the queue may find that leadership has changed meanwhile, and be
        forwarded. So this does not wait.
        """
        if self.stopped:
            done(self.stop_error())
            return
        info = AuthInfo(ROOT, self.auth.revision) if self.auth.enabled else None
        payload = request.SerializeToString()
        if info is None:
            data = self._encoder.encode(tag, payload)
        else:
            data = self._encoder.encode_for_user(
                tag, payload, info.username, info.revision
            )
        try:
            if self.consensus.status().role is not Role.LEADER:
                raise ProposalDropped("another member leads")
            place = self.consensus.propose([data])
        except ProposalDropped:
            done(errors.PROPOSAL_DROPPED)
            return
        assert place is not None
        deadline = self.clock.now() + self.settings.request_timeout_s
        proposal = Proposal(tag, data, request, done, info)
        self._waiting.add(place[0], place[1], [proposal], deadline)
        self.shell.request_pump()

    def propose_internal(self, tag: Tag, request: ProtoMessage, done: Done) -> None:
        """Propose a request of the member's own, as the user root when auth is on."""
        info = AuthInfo(ROOT, self.auth.revision) if self.auth.enabled else None
        self.propose(tag, request.SerializeToString(), request, done, info)
