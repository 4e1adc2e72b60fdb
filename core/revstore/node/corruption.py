"""Comparing what the members hold: the corruption checks of etcd.

Rules of this file:

1. Members are compared at one revision, each after it has applied everything that the
   asking member had; and only where the compact revisions agree, since what compaction
   left is part of the hash.
2. What a majority of all members holds is right, and whoever holds something else gets
   the CORRUPT alarm. Without a majority nobody can tell: the alarm is then member 0's,
   which stands for the cluster.
3. The leader compares, behind a read barrier, so that it is not behind itself. At its
   start a member compares itself with the others before it serves.
4. Members that do not answer prove nothing. Hashing never stops the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from revstore import logs
from revstore.api import errors
from revstore.api.hash_run import run_hash
from revstore.api.replica import Tag
from revstore.errors import ApiError
from revstore.mvcc.hashing import HashResult
from revstore.peer.calls import Answered
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

if TYPE_CHECKING:
    from revstore.node.replica import Replica

LOG = logs.get(__name__)

HASH_KV = "HashKV"
HASHES_MAX = 4
"""Hashes for other members that run at once."""
HASH_TIMEOUT_S = 3600.0
"""What another member gets at most; how long is waited for it depends on this
member's own hash (``_Comparison``)."""

WHOLE_CLUSTER = 0
"""Whose alarm it is when there is no majority (rule 2)."""


NO_COMPACTION = ApiError(
    errors.Code.NOT_FOUND, "revstore: nothing is known of a compaction to that revision"
)


class Question(msgspec.Struct, frozen=True, array_like=True):
    """What one member asks another for."""

    revision: int
    applied: int
    """The log index that must be applied before (rule 1)."""
    compaction: bool = False
    """Ask for what was found while compacting to the revision, and hash nothing."""


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What a member holds."""

    hash: int
    compact_revision: int
    revision: int
    """The newest revision when the hash was ready."""
    missing: bool = False
    """It has applied everything and does not have the revision; no hash then."""


_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(Question).decode
_decode_report = msgspec.msgpack.Decoder(Report).decode


class Findings(msgspec.Struct, frozen=True):
    """The outcome of one comparison."""

    revision: int
    own_id: int
    own: Report
    others: Mapping[int, Report]
    """By member; those that did not answer are left out."""
    members: int
    """How many members there are."""

    def groups(self) -> list[set[int]]:
        """Members that hold the same, this one's group first."""
        found: dict[object, set[int]] = {self.own.hash: {self.own_id}}
        for member, report in self.others.items():
            if report.missing:
                found.setdefault("missing", set()).add(member)
            elif report.compact_revision == self.own.compact_revision:
                found.setdefault(report.hash, set()).add(member)
        return list(found.values())

    def is_majority(self, group: set[int]) -> bool:
        """Whether what these hold is right (rule 2)."""
        return len(group) >= self.members // 2 + 1

    def odd(self) -> set[int]:
        """Who deserves the alarm."""
        groups = self.groups()
        if len(groups) == 1:
            return set()
        right = next((group for group in groups if self.is_majority(group)), None)
        if right is None:
            return {WHOLE_CLUSTER}
        return set().union(*groups) - right

    def ahead(self, revision: int, compact_revision: int) -> set[int]:
        """Members that hold what the leader, which has everything, does not have."""
        return {
            member
            for member, report in self.others.items()
            if report.revision > revision or report.compact_revision > compact_revision
        }

    def complete(self) -> bool:
        """Whether every member was compared."""
        return sum(len(group) for group in self.groups()) == self.members


Compared = Callable[[Findings | ApiError], None]


class _Comparison:
    """One question to all other members, next to the own hash.

    Others get twice the time that the own hash took, and no less than a request.
    """

    def __init__(self, replica: Replica, revision: int, done: Compared) -> None:
        self._replica = replica
        self._revision = revision
        self._done: Compared | None = done
        self._began = replica.clock.now()
        self._own: Report | None = None
        self._others: dict[int, Report] = {}
        self._waiting: dict[int, int] = {}
        self._ids = [member.ID for member in replica.members()]

    def start(self, own: HashResult | None = None) -> None:
        """Ask; ``own`` is given for what a compaction found. Raises: nothing."""
        replica = self._replica
        question = Question(self._revision, replica.applied, own is not None)
        body = _encode(question)
        others = [one for one in self._ids if one != replica.member_id]
        self._waiting = dict.fromkeys(others, 0)
        for member in others:
            reported = partial(self._reported, member)
            number = replica.calls.call(member, HASH_KV, body, HASH_TIMEOUT_S, reported)
            if member in self._waiting:
                self._waiting[member] = number
        if own is not None:
            self._hashed(own)
            return
        try:
            job = replica.store.hash_kv_job(self._revision)
        except ApiError as exc:
            self._end(exc)
            return
        run_hash(replica, job, self._hashed, lambda: replica.stopped)

    def _reported(self, member: int, answer: bytes | ApiError) -> None:
        self._waiting.pop(member, None)
        try:
            if isinstance(answer, ApiError):
                raise answer.fresh()
            self._others[member] = _decode_report(answer)
        except (ApiError, msgspec.MsgspecError) as exc:
            LOG.warn("a member was not compared", member=f"{member:x}", error=f"{exc}")
        self._maybe_end()

    def _hashed(self, result: HashResult | ApiError) -> None:
        replica = self._replica
        if isinstance(result, ApiError):
            self._end(result)
            return
        self._own = Report(result.hash, result.compact_revision, replica.store.revision)
        took = replica.clock.now() - self._began
        limit = max(replica.settings.request_timeout_s, 2 * took)
        replica.schedule(self._late, limit - took)
        self._maybe_end()

    def _late(self) -> None:
        for member, number in self._waiting.items():
            self._replica.calls.forget(number)
            LOG.warn("a member was not compared in time", member=f"{member:x}")
        self._waiting.clear()
        self._maybe_end()

    def _maybe_end(self) -> None:
        if self._own is not None and not self._waiting:
            own_id, others = self._replica.member_id, self._others
            self._end(
                Findings(self._revision, own_id, self._own, others, len(self._ids))
            )

    def _end(self, outcome: Findings | ApiError) -> None:
        done, self._done = self._done, None
        if done is not None and not self._replica.stopped:
            done(outcome)


class Corruption:
    """The checks of one member, and its answers to those of others."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._serving = 0
        self._checking = False
        self._checked_compaction = 0
        now, settings = replica.clock.now(), replica.settings
        self._check_at = now + settings.corrupt_check_s
        self._compaction_check_at = now + settings.compact_hash_check_s
        replica.calls.serve(HASH_KV, self._answer)

    # ----- the leader

    def tick(self, now: float) -> None:
        """Begin a check that is due, after the one that runs."""
        settings = self._replica.settings
        if self._checking:
            return
        if settings.corrupt_check_s > 0 and now >= self._check_at:
            self._check_at = now + settings.corrupt_check_s
            self._begin(self.check)
        elif settings.compact_hash_check_s > 0 and now >= self._compaction_check_at:
            self._compaction_check_at = now + settings.compact_hash_check_s
            self._begin(self.check_compactions)

    def _begin(self, check: Callable[[], None]) -> None:
        replica = self._replica
        if replica.is_leader and len(replica.members()) > 1:
            self._checking = True
            replica.read(partial(self._behind_barrier, check))

    def _behind_barrier(self, action: Callable[[], None], error: object) -> None:
        if error is not None or not self._replica.is_leader:
            self._checking = False
        else:
            action()

    def check(self) -> None:
        """Compare all members at the newest revision; for the leader, which has
        applied everything. Raises: nothing."""
        revision = self._replica.store.revision
        _Comparison(self._replica, revision, self._checked).start()

    def _checked(self, outcome: Findings | ApiError) -> None:
        if isinstance(outcome, ApiError):
            self._checking = False
            LOG.warn("members were not compared", error=outcome.message)
            return

        def judge() -> None:
            # Behind another barrier nobody has anything that the leader does not have.
            store = self._replica.store
            ahead = outcome.ahead(store.revision, store.compact_revision)
            self._judge(outcome, outcome.odd() | ahead)
            LOG.info("finished hash check", **_facts(outcome))

        self._replica.read(partial(self._behind_barrier, judge))

    def check_compactions(self) -> None:
        """Compare all members at the newest compaction that was not compared yet.
        Raises: nothing."""
        for own in self._replica.store.compaction_hashes():
            if own.hash_revision > self._checked_compaction:
                comparison = _Comparison(
                    self._replica, own.hash_revision, self._checked_compactions
                )
                comparison.start(own)
                return
        self._checking = False

    def _checked_compactions(self, outcome: Findings | ApiError) -> None:
        if isinstance(outcome, ApiError):
            self._checking = False
            return
        if outcome.complete():
            self._checked_compaction = outcome.revision
        self._judge(outcome, outcome.odd())
        LOG.info("finished compaction hash check", **_facts(outcome))

    def _judge(self, outcome: Findings, odd: set[int]) -> None:
        self._checking = False
        replica = self._replica
        known = {row.memberID for row in replica.alarms.members(rpc_pb2.CORRUPT)}
        for member in sorted(odd - known):
            LOG.error(
                "members hold different data", corrupt=f"{member:x}", **_facts(outcome)
            )
            alarm = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.ACTIVATE,
                memberID=member,
                alarm=rpc_pb2.CORRUPT,
            )
            replica.propose_as_leader(Tag.ALARM, alarm, _alarmed)

    # ----- a member at its start

    def check_at_start(self, done: Callable[[str], None]) -> None:
        """Compare this member, which has caught up, with the others.

        ``done`` gets why it must not serve, or nothing. Raises: nothing.
        """
        replica = self._replica
        revision = replica.store.revision

        def compared(outcome: Findings | ApiError) -> None:
            if isinstance(outcome, ApiError):
                LOG.warn("not compared with other members", error=outcome.message)
                done("")
                return
            own, *others = outcome.groups()
            if not others or outcome.is_majority(own):
                LOG.info("compared with other members", **_facts(outcome))
                done("")
                return
            members = ", ".join(sorted(f"{one:x}" for one in set().union(*others)))
            done(
                f"the data of this member differs at revision {revision} from that of "
                f"the members {members}; remove this member from the cluster, remove "
                "its data directory and add it again"
            )

        _Comparison(replica, revision, compared).start()

    # ----- the one that is asked

    def _answer(self, sender: int, body: bytes, answered: Answered) -> None:
        replica = self._replica
        try:
            question = _decode_question(body)
        except msgspec.MsgspecError as exc:
            answered(errors.bad_request(f"{exc}"))
            return
        if self._serving >= HASHES_MAX:
            answered(errors.TOO_MANY_REQUESTS)
            return
        self._serving += 1

        def end(answer: bytes | ApiError) -> None:
            self._serving -= 1
            answered(answer)

        deadline = replica.clock.now() + replica.settings.request_timeout_s
        replica.reads.wait_until(
            question.applied, deadline, partial(self._caught_up, question, end)
        )
        replica.shell.request_pump()

    def _caught_up(
        self, question: Question, answered: Answered, error: ApiError | None
    ) -> None:
        replica, store = self._replica, self._replica.store
        if error is not None:
            answered(error)
            return
        if store.revision < question.revision:
            report = Report(0, store.compact_revision, store.revision, missing=True)
            answered(_encode(report))
            return

        def hashed(result: HashResult | ApiError) -> None:
            if isinstance(result, ApiError):
                answered(result)
            else:
                found = Report(result.hash, result.compact_revision, store.revision)
                answered(_encode(found))

        if question.compaction:
            known = {one.hash_revision: one for one in store.compaction_hashes()}
            hashed(known.get(question.revision, NO_COMPACTION))
            return
        try:
            job = store.hash_kv_job(question.revision)
        except ApiError as exc:
            answered(exc)
            return
        run_hash(replica, job, hashed, lambda: replica.stopped)


def _facts(outcome: Findings) -> dict[str, object]:
    """What a line of the log says of a comparison."""
    return {
        "revision": outcome.revision,
        "compared": sum(len(group) for group in outcome.groups()),
        "members": outcome.members,
        "hashes": len(outcome.groups()),
    }


def _alarmed(result: ApplyResult | ApiError) -> None:
    if isinstance(result, ApiError):
        LOG.warn("the CORRUPT alarm was not raised", error=result.message)
