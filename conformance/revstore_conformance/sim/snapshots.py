"""Carrying snapshots in the simulator: what ``SnapshotStreams`` does over a transport.

Rules of this file:

1. Pieces come in order, each after the one before was stored, and the whole is accepted
   at last: contract of transports between members, P-09 and P-10.
2. A passage that breaks is over on both sides, each of which hears it for itself, in
   its own process and later than the other. A bit that is damaged on the way is found
   by the receiver.
3. Reading and storing take no time; what takes time is the network and the disk's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from revstore.errors import RevstoreError
from revstore.interfaces.consensus import Message
from revstore.node.replica import Replica
from revstore.node.snapshots import Incoming, Outgoing
from revstore_conformance.sim.network import Network

PROBE_S = 5.0
"""A passage that stands still for so long is given up."""


class Process(Protocol):
    """Where a member talks to others: one start of it."""

    name: str

    def run_here(self, action: Callable[[], None]) -> None:
        """Do something in this process soon, unless it has ended by then."""
        ...


class HasCarrier(Protocol):
    """What a member is known by on the network."""

    carrier: Carrier


class Carrier:
    """The snapshots of one start of a process, out and in."""

    def __init__(self, process: Process, network: Network, replica: Replica) -> None:
        self.process = process
        self.network = network
        self.replica = replica
        self.member = replica.member_id

    def send(self, message: Message) -> None:
        """See ``revstore.node.peering.Carrier``."""

        def opened(outgoing: Outgoing) -> None:
            Passage(self, outgoing).open()

        self.replica.snapshots.open(message, opened)


class Passage:
    """One snapshot from a member to another."""

    def __init__(self, source: Carrier, outgoing: Outgoing) -> None:
        self._network = source.network
        self._source = source
        self._outgoing = outgoing
        self._to = outgoing.message.to
        self._target: Carrier | None = None
        self._incoming: Incoming | None = None
        self._broken = False
        self._hops = 0

    # ----- in the sender's process

    def open(self) -> None:
        """Offer it."""
        self._network.world.figures["snapshots offered"] += 1
        self._forward(self._offered)

    def _next(self) -> None:
        outgoing = self._outgoing
        if not self._source.replica.snapshots.wanted(outgoing):
            self._break("it is not wanted any more")
            return
        piece = outgoing.read()
        if piece is None:
            self._forward(self._finish)
        else:
            network = self._network
            if network.chance(network.world.profile.flips):
                piece = network.flip_a_bit(piece)
            self._forward(partial(self._write, piece))

    def _done(self) -> None:
        self._broken = True  # Nothing more can happen to it.
        self._source.replica.snapshots.sent(self._outgoing)

    # ----- in the receiver's process

    def _offered(self) -> None:
        assert self._target is not None
        replica = self._target.replica
        try:
            self._incoming = replica.snapshots.receive(
                self._source.member, self._outgoing.offer
            )
        except RevstoreError as exc:
            self._network.world.figures["snapshots refused"] += 1
            self._break(f"{exc}")
        else:
            self._back(self._next)

    def _write(self, piece: bytes) -> None:
        incoming = self._incoming
        assert incoming is not None
        if incoming.over:
            self._break("a newer snapshot took its place")
            return
        incoming.write(piece)
        self._back(self._next)

    def _finish(self) -> None:
        assert self._incoming is not None
        assert self._target is not None
        try:
            self._incoming.finish()
        except RevstoreError as exc:
            self._network.world.figures["snapshots found damaged"] += 1
            self._break(f"{exc}")
            return
        self._target.replica.snapshots.received(self._incoming)
        self._incoming = None
        self._back(self._done)

    # ----- between them

    def _forward(self, action: Callable[[], None]) -> None:
        def arrive() -> None:
            found = self._network.receiver(self._to)
            if found is None:
                self._break("the member is not there")
                return
            carrier = cast(HasCarrier, found).carrier
            if self._target not in (None, carrier):
                self._break("the member was started again")
                return
            self._target = carrier
            carrier.process.run_here(partial(self._act, action))

        self._hop((self._source.member, self._to), arrive)

    def _back(self, action: Callable[[], None]) -> None:
        def arrive() -> None:
            self._source.process.run_here(partial(self._act, action))

        self._hop((self._to, self._source.member), arrive)

    def _act(self, action: Callable[[], None]) -> None:
        if not self._broken:
            action()

    def _hop(self, way: tuple[int, int], arrive: Callable[[], None]) -> None:
        network = self._network
        self._hops += 1
        network.world.loop.after(PROBE_S, partial(self._probe, self._hops))
        if network.chance(network.world.profile.loss):
            network.world.figures["fault: snapshot broken off"] += 1
            self._break("the connection broke")
            return

        def pass_over() -> None:
            if not self._broken and not network.is_cut(way):
                arrive()

        network.world.loop.after(network.delay(way), pass_over)

    def _probe(self, hops: int) -> None:
        if hops == self._hops:
            self._break("nothing moves")

    def _break(self, reason: str) -> None:
        """It is over; both ends hear it (rule 2)."""
        if self._broken:
            return
        self._broken = True
        source, target, incoming = self._source, self._target, self._incoming
        loop, network = self._network.world.loop, self._network

        def tell_source() -> None:
            source.process.run_here(
                lambda: source.replica.snapshots.sent(self._outgoing, reason)
            )

        loop.after(network.delay((self._to, source.member)), tell_source)
        if target is not None and incoming is not None:
            there, came = target, incoming

            def tell_target() -> None:
                there.process.run_here(lambda: there.replica.snapshots.broken(came))

            loop.after(network.delay((source.member, self._to)), tell_target)
