"""The network: delays, losses, doubles, strays, and links that are cut or slow.

It carries payloads, which are bytes, and looks into none. Links are directed, so a
partition can be one-way. What goes to one client of one connection stays in order;
between members that depends on the link (``links``).
"""

from __future__ import annotations

from collections.abc import Callable

from revstore_conformance.sim.links import Datagrams, Link, Receiver, Stream
from revstore_conformance.sim.wires import AS_IT_IS, FRAMINGS
from revstore_conformance.sim.world import World

Way = tuple[int, int]
"""Sender and addressee."""


class Network:
    """All links."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random("network")
        self._cut: dict[Way, int] = {}
        self._slow: dict[Way, int] = {}
        self._framings: dict[Way, str] = {}
        self._processes: dict[int, Receiver] = {}

    # Faults.

    def cut(self, ways: list[Way]) -> Callable[[], None]:
        """Lose everything on directed links; call what is returned to mend them."""
        return self._mark(self._cut, ways)

    def slow(self, ways: list[Way]) -> Callable[[], None]:
        """Make directed links slow; call what is returned to mend them."""
        return self._mark(self._slow, ways)

    def _mark(self, marks: dict[Way, int], ways: list[Way]) -> Callable[[], None]:
        for way in ways:
            marks[way] = marks.get(way, 0) + 1

        def mend() -> None:
            for way in ways:
                left = marks.get(way, 0) - 1
                if left > 0:
                    marks[way] = left
                else:
                    marks.pop(way, None)

        return mend

    def heal(self) -> None:
        """Mend everything."""
        self._cut.clear()
        self._slow.clear()

    def is_cut(self, way: Way) -> bool:
        """Whether nothing passes now."""
        return way in self._cut

    def chance(self, share: float) -> bool:
        """Whether a fault of that chance happens; none does once they are over."""
        return self.world.faults_on and self.random.random() < share

    def flip_a_bit(self, data: bytes) -> bytes:
        """The bytes with one bit changed, somewhere."""
        bit = self.random.randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        return bytes(damaged)

    def delay(self, way: Way) -> float:
        """What the next bytes on a link take."""
        world, random, profile = self.world, self.random, self.world.profile
        delay = profile.delay_s * (0.5 + random.expovariate(1.0))
        if way in self._slow:
            delay += profile.slow_link_delay_s * random.random()
        if self.chance(profile.stray):
            world.figures["fault: message strayed"] += 1
            delay += profile.stray_s * random.random()
        return delay

    # Members to members.

    def join(self, member: int, receiver: Receiver) -> None:
        """A process begins to take what is sent to a member."""
        self._processes[member] = receiver

    def leave(self, member: int, receiver: Receiver) -> None:
        """The process has ended."""
        if self._processes.get(member) is receiver:
            del self._processes[member]

    def receiver(self, member: int) -> Receiver | None:
        """The process that takes what is sent to a member now."""
        return self._processes.get(member)

    def link(self, sender: int, to: int, broken: Callable[[], None]) -> Link:
        """A new link of a process to another member; ``broken`` hears of breaks."""
        way = (sender, to)
        framing = self._framings.get(way)
        if framing is None:
            draw = self.world.random(f"framing {sender:x} {to:x}")
            framing = draw.choice(self.world.profile.framings)
            self._framings[way] = framing
            self.world.figures[f"links with framing {framing}"] += 1
        if framing == AS_IT_IS:
            return Datagrams(self, way)
        return Stream(self, way, FRAMINGS[framing], broken)

    # Clients.

    def client_delay(self) -> float:
        """What a message between a client and a member takes."""
        return self.world.profile.delay_s * (0.5 + self.random.expovariate(1.0))

    def client_loses(self) -> bool:
        """Whether a message between a client and a member is lost."""
        lost = self.chance(self.world.profile.client_loss)
        if lost:
            self.world.figures["fault: client message lost"] += 1
        return lost
