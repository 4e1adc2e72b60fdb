"""When the log is synced on the loop, and who is woken then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast
from unittest import mock

import pytest

from revstore.errors import StorageError
from revstore.interfaces.consensus import Persist
from revstore.interfaces.wal import Wal
from revstore.node import appends
from revstore.node.appends import Appends
from revstore.node.shell import Shell
from revstore.types import Entry, HardState
from tests.node.virtual import VirtualClock

OnDurable = Callable[[StorageError | None], None]


class NotedWal:
    """Notes which way each batch came; one that came on the loop is durable at once."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.sync_s = 0.0
        self.failure: StorageError | None = None
        self.ways: list[str] = []
        self.under_way: list[OnDurable] = []

    def append(
        self, state: HardState | None, entries: Sequence[Entry], done: OnDurable
    ) -> None:
        """To be ended by the test."""
        self.ways.append("thread")
        self.under_way.append(done)

    def append_here(
        self, state: HardState | None, entries: Sequence[Entry], done: OnDurable
    ) -> None:
        """Takes ``sync_s``."""
        self.ways.append("loop")
        self.clock.time += self.sync_s
        done(self.failure)


class Log:
    """``Appends`` over a noted log, with permission to sync on the loop."""

    def __init__(self) -> None:
        self.shell = mock.Mock(clock=VirtualClock())
        self.wal = NotedWal(self.shell.clock)
        self.appends = Appends(cast(Wal, self.wal), cast(Shell, self.shell))
        self.appends.may_sync_on_loop = True
        self._sequence = 0

    def add(self, entries: int = 1, *, nobody_else_waits: bool = True) -> str:
        """Append a batch; which way it went."""
        self._sequence += 1
        batch = tuple(Entry(1, index + 1, b"x") for index in range(entries))
        persist = Persist(self._sequence, entries=batch)
        self.appends.add(persist, nobody_else_waits=nobody_else_waits)
        return self.wal.ways[-1]


def test_a_lone_request_is_synced_on_the_loop() -> None:
    """It is durable when it was added, and nobody is woken for it."""
    log = Log()
    assert log.add() == "loop"
    assert log.appends.idle
    assert log.appends.durable() == 1
    assert not log.shell.wake.called


def test_whoever_waits_keeps_the_loop_free() -> None:
    """Without permission, with others behind it or with several entries: the thread."""
    log = Log()
    log.appends.may_sync_on_loop = False
    assert log.add() == "thread"
    for entries, nobody in ((1, False), (2, True), (0, True)):
        log = Log()
        assert log.add(entries, nobody_else_waits=nobody) == "thread"
    assert not log.appends.idle
    assert log.add() == "thread", "the batch before it is under way"
    for done in log.wal.under_way:
        done(None)
    assert log.shell.wake.call_count == 2
    assert log.appends.idle
    assert log.add() == "loop"


def test_after_a_slow_sync_the_loop_is_spared() -> None:
    """For a time in proportion to what the sync took."""
    log = Log()
    log.wal.sync_s = appends.LOOP_SYNC_MAX_S / 2
    assert [log.add(), log.add()] == ["loop", "loop"]
    log.wal.sync_s = slow_s = 0.5
    assert log.add() == "loop"
    assert log.add() == "thread"
    log.wal.under_way.pop()(None)
    log.shell.clock.time += appends.LOOP_SYNC_PAUSE * slow_s
    assert log.add() == "loop"


def test_a_failure_on_the_loop_is_told() -> None:
    """What could not be synced is not durable, whichever way it went."""
    log = Log()
    log.wal.failure = StorageError("the disk is gone")
    log.add()
    assert not log.appends.idle
    with pytest.raises(StorageError, match="gone"):
        log.appends.durable()
