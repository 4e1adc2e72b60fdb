"""What a member asks the others before its first start.

Rules of this file:

1. A member that joins a running cluster takes ids and membership from it: the id of a
   member that was added later cannot be computed from its URLs (etcd membership).
2. A member that forms a cluster asks too, and refuses to if that cluster knows it: it
   has lost its data, and with it the votes and entries it promised to keep. It has to be
   removed and added again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from revstore import logs
from revstore.errors import ConfigError, TransportError
from revstore.node.bootstrap import Joining, initial_members
from revstore.node.ids import cluster_id
from revstore.node.peering import ASK_MEMBERS, PeerSettings
from revstore.node.settings import MemberSettings
from revstore.proto import rpc_pb2

LOG = logs.get(__name__)

ASK_TIMEOUT_S = 3.0


async def ask_cluster(settings: MemberSettings, peers: PeerSettings) -> Joining | None:
    """Who a member without data is; None: one of those that form a new cluster.

    Raises:
        ConfigError: the cluster and the settings do not fit; the message says what to
            do.
    """
    others = {
        name: urls
        for name, urls in settings.initial_cluster.items()
        if name != settings.name
    }
    answers = await _answers(others, peers)
    if settings.initial_cluster_state == "existing":
        return _joining(settings, answers)
    _refuse_known(settings, answers)
    return None


async def _answers(
    others: Mapping[str, Sequence[str]], peers: PeerSettings
) -> list[rpc_pb2.MemberListResponse]:
    urls = [url for group in others.values() for url in group]
    found = await asyncio.gather(*(_ask(url, peers) for url in urls))
    return [answer for answer in found if answer is not None]


async def _ask(url: str, peers: PeerSettings) -> rpc_pb2.MemberListResponse | None:
    try:
        answer = await peers.transport.ask(url, ASK_MEMBERS, peers.tls, ASK_TIMEOUT_S)
        return rpc_pb2.MemberListResponse.FromString(answer) if answer else None
    except (TransportError, DecodeError) as exc:
        LOG.info("no answer about the members", url=url, reason=f"{exc}")
        return None


def _joining(
    settings: MemberSettings, answers: list[rpc_pb2.MemberListResponse]
) -> Joining:
    """Rule 1."""
    if not answers:
        raise ConfigError(
            "no member of the cluster could be asked for its members; start them, and "
            "check the URLs in --initial-cluster (or use --initial-cluster-state new "
            "to form a cluster)"
        )
    own = set(settings.peer_urls)
    problem = ""
    for answer in answers:
        mine = next((m for m in answer.members if own & set(m.peerURLs)), None)
        if mine is None:
            problem = problem or (
                f"no member of the cluster has the peer URLs {', '.join(sorted(own))}; "
                "add this one first: etcdctl member add "
                f"{settings.name} --peer-urls={','.join(sorted(own))}"
            )
            continue
        problem = _mismatch(settings, answer)
        if not problem:
            return Joining(mine.ID, answer.header.cluster_id)
    raise ConfigError(problem)


def _mismatch(settings: MemberSettings, answer: rpc_pb2.MemberListResponse) -> str:
    """How --initial-cluster differs from the members that there are, or nothing."""
    theirs = {frozenset(member.peerURLs) for member in answer.members}
    given = {frozenset(urls): name for name, urls in settings.initial_cluster.items()}
    for urls, name in given.items():
        if urls not in theirs:
            return (
                f"--initial-cluster names {name}={','.join(sorted(urls))}, which is no "
                "member of the cluster; give the members as member list shows them"
            )
    missing = theirs - given.keys()
    if missing:
        text = "; ".join(sorted(",".join(sorted(urls)) for urls in missing))
        return (
            f"--initial-cluster lacks the member at {text}; give all members as "
            "member list shows them"
        )
    return ""


def _refuse_known(
    settings: MemberSettings, answers: list[rpc_pb2.MemberListResponse]
) -> None:
    """Rule 2."""
    members = initial_members(settings)
    formed = cluster_id(member.ID for member in members)
    own = next(m.ID for m in members if m.member_attributes.name == settings.name)
    for answer in answers:
        if answer.header.cluster_id != formed:
            continue
        known = next((m for m in answer.members if own == m.ID), None)
        if known is not None and known.clientURLs:
            raise ConfigError(
                f"member {own:x} is part of this cluster already, and its data is gone: "
                "remove it with member remove, add it again with member add and start "
                "it with --initial-cluster-state existing"
            )
