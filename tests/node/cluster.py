"""Members on one virtual clock, with links that a test cuts: no thread, no socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message as ProtoMessage

from revstore.api.inprocess import DirectCall, DirectStream, invoke, open_stream
from revstore.api.service import Services, build_table
from revstore.errors import CorruptionError
from revstore.interfaces.consensus import Message, MessageType
from revstore.node.replica import Replica
from revstore.node.settings import PluginChoice
from revstore.node.snapshots import Outgoing, Refused
from revstore.peer.codec import MessageEncoder, decode_message
from revstore.proto import rpc_pb2
from tests.node.virtual import VirtualShell

QUICK_LOG = {"segment_bytes": 1 << 20, "unsafe_no_fsync": True}
"""No test here cuts the power."""
REQUEST = b"\x00\x01"
"""What a call of one member to another begins with."""


class VirtualMember(VirtualShell):
    """One member of a ``VirtualCluster``."""

    def __init__(self, cluster: VirtualCluster, name: str, path: Path) -> None:
        super().__init__()
        self.clock = cluster.clock
        self.cluster = cluster
        self.name = name
        self.path = path
        self.paused = False
        self.table: Services
        self.encoder = MessageEncoder()

    def start(self, **settings: Any) -> None:
        """Open the member and connect it."""
        log = PluginChoice("segment", QUICK_LOG)
        wanted = {"wal": log, **self.cluster.settings, **settings}
        replica = self.open(
            self.path,
            name=self.name,
            consensus=PluginChoice("raft"),
            peer_urls=(f"http://{self.name}:2380",),
            initial_cluster=self.cluster.urls,
            seed=sum(self.name.encode()),
            **wanted,
        )
        replica.send = partial(self._send, replica)
        replica.send_call = partial(self._send_call, replica)
        self.table = build_table(replica)

    def _send(self, replica: Replica, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.type is MessageType.SNAP:
                replica.snapshots.open(message, partial(self.cluster.carry, self))
                continue
            data = self.encoder.encode(message)
            self.cluster.wire.append((replica.member_id, message.to, data))

    def _send_call(self, replica: Replica, member: int, payload: bytes) -> bool:
        link = (replica.member_id, member)
        self.cluster.wire.append((*link, payload))
        return link not in self.cluster.cut_links

    @property
    def up(self) -> bool:
        """Whether it takes part now."""
        return self.member is not None and not self.paused

    def call(
        self, path: str, request: ProtoMessage, metadata: Mapping[str, str] = {}
    ) -> DirectCall:
        """Begin a unary call of a client."""
        message = request.SerializeToString()
        return invoke(self.table, f"/etcdserverpb.{path}", message, metadata)

    def stream(self, path: str, metadata: Mapping[str, str] = {}) -> DirectStream:
        """Open a stream of a client."""
        return open_stream(self.table, f"/etcdserverpb.{path}", metadata)


def renew(stream: DirectStream, lease_id: int) -> None:
    """Ask for one renewal on a stream LeaseKeepAlive."""
    stream.push(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id).SerializeToString())


class VirtualCluster:
    """Members a, b, c and so on, all started, without a leader yet."""

    def __init__(self, path: Path, count: int = 3, **settings: Any) -> None:
        self.clock = VirtualShell().clock
        self.settings = settings
        names = [chr(ord("a") + number) for number in range(count)]
        self.urls = {name: (f"http://{name}:2380",) for name in names}
        self.wire: deque[tuple[int, int, bytes]] = deque()
        self.cut_links: set[tuple[int, int]] = set()
        self.lost = 0
        self.lose: Callable[[int, int, bytes], bool]
        """Which payloads are lost besides those on cut links."""
        self.lose_nothing()
        self.carry: Callable[[VirtualMember, Outgoing], None] = self.carry_whole
        """What happens to the snapshots that members send."""
        self.members = {name: VirtualMember(self, name, path / name) for name in names}
        for member in self.members.values():
            member.start()

    def __getitem__(self, name: str) -> VirtualMember:
        return self.members[name]

    @property
    def up(self) -> list[VirtualMember]:
        """Members that take part now."""
        return [member for member in self.members.values() if member.up]

    def settle(self) -> None:
        """Deliver, make durable, apply and answer everything that can be now."""
        for _ in range(40):
            for member in self.up:
                member.settle()
            if not self.wire:
                return
            self._deliver()

    def _deliver(self) -> None:
        there = {member.replica.member_id: member for member in self.up}
        for _ in range(len(self.wire)):
            sender, to, data = self.wire.popleft()
            target = there.get(to)
            lost = (sender, to) in self.cut_links or self.lose(sender, to, data)
            if target is None or lost:
                self.lost += 1
                continue
            if data[0] == 0:
                target.replica.receive_call(sender, data)
                continue
            target.replica.receive((decode_message(data),))

    def carry_whole(self, sender: VirtualMember, outgoing: Outgoing) -> None:
        """Bring a snapshot to its receiver at once."""
        sent = partial(sender.replica.snapshots.sent, outgoing)
        to = outgoing.message.to
        target = {one.replica.member_id: one for one in self.up}.get(to)
        if target is None or (sender.replica.member_id, to) in self.cut_links:
            sent("the member cannot be reached")
            return
        receiver = target.replica.snapshots
        try:
            incoming = receiver.receive(sender.replica.member_id, outgoing.offer)
        except Refused as exc:
            sent(f"{exc}")
            return
        try:
            while (piece := outgoing.read()) is not None:
                incoming.write(piece)
            incoming.finish()
        except CorruptionError as exc:
            receiver.broken(incoming)
            sent(f"{exc}")
            return
        receiver.received(incoming)
        sent()

    def advance(self, seconds: float) -> None:
        """Let time pass in heartbeats, settling after each."""
        heartbeat = self.up[0].replica.settings.heartbeat_s
        for _ in range(round(seconds / heartbeat)):
            self.clock.time += heartbeat
            for member in self.up:
                member.replica.tick()
            self.settle()

    def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Let time pass until a condition holds; fails after ``seconds``."""
        end = self.clock.time + seconds
        while not condition():
            assert self.clock.time < end, f"not within {seconds} virtual seconds"
            self.advance(0.1)

    def leaders(self) -> list[VirtualMember]:
        """Members that take part and think that they lead."""
        return [member for member in self.up if member.replica.is_leader]

    def lead(self, name: str) -> VirtualMember:
        """Have a member lead, and everybody know it."""
        self.members[name].replica.consensus.campaign()
        wanted = self.members[name].replica.member_id

        def known() -> bool:
            return all(member.replica.leader == wanted for member in self.up)

        if not known():
            self.until(known)
        self.advance(0.2)
        return self.members[name]

    def followers(self) -> list[VirtualMember]:
        """Members that take part and do not lead."""
        return [member for member in self.up if not member.replica.is_leader]

    def cut(self, *names: str) -> None:
        """Lose everything between these members and the others, both ways."""
        inside = {self.members[name].replica.member_id for name in names}
        for one in self.members.values():
            for other in self.members.values():
                pair = (one.replica.member_id, other.replica.member_id)
                if (pair[0] in inside) != (pair[1] in inside):
                    self.cut_links.add(pair)

    def deafen(self, name: str) -> None:
        """From now on no message of consensus reaches a member; calls do."""
        own = self.members[name].replica.member_id
        self.lose = lambda sender, to, data: to == own and data[0] != 0

    def lose_nothing(self) -> None:
        """End what ``deafen`` or another ``lose`` began."""
        self.lose = lambda sender, to, data: False

    def note_calls(self) -> list[tuple[int, bytes]]:
        """The calls of members to one another from now on: sender, payload."""
        asked: list[tuple[int, bytes]] = []

        def note(sender: int, to: int, data: bytes) -> bool:
            if data[:2] == REQUEST:
                asked.append((sender, data))
            return False

        self.lose = note
        return asked

    def heal(self) -> None:
        """Mend all links."""
        self.cut_links.clear()

    def grant(self, name: str, lease_id: int, ttl: int) -> None:
        """Grant a lease through a member."""
        request = rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=ttl)
        call = self.members[name].call("Lease/LeaseGrant", request)
        self.until(lambda: call.outcome is not None)
        call.result()

    def close(self) -> None:
        """Close all members."""
        for member in self.members.values():
            member.close()
