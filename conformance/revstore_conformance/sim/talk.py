"""The links of one process to the other members: the shell's own ``Peering`` on them.

Rules of this file:

1. It belongs to one start of a process; nothing of it reaches a later one.
2. What leaves are the bytes that the shell sends. That they say what was meant is
   checked for some of them.
3. Callbacks of the shell run in its process, and none inside a method that it called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from revstore.errors import TransportError
from revstore.interfaces.consensus import Message
from revstore.interfaces.peers import (
    REMOVED,
    Lane,
    OutgoingStream,
    Peers,
    PeerStats,
)
from revstore.node.peering import CALL, INTRODUCTION, Peering
from revstore.node.replica import Replica
from revstore.peer.codec import decode_message
from revstore_conformance.sim.checkers import Promises
from revstore_conformance.sim.disk import SimulatedWal
from revstore_conformance.sim.links import Connection, Link
from revstore_conformance.sim.network import Network
from revstore_conformance.sim.snapshots import Carrier, Process

ENCODING = "a message survives its encoding"
CHECK_EVERY = 8
"""One message in so many is decoded by its sender and compared."""
KNOCK_S = 2.0
"""Pause between attempts of a transport that was turned away."""
CALL_HEAD_BYTES = 10
"""What stands before the name of a call; see ``revstore.peer.calls``."""


class Talk(Peers):
    """See ``Peers``; streams are not simulated here."""

    def __init__(
        self,
        process: Process,
        network: Network,
        replica: Replica,
        promises: Promises,
    ) -> None:
        self._process = process
        self._network = network
        self._world = network.world
        self._replica = replica
        self._promises = promises
        self._member = replica.member_id
        self._links: dict[int, Link] = {}
        self._removed: set[int] = set()
        self._arrivals: dict[tuple[int, Lane], Connection] = {}
        self._lost: set[int] = set()
        self._message: Message | None = None
        """What the payload that is handed over next should say."""
        self._sent = 0
        self._ended = False
        self._peering = Peering(replica)
        self._peering.use(self)
        self.carrier = self._peering.carrier = Carrier(process, network, replica)
        network.join(self._member, self)
        replica.send = self._say
        self._knock()

    def end(self) -> None:
        """The process has ended: it says and hears nothing more."""
        self._ended = True
        self._network.leave(self._member, self)

    # ----- Peers

    def addresses(self) -> Sequence[str]:
        """See ``Peers``."""
        return ()

    def set_peer(self, member: int, urls: Sequence[str]) -> None:
        """See ``Peers``."""
        self._removed.discard(member)
        if member not in self._links:
            self._links[member] = self._network.link(
                self._member, member, lambda: self._unreachable(member)
            )

    def remove_peer(self, member: int) -> None:
        """See ``Peers``."""
        self._removed.add(member)
        link = self._links.pop(member, None)
        if link is not None:
            link.close()
        for (sender, _), connection in sorted(self._arrivals.items()):
            if sender == member and not connection.broken:
                connection.end()
                self._refuse(member, REMOVED)

    def send(self, to: int, lane: Lane, payload: bytes) -> bool:
        """See ``Peers``."""
        self._sent += 1
        figures = self._world.figures
        figures["messages sent"] += 1
        if payload[:1] == CALL:
            figures["calls between members"] += 1
        elif payload[:1] == INTRODUCTION:
            figures["introductions"] += 1
        elif self._sent % CHECK_EVERY == 0:
            figures["checked: messages as bytes"] += 1
            found = decode_message(payload)
            if found != self._message:
                text = f"{self._message} was sent and {found} would be read"
                raise self._world.violated(ENCODING, text)
        link = self._links.get(to)
        taken = link is not None and not self._ended and link.send(lane, payload)
        if not taken:
            self._unreachable(to)
        return taken

    async def open_stream(self, to: int, meta: bytes) -> OutgoingStream:
        """See ``Peers``."""
        raise TransportError("the simulator has no streams")

    def stats(self, member: int) -> PeerStats:
        """See ``Peers``."""
        return PeerStats()

    async def close(self) -> None:
        """See ``Peers``."""
        self.end()

    # ----- what comes

    def post(self, action: Callable[[], None]) -> None:
        """See ``Receiver``."""
        if not self._ended:
            self._process.run_here(action)

    def admits(self, sender: int, connection: Connection | None) -> bool:
        """See ``Receiver``."""
        reason = REMOVED if sender in self._removed else self._peering.admit(sender)
        if reason:
            self._refuse(sender, reason)
            return False
        if connection is not None:
            older = self._arrivals.get((sender, connection.lane))
            self._arrivals[sender, connection.lane] = connection
            if older is not None:
                older.end()
            link = self._links.get(sender)
            if link is not None:
                link.hint()
        return True

    def arrived(self, sender: int, lane: Lane, payload: bytes) -> None:
        """See ``Receiver``."""
        if self._world.tracing:
            self._world.note(self._process.name, describe_payload(sender, payload))
        self._peering.on_message(sender, lane, payload)

    def refused(self, member: int, reason: str) -> None:
        """A member turned this process away."""
        link = self._links.get(member)
        if link is not None:
            link.refused()
        self._peering.on_refused(member, reason)

    # ----- inside

    def _say(self, messages: Sequence[Message]) -> None:
        """See ``Replica.send``: what leaves is looked at first."""
        if self._ended:
            return
        wal = self._replica.wal
        assert isinstance(wal, SimulatedWal)
        for message in messages:
            self._promises.sends(self._process.name, message, wal)
            self._message = message
            self._peering.send((message,))

    def _knock(self) -> None:
        """A transport keeps connections, and tries again where it was turned away.

        It matters only for who says nothing else any more.
        """
        if self._ended:
            return
        if self._replica.removed:
            now = self._replica.clock.now()
            for member in sorted(self._links):
                self._peering.introduce(member, now)
        self._world.loop.after(KNOCK_S, partial(self._process.run_here, self._knock))

    def _refuse(self, member: int, reason: str) -> None:
        """Turn a member away; what says so takes its time as everything does."""
        network, own = self._network, self._member
        self._world.figures["members turned away"] += 1

        def arrive() -> None:
            receiver = network.receiver(member)
            if receiver is not None and not network.is_cut((own, member)):
                receiver.post(lambda: receiver.refused(own, reason))

        self._world.loop.after(network.delay((own, member)), arrive)

    def _unreachable(self, member: int) -> None:
        """Messages were lost; said once for all that were lost together."""
        if self._ended or member in self._lost:
            return
        self._lost.add(member)

        def say() -> None:
            self._lost.discard(member)
            self._peering.on_unreachable(member)

        self._process.run_here(say)


def describe_payload(sender: int, payload: bytes) -> str:
    """What arrives, on one line."""
    if payload[:1] == CALL:
        return f"<- call of {sender:x}: {payload[CALL_HEAD_BYTES:60]!r}"
    if payload[:1] == INTRODUCTION:
        return f"<- introduction of {sender:x}"
    return describe(decode_message(payload))


def describe(message: Message) -> str:
    """A message on one line."""
    text = f"<- {message.type.name} from {message.sender:x} term={message.term}"
    if message.entries:
        first, last = message.entries[0], message.entries[-1]
        text += f" entries={first.index}..{last.index}"
    text += (
        f" index={message.index} log_term={message.log_term} commit={message.commit}"
    )
    if message.reject:
        text += f" REJECT hint={message.reject_hint}"
    if message.snapshot is not None:
        text += f" snapshot={message.snapshot.meta.index}"
    return text
