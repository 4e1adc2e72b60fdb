"""etcdserverpb.Cluster: the member list and its changes.

Rules of this file:

1. Headers of this service carry no revision.
2. A change is validated against the applied membership here; consensus decides whether
   it takes it.
3. With a consensus that has one member for ever, a request that would change
   something is refused with FAILED_PRECONDITION and the reason; a request that etcd
   would refuse anyway gets etcd's own error first.
"""

from __future__ import annotations

from functools import partial

from google.protobuf.message import Message

from revstore.api import errors
from revstore.api.messages import identify, identify_admin, parse
from revstore.api.replica import MemberChange, MemberChangeKind, Replica
from revstore.api.validation import check_peer_urls
from revstore.errors import ApiError
from revstore.interfaces.transport import Call, Method, MethodKind
from revstore.proto import rpc_pb2

SINGLE_MEMBER = ApiError(
    errors.Code.FAILED_PRECONDITION,
    "revstore: this member runs a consensus for one member only; to change the "
    'membership, run it with a consensus for several members, such as "raft"',
)
"""The refusal of a valid change where there can be no second member."""

_parse_add = rpc_pb2.MemberAddRequest.FromString
_parse_remove = rpc_pb2.MemberRemoveRequest.FromString
_parse_update = rpc_pb2.MemberUpdateRequest.FromString
_parse_list = rpc_pb2.MemberListRequest.FromString
_parse_promote = rpc_pb2.MemberPromoteRequest.FromString


def methods(replica: Replica) -> list[Method]:
    """The methods of the service."""
    service = ClusterService(replica)
    unary = {
        "MemberAdd": service.add,
        "MemberRemove": service.remove,
        "MemberUpdate": service.update,
        "MemberList": service.list,
        "MemberPromote": service.promote,
    }
    return [
        Method(
            path=f"/etcdserverpb.Cluster/{name}",
            kind=MethodKind.UNARY,
            unary=function,
        )
        for name, function in unary.items()
    ]


class ClusterService:
    """The methods; the arguments of each are those of a ``UnaryFunction``."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def add(self, call: Call, message: bytes) -> None:
        """MemberAdd."""
        replica = self._replica
        try:
            request = parse(_parse_add, message)
            urls = check_peer_urls(request.peerURLs)
            identify_admin(replica, call)
            self._check_urls_free(urls, member_id=0)
            change = MemberChange(
                kind=MemberChangeKind.ADD,
                peer_urls=urls,
                is_learner=request.isLearner,
            )
        except ApiError as error:
            call.fail(error)
            return
        self._change(call, change, partial(self._added, call, frozenset(urls)))

    def remove(self, call: Call, message: bytes) -> None:
        """MemberRemove."""
        try:
            request = parse(_parse_remove, message)
            identify_admin(self._replica, call)
            member = self._member(request.ID)
            if not member.isLearner:
                self._check_voters_left(member.ID)
            change = MemberChange(kind=MemberChangeKind.REMOVE, member_id=member.ID)
        except ApiError as error:
            call.fail(error)
            return
        answer = partial(self._changed, call, rpc_pb2.MemberRemoveResponse)
        self._change(call, change, answer)

    def update(self, call: Call, message: bytes) -> None:
        """MemberUpdate."""
        try:
            request = parse(_parse_update, message)
            identify_admin(self._replica, call)
            member = self._member(request.ID)
            urls = check_peer_urls(request.peerURLs)
            self._check_urls_free(urls, member.ID)
            change = MemberChange(
                kind=MemberChangeKind.UPDATE, member_id=member.ID, peer_urls=urls
            )
        except ApiError as error:
            call.fail(error)
            return
        answer = partial(self._changed, call, rpc_pb2.MemberUpdateResponse)
        self._change(call, change, answer)

    def promote(self, call: Call, message: bytes) -> None:
        """MemberPromote."""
        try:
            request = parse(_parse_promote, message)
            identify_admin(self._replica, call)
            member = self._member(request.ID)
            if not member.isLearner:
                raise errors.MEMBER_NOT_LEARNER.fresh()
            change = MemberChange(kind=MemberChangeKind.PROMOTE, member_id=member.ID)
        except ApiError as error:
            call.fail(error)
            return
        answer = partial(self._changed, call, rpc_pb2.MemberPromoteResponse)
        self._change(call, change, answer)

    def list(self, call: Call, message: bytes) -> None:
        """MemberList; any user may ask, but with auth on it must be a user."""
        replica = self._replica
        try:
            request = parse(_parse_list, message)
            replica.auth.check_authenticated(identify(replica, call))
        except ApiError as error:
            call.fail(error)
            return
        if request.linearizable:
            answer = partial(self._changed, call, rpc_pb2.MemberListResponse)
            replica.read(answer)
        else:
            self._changed(call, rpc_pb2.MemberListResponse, None)

    def _change(self, call: Call, change: MemberChange, answer: partial[None]) -> None:
        if not self._replica.multi_member:
            call.fail(SINGLE_MEMBER)
        else:
            self._replica.change_members(change, answer)

    def _changed(
        self,
        call: Call,
        response: type[Message],
        error: ApiError | None,
    ) -> None:
        """Answer with all members."""
        if error is not None:
            call.fail(error)
            return
        body = response(members=self._replica.members()).SerializeToString()
        call.reply(self._replica.header_no_revision() + body)

    def _added(self, call: Call, urls: frozenset[str], error: ApiError | None) -> None:
        """Answer with the new member and all members."""
        if error is not None:
            call.fail(error)
            return
        members = self._replica.members()
        # URLs belong to one member; others may have been added meanwhile.
        new = next((one for one in members if urls == set(one.peerURLs)), None)
        body = rpc_pb2.MemberAddResponse(member=new, members=members)
        header = self._replica.header_no_revision()
        call.reply(header + body.SerializeToString())

    def _member(self, member_id: int) -> rpc_pb2.Member:
        found = self._by_id().get(member_id)
        if found is None:
            raise errors.MEMBER_NOT_FOUND.fresh()
        return found

    def _check_urls_free(self, urls: tuple[str, ...], member_id: int) -> None:
        others = self._by_id()
        others.pop(member_id, None)
        if any(not set(urls).isdisjoint(other.peerURLs) for other in others.values()):
            raise errors.PEER_URL_EXIST.fresh()

    def _check_voters_left(self, leaving: int) -> None:
        staying = self._by_id()
        staying.pop(leaving, None)
        if all(member.isLearner for member in staying.values()):
            raise errors.MEMBER_NOT_ENOUGH_STARTED.fresh()

    def _by_id(self) -> dict[int, rpc_pb2.Member]:
        return {member.ID: member for member in self._replica.members()}
