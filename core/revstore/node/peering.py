"""A member's links to the others: what its replica says and hears, over a transport.

Rules of this file:

1. Whom this member talks to follows the applied membership. Whoever leaves through a
   joint phase decides until its end.
2. A member that was removed is turned away with ``REMOVED``, once that is known
   durably; whoever hears that word stops when nobody needs it any more (``leaving``).
3. The membership of a member that is behind, or has just joined, may lack the very
   member that it has to answer, such as its leader. So everybody says now and then to
   everybody else where it can be reached (etcd: the header X-PeerURLs).
4. Everything here runs on the loop, and nothing decides: consensus and replica do.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

import msgspec
from google.protobuf.message import DecodeError

from revstore import logs
from revstore.errors import ConfigError, TransportError
from revstore.interfaces.consensus import Message, MessageType
from revstore.interfaces.peers import (
    REMOVED,
    IncomingStream,
    Lane,
    PeerHandler,
    PeerOptions,
    Peers,
    PeerStats,
    PeerTls,
    PeerTransport,
)
from revstore.node.replica import Replica
from revstore.node.snapshot_streams import SnapshotStreams
from revstore.peer.calls import FIRST_BYTE
from revstore.peer.codec import MessageEncoder, decode_message, lane_of
from revstore.proto import membership_pb2, rpc_pb2
from revstore.snapshot.format import require_arrow

LOG = logs.get(__name__)

CALL = bytes((FIRST_BYTE,))
INTRODUCTION = b"\x01"
"""First byte of a payload that is neither a call nor, as those begin, Raft's message:
what follows is a membershippb.Member, the sender and its peer URLs (rule 3)."""
STRANGERS_MAX = 64

SMALL_CALL_BYTES = 64 * 1024
"""Longer calls and answers wait with the entries, so that votes need not."""

ASK_MEMBERS = b"members"
"""The question to which the answer is an etcdserverpb.MemberListResponse."""


class PeerSettings(msgspec.Struct, frozen=True):
    """How a member reaches the others."""

    transport: PeerTransport
    urls: Sequence[str]
    """Where it listens for them."""
    tls: PeerTls | None = None


class Carrier(Protocol):
    """Carries snapshots: ``SnapshotStreams``, or the simulator's own."""

    def send(self, message: Message) -> None:
        """Send what a message of type SNAP stands for. Raises: nothing."""
        ...


class Peering(PeerHandler):
    """The links of one replica; made by ``Peering.join``."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._known: set[int] = set()
        self._strangers: dict[int, Sequence[str]] = {}
        """Peer URLs by id of those who introduced themselves and are no members yet."""
        self._introduce_at: dict[int, float] = {}
        """When a member is told next where this one is."""
        self._encoder = MessageEncoder()
        self._peers: Peers | None = None
        self._streams: SnapshotStreams | None = None
        self.carrier: Carrier | None = None
        """Who carries snapshots to other members."""

    @classmethod
    async def join(
        cls,
        replica: Replica,
        settings: PeerSettings,
        random: Random,
    ) -> Peering:
        """Listen for the other members and call them.

        Raises:
            ConfigError: an address or a certificate cannot be used, or pyarrow is missing.
        """
        if not replica.starts_alone():
            require_arrow()
        found = cls(replica)
        options = PeerOptions(
            cluster_id=replica.cluster_id,
            member_id=replica.member_id,
            urls=tuple(settings.urls),
            random=random,
            tls=settings.tls,
        )
        peers = await settings.transport.join(options, found)
        try:
            found.carrier = found._streams = SnapshotStreams(replica, peers)
            found.use(peers)
        except BaseException:
            await found.close()
            raise
        LOG.info("listening for members", addresses=list(peers.addresses()))
        return found

    def use(self, peers: Peers) -> None:
        """Speak over these links, which call this handler; ``join`` does it.

        Raises: nothing.
        """
        self._peers = peers
        self._replica.send = self.send
        self._replica.send_call = self.send_call
        self._replica.reaches = self.reaches
        self._replica.on_members = self.members_changed
        self.members_changed()

    @property
    def peers(self) -> Peers:
        """The links. Invariant: ``join`` has returned."""
        assert self._peers is not None
        return self._peers

    def stats(self, member: int) -> PeerStats:
        """What passed between this member and another. Raises: nothing."""
        return self.peers.stats(member)

    async def close(self) -> None:
        """Say and hear nothing more. Raises: nothing."""
        self._replica.send = None
        self._replica.send_call = None
        self._replica.reaches = None
        self._replica.on_members = None
        if self._streams is not None:
            await self._streams.close()
        if self._peers is not None:
            await self._peers.close()

    # ----- whom to talk to

    def members_changed(self) -> None:
        """Follow the applied membership (rule 1). Raises: nothing."""
        wanted = self._wanted()
        if self._known - wanted.keys():
            # What says that its removal is committed may be on its way to it still.
            delay = self._replica.settings.election_timeout_s
            self._replica.shell.schedule(self._forget_removed, delay)
        for number, urls in wanted.items():
            try:
                self.peers.set_peer(number, urls)
                self._known.add(number)
            except ConfigError as exc:
                # It came through the log: refusing it here would stop every member.
                LOG.error(
                    "member cannot be called", member=f"{number:x}", error=f"{exc}"
                )

    def _wanted(self) -> dict[int, Sequence[str]]:
        """Peer URLs by id of all whom this member has to talk to."""
        cluster = self._replica.cluster
        wanted: dict[int, Sequence[str]] = {
            member.ID: list(member.raft_attributes.peer_urls)
            for member in (*cluster.members(), *cluster.leaving())
        }
        for stranger in tuple(self._strangers):
            if stranger in wanted or cluster.is_removed(stranger):
                del self._strangers[stranger]
        wanted.update(self._strangers)
        wanted.pop(self._replica.member_id, None)
        return wanted

    def _forget_removed(self) -> None:
        if not self._replica.membership.leaving.durable:
            delay = self._replica.settings.heartbeat_s
            self._replica.shell.schedule(self._forget_removed, delay)
            return
        for gone in sorted(self._known - self._wanted().keys()):
            self.peers.remove_peer(gone)
            self._known.discard(gone)

    # ----- out

    def send(self, messages: Sequence[Message]) -> None:
        """Hand messages to their links, in order. Raises: nothing."""
        peers, encode = self.peers, self._encoder.encode
        now = self._replica.clock.now()
        for message in messages:
            if now >= self._introduce_at.get(message.to, now):
                self.introduce(message.to, now)
            if message.type is not MessageType.SNAP:
                peers.send(message.to, lane_of(message), encode(message))
            elif self.carrier is not None:
                self.carrier.send(message)

    def introduce(self, member: int, now: float) -> None:
        """Tell a member where this one can be reached (rule 3)."""
        replica = self._replica
        self._introduce_at[member] = now + replica.settings.election_timeout_s
        own = replica.cluster.member(replica.member_id) or membership_pb2.Member(
            ID=replica.member_id,
            raft_attributes=membership_pb2.RaftAttributes(
                peer_urls=replica.settings.peer_urls
            ),
        )
        payload = INTRODUCTION + own.SerializeToString()
        self.peers.send(member, Lane.CONTROL, payload)

    def reaches(self, member: int) -> bool:
        """Whether the link to a member is open. Raises: nothing."""
        return self.peers.stats(member).connected

    def send_call(self, member: int, payload: bytes) -> bool:
        """Hand a call of one member to another to its link. Raises: nothing."""
        lane = Lane.CONTROL if len(payload) <= SMALL_CALL_BYTES else Lane.LOG
        return self.peers.send(member, lane, payload)

    # ----- in

    def on_message(self, sender: int, lane: Lane, payload: bytes) -> None:
        """See ``PeerHandler``."""
        if payload[:1] == CALL:
            self._replica.receive_call(sender, payload)
            return
        if payload[:1] == INTRODUCTION:
            self._introduced(sender, payload)
            return
        try:
            message = decode_message(payload)
        except TransportError as exc:
            LOG.warn("unreadable message", member=f"{sender:x}", error=f"{exc}")
            return
        if message.to != self._replica.member_id:
            LOG.warn(
                "message for another member",
                member=f"{sender:x}",
                addressee=f"{message.to:x}",
            )
            return
        self._replica.receive((message,))

    def _introduced(self, sender: int, payload: bytes) -> None:
        """A member says where it is; news only if it is not known (rule 3)."""
        if sender in self._known or len(self._strangers) >= STRANGERS_MAX:
            return
        try:
            found = membership_pb2.Member.FromString(payload[1:])
        except DecodeError as exc:
            LOG.warn("unreadable introduction", member=f"{sender:x}", error=f"{exc}")
            return
        urls = list(found.raft_attributes.peer_urls)
        if sender == found.ID and urls:
            LOG.info("a member introduced itself", member=f"{sender:x}", urls=urls)
            self._strangers[sender] = urls
            self.members_changed()

    def on_stream(self, stream: IncomingStream) -> None:
        """See ``PeerHandler``."""
        if self._streams is None:
            stream.refuse("the member stops")
        else:
            self._streams.receive(stream)

    def on_unreachable(self, member: int) -> None:
        """See ``PeerHandler``."""
        replica = self._replica
        if not replica.stopped:
            replica.consensus.report_unreachable(member)
            replica.shell.request_pump()

    def on_refused(self, member: int, reason: str) -> None:
        """See ``PeerHandler`` and rule 2."""
        LOG.warn("refused by a member", member=f"{member:x}", reason=reason)
        if reason == REMOVED:
            self._replica.membership.leaving.turned_away(member)

    def admit(self, member: int) -> str:
        """See ``PeerHandler`` and rule 2."""
        cluster = self._replica.cluster
        if (
            not cluster.is_removed(member)
            or not self._replica.membership.leaving.durable
        ):
            return ""
        leaving = any(member == one.ID for one in cluster.leaving())
        return "" if leaving else REMOVED

    def on_question(self, question: bytes) -> bytes:
        """Who the members are, for one that wants to join."""
        replica = self._replica
        if question != ASK_MEMBERS:
            return b""
        answer = rpc_pb2.MemberListResponse(members=replica.members())
        answer.header.cluster_id = replica.cluster_id
        answer.header.member_id = replica.member_id
        return answer.SerializeToString()
