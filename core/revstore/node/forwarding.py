"""What a member has the leader do: renewals of leases, changes of the membership.

Rules of this file:

1. A request is tried again while leadership changes or the leader cannot be reached,
   until the time of a request is up (etcd: ``LeaseRenew``, ``PromoteMember``).
2. One that must not be done twice is tried again only if surely nobody did it: it was
   never sent, or whoever got it says that it does not lead.
3. A member that leads by now answers itself.
4. Every request is answered exactly once.
5. What may be done twice goes in batches, one message for what a turn of the loop has
   gathered: thousands of renewals would crowd out Raft's own messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from revstore.api import errors, lease
from revstore.api.replica import MemberChange
from revstore.errors import ApiError
from revstore.node.reads import Finished
from revstore.peer.calls import NOT_SENT, Answered, Serve, error_of

if TYPE_CHECKING:
    from revstore.node.replica import Replica

MEMBER_CHANGE = "MemberChange"
BATCH = "Batch"
LEASE_CALLS = ("LeaseKeepAlive", "LeaseTimeToLive")

NOBODY_DID = frozenset({NOT_SENT, errors.NOT_LEADER})
"""Answers after which any request may be tried again (rule 2)."""
NOT_NOW = NOBODY_DID | {
    errors.LEADER_CHANGED,
    errors.NO_LEADER,
    errors.PROPOSAL_DROPPED,
    errors.STOPPED,
    errors.TIMEOUT,
}
"""Answers after which one that is harmless to repeat is tried again (rule 1)."""

ODD_ANSWER = ApiError(errors.Code.INTERNAL, "revstore: odd answer of a member")

TRY_TIMEOUTS = 2
"""Election timeouts that the leader gets for one that can be repeated."""

REQUESTS_MAX = 100_000
"""Requests of this member that wait for a leader's answer."""
BATCH_MAX = 1_000
"""Requests in one message."""

_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode
_decode_answers = msgspec.msgpack.Decoder(list[bytes | tuple[int, str]]).decode
_decode_change = msgspec.msgpack.Decoder(MemberChange).decode
_decode_index = msgspec.msgpack.Decoder(int).decode


class _Request:
    """One request on its way to a leader."""

    __slots__ = ("answered", "asked", "attempt", "body", "deadline", "name")

    def __init__(
        self, name: str, body: bytes, deadline: float, answered: Answered
    ) -> None:
        self.name = name
        self.body = body
        self.deadline = deadline
        self.answered = answered
        self.asked = 0
        """The member that it was sent to; 0: it waits for a leader."""
        self.attempt = 0
        """Which answer counts: that to the newest attempt."""


_Attempt = tuple[_Request, int]


class Forwarding:
    """The requests of one member to its leader, and the answers it gives as leader."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._requests: dict[_Request, None] = {}
        self._outbox: list[_Attempt] = []
        """Attempts for the next batch. Invariant: while there are any, ``_flush`` is
        scheduled."""
        self._functions: dict[str, Serve] = {
            name: partial(self._answer_lease, name) for name in LEASE_CALLS
        }
        replica.calls.serve(BATCH, self._answer_batch)
        replica.calls.serve(MEMBER_CHANGE, self._answer_change)

    def __len__(self) -> int:
        return len(self._requests)

    # ----- asking

    def ask(self, name: str, body: bytes, answered: Answered) -> None:
        """Have the leader answer. Raises: nothing; failures are answers."""
        replica = self._replica
        if replica.stopped:
            answered(replica.stop_error())
        elif replica.send_call is None and not replica.is_leader:
            answered(errors.NO_LEADER)
        elif len(self._requests) >= REQUESTS_MAX:
            answered(errors.TOO_MANY_REQUESTS)
        else:
            deadline = replica.clock.now() + replica.settings.request_timeout_s
            request = _Request(name, body, deadline, answered)
            self._requests[request] = None
            self._try(request)

    def change_members(self, change: MemberChange, done: Finished) -> None:
        """Have the leader judge and propose a change; ``done`` hears once it is applied
        here, too. Raises: nothing."""
        replica = self._replica
        deadline = replica.clock.now() + replica.settings.request_timeout_s

        def answered(answer: bytes | ApiError) -> None:
            if isinstance(answer, ApiError):
                done(answer)
                return
            try:
                index = _decode_index(answer)
            except msgspec.MsgspecError:
                done(ODD_ANSWER)
                return
            replica.reads.wait_until(index, deadline, done)
            replica.shell.request_pump()

        self.ask(MEMBER_CHANGE, _encode(change), answered)

    def _try(self, request: _Request) -> None:
        replica = self._replica
        leader = replica.leader
        if not leader:
            return
        request.asked = leader
        request.attempt += 1
        attempt = request.attempt
        answered = partial(self._answered, request, attempt)
        if request.name == MEMBER_CHANGE:
            if replica.is_leader:
                self._answer_change(leader, request.body, answered)
            else:
                left = request.deadline - replica.clock.now()
                replica.calls.call(leader, MEMBER_CHANGE, request.body, left, answered)
        elif replica.is_leader:
            self._functions[request.name](leader, request.body, answered)
        else:
            if not self._outbox:
                replica.shell.schedule(self._flush)
            self._outbox.append((request, attempt))

    def _flush(self) -> None:
        """Send what this turn of the loop has gathered."""
        outbox, self._outbox = self._outbox, []
        replica = self._replica
        timeout_s = TRY_TIMEOUTS * replica.settings.election_timeout_s
        now = [one for one in outbox if one[0].attempt == one[1]]
        for start in range(0, len(now), BATCH_MAX):
            batch = now[start : start + BATCH_MAX]
            body = _encode([(request.name, request.body) for request, _ in batch])
            replica.calls.call(
                batch[0][0].asked, BATCH, body, timeout_s, partial(self._told, batch)
            )

    def _told(self, batch: list[_Attempt], answer: bytes | ApiError) -> None:
        answers: Sequence[bytes | ApiError]
        if isinstance(answer, ApiError):
            answers = [answer] * len(batch)
        else:
            answers = _answers_of(answer)
            if len(answers) != len(batch):
                answers = [ODD_ANSWER] * len(batch)
        for (request, attempt), one in zip(batch, answers, strict=True):
            self._answered(request, attempt, one)

    def _answered(
        self, request: _Request, attempt: int, answer: bytes | ApiError
    ) -> None:
        if request not in self._requests or request.attempt != attempt:
            return
        again = NOBODY_DID if request.name == MEMBER_CHANGE else NOT_NOW
        if isinstance(answer, ApiError) and answer in again:
            # The next tick tries again, or a new leader before that.
            request.asked = 0
            return
        del self._requests[request]
        request.answered(answer)

    # ----- time and end

    def tick(self, now: float) -> None:
        """Try again what waits, and tell those whose time is up."""
        for request in list(self._requests):
            if request.deadline <= now:
                error = errors.TIMEOUT if self._replica.leader else errors.NO_LEADER
                self._end(request, error)
            elif not request.asked:
                self._try(request)

    def leader_changed(self) -> None:
        """Somebody else leads now, or nobody: ask again what may be asked again."""
        leader = self._replica.leader
        for request in list(self._requests):
            if request.asked and request.asked != leader:
                if request.name == MEMBER_CHANGE:
                    continue
                request.asked = 0
                request.attempt += 1
            if not request.asked:
                self._try(request)

    def fail_all(self, error: ApiError) -> None:
        """Tell everybody that there will be no answer here."""
        for request in list(self._requests):
            self._end(request, error)

    def _end(self, request: _Request, error: ApiError) -> None:
        if self._requests.pop(request, request) is None:
            request.attempt += 1
            request.answered(error)

    # ----- answering as the leader

    def _answer_batch(self, sender: int, body: bytes, answered: Answered) -> None:
        try:
            batch = _decode_batch(body)
        except msgspec.MsgspecError as exc:
            answered(errors.bad_request(f"{exc}"))
            return
        answers: dict[int, object] = {}

        def note(place: int, answer: bytes | ApiError) -> None:
            if isinstance(answer, ApiError):
                answers[place] = (answer.code, answer.message)
            else:
                answers[place] = answer
            if len(answers) == len(batch):
                answered(_encode([answers[place] for place in range(len(batch))]))

        for place, (name, message) in enumerate(batch):
            function = self._functions.get(name)
            if function is None:
                note(place, errors.bad_request(f"{name} is not for a batch"))
            else:
                function(sender, message, partial(note, place))

    def _answer_lease(
        self, name: str, sender: int, body: bytes, answered: Answered
    ) -> None:
        lease.answer_forwarded(self._replica, name, body, answered)

    def _answer_change(self, sender: int, body: bytes, answered: Answered) -> None:
        replica = self._replica
        if not replica.is_leader:
            answered(errors.NOT_LEADER)
            return
        try:
            change = _decode_change(body)
        except msgspec.MsgspecError as exc:
            answered(errors.bad_request(f"{exc}"))
            return

        def told() -> None:
            answered(_encode(replica.applied))

        def done(error: ApiError | None) -> None:
            if error is not None:
                answered(error)
            else:
                # The index that is being applied counts only after this turn.
                replica.shell.schedule(told)

        replica.membership.change(change, done)


def _answers_of(body: bytes) -> list[bytes | ApiError]:
    """The answers in a batch; none if the bytes are something else. Raises: nothing."""
    try:
        found = _decode_answers(body)
    except msgspec.MsgspecError:
        return []
    return [error_of(*one) if isinstance(one, tuple) else one for one in found]
