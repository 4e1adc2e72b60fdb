"""The members of the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from revstore.client.caller import Caller, CallOptions
from revstore.client.methods import (
    MEMBER_ADD,
    MEMBER_LIST,
    MEMBER_PROMOTE,
    MEMBER_REMOVE,
    MEMBER_UPDATE,
)
from revstore.client.values import Member, make_member, make_members
from revstore.proto import rpc_pb2


def endpoints_of(
    members: Iterable[Member], like: Iterable[str] = ()
) -> tuple[str, ...]:
    """The client URLs of members; of one with several kinds those as in ``like``."""
    schemes = {_scheme(url) for url in like}
    found: list[str] = []
    for member in members:
        fitting = [url for url in member.client_urls if _scheme(url) in schemes]
        found += fitting or member.client_urls
    return tuple(dict.fromkeys(found))


def _scheme(url: str) -> str:
    return url.partition("://")[0]


class Cluster:
    """Calls about the membership; ``client.cluster``.

    A change that was sent and not answered raises ``OutcomeUnknown``: look at
    ``members`` before doing it again.
    """

    def __init__(self, caller: Caller, options: CallOptions) -> None:
        self._caller = caller
        self._options = options

    async def members(self, *, linearizable: bool = True) -> tuple[Member, ...]:
        """All members. Raises: ApiError."""
        request = rpc_pb2.MemberListRequest(linearizable=linearizable)
        answer = await self._caller.call(MEMBER_LIST, request, self._options)
        return make_members(answer.members)

    async def add(
        self, peer_urls: Sequence[str], *, is_learner: bool = False
    ) -> Member:
        """Add a member, which can be started then.

        Raises:
            ApiError: a URL is bad or taken, or the cluster is not healthy enough.
        """
        request = rpc_pb2.MemberAddRequest(peerURLs=peer_urls, isLearner=is_learner)
        answer = await self._caller.call(MEMBER_ADD, request, self._options)
        return make_member(answer.member)

    async def remove(self, member_id: int) -> tuple[Member, ...]:
        """Remove a member; who stays. Raises: ApiError NOT_FOUND, and as ``add``."""
        request = rpc_pb2.MemberRemoveRequest(ID=member_id)
        answer = await self._caller.call(MEMBER_REMOVE, request, self._options)
        return make_members(answer.members)

    async def update(
        self, member_id: int, peer_urls: Sequence[str]
    ) -> tuple[Member, ...]:
        """Give a member other peer URLs. Raises: ApiError NOT_FOUND, and as ``add``."""
        request = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=peer_urls)
        answer = await self._caller.call(MEMBER_UPDATE, request, self._options)
        return make_members(answer.members)

    async def promote(self, member_id: int) -> tuple[Member, ...]:
        """Make a learner a voter.

        Raises:
            ApiError: it is no learner, or not yet in sync with the leader.
        """
        request = rpc_pb2.MemberPromoteRequest(ID=member_id)
        answer = await self._caller.call(MEMBER_PROMOTE, request, self._options)
        return make_members(answer.members)
