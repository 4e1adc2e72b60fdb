"""The service etcdserverpb.Lease.

Grants and revocations go through the log. Renewals and remaining times are the leader's
own; other members have it answer (``Replica.ask_leader``).

Rules of this file:

1. The leader confirms that it still leads (``replica.read``) before it answers a
   renewal or a remaining time. That also waits for grants under way.
2. A renewal is reported only if the lease was alive after that; the header of the
   answer is made before, so that its revision is not newer than the renewal.
3. Answers of one keep-alive stream come in the order of its requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from revstore.api import errors
from revstore.api.messages import answer_to, identify, parse
from revstore.api.quota import LEASE_COST
from revstore.api.replica import Answered, Replica, Tag
from revstore.errors import ApiError
from revstore.interfaces.transport import (
    Call,
    Method,
    MethodKind,
    Stream,
    StreamHandler,
)
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

PREFIX = "/etcdserverpb.Lease/"

DEPOSED = frozenset({errors.LEADER_CHANGED, errors.NO_LEADER, errors.PROPOSAL_DROPPED})
"""What a leader answers that is none any more; the new one has to be asked."""

PENDING_RENEWALS_MAX = 65_536
"""Renewals of one stream under way, or answered and not read."""


def methods(replica: Replica) -> list[Method]:
    """The service's part of the table. Raises: nothing."""
    service = LeaseService(replica)

    def open_keep_alive(stream: Stream) -> StreamHandler:
        return KeepAliveHandler(service, stream)

    unary = {
        "LeaseGrant": service.grant,
        "LeaseRevoke": service.revoke,
        "LeaseTimeToLive": service.time_to_live,
        "LeaseLeases": service.leases,
    }
    return [
        *(
            Method(PREFIX + name, MethodKind.UNARY, unary=function)
            for name, function in unary.items()
        ),
        Method(
            PREFIX + "LeaseKeepAlive", MethodKind.BIDI_STREAM, stream=open_keep_alive
        ),
    ]


def renew(replica: Replica, lease_id: int, answered: Answered) -> None:
    """Renew on the leader; an unknown or expired lease has time to live 0.

    Raises: nothing.
    """

    def on_barrier(error: ApiError | None) -> None:
        if error is not None:
            answered(error)
        elif replica.lessor.must_checkpoint(lease_id):
            request = rpc_pb2.LeaseCheckpointRequest()
            request.checkpoints.add(ID=lease_id)
            replica.propose(
                Tag.LEASE_CHECKPOINT,
                request.SerializeToString(),
                request,
                on_checkpoint,
            )
        else:
            finish()

    def on_checkpoint(outcome: ApplyResult | ApiError) -> None:
        if isinstance(outcome, ApiError):
            answered(outcome)
        else:
            finish()

    def finish() -> None:
        # Leadership may have ended meanwhile; then this lessor renews nothing, and an
        # answer of 0 would tell the client that a living lease is gone.
        if not replica.lessor.is_primary:
            answered(errors.LEADER_CHANGED)
            return
        ttl = replica.lessor.renew(lease_id)
        response = rpc_pb2.LeaseKeepAliveResponse(ID=lease_id, TTL=ttl)
        answered(response.SerializeToString())

    replica.read(on_barrier)


def remaining(
    replica: Replica, request: rpc_pb2.LeaseTimeToLiveRequest, answered: Answered
) -> None:
    """Remaining time and keys on the leader; an unknown lease has -1.

    Raises: nothing.
    """

    def on_barrier(error: ApiError | None) -> None:
        if error is not None:
            answered(error)
            return
        if not replica.lessor.is_primary:
            answered(errors.LEADER_CHANGED)
            return
        known = replica.lessor.time_to_live(request.ID)
        response = rpc_pb2.LeaseTimeToLiveResponse(ID=request.ID, TTL=-1)
        if known is not None:
            response.TTL, response.grantedTTL = known
            if request.keys:
                response.keys.extend(replica.store.lease_keys(request.ID))
        answered(response.SerializeToString())

    replica.read(on_barrier)


def answer_forwarded(
    replica: Replica, name: str, message: bytes, answered: Answered
) -> None:
    """The leader's answer to a member that used ``Replica.ask_leader``.

    The asking member has checked permissions. Raises: nothing.
    """
    try:
        if not replica.is_leader:
            raise errors.LEADER_CHANGED.fresh()
        if name == "LeaseKeepAlive":
            renewal = parse(rpc_pb2.LeaseKeepAliveRequest.FromString, message)
            renew(replica, renewal.ID, answered)
        elif name == "LeaseTimeToLive":
            query = parse(rpc_pb2.LeaseTimeToLiveRequest.FromString, message)
            remaining(replica, query, answered)
        else:
            raise errors.bad_request(f"{name} cannot be forwarded")
    except ApiError as exc:
        answered(exc)


class LeaseService:
    """The unary methods, and what the keep-alive stream shares with them."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    def grant(self, call: Call, message: bytes) -> None:
        """LeaseGrant: id and time to live are settled before the log."""
        replica, lessor = self.replica, self.replica.lessor
        try:
            request = parse(rpc_pb2.LeaseGrantRequest.FromString, message)
            info = identify(replica, call)
            if not replica.has_space(LEASE_COST):
                raise errors.NO_SPACE.fresh()
        except ApiError as exc:
            call.fail(exc)
            return
        if request.ID == 0 or lessor.min_ttl_s > request.TTL:
            request.ID = request.ID or lessor.make_id()
            request.TTL = max(request.TTL, lessor.min_ttl_s)
            message = request.SerializeToString()
        done = answer_to(replica, call)
        replica.propose(Tag.LEASE_GRANT, message, request, done, info)

    def revoke(self, call: Call, message: bytes) -> None:
        """LeaseRevoke."""
        replica = self.replica
        try:
            request = parse(rpc_pb2.LeaseRevokeRequest.FromString, message)
            info = identify(replica, call)
        except ApiError as exc:
            call.fail(exc)
            return
        done = answer_to(replica, call)
        replica.propose(Tag.LEASE_REVOKE, message, request, done, info)

    def time_to_live(self, call: Call, message: bytes) -> None:
        """LeaseTimeToLive: with keys it needs read permission on all of them."""
        replica = self.replica
        try:
            request = parse(rpc_pb2.LeaseTimeToLiveRequest.FromString, message)
            info = identify(replica, call)
            replica.auth.check_authenticated(info)
        except ApiError as exc:
            call.fail(exc)
            return

        def answered(answer: bytes | ApiError) -> None:
            try:
                if isinstance(answer, ApiError):
                    raise answer.fresh()
                # The keys in the answer are what counts: a member that asked the
                # leader may not have applied as much itself.
                if request.keys and replica.auth.enabled:
                    for key in rpc_pb2.LeaseTimeToLiveResponse.FromString(answer).keys:
                        replica.auth.check_range(info, key, b"")
            except ApiError as exc:
                call.fail(exc)
            else:
                call.reply(replica.header() + answer)

        def elsewhere() -> None:
            replica.ask_leader("LeaseTimeToLive", message, answered)

        if replica.is_leader:
            remaining(replica, request, _unless_deposed(answered, elsewhere))
        else:
            elsewhere()

    def leases(self, call: Call, message: bytes) -> None:
        """LeaseLeases: what this member knows; needs read permission on all keys."""
        replica = self.replica
        try:
            parse(rpc_pb2.LeaseLeasesRequest.FromString, message)
            known = replica.lessor.leases()
            replica.auth.check_leases(identify(replica, call), known)
        except ApiError as exc:
            call.fail(exc)
            return
        response = rpc_pb2.LeaseLeasesResponse()
        for lease_id in known:
            response.leases.add(ID=lease_id)
        call.reply(replica.header() + response.SerializeToString())

    def keep_alive(self, message: bytes, lease_id: int, answered: Answered) -> None:
        """Renew here or at the leader. Raises: nothing; failures are answers."""

        def elsewhere() -> None:
            self.replica.ask_leader("LeaseKeepAlive", message, answered)

        if self.replica.is_leader:
            renew(self.replica, lease_id, _unless_deposed(answered, elsewhere))
        else:
            elsewhere()


def _unless_deposed(answered: Answered, elsewhere: Callable[[], None]) -> Answered:
    """The answer of this member as the leader, or ``elsewhere`` if it is none any more
    (etcd: ``ErrNotPrimary``)."""

    def judged(answer: bytes | ApiError) -> None:
        if isinstance(answer, ApiError) and answer in DEPOSED:
            elsewhere()
        else:
            answered(answer)

    return judged


class KeepAliveHandler(StreamHandler):
    """One client's stream of renewals.

    Invariant: ``_waiting`` holds the requests without a sent answer, in their order;
    each is a list of the header and, once it is known, the body.
    """

    __slots__ = ("_closing", "_over", "_service", "_stream", "_unread", "_waiting")

    def __init__(self, service: LeaseService, stream: Stream) -> None:
        self._service = service
        self._stream = stream
        self._waiting: deque[list[bytes]] = deque()
        self._unread = 0
        self._closing = False
        self._over = False

    def on_message(self, message: bytes) -> None:
        """One renewal."""
        if self._over:
            return
        replica = self._service.replica
        try:
            request = parse(rpc_pb2.LeaseKeepAliveRequest.FromString, message)
            if replica.auth.enabled:
                info = identify(replica, self._stream)
                replica.auth.check_lease_revoke(info, request.ID)
        except ApiError as exc:
            self._fail(exc)
            return
        self._unread = 0 if self._stream.writable() else self._unread + 1
        if max(self._unread, len(self._waiting)) > PENDING_RENEWALS_MAX:
            self._fail(errors.TOO_MANY_REQUESTS)
            return
        slot = [replica.header()]
        self._waiting.append(slot)

        def answered(answer: bytes | ApiError) -> None:
            if self._over:
                return
            if isinstance(answer, ApiError):
                self._fail(answer)
                return
            slot.append(answer)
            self._flush()

        self._service.keep_alive(message, request.ID, answered)

    def on_half_close(self) -> None:
        """End the stream after the last answer."""
        self._closing = True
        self._flush()

    def on_cancel(self) -> None:
        """The client is gone."""
        self._over = True
        self._waiting.clear()

    def _flush(self) -> None:
        waiting = self._waiting
        while waiting and len(waiting[0]) == 2:
            header, body = waiting.popleft()
            self._stream.send(header + body)
        if self._closing and not waiting and not self._over:
            self._over = True
            self._stream.finish()

    def _fail(self, error: ApiError) -> None:
        self._over = True
        self._waiting.clear()
        self._stream.fail(error)
