"""What the checks of the contract between members stand on: members that take notes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, Protocol

from revstore.interfaces.peers import (
    IncomingStream,
    Lane,
    PeerHandler,
    PeerOptions,
    Peers,
    PeerTransport,
)
from revstore.logs import fields_of

PATIENCE_S = 20.0
"""How long a check waits for what must happen; only a failing one waits that long."""

QUIET_TURNS = 50
"""Turns of the loop after which what was going to happen at once has happened."""

LOST_HERE = b"the handler raises at this"
DEFAULT_CLUSTER = 0xC1


class Harness(Protocol):
    """How to make the transport under test, and how to disturb it."""

    def transport(self) -> PeerTransport:
        """The transport; all members of one check that reach one another share it."""
        ...

    def url(self) -> str:
        """An address to listen on that picks a free place."""
        ...

    async def garbage(self, url: str, data: bytes) -> None:
        """Send bytes to a member's address and wait until it ends the connection."""
        ...


class Member(PeerHandler):
    """A member that notes everything."""

    def __init__(self, member: int) -> None:
        self.member = member
        self.peers: Peers = None  # type: ignore[assignment] # set before any callback
        self.messages: list[tuple[int, Lane, bytes]] = []
        self.streams: list[IncomingStream] = []
        self.unreachable: list[int] = []
        self.refused: list[tuple[int, str]] = []
        self.turn_away: dict[int, str] = {}
        self.explode: bytes | None = None
        self.callbacks = 0
        self.threads: set[int] = set()

    def payloads(self, lane: Lane) -> list[bytes]:
        """What came on a lane, in order."""
        return [payload for _, found, payload in self.messages if found is lane]

    def on_message(self, sender: int, lane: Lane, payload: bytes) -> None:
        self._called()
        self.messages.append((sender, lane, payload))
        if payload == self.explode:
            raise ValueError("a bug of the node")

    def on_stream(self, stream: IncomingStream) -> None:
        self._called()
        self.streams.append(stream)
        if stream.meta == self.explode:
            raise ValueError("a bug of the node")

    def on_unreachable(self, member: int) -> None:
        self._called()
        self.unreachable.append(member)

    def on_refused(self, member: int, reason: str) -> None:
        self._called()
        self.refused.append((member, reason))

    def admit(self, member: int) -> str:
        self._called()
        return self.turn_away.get(member, "")

    def on_question(self, question: bytes) -> bytes:
        self._called()
        if question == self.explode:
            raise ValueError("a bug of the node")
        return b"%d heard %s" % (self.member, question)

    def _called(self) -> None:
        self.callbacks += 1
        self.threads.add(threading.get_ident())


class Cluster:
    """The members of one check."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.transport = harness.transport()
        self.members: list[Member] = []
        self.thread = threading.get_ident()
        self._reached = 0

    async def start(
        self,
        member: int,
        *,
        cluster_id: int = DEFAULT_CLUSTER,
        urls: Sequence[str] = (),
        **options: Any,
    ) -> Member:
        """A member that listens and knows nobody."""
        found = Member(member)
        chosen = PeerOptions(
            cluster_id=cluster_id,
            member_id=member,
            urls=tuple(urls) or (self.harness.url(),),
            random=Random(member),
            **{"retry_min_s": 0.002, "retry_max_s": 0.02, **options},
        )
        found.peers = await self.transport.join(chosen, found)
        self.members.append(found)
        return found

    async def pair(self, **options: Any) -> tuple[Member, Member]:
        """Two members, 1 and 2, that know one another."""
        one = await self.start(1, **options)
        two = await self.start(2, **options)
        self.introduce()
        return one, two

    def introduce(self) -> None:
        """Tell every member about every other."""
        for one in self.members:
            for other in self.members:
                if one is not other:
                    one.peers.set_peer(other.member, other.peers.addresses())

    async def reach(self, source: Member, target: Member) -> None:
        """Send until a message arrives."""
        self._reached += 1
        text = b"reach %d" % self._reached

        def arrived() -> bool:
            if (source.member, Lane.CONTROL, text) in target.messages:
                return True
            if not source.peers.stats(target.member).connected or not sent:
                sent.append(source.peers.send(target.member, Lane.CONTROL, text))
                if not sent[-1]:
                    sent.clear()
            return False

        sent: list[bool] = []
        what = f"a message from {source.member} to {target.member}"
        await self.until(arrived, what)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let the loop run until something holds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while not condition():
            assert loop.time() < deadline, f"waited {PATIENCE_S} s in vain: {what}"
            await asyncio.sleep(0.001)

    async def settle(self) -> None:
        """Let what is on its way arrive."""
        for _ in range(QUIET_TURNS):
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        """Stop everybody."""
        for member in self.members:
            await member.peers.close()


Check = Callable[[Cluster], Awaitable[None]]


def name_of(check: Check) -> str:
    """The name of a check without its prefix."""
    return getattr(check, "__name__", str(check)).removeprefix("check_")


def run(check: Check, harness: Harness) -> None:
    """Run one check on members of its own, with a bound on its time."""

    async def whole() -> None:
        cluster = Cluster(harness)
        try:
            await asyncio.wait_for(check(cluster), 3 * PATIENCE_S)
        finally:
            await cluster.close()

    asyncio.run(whole())


def body_of(number: int, size: int) -> bytes:
    """A payload that differs from others of its size."""
    pattern = b"%08d" % number
    return (pattern * (size // 8 + 1))[:size]


@contextmanager
def captured_logs() -> Iterator[list[logging.LogRecord]]:
    """The log records of the members while this lasts."""
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    keep = Keep()
    root = logging.getLogger()
    root.addHandler(keep)
    try:
        yield records
    finally:
        root.removeHandler(keep)


def said(records: Sequence[logging.LogRecord], message: str, reason: str) -> bool:
    """Whether a line was logged with a reason that contains a text."""
    return any(
        record.getMessage() == message
        and reason in str(fields_of(record).get("reason", ""))
        for record in records
    )
