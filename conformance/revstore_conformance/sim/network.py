"""The network: delays, losses, doubles, strays, and links that are cut or slow.

Links are directed, so a partition can be one-way. Messages between members need not
stay in order; what goes to one client of one connection does.
"""

from __future__ import annotations

from collections.abc import Callable

from revstore.interfaces.consensus import Message, MessageType
from revstore_conformance.sim.world import World

Codec = Callable[[Message], Message]
"""Encodes a message for the wire and decodes it again."""


def as_it_is(message: Message) -> Message:
    """No wire format: messages are immutable, so they need no copy."""
    return message


class Network:
    """All links."""

    def __init__(self, world: World, codec: Codec = as_it_is) -> None:
        self._world = world
        self._random = world.random("network")
        self._codec = codec
        self._cut: dict[tuple[int, int], int] = {}
        self._slow: dict[tuple[int, int], int] = {}
        self.deliver: Callable[[int, Message], bool] = lambda sender, message: False
        """Hands a message over; whether its target was there."""
        self.report: Callable[[int, Message, bool], None] = lambda s, m, ok: None
        """Tells a sender whether a snapshot arrived."""

    # Faults.

    def cut(self, links: list[tuple[int, int]]) -> Callable[[], None]:
        """Lose everything on directed links; call what is returned to mend them."""
        return self._mark(self._cut, links)

    def slow(self, links: list[tuple[int, int]]) -> Callable[[], None]:
        """Make directed links slow; call what is returned to mend them."""
        return self._mark(self._slow, links)

    def _mark(
        self, marks: dict[tuple[int, int], int], links: list[tuple[int, int]]
    ) -> Callable[[], None]:
        for link in links:
            marks[link] = marks.get(link, 0) + 1

        def mend() -> None:
            for link in links:
                left = marks.get(link, 0) - 1
                if left > 0:
                    marks[link] = left
                else:
                    marks.pop(link, None)

        return mend

    def heal(self) -> None:
        """Mend everything."""
        self._cut.clear()
        self._slow.clear()

    # Members to members.

    def send(self, sender: int, message: Message) -> None:
        """Put a message on its way."""
        world, random, profile = self._world, self._random, self._world.profile
        figures = world.figures
        figures["messages sent"] += 1
        link = (sender, message.to)
        lost = link in self._cut
        if world.faults_on and not lost and random.random() < profile.loss:
            lost = True
            figures["fault: message lost"] += 1
        if lost:
            if message.type is MessageType.SNAP:
                world.loop.after(1.0, lambda: self.report(sender, message, False))
            return
        message = self._codec(message)
        self._send_one(link, message)
        if message.type is MessageType.PROP:
            # Members talk over streams, which double nothing; all other messages may
            # come twice all the same, a proposal may not.
            return
        if world.faults_on and random.random() < profile.duplicates:
            figures["fault: message doubled"] += 1
            self._send_one(link, message)

    def _send_one(self, link: tuple[int, int], message: Message) -> None:
        world, random, profile = self._world, self._random, self._world.profile
        delay = profile.delay_s * (0.5 + random.expovariate(1.0))
        if link in self._slow:
            delay += profile.slow_link_delay_s * random.random()
        if world.faults_on and random.random() < profile.stray:
            world.figures["fault: message strayed"] += 1
            delay += profile.stray_s * random.random()

        def arrive() -> None:
            there = link not in self._cut and self.deliver(link[0], message)
            if message.type is MessageType.SNAP:
                self.report(link[0], message, there)

        world.loop.after(delay, arrive)

    # Clients.

    def client_delay(self) -> float:
        """What a message between a client and a member takes."""
        return self._world.profile.delay_s * (0.5 + self._random.expovariate(1.0))

    def client_loses(self) -> bool:
        """Whether a message between a client and a member is lost."""
        world = self._world
        lost = world.faults_on and self._random.random() < world.profile.client_loss
        if lost:
            world.figures["fault: client message lost"] += 1
        return lost
