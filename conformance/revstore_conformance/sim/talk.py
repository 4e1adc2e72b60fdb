"""What one process says to other members, and what it hears: bytes, both ways.

Rules of this file:

1. It belongs to one start of a process; nothing of it reaches a later one.
2. A message leaves as the bytes that the shell would send, and is understood from them.
   That both are the same message is checked for some of them.
3. A payload that begins with a zero byte is a call between members, not Raft's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from revstore.interfaces.consensus import Message, MessageType
from revstore.interfaces.peers import Lane
from revstore.node.replica import Replica
from revstore.peer.calls import FIRST_BYTE
from revstore.peer.codec import MessageEncoder, decode_message, lane_of
from revstore_conformance.sim.checkers import Promises
from revstore_conformance.sim.disk import SimulatedWal
from revstore_conformance.sim.links import Link, Told, nobody
from revstore_conformance.sim.network import Network

ENCODING = "a message survives its encoding"
CHECK_EVERY = 8
"""One message in so many is decoded by its sender and compared."""


class Process(Protocol):
    """Where the talk takes place."""

    name: str

    def run_here(self, action: Callable[[], None]) -> None:
        """Do something in this process soon, unless it has ended by then."""
        ...


class Talk:
    """The links of one process to all other members."""

    def __init__(
        self, process: Process, network: Network, replica: Replica, promises: Promises
    ) -> None:
        self._process = process
        self._network = network
        self._world = network.world
        self._replica = replica
        self._promises = promises
        self._encoder = MessageEncoder()
        self._links: dict[int, Link] = {}
        self._lost: set[int] = set()
        self._sent = 0
        self._ended = False
        network.join(replica.member_id, self)
        replica.send = self.send
        replica.send_call = self.send_call

    def end(self) -> None:
        """The process has ended: it says and hears nothing more."""
        self._ended = True
        self._network.leave(self._replica.member_id, self)

    # ----- out

    def send(self, messages: Sequence[Message]) -> None:
        """See ``Replica.send``."""
        if self._ended:
            return
        replica = self._replica
        assert isinstance(replica.wal, SimulatedWal)
        for message in messages:
            self._promises.sends(self._process.name, message, replica.wal)
            payload = self._encoder.encode(message)
            self._sent += 1
            if self._sent % CHECK_EVERY == 0:
                self._check(message, payload)
            told: Told = nobody
            if message.type is MessageType.SNAP:
                told = self._tell(message.to)
            self._put(message.to, lane_of(message), payload, told)

    def send_call(self, member: int, payload: bytes) -> bool:
        """See ``Replica.send_call``."""
        if self._ended:
            return False
        self._world.figures["calls between members"] += 1
        return self._put(member, Lane.CONTROL, payload, nobody)

    def _put(self, to: int, lane: Lane, payload: bytes, told: Told) -> bool:
        self._world.figures["messages sent"] += 1
        link = self._links.get(to)
        if link is None:

            def broken() -> None:
                self._unreachable(to)

            link = self._network.link(self._replica.member_id, to, broken)
            self._links[to] = link
        return link.send(lane, payload, told)

    def _check(self, message: Message, payload: bytes) -> None:
        self._world.figures["checked: messages as bytes"] += 1
        found = decode_message(payload)
        if found != message:
            text = f"{message} was sent and {found} would be read"
            raise self._world.violated(ENCODING, text)

    def _unreachable(self, member: int) -> None:
        """Messages were lost; said once for all that were lost together."""
        if self._ended or member in self._lost:
            return
        self._lost.add(member)

        def say() -> None:
            self._lost.discard(member)
            if not self._replica.stopped:
                self._replica.consensus.report_unreachable(member)
                self._replica.pump()

        self._process.run_here(say)

    def _tell(self, member: int) -> Told:
        """Consensus hears whether its snapshot arrived."""

        def told(arrived: bool) -> None:
            if not self._ended:
                self._process.run_here(lambda: say(arrived))

        def say(arrived: bool) -> None:
            if not self._replica.stopped:
                self._replica.consensus.report_snapshot(member, arrived)
                self._replica.pump()

        return told

    # ----- in

    def post(self, action: Callable[[], None]) -> None:
        """See ``Receiver``."""
        if not self._ended:
            self._process.run_here(action)

    def arrived(self, sender: int, lane: Lane, payload: bytes) -> None:
        """See ``Receiver``."""
        if payload[0] == FIRST_BYTE:
            if self._world.tracing:
                text = f"<- call of {sender:x}: {payload[10:60]!r}"
                self._world.note(self._process.name, text)
            self._replica.receive_call(sender, payload)
            return
        message = decode_message(payload)
        if self._world.tracing:
            self._world.note(self._process.name, describe(message))
        self._replica.receive((message,))


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
