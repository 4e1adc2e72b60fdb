"""Links between members: payloads on their way, with or without a connection.

Rules of this file:

1. What is under way when its sender ends still arrives, as bytes in a wire do.
2. A payload that arrives is one that was sent on this link, unchanged. On a connection
   (``Stream``) none arrives twice or out of order, and what it lost was at its end:
   contract of transports between members, P-01.
3. Who is turned away tries again after a pause, or when the other side calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from revstore.errors import TransportError
from revstore.interfaces.consensus import MessageType
from revstore.interfaces.peers import Lane
from revstore_conformance.sim.wires import Framing

if TYPE_CHECKING:
    from revstore_conformance.sim.network import Network

CONTRACT = "what arrives was sent"
PROBE_S = 5.0
"""A connection on which nothing passes is given up after this time."""
RETRY_S = 0.2
"""Mean time until a cut connection tries its bytes again."""
PAUSE_S = 0.1
"""Longest pause between two connections."""
REFUSED_PAUSE_S = 2.0
"""Pause of who was turned away."""


PROPOSAL = bytes((0x08, MessageType.PROP))
"""What a forwarded proposal begins with: its type."""


class Receiver(Protocol):
    """A process that takes payloads; a frozen one takes them when it thaws."""

    def post(self, action: Callable[[], None]) -> None:
        """Do something in the process, unless it has ended by then."""
        ...

    def admits(self, sender: int, connection: Connection | None) -> bool:
        """Whether a sender is listened to, in the process; else it is told so."""
        ...

    def arrived(self, sender: int, lane: Lane, payload: bytes) -> None:
        """A payload, in the process."""
        ...

    def refused(self, member: int, reason: str) -> None:
        """A member does not listen to this one, in the process."""
        ...


class Link(Protocol):
    """What a process has towards one other member."""

    def send(self, lane: Lane, payload: bytes) -> bool:
        """Put a payload on its way; False if it was dropped at once."""
        ...

    def refused(self) -> None:
        """The other member does not listen: pause."""
        ...

    def hint(self) -> None:
        """The other member called: no pause any more."""
        ...

    def close(self) -> None:
        """Nothing more is sent; what is under way is lost."""
        ...


def may_double(payload: bytes) -> bool:
    """Whether a payload does no harm when it comes twice.

    Raft's messages do not, which is more than the contract asks for, but a forwarded
    proposal and a call have no identity by which a second one could be known.
    """
    return payload[0] != 0 and payload[:2] != PROPOSAL


class Datagrams:
    """No connection: each payload finds its own way."""

    def __init__(self, network: Network, way: tuple[int, int]) -> None:
        self._network = network
        self._way = way
        self._paused_until = 0.0
        self._closed = False

    def send(self, lane: Lane, payload: bytes) -> bool:
        """See ``Link``."""
        network, profile = self._network, self._network.world.profile
        figures = network.world.figures
        if network.world.loop.now < self._paused_until:
            return False
        if network.is_cut(self._way):
            return True
        if network.chance(profile.loss):
            figures["fault: message lost"] += 1
            return True
        self._send_one(lane, payload)
        if may_double(payload) and network.chance(profile.duplicates):
            figures["fault: message doubled"] += 1
            self._send_one(lane, payload)
        return True

    def refused(self) -> None:
        """See ``Link``."""
        self._paused_until = self._network.world.loop.now + REFUSED_PAUSE_S

    def hint(self) -> None:
        """See ``Link``."""
        self._paused_until = 0.0

    def close(self) -> None:
        """See ``Link``."""
        self._closed = True

    def _send_one(self, lane: Lane, payload: bytes) -> None:
        network, way = self._network, self._way

        def arrive() -> None:
            if self._closed or network.is_cut(way):
                return
            receiver = network.receiver(way[1])
            if receiver is not None:
                receiver.post(lambda: take(receiver))

        def take(receiver: Receiver) -> None:
            if receiver.admits(way[0], None):
                receiver.arrived(way[0], lane, payload)

        network.world.loop.after(network.delay(way), arrive)


class Stream:
    """A connection for each lane, made anew when it broke."""

    def __init__(
        self,
        network: Network,
        way: tuple[int, int],
        framing: Callable[[], Framing],
        broken: Callable[[], None],
    ) -> None:
        self._network = network
        self._way = way
        self._framing = framing
        self._broken = broken
        self._connections: dict[Lane, Connection] = {}
        self._paused_until = dict.fromkeys(Lane, 0.0)

    def send(self, lane: Lane, payload: bytes) -> bool:
        """See ``Link``."""
        network = self._network
        if network.world.loop.now < self._paused_until[lane]:
            return False
        connection = self._connections.get(lane)
        if connection is None:
            connection = Connection(network, self._way, lane, self._framing())
            connection.on_break = self._on_break
            self._connections[lane] = connection
            network.world.figures["connections made"] += 1
        connection.send(payload)
        return True

    def refused(self) -> None:
        """See ``Link``."""
        until = self._network.world.loop.now + REFUSED_PAUSE_S
        self._paused_until = dict.fromkeys(Lane, until)

    def hint(self) -> None:
        """See ``Link``."""
        self._paused_until = dict.fromkeys(Lane, 0.0)

    def close(self) -> None:
        """See ``Link``."""
        for connection in tuple(self._connections.values()):
            connection.end()

    def _on_break(self, connection: Connection) -> None:
        network, lane = self._network, connection.lane
        del self._connections[lane]
        pause = network.world.loop.now + PAUSE_S * network.random.random()
        self._paused_until[lane] = max(self._paused_until[lane], pause)
        self._broken()


class Connection:
    """One lane's bytes from a process to another member.

    It belongs to the process that its first bytes reach, and breaks when that ends.
    """

    def __init__(
        self, network: Network, way: tuple[int, int], lane: Lane, framing: Framing
    ) -> None:
        self.lane = lane
        self.broken = False
        self.on_break: Callable[[Connection], None] = lambda connection: None
        self._network = network
        self._way = way
        self._framing = framing
        self._receiver: Receiver | None = None
        self._admitted = False
        self._sent: deque[bytes] = deque()
        """What has not arrived yet."""
        self._pieces: deque[tuple[float, bytes]] = deque()
        """Bytes under way, and when they are due."""
        self._due = 0.0
        self._flush_wanted = self._moving = False
        self._stalled_since: float | None = None

    def send(self, payload: bytes) -> None:
        """Queue a payload; it leaves with all else of this moment."""
        self._sent.append(payload)
        self._framing.add(payload)
        if not self._flush_wanted:
            self._flush_wanted = True
            self._network.world.loop.after(0.0, self._flush)

    def end(self) -> None:
        """The connection breaks: what has not arrived is lost."""
        if self.broken:
            return
        self.broken = True
        self._pieces.clear()
        self._sent.clear()
        self.on_break(self)

    def _flush(self) -> None:
        self._flush_wanted = False
        network = self._network
        if self.broken:
            return
        if network.chance(network.world.profile.breaks):
            network.world.figures["fault: connection broken"] += 1
            self.end()
            return
        data = self._framing.take()
        if not data:
            return
        for piece in self._cut(data):
            self._due = max(
                self._due, network.world.loop.now + network.delay(self._way)
            )
            self._pieces.append((self._due, self._damage(piece)))
        self._move()

    def _cut(self, data: bytes) -> Sequence[bytes]:
        """The pieces in which bytes arrive."""
        random = self._network.random
        if random.random() < 0.75 or len(data) < 2:
            return (data,)
        place = random.randrange(1, len(data))
        return data[:place], data[place:]

    def _damage(self, piece: bytes) -> bytes:
        network = self._network
        flips = network.world.profile.flips
        if not self._framing.notices_damage or not network.chance(flips):
            return piece
        network.world.figures["fault: bit flipped on a connection"] += 1
        # If the length of a frame is hit, the reader waits for what never comes.
        network.world.loop.after(PROBE_S, self.end)
        return network.flip_a_bit(piece)

    def _move(self) -> None:
        if not self._moving and self._pieces:
            self._moving = True
            loop = self._network.world.loop
            loop.after(max(0.0, self._pieces[0][0] - loop.now), self._arrive)

    def _arrive(self) -> None:
        self._moving = False
        if self.broken or not self._pieces:
            return
        network, to = self._network, self._way[1]
        if network.is_cut(self._way):
            self._stall()
            return
        self._stalled_since = None
        receiver = network.receiver(to)
        if receiver is None or self._receiver not in (None, receiver):
            self.end()
            return
        self._receiver = receiver
        _, piece = self._pieces.popleft()
        receiver.post(lambda: self._take(receiver, piece))
        self._move()

    def _stall(self) -> None:
        """Bytes wait for the link to be mended, if that does not take too long."""
        loop = self._network.world.loop
        if self._stalled_since is None:
            self._stalled_since = loop.now
        if loop.now - self._stalled_since > PROBE_S:
            self.end()
            return
        self._moving = True
        loop.after(RETRY_S * (0.5 + self._network.random.random()), self._arrive)

    def _take(self, receiver: Receiver, piece: bytes) -> None:
        """Bytes are read by the receiving process."""
        if self.broken:
            return
        if not self._admitted:
            self._admitted = receiver.admits(self._way[0], self)
            if not self._admitted:
                self.end()
                return
        try:
            payloads = self._framing.feed(piece)
        except TransportError as exc:
            self._network.world.note("net", f"a connection is given up: {exc}")
            self._network.world.figures["connections with damage noticed"] += 1
            self.end()
            return
        for payload in payloads:
            if self.broken:
                return
            sent = self._sent.popleft()
            if sent != payload:
                text = f"{payload.hex()} was read where {sent.hex()} was sent"
                raise self._network.world.violated(CONTRACT, text)
            receiver.arrived(self._way[0], self.lane, payload)
