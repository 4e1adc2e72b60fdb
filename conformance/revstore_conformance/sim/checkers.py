"""Checkers that watch every member while a run goes on.

Each is an object with a name and one rule; ``Checkers`` ties them to a member's parts.
They see the members from outside: what consensus hands out, what the store says after
each entry, what the watch hub is told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from zlib import crc32

from revstore.interfaces.consensus import (
    ConfChange,
    Message,
    MessageType,
    Persist,
    Ready,
    Role,
    Snapshot,
)
from revstore.node.replica import Replica
from revstore.types import ConfState, Entry, Event
from revstore_conformance.sim.disk import SimulatedWal
from revstore_conformance.sim.journal import Journal
from revstore_conformance.sim.world import Violation, World

Violated = Callable[[str, str], Violation]


class MemberView:
    """What the checkers remember of a member between its starts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.applied = 0
        self.terms: dict[int, int] = {}
        """Term by index of its log, as far as it was seen being appended."""
        self.leading_from: int | None = None
        """What was committed when it became leader, until it has committed an entry of
        its own term; None: it does not lead, or it has."""
        self.conf: ConfState | None = None
        """A membership that took effect with the entry being applied."""


class ElectionSafety:
    """At most one member leads a term (Raft paper, figure 3)."""

    name = "election safety"

    def __init__(self, violated: Violated) -> None:
        self._violated = violated
        self.leaders: dict[int, str] = {}

    def leads(self, member: str, term: int) -> None:
        """A member leads a term."""
        other = self.leaders.setdefault(term, member)
        if other != member:
            raise self._violated(self.name, f"{other} and {member} lead term {term}")


class LogMatching:
    """Entries of the same index and term are the same, and so is all before them."""

    name = "log matching"

    def __init__(self, violated: Violated) -> None:
        self._violated = violated
        self._entries: dict[tuple[int, int], tuple[int, int]] = {}
        self.checked = 0

    def appended(self, view: MemberView, entries: Sequence[Entry]) -> None:
        """A member appends entries behind what it has."""
        terms = view.terms
        before = terms.get(entries[0].index - 1, 0)
        known = self._entries
        for entry in entries:
            self.checked += 1
            place = (entry.index, entry.term)
            found = (before, crc32(entry.data) ^ int(entry.type))
            first = known.setdefault(place, found)
            # The term before an entry is unknown behind a snapshot and at a start.
            if first[1] != found[1] or (first[0] != found[0] and first[0] and found[0]):
                text = (
                    f"{view.name} has another entry {entry.index} of term {entry.term}"
                )
                raise self._violated(self.name, f"{text}, or another one before it")
            if found[0] and not first[0]:
                known[place] = found
            before = terms[entry.index] = entry.term


class LeaderCompleteness:
    """A leader's log has every entry that was committed in an earlier term."""

    name = "leader completeness"

    def __init__(self, violated: Violated) -> None:
        self._violated = violated
        self._committed: dict[int, int] = {}
        """Term by index of every entry that was handed out as committed."""
        self._committed_in: dict[int, int] = {}
        """The term by whose end it was, as far as anybody showed. An entry of an old
        term may be committed in a much later one; a leader of a term between the two,
        frozen while it was elected, need not have it."""
        self._newest = 0
        self.checked = 0

    def hands_out(self, entries: Sequence[Entry], term: int) -> None:
        """A member of a term says that entries are committed."""
        for entry in entries:
            index = entry.index
            self._committed[index] = entry.term
            self._committed_in[index] = min(term, self._committed_in.get(index, term))
        self._newest = max(self._newest, entries[-1].index)

    def leads(self, member: str, replica: Replica, term: int) -> None:
        """A member leads a term."""
        index = self._newest
        while index > 0 and self._committed_in.get(index, 0) >= term:
            index -= 1
        if index == 0 or index < replica.wal.first_index():
            return
        self.checked += 1
        if replica.wal.term(index) != self._committed.get(index):
            text = f"{member} leads term {term} without the committed entry {index}"
            raise self._violated(self.name, text)


class CommitRule:
    """The first thing that a leader commits is an entry of its own term.

    Raft paper, section 5.4.2 and figure 8: counting replicas of older entries is not
    enough, because a later leader may replace them all the same.
    """

    name = "commit rule"

    def __init__(self, violated: Violated) -> None:
        self._violated = violated
        self.checked = 0

    def leads(self, view: MemberView, replica: Replica) -> None:
        """A member leads."""
        view.leading_from = replica.consensus.status().commit

    def committed(self, view: MemberView, replica: Replica) -> None:
        """Consensus hands out committed entries, and the rule was not settled yet."""
        status = replica.consensus.status()
        if status.role is not Role.LEADER:
            view.leading_from = None
            return
        assert view.leading_from is not None
        if status.commit <= view.leading_from:
            return
        view.leading_from = None
        self.checked += 1
        term = replica.wal.term(status.commit)
        if term is not None and term != status.term:
            text = f"{view.name} leads term {status.term} and commits {status.commit}"
            raise self._violated(self.name, f"{text}, which is of term {term}")


class CommittedIsDurable:
    """What a leader commits is durable on a majority, of both halves in a joint phase.

    Contract of consensus plugins, C-04.
    """

    name = "committed is durable"

    def __init__(self, violated: Violated) -> None:
        self._violated = violated
        self.wals: dict[int, SimulatedWal] = {}
        """The newest log of each member, by its id."""
        self.checked = 0

    def committed(self, view: MemberView, replica: Replica, entry: Entry) -> None:
        """Consensus hands out entries up to this one."""
        status = replica.consensus.status()
        if status.role is not Role.LEADER:
            return
        self.checked += 1
        conf = status.conf_state
        for voters in (conf.voters, conf.voters_outgoing):
            have = sum(1 for voter in voters if self._has(voter, entry))
            if voters and have < len(voters) // 2 + 1:
                text = f"{view.name} commits entry {entry.index} of term {entry.term}"
                wanted = f"{len(voters)} voters have it durably"
                raise self._violated(self.name, f"{text}; {have} of {wanted}")

    def _has(self, member: int, entry: Entry) -> bool:
        wal = self.wals.get(member)
        if wal is None or wal.durable_index < entry.index:
            return False
        return wal.term(entry.index) in (None, entry.term)


class StateMachineSafety:
    """All members apply the same entry at an index, in order, to the same effect."""

    name = "state-machine safety"

    def __init__(self, violated: Violated) -> None:
        self._violated = violated
        self._entries: dict[int, tuple[int, int]] = {}
        self._revisions: dict[int, int] = {}
        self._confs: dict[int, ConfState] = {}
        self._conf_at: list[int] = []
        self.checked = 0

    def committed(self, view: MemberView, entries: Sequence[Entry]) -> None:
        """Consensus hands out committed entries."""
        known = self._entries
        for entry in entries:
            found = (entry.term, crc32(entry.data))
            if known.setdefault(entry.index, found) != found:
                text = f"{view.name} has another committed entry {entry.index}"
                raise self._violated(self.name, f"{text} (term {entry.term})")

    def applied(self, view: MemberView, index: int, revision: int) -> None:
        """A member applied an entry."""
        self.checked += 1
        if index != view.applied + 1:
            text = f"{view.name} applies entry {index} after {view.applied}"
            raise self._violated(self.name, text)
        view.applied = index
        self._check_revision(view, index, revision)
        if view.conf is not None:
            conf, view.conf = view.conf, None
            if index not in self._confs:
                self._conf_at.append(index)
            if self._confs.setdefault(index, conf) != conf:
                text = f"{view.name} has another membership at {index}: {conf}"
                raise self._violated(self.name, f"{text}, not {self._confs[index]}")

    def jumped(self, view: MemberView, index: int, revision: int) -> None:
        """A member begins at an index: after a start, or with a snapshot."""
        view.applied = index
        view.conf = None
        if index in self._revisions:
            self._check_revision(view, index, revision)

    def conf_state(self, view: MemberView, index: int, conf: ConfState) -> None:
        """The membership that a member works with after it jumped to an index."""
        at = max((one for one in self._conf_at if one <= index), default=0)
        if at and self._confs[at] != conf:
            text = f"{view.name} at entry {index} has the membership {conf}"
            raise self._violated(self.name, f"{text}, not {self._confs[at]}")

    def _check_revision(self, view: MemberView, index: int, revision: int) -> None:
        known = self._revisions.setdefault(index, revision)
        if known != revision:
            text = f"{view.name} is at revision {revision} after entry {index}"
            raise self._violated(self.name, f"{text}, others at {known}")


class Promises:
    """A vote is given once a term, and what a message reveals is durable.

    Contract of consensus plugins, C-01 and C-02; Raft paper, section 5.1 and figure 2.
    """

    name = "promises are kept"

    def __init__(self, violated: Violated) -> None:
        self._violated = violated
        self._votes: dict[tuple[str, int], int] = {}
        self.checked = 0

    def sends(self, member: str, message: Message, wal: SimulatedWal) -> None:
        """A message leaves a member."""
        kind = message.type
        if message.reject:
            return
        if kind is MessageType.VOTE or kind is MessageType.VOTE_RESP:
            voted = message.to if kind is MessageType.VOTE_RESP else message.sender
            self._vote(member, message.term, voted, wal)
        elif kind is MessageType.APP_RESP and message.index > wal.durable_index:
            if message.term < wal.newest_state.term:
                # It was durable when it waited for its turn to leave; a newer leader
                # has replaced it since, and none of that term counts it any more.
                return
            text = f"{member} acknowledges entry {message.index} and has only "
            raise self._violated(self.name, f"{text}{wal.durable_index} durable")
        self.checked += 1

    def _vote(self, member: str, term: int, voted: int, wal: SimulatedWal) -> None:
        if self._votes.setdefault((member, term), voted) != voted:
            raise self._violated(self.name, f"{member} votes twice in term {term}")
        state = wal.durable_state
        if (state.term, state.vote) != (term, voted) and state.term <= term:
            text = f"{member} votes for {voted:x} in term {term}; durable is {state}"
            raise self._violated(self.name, text)


class Checkers:
    """All of them, tied to the members."""

    def __init__(self, world: World) -> None:
        self.world = world
        violated = world.violated
        self.election = ElectionSafety(violated)
        self.matching = LogMatching(violated)
        self.completeness = LeaderCompleteness(violated)
        self.commit_rule = CommitRule(violated)
        self.durable = CommittedIsDurable(violated)
        self.state_machine = StateMachineSafety(violated)
        self.promises = Promises(violated)
        self.journal = Journal(world)
        self.on_install: Callable[[str], None] = lambda member: None
        """Hears that a member begins to install a snapshot."""

    def attach(self, view: MemberView, replica: Replica) -> None:
        """Watch a replica that was just opened."""
        view.terms = {}
        view.leading_from = None
        wal = replica.wal
        assert isinstance(wal, SimulatedWal)
        self.durable.wals[replica.member_id] = wal
        last = wal.last_index()
        if last:
            view.terms[last] = wal.term(last) or 0
        index, revision = replica.store.applied_index, replica.store.revision
        self.state_machine.jumped(view, index, revision)
        if index:
            conf = replica.consensus.status().conf_state
            self.state_machine.conf_state(view, index, conf)
        self._watch_consensus(view, replica)
        self._watch_store(view, replica)

    def _watch_consensus(self, view: MemberView, replica: Replica) -> None:
        consensus = replica.consensus
        ready, apply_conf_change = consensus.ready, consensus.apply_conf_change
        matching, machine = self.matching, self.state_machine
        completeness = self.completeness

        def watched_ready() -> Ready:
            got = ready()
            if got.role is Role.LEADER:
                self._leads(view, replica)
            persist = got.persist
            if persist is not None:
                self._persists(view, persist)
                if persist.entries:
                    matching.appended(view, persist.entries)
            if got.committed:
                if view.leading_from is not None:
                    self.commit_rule.committed(view, replica)
                self.durable.committed(view, replica, got.committed[-1])
                machine.committed(view, got.committed)
                completeness.hands_out(got.committed, consensus.status().term)
            return got

        def watched_change(change: ConfChange) -> ConfState:
            view.conf = apply_conf_change(change)
            self.world.figures["membership changes applied"] += 1
            return view.conf

        consensus.ready = watched_ready  # type: ignore[method-assign] # looked at
        consensus.apply_conf_change = watched_change  # type: ignore[method-assign] # looked at

    def _leads(self, view: MemberView, replica: Replica) -> None:
        term = replica.consensus.status().term
        if self.election.leaders.get(term) != view.name:
            self.world.figures["elections won"] += 1
            self.world.note(view.name, f"leads term {term}")
        self.election.leads(view.name, term)
        self.completeness.leads(view.name, replica, term)
        self.commit_rule.leads(view, replica)

    def _persists(self, view: MemberView, persist: Persist) -> None:
        if persist.snapshot is not None:
            meta = persist.snapshot.meta
            view.terms = {meta.index: meta.term}
            self.world.figures["snapshots received"] += 1
            self.on_install(view.name)

    def _watch_store(self, view: MemberView, replica: Replica) -> None:
        store, hub, snapshots = replica.store, replica.hub, replica.snapshots
        set_applied, notify, adopt = store.set_applied, hub.notify, snapshots.adopt
        machine, journal, world = self.state_machine, self.journal, self.world

        def watched_applied(index: int, term: int) -> None:
            set_applied(index, term)
            machine.applied(view, index, store.revision)

        def watched_notify(events: Sequence[Event]) -> None:
            if events:
                journal.events(view.name, events)
            notify(events)

        def watched_adopt(snapshot: Snapshot) -> None:
            adopt(snapshot)
            world.figures["snapshots installed"] += 1
            world.note(view.name, f"took over a snapshot at {snapshot.meta.index}")
            machine.jumped(view, snapshot.meta.index, store.revision)
            stored = replica.cluster.conf_state()
            machine.conf_state(view, snapshot.meta.index, stored or ConfState())

        store.set_applied = watched_applied  # type: ignore[method-assign] # looked at
        hub.notify = watched_notify  # type: ignore[method-assign] # looked at
        snapshots.adopt = watched_adopt  # type: ignore[method-assign] # looked at

    def damage(
        self,
        member: str,
        before: tuple[int, int, int],
        after: tuple[int, int, int],
        in_tail: bool,
    ) -> None:
        """A log with damaged bytes could be opened: fine in the torn tail only."""
        if before != after and not in_tail:
            text = f"{member}'s log was damaged: {after} was read instead of {before}"
            raise self.world.violated("damage is noticed", text)

    def figures(self) -> Counter[str]:
        """What was checked."""
        return Counter(
            {
                "checked: entries appended": self.matching.checked,
                "checked: entries applied": self.state_machine.checked,
                "checked: leaders complete": self.completeness.checked,
                "checked: first commits of a term": self.commit_rule.checked,
                "checked: commits durable": self.durable.checked,
                "checked: terms with a leader": len(self.election.leaders),
                "checked: messages that promise": self.promises.checked,
                "checked: events": self.journal.checked,
            }
        )
