"""Proposals of a crowd share a batch of the log; a lone one waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast
from unittest import mock

import pytest

from revstore.node import aio
from revstore.node.aio import AsyncNode
from revstore.node.crowd import CROWD
from revstore.node.replica import Replica
from tests.node.virtual import VirtualShell


def test_no_pump_is_asked_for_while_the_log_is_busy(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """What is proposed while a batch is under way waits for it, and is one batch."""
    shell.open(tmp_path)
    shell.settle()
    replica = shell.replica
    replica.appends.wakes = True
    with mock.patch.object(shell, "request_pump") as asked:
        first = shell.put(b"a")
        assert asked.call_count == 1
        replica.pump()
        later = [shell.put(b"%d" % number) for number in range(5)]
        assert asked.call_count == 1
        assert replica.queued == 5
        replica.wal.sync()
        with mock.patch.object(replica.wal, "append", wraps=replica.wal.append) as log:
            replica.pump()
        assert [len(call.args[1]) for call in log.call_args_list] == [5]
        replica.wal.sync()
        replica.pump()
        assert [answer[0].revision for answer in [first, *later]] == [2, 3, 4, 5, 6, 7]
        shell.put(b"b")
        assert asked.call_count == 2


def test_a_log_without_a_thread_wakes_nobody(
    shell: VirtualShell, tmp_path: Path
) -> None:
    """Where callers sync the log themselves, every first proposal asks for a pump.

    Else what the housekeeping proposes during a caller's sync would stay unsynced.
    """
    shell.open(tmp_path)
    shell.settle()
    with mock.patch.object(shell, "request_pump") as asked:
        shell.put(b"a")
        shell.replica.pump()
        shell.put(b"b")
        assert asked.call_count == 2
    shell.settle()


class CrowdedReplica:
    """Gets one proposal more at each look, up to a number."""

    def __init__(self, crowd: int) -> None:
        self._crowd = crowd
        self._queued = min(crowd, 1)
        self.batches: list[int] = []
        self.unsettled = False

    @property
    def queued(self) -> int:
        """How many wait now."""
        found = self._queued
        self._queued = min(self._crowd, found + 1)
        return found

    def pump(self, *, settle: bool, propose: bool) -> None:
        """Note what the batch would have."""
        assert propose
        self.batches.append(self._queued)


async def _turns_until_pumped(replica: CrowdedReplica) -> int:
    node = AsyncNode(asyncio.get_running_loop())
    node.replica = cast(Replica, replica)
    node.wake()
    node.wake()
    turns = 0
    while not replica.batches:
        await asyncio.sleep(0)
        turns += 1
    node._worker.shutdown()
    return turns


@pytest.mark.parametrize("crowd", [0, 1, 20])
def test_a_batch_is_begun_when_no_more_come(
    crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy loop gathers until nothing new comes; an idle one begins after few turns."""
    monkeypatch.setattr(aio, "GATHER_S", 60.0)
    replica = CrowdedReplica(crowd)
    turns = asyncio.run(_turns_until_pumped(replica))
    assert replica.batches == [crowd]
    assert turns <= crowd + aio.PATIENCE_TURNS + 2


def test_gathering_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many more come, a batch is not put off beyond its time."""
    monkeypatch.setattr(aio, "GATHER_S", 0.0)
    replica = CrowdedReplica(1_000_000)
    asyncio.run(_turns_until_pumped(replica))
    assert replica.batches[0] < 10


class SteppedLoop:
    """A loop on a virtual clock; callbacks run when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def time(self) -> float:
        """Seconds."""
        return self.now

    def call_soon(self, work: Callable[..., None], *arguments: object) -> None:
        """For ``turn``."""
        self.soon.append(partial(work, *arguments))

    def call_later(
        self, delay_s: float, work: Callable[..., None], *arguments: object
    ) -> None:
        """For ``sleep``."""
        self.later.append(partial(work, *arguments))

    call_soon_threadsafe = call_soon

    def turn(self) -> None:
        """Run what was asked for without a delay."""
        while self.soon:
            self.soon.pop(0)()

    def sleep(self) -> None:
        """Let the time of one sleep pass."""
        self.now += aio.PATIENCE_S
        due, self.later = self.later, []
        for work in due:
            work()


class SleptForReplica:
    """Notes how it is pumped."""

    def __init__(self) -> None:
        self.queued = 0
        self.unanswered = CROWD
        self.is_only_member = False
        self.unsettled = False
        self.pumps: list[bool] = []

    def pump(self, *, settle: bool, propose: bool) -> None:
        """Note whether it is to propose."""
        self.pumps.append(propose)


def test_what_is_not_a_proposal_is_not_slept_for() -> None:
    """The other members' answers were held up for as long as a batch gathered."""
    loop = SteppedLoop()
    node = AsyncNode(cast(asyncio.AbstractEventLoop, loop))
    replica = SleptForReplica()
    node.replica = cast(Replica, replica)
    node.calls_come_singly = True
    replica.queued = 1
    node.request_pump()
    loop.turn()
    assert replica.pumps == []
    for number in range(3):
        node.request_pump()
        loop.turn()
        assert replica.pumps == [False] * (2 * number + 1)
        node.wake()
        loop.turn()
        assert replica.pumps == [False] * (2 * number + 2)
        replica.queued += 1
        loop.sleep()
    replica.queued = CROWD // 2
    loop.sleep()
    loop.sleep()
    assert replica.pumps == [False] * 6 + [True]
    node._worker.shutdown()


def test_sleeping_ends_in_time() -> None:
    """However many more are expected, a batch is not put off beyond its time."""
    loop = SteppedLoop()
    node = AsyncNode(cast(asyncio.AbstractEventLoop, loop))
    replica = SleptForReplica()
    node.replica = cast(Replica, replica)
    node.calls_come_singly = True
    replica.queued, replica.unanswered = 1, 1000
    node.wake()
    loop.turn()
    while loop.later:
        loop.sleep()
    assert replica.pumps == [True]
    assert loop.now <= aio.GATHER_SINGLY_S + 2 * aio.PATIENCE_S
    node._worker.shutdown()
