"""The simulated links: what they may do to payloads, and that wrong ones show."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revstore.errors import TransportError
from revstore.interfaces.consensus import Message, MessageType
from revstore.interfaces.peers import Lane
from revstore.node.peering import CALL
from revstore.peer.codec import encode_message
from revstore_conformance.sim import wires
from revstore_conformance.sim.links import Connection
from revstore_conformance.sim.network import Network
from revstore_conformance.sim.profile import CALM, HARSH, Profile
from revstore_conformance.sim.wires import TcpFraming
from revstore_conformance.sim.world import Violation, World

HEARTBEAT = encode_message(Message(MessageType.HEARTBEAT, to=2, sender=1, term=3))
PROPOSAL = encode_message(Message(MessageType.PROP, to=2, sender=1))


class Process:
    """Takes whatever comes, at once."""

    def __init__(self, admits: bool = True) -> None:
        self.got: list[tuple[Lane, bytes]] = []
        self.reasons: list[str] = []
        self._admits = admits

    def post(self, action: Callable[[], None]) -> None:
        """See ``Receiver``."""
        action()

    def admits(self, sender: int, connection: Connection | None) -> bool:
        """See ``Receiver``."""
        return self._admits

    def arrived(self, sender: int, lane: Lane, payload: bytes) -> None:
        """See ``Receiver``."""
        self.got.append((lane, payload))

    def refused(self, member: int, reason: str) -> None:
        """See ``Receiver``."""
        self.reasons.append(reason)


def network(base: Profile, framing: str, seed: int = 1) -> Network:
    """A network whose links all have one framing."""
    return Network(World(seed, msgspec.structs.replace(base, framings=(framing,))))


@pytest.mark.parametrize("name", sorted(wires.FRAMINGS))
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=200_000), max_size=6),
    seed=st.integers(0),
)
@settings(max_examples=30, deadline=None)
def test_payloads_come_back_from_pieces_of_any_size(
    name: str, payloads: list[bytes], seed: int
) -> None:
    """Each framing gives back what was put in, wherever its bytes are cut."""
    random, framing = Random(seed), wires.FRAMINGS[name]()
    found = []
    for payload in payloads:
        framing.add(payload)
        data = framing.take()
        while data:
            size = random.randint(1, len(data))
            found += framing.feed(data[:size])
            data = data[size:] or framing.take()
    assert found == payloads


@given(st.binary(min_size=1, max_size=300), st.integers(0), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_flipped_bit_never_becomes_a_payload(
    payload: bytes, bit: int, more: bool
) -> None:
    """It is noticed, or the reader waits for bytes that never come."""
    framing = TcpFraming()
    framing.add(payload)
    data = bytearray(framing.take())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    found: list[bytes] = []
    try:
        found += framing.feed(bytes(data))
        if more:
            framing.add(payload)
            found += framing.feed(framing.take())
    except TransportError:
        pass
    assert found == []


@pytest.mark.parametrize("framing", sorted(wires.FRAMINGS))
@pytest.mark.parametrize("seed", range(5))
def test_a_connection_keeps_order_and_doubles_nothing(seed: int, framing: str) -> None:
    """Under loss, breaks and stray bytes, what arrives of a lane is in order."""
    links = network(HARSH, framing, seed)
    process = Process()
    links.join(2, process)
    link = links.link(1, 2, lambda: None)
    sent = [b"%d" % number for number in range(1000, 1400)]
    for payload in sent:
        link.send(Lane.LOG, payload)
        link.send(Lane.CONTROL, payload)
        links.world.loop.run(links.world.loop.now + 0.05)
    for lane in (Lane.LOG, Lane.CONTROL):
        numbers = [int(payload) for which, payload in process.got if which is lane]
        assert numbers == sorted(set(numbers)), f"seed {seed}"
        assert len(numbers) > 200
    assert links.world.figures["connections made"] > 2


def test_only_what_does_no_harm_comes_twice() -> None:
    """A forwarded proposal and a call have no identity to be known by."""
    profile = msgspec.structs.replace(CALM, duplicates=1.0)
    for payload, times in ((HEARTBEAT, 2), (PROPOSAL, 1), (CALL + b"x", 1)):
        links = network(profile, "none")
        process = Process()
        links.join(2, process)
        links.link(1, 2, lambda: None).send(Lane.CONTROL, payload)
        links.world.loop.run(1.0)
        assert process.got == [(Lane.CONTROL, payload)] * times


def test_bytes_wait_for_a_short_cut_and_are_lost_in_a_long_one() -> None:
    """As a connection does that tries again, until it is given up."""
    for seconds, arrived, breaks in ((2.0, 1, 0), (9.0, 0, 1)):
        broken: list[bool] = []
        links = network(CALM, "tcp")
        process = Process()
        links.join(2, process)
        link = links.link(1, 2, partial(broken.append, True))
        mend = links.cut([(1, 2)])
        link.send(Lane.LOG, HEARTBEAT)
        links.world.loop.run(seconds)
        mend()
        links.world.loop.run(seconds + 1.0)
        assert (len(process.got), len(broken)) == (arrived, breaks)


def test_a_connection_breaks_when_the_process_it_reached_has_ended() -> None:
    """The next process of the member gets none of its bytes."""
    links = network(CALM, "tcp")
    first, second = Process(), Process()
    links.join(2, first)
    broken: list[bool] = []
    link = links.link(1, 2, lambda: broken.append(True))
    link.send(Lane.LOG, HEARTBEAT)
    links.world.loop.run(1.0)
    links.leave(2, first)
    links.join(2, second)
    link.send(Lane.LOG, HEARTBEAT)
    links.world.loop.run(2.0)
    assert (len(first.got), len(second.got), len(broken)) == (1, 0, 1)
    link.send(Lane.LOG, HEARTBEAT)
    links.world.loop.run(3.0)
    assert len(second.got) == 1


def test_who_is_not_admitted_is_not_heard() -> None:
    """Neither with a connection nor without one."""
    for framing in ("tcp", "none"):
        links = network(CALM, framing)
        process = Process(admits=False)
        links.join(2, process)
        links.link(1, 2, lambda: None).send(Lane.LOG, HEARTBEAT)
        links.world.loop.run(1.0)
        assert process.got == []


def test_a_framing_that_changes_a_payload_is_a_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The checker of what arrives sees a framing that loses a byte."""

    class Lossy(TcpFraming):
        """Loses the first byte of each payload."""

        def add(self, payload: bytes) -> None:
            """See ``Framing``."""
            super().add(payload[1:])

    monkeypatch.setitem(wires.FRAMINGS, "lossy", Lossy)
    links = network(CALM, "lossy")
    links.join(2, Process())
    links.link(1, 2, lambda: None).send(Lane.LOG, HEARTBEAT)
    with pytest.raises(Violation, match="what arrives was sent"):
        links.world.loop.run(1.0)
