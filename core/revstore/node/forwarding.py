"""What a member has the leader do: renewals of leases, changes of the membership.

Rules of this file:

1. A request is tried again while leadership changes or the leader cannot be reached,
   until the time of a request is up (etcd: ``LeaseRenew``, ``PromoteMember``).
2. One that must not be done twice is tried again only if surely nobody did it: it was
   never sent, or whoever got it says that it does not lead.
3. A member that leads by now answers itself.
4. Every request is answered exactly once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from revstore.api import errors, lease
from revstore.api.replica import MemberChange
from revstore.errors import ApiError
from revstore.node.reads import Finished
from revstore.peer.calls import CALLS_MAX, NOT_SENT, Answered, Serve

if TYPE_CHECKING:
    from revstore.node.replica import Replica

MEMBER_CHANGE = "MemberChange"
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

TRY_TIMEOUTS = 2
"""Election timeouts that the leader gets for one that can be repeated."""

_decode_change = msgspec.msgpack.Decoder(MemberChange).decode
_decode_index = msgspec.msgpack.Decoder(int).decode


class _Request:
    """One request on its way to a leader."""

    __slots__ = ("answered", "asked", "attempt", "body", "deadline", "name", "number")

    def __init__(
        self, name: str, body: bytes, deadline: float, answered: Answered
    ) -> None:
        self.name = name
        self.body = body
        self.deadline = deadline
        self.answered = answered
        self.asked = 0
        """The member that it was sent to; 0: it waits for a leader."""
        self.number = 0
        self.attempt = 0


class Forwarding:
    """The requests of one member to its leader, and the answers it gives as leader."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._requests: dict[_Request, None] = {}
        self._functions: dict[str, Serve] = {}
        for name in LEASE_CALLS:
            self._serve(name, partial(self._answer_lease, name))
        self._serve(MEMBER_CHANGE, self._answer_change)

    def __len__(self) -> int:
        return len(self._requests)

    def _serve(self, name: str, function: Serve) -> None:
        self._functions[name] = function
        self._replica.calls.serve(name, function)

    # ----- asking

    def ask(self, name: str, body: bytes, answered: Answered) -> None:
        """Have the leader answer. Raises: nothing; failures are answers."""
        replica = self._replica
        if replica.stopped:
            answered(replica.stop_error())
        elif replica.send_call is None and not replica.is_leader:
            answered(errors.NO_LEADER)
        elif len(self._requests) >= CALLS_MAX:
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
                done(ApiError(errors.Code.INTERNAL, "revstore: odd answer of a member"))
                return
            replica.reads.wait_until(index, deadline, done)
            replica.shell.request_pump()

        self.ask(MEMBER_CHANGE, msgspec.msgpack.encode(change), answered)

    def _try(self, request: _Request) -> None:
        replica = self._replica
        leader = replica.leader
        if not leader:
            return
        request.asked = leader
        request.attempt += 1
        answered = partial(self._answered, request, request.attempt)
        if replica.is_leader:
            self._functions[request.name](leader, request.body, answered)
            return
        left = request.deadline - replica.clock.now()
        if request.name != MEMBER_CHANGE:
            left = min(left, TRY_TIMEOUTS * replica.settings.election_timeout_s)
        request.number = replica.calls.call(
            leader, request.name, request.body, left, answered
        )

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
                self._replica.calls.forget(request.number)
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
            self._replica.calls.forget(request.number)
            request.answered(error)

    # ----- answering as the leader

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
            answered(msgspec.msgpack.encode(replica.applied))

        def done(error: ApiError | None) -> None:
            if error is not None:
                answered(error)
            else:
                # The index that is being applied counts only after this turn.
                replica.shell.schedule(told)

        replica.membership.change(change, done)
