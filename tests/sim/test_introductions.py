"""What members say about where they are, and what they make of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from revstore.interfaces.peers import Lane
from revstore.node import peering
from revstore.node.peering import CALL, INTRODUCTION
from revstore.proto import membership_pb2
from revstore_conformance.sim.profile import CALM
from revstore_conformance.sim.run import quiet
from revstore_conformance.sim.talk import Talk
from revstore_conformance.sim.world import World
from tests.sim.test_found import Stage

STRANGER = 0xABCDEF
PAYLOAD = CALL + b"x"


@pytest.fixture
def talk() -> Iterator[Talk]:
    """The links of a follower in a cluster of five."""
    with quiet(World(0, CALM)):
        found = Stage().follower().talk
        assert found is not None
        yield found


def introduction(member: int, *urls: str) -> bytes:
    """What a member says."""
    attributes = membership_pb2.RaftAttributes(peer_urls=urls)
    found = membership_pb2.Member(ID=member, raft_attributes=attributes)
    return INTRODUCTION + found.SerializeToString()


def test_a_stranger_that_introduces_itself_can_be_answered(talk: Talk) -> None:
    """It has a link from then on; before, what was sent to it was dropped."""
    assert not talk.send(STRANGER, Lane.CONTROL, PAYLOAD)
    talk.arrived(STRANGER, Lane.CONTROL, introduction(STRANGER, "http://x:1"))
    assert talk.send(STRANGER, Lane.CONTROL, PAYLOAD)


@pytest.mark.parametrize(
    "payload",
    [
        INTRODUCTION + b"\xff\xff",
        INTRODUCTION,
        introduction(STRANGER),
        introduction(STRANGER + 1, "http://x:1"),
    ],
    ids=["unreadable", "empty", "without URLs", "of somebody else"],
)
def test_an_introduction_that_makes_no_sense_changes_nothing(
    talk: Talk, payload: bytes
) -> None:
    """Nobody can give another member an address."""
    talk.arrived(STRANGER, Lane.CONTROL, payload)
    assert not talk.send(STRANGER, Lane.CONTROL, PAYLOAD)
    assert not talk.send(STRANGER + 1, Lane.CONTROL, PAYLOAD)


def test_strangers_are_bounded(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ids somebody makes up, so many are kept."""
    monkeypatch.setattr(peering, "STRANGERS_MAX", 3)
    for number in range(1, 9):
        talk.arrived(number, Lane.CONTROL, introduction(number, f"http://x:{number}"))
    taken = [talk.send(one, Lane.CONTROL, PAYLOAD) for one in range(1, 9)]
    assert taken.count(True) == 3
