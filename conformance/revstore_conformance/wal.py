"""Checks of the contract of a write-ahead log, clause by clause (W-01 to W-13).

Each check is a function that takes a ``WalHarness`` and raises ``AssertionError`` if
the clause in its name does not hold, or ``NotRun`` if the harness cannot do what the
check needs. Use::

    @pytest.mark.parametrize("check", CHECKS, ids=name_of)
    def test_contract(check):
        check(harness)

A harness makes logs in one place and can hurt that place; see ``WalHarness``.
"""

from __future__ import annotations

import gc
import threading
import tracemalloc
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from random import Random

from revstore.errors import (
    CorruptionError,
    InvariantViolation,
    LockedError,
    PoisonedError,
    RevstoreError,
    StorageError,
    UsageError,
)
from revstore.interfaces.wal import Wal
from revstore.types import ConfState, Entry, EntryType, HardState, SnapshotMeta
from revstore_conformance.wal_model import ModelledWal, RandomCalls

PATIENCE_S = 20.0
"""How long a check waits for what must happen; only a failing one waits that long."""
METADATA = b"\x00member 1\xff"


class NotRun(Exception):  # noqa: N818 - a verdict, not an error
    """The harness cannot do what this check needs; the message says what."""


class WalHarness(ABC):
    """How to make the log under test, always in the same place, and how to hurt it.

    Its logs should use small files (a few KiB) and keep few entries in memory (a few
    KiB), so that the checks reach the places where files and memory end.
    """

    @abstractmethod
    def reset(self) -> None:
        """Start over with an empty place; no log is open. Raises: nothing."""

    @abstractmethod
    def open(self, metadata: bytes = METADATA, threaded: bool = False) -> Wal:
        """Open the log, making it if there is none. Raises: what the log raises."""

    def cut_power_in_sync(self, wal: Wal, random: Random) -> None:
        """Call ``wal.sync()`` and cut the power after its write, before it is durable.

        Raises: NotRun.
        """
        raise NotRun("the harness cannot cut the power")

    def cut_power(self, random: Random) -> None:
        """Cut the power; the open log is gone. Raises: NotRun."""
        raise NotRun("the harness cannot cut the power")

    def fail_next(self, kind: str) -> None:
        """Let the next "write" or "sync" fail, the ones behind it not. Raises: NotRun."""
        raise NotRun("the harness cannot make the disk fail")

    def sync_count(self) -> int:
        """How many syncs were tried. Raises: NotRun."""
        raise NotRun("the harness cannot count syncs")

    def damage(self, random: Random) -> None:
        """Change some of the oldest durable entries of a closed log. Raises: NotRun."""
        raise NotRun("the harness cannot damage the log")

    def image(self) -> object:
        """All that is on disk, to be compared for equality. Raises: NotRun."""
        raise NotRun("the harness cannot look at the disk")

    def disk_is_memory(self) -> bool:
        """Whether the disk itself is in this process' memory. Raises: nothing."""
        return False


Check = Callable[[WalHarness], None]


def entries_of(first: int, count: int, term: int = 1, size: int = 20) -> list[Entry]:
    """Entries that can be told apart."""
    return [
        Entry(term, index, f"{term}/{index}.".encode().ljust(size, b"."))
        for index in range(first, first + count)
    ]


def expect(error: type[RevstoreError], call: Callable[[], object]) -> RevstoreError:
    """Make a call that must raise; returns the error. Raises: AssertionError."""
    try:
        call()
    except error as raised:
        return raised
    raise AssertionError(f"{error.__name__} was not raised")


def all_of(wal: Wal) -> list[Entry]:
    """Every entry that is kept."""
    return wal.read(wal.first_index(), wal.last_index() + 1)


def check_w01_state_and_entries_become_durable_together(harness: WalHarness) -> None:
    """A crash in a sync leaves an append's state and entries, or neither."""
    for seed in range(40):
        harness.reset()
        log = ModelledWal()
        log.take_over(harness.open())
        log.append(HardState(1, 7, 0), entries_of(1, 2, 1))
        log.sync()
        log.append(HardState(2, 8, 0), entries_of(3, 3, 2, size=600))
        harness.cut_power_in_sync(log.must_wal(), Random(seed))
        log.crash()
        wal = harness.open()
        log.check_recovered(wal)
        wal.close()


def check_w02_callbacks_run_once_and_in_order(harness: WalHarness) -> None:
    """Whoever syncs, callbacks come in the order of the appends, each once."""
    for threaded in (False, True):
        harness.reset()
        wal = harness.open(threaded=threaded)
        ran: list[int] = []

        def note(number: int, error: StorageError | None, ran: list[int] = ran) -> None:
            ran.append(number if error is None else -1)

        index = 1
        for number in range(60):
            entries = entries_of(index, number % 3)
            wal.append(None, entries, partial(note, number))
            index += len(entries)
        wal.sync()
        assert ran == list(range(60)), f"threaded={threaded}: {ran}"
        wal.close()
        assert ran == list(range(60)), f"threaded={threaded}: again at close"


def check_w03_readable_at_once_durable_at_callback(harness: WalHarness) -> None:
    """An entry can be read when append returns; none whose callback ran is lost."""
    wal = harness.open()
    ran: list[StorageError | None] = []
    wal.append(None, entries_of(1, 3), ran.append)
    assert all_of(wal) == entries_of(1, 3)
    assert ran == [], "the callback ran before anybody made the log durable"
    wal.sync()
    assert ran == [None]
    wal.append(None, entries_of(4, 3), ran.append)
    harness.cut_power(Random(3))
    wal = harness.open()
    assert wal.read(1, 4) == entries_of(1, 3)
    wal.close()


def check_w03_a_thread_makes_the_log_durable_by_itself(harness: WalHarness) -> None:
    """A threaded log calls back without anybody calling sync."""
    wal = harness.open(threaded=True)
    done = threading.Event()
    wal.append(HardState(1, 1, 0), entries_of(1, 1), lambda _error: done.set())
    assert done.wait(PATIENCE_S), "the callback never ran"
    wal.close()


def check_w04_an_append_replaces_what_is_behind(harness: WalHarness) -> None:
    """Appending at an index that exists replaces it and all behind it, for ever."""
    wal = harness.open()
    wal.append(None, entries_of(1, 40, size=200))
    wal.sync()
    wal.append(None, entries_of(11, 2, term=2))
    expected = entries_of(1, 10, size=200) + entries_of(11, 2, term=2)
    for again in range(3):
        assert wal.last_index() == 12
        assert all_of(wal) == expected, f"opened {again} times"
        assert [wal.term(index) for index in (10, 11, 13)] == [1, 2, None]
        wal.close()
        wal = harness.open()
    wal.close()


def check_w05_no_holes(harness: WalHarness) -> None:
    """An append that would leave a hole is refused and changes nothing."""
    wal = harness.open()
    wal.append(None, entries_of(1, 3))
    expect(InvariantViolation, lambda: wal.append(None, entries_of(5, 1)))
    gap = [*entries_of(4, 1), *entries_of(6, 1)]
    expect(InvariantViolation, lambda: wal.append(None, gap))
    assert all_of(wal) == entries_of(1, 3)
    wal.append(None, entries_of(4, 1))
    wal.close()
    wal = harness.open()
    assert all_of(wal) == entries_of(1, 4)
    wal.close()


def check_w06_a_torn_tail_is_cut_to_a_prefix(harness: WalHarness) -> None:
    """After a crash in a sync the log opens, holds a prefix, and goes on."""
    cut = 0
    for seed in range(60):
        random = Random(seed)
        harness.reset()
        log = ModelledWal()
        log.take_over(harness.open())
        calls = RandomCalls(log, random, data_bytes_max=900)
        for _ in range(random.randint(0, 4)):
            calls.append()
        log.sync()
        for _ in range(random.randint(1, 6)):
            calls.append()
        harness.cut_power_in_sync(log.must_wal(), random)
        log.crash()
        log.take_over(harness.open())
        cut += log.must_wal().recovery().truncated_bytes
        log.append(None, entries_of(log.state.last + 1, 2, size=3000))
        log.close()
        log.take_over(harness.open())
        log.close()
    assert cut, "not one of the crashes left a torn tail"


def check_w07_damage_is_reported_and_nothing_is_cut(harness: WalHarness) -> None:
    """Damage before the tail raises CorruptionError, each time, and changes nothing."""
    for seed in range(10):
        harness.reset()
        wal = harness.open()
        for number in range(20):
            wal.append(None, entries_of(1 + 5 * number, 5, size=100))
            wal.sync()
        wal.close()
        harness.damage(Random(seed))
        before = harness.image()
        for _ in range(2):
            error = str(expect(CorruptionError, harness.open))
            assert "offset" in error, f"the error does not say where: {error}"
        assert harness.image() == before, "the files were changed"


def check_w08_a_failure_is_final(harness: WalHarness) -> None:
    """After a failed write or sync every call that writes raises PoisonedError."""
    for kind in ("write", "sync"):
        for threaded in (False, True):
            harness.reset()
            wal = harness.open(threaded=threaded)
            wal.append(None, entries_of(1, 2))
            wal.sync()
            harness.fail_next(kind)
            told: list[StorageError | None] = []
            done = threading.Event()

            def note(
                error: StorageError | None,
                told: list[StorageError | None] = told,
                done: threading.Event = done,
            ) -> None:
                told.append(error)
                done.set()

            wal.append(None, entries_of(3, 1), note)
            if threaded:
                assert done.wait(PATIENCE_S), "the callback never ran"
            else:
                expect(StorageError, wal.sync)
            assert len(told) == 1, told
            assert isinstance(told[0], StorageError), told
            tried = harness.sync_count()
            expect(PoisonedError, partial(wal.append, None, entries_of(4, 1)))
            expect(PoisonedError, wal.sync)
            expect(PoisonedError, partial(wal.save_snapshot, SnapshotMeta(1, 1)))
            expect(PoisonedError, partial(wal.purge_to, 0))
            expect(StorageError, wal.close)
            assert harness.sync_count() == tried, "a failed sync was tried again"
            wal = harness.open()
            assert wal.read(1, 3) == entries_of(1, 2)
            wal.close()


def check_w09_purging_keeps_what_is_needed(harness: WalHarness) -> None:
    """purge_to frees only entries up to its index; state and marker stay."""
    wal = harness.open()
    meta = SnapshotMeta(60, 1, ConfState((1, 2, 3), (9,)))
    state = HardState(1, 3, 55)
    wal.append(state, ())
    for number in range(25):
        wal.append(None, entries_of(1 + 4 * number, 4, size=300))
        wal.sync()
    expect(InvariantViolation, lambda: wal.purge_to(1))
    wal.save_snapshot(meta)
    expect(InvariantViolation, lambda: wal.purge_to(61))
    for index in (10, 60):
        wal.purge_to(index)
        assert wal.first_index() <= index + 1
        kept = wal.read(index + 1, wal.last_index() + 1)
        assert kept == entries_of(index + 1, 100 - index, size=300)
        assert all_of(wal) == entries_of(
            wal.first_index(), 101 - wal.first_index(), size=300
        )
    wal.append(None, entries_of(101, 100, size=300))
    wal.save_snapshot(SnapshotMeta(200, 1, meta.conf_state))
    wal.append(None, entries_of(201, 100, size=300))
    wal.sync()
    wal.purge_to(200)
    first = wal.first_index()
    assert 1 < first <= 201, "nothing was freed"
    if first > 1:
        expect(UsageError, lambda: wal.read(first - 1, first))
    wal.close()
    wal = harness.open()
    found = wal.recovery()
    assert found.snapshot == SnapshotMeta(200, 1, meta.conf_state)
    assert found.hard_state == state
    assert found.first_index == first
    assert all_of(wal) == entries_of(first, 301 - first, size=300)
    wal.close()


def check_w09_a_marker_beyond_the_log_restarts_it(harness: WalHarness) -> None:
    """Behind a marker beyond the last entry the log goes on, empty."""
    wal = harness.open()
    wal.append(None, entries_of(1, 5))
    wal.save_snapshot(SnapshotMeta(100, 4))
    for _ in range(2):
        assert (wal.first_index(), wal.last_index()) == (101, 100)
        assert wal.term(100) == 4
        assert wal.term(5) is None
        expect(InvariantViolation, partial(wal.append, None, entries_of(6, 1)))
        wal.close()
        wal = harness.open()
    wal.append(None, entries_of(101, 3, term=4))
    wal.close()
    wal = harness.open()
    assert all_of(wal) == entries_of(101, 3, term=4)
    wal.close()


def check_w10_metadata_is_returned_unchanged(harness: WalHarness) -> None:
    """The metadata of the creation comes back at each open, whatever is passed."""
    for metadata in (b"", METADATA, bytes(range(256)) * 3):
        harness.reset()
        wal = harness.open(metadata)
        assert wal.recovery().metadata == metadata
        wal.append(None, entries_of(1, 200, size=100))
        wal.close()
        wal = harness.open(b"something else")
        assert wal.recovery().metadata == metadata
        wal.close()


def check_w11_a_log_is_open_once(harness: WalHarness) -> None:
    """A second open raises LockedError until the first is closed."""
    wal = harness.open()
    expect(LockedError, harness.open)
    wal.append(None, entries_of(1, 1))
    wal.close()
    wal.close()
    wal = harness.open()
    assert all_of(wal) == entries_of(1, 1)
    wal.close()


def check_w12_memory_is_bounded(harness: WalHarness) -> None:
    """Entries beyond the tail leave in memory less than a twentieth of their bytes."""
    if harness.disk_is_memory():
        raise NotRun("the disk is in memory")
    limit = 1_500_000 // 20
    grown = _bytes_left(harness)
    for _ in range(2):
        # Threads of other tests may allocate meanwhile; the log's own is there always.
        if grown < limit:
            return
        grown = min(grown, _bytes_left(harness))
    assert grown < limit, f"1500 entries of 1000 bytes left {grown} bytes"


def _bytes_left(harness: WalHarness) -> int:
    """How much more memory 2000 entries leave than 500 do."""
    used = []
    for count in (500, 2000):
        harness.reset()
        gc.collect()
        tracemalloc.start()
        wal = harness.open()
        for first in range(1, count, 20):
            wal.append(None, entries_of(first, 20, size=1000))
            wal.sync()
        gc.collect()
        used.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert all_of(wal) == entries_of(1, count, size=1000)
        wal.close()
    return used[1] - used[0]


def check_read_honours_its_bounds(harness: WalHarness) -> None:
    """A read gives at least one entry and stops once its bytes are passed."""
    wal = harness.open()
    for first in range(1, 101, 10):
        wal.append(None, entries_of(first, 10, size=100))
        wal.sync()
    for lo in (1, 7, 50, 95):
        for bytes_max in (1, 100, 250, 1000, 100_000):
            got = wal.read(lo, 101, bytes_max)
            assert got == entries_of(lo, len(got), size=100)
            most = bytes_max // 100 + 1
            assert 1 <= len(got) <= most
            assert len(got) >= min(bytes_max // 100, 101 - lo)
    assert wal.read(5, 5) == []
    for lo, hi in ((0, 5), (90, 102), (7, 6)):
        expect(UsageError, partial(wal.read, lo, hi))
    wal.close()


def check_entries_keep_their_types_and_bytes(harness: WalHarness) -> None:
    """Types, large numbers and any bytes survive a reopen."""
    wal = harness.open()
    big = (1 << 64) - 2
    wal.save_snapshot(SnapshotMeta(big - 5, big))
    entries = [
        Entry(big, big - 4, b"", EntryType.CONF_CHANGE_V2),
        Entry(big, big - 3, b"\0" * 5000, EntryType.CONF_CHANGE),
        Entry(big, big - 2, bytes(range(256)), EntryType.NORMAL),
        Entry(big, big - 1, b"x" * 3_000, EntryType.NORMAL),
    ]
    wal.append(HardState(big, big, big - 5), entries)
    wal.close()
    wal = harness.open()
    assert all_of(wal) == entries
    assert wal.recovery().hard_state == HardState(big, big, big - 5)
    wal.close()


def check_w13_appending_here_is_appending(harness: WalHarness) -> None:
    """W-13: batches of both kinds become durable in order, each callback once, and a
    ``sync`` leaves nothing behind; with the log's own thread and without."""
    for threaded in (False, True):
        harness.reset()
        wal = harness.open(threaded=threaded)
        told: list[int] = []
        for index in range(1, 201):
            append = wal.append if index % 3 else wal.append_here

            def on_durable(
                error: StorageError | None, index: int = index, told: list[int] = told
            ) -> None:
                assert error is None
                told.append(index)

            append(None, entries_of(index, 1, size=300), on_durable)
            if index % 50 == 0:
                wal.sync()
                assert told == list(range(1, index + 1))
        wal.close()
        wal = harness.open()
        assert all_of(wal) == entries_of(1, 200, size=300)
        wal.close()


def check_w13_a_failure_here_poisons(harness: WalHarness) -> None:
    """W-13, W-08: a write that fails in the calling thread ends the log as any other."""
    wal = harness.open(threaded=True)
    wal.append_here(None, entries_of(1, 1))
    wal.sync()
    harness.fail_next("sync")
    told: list[StorageError | None] = []
    wal.append_here(None, entries_of(2, 1), told.append)
    expect(StorageError, wal.sync)
    assert len(told) == 1
    assert isinstance(told[0], StorageError)
    expect(PoisonedError, lambda: wal.append_here(None, entries_of(3, 1)))
    expect(StorageError, wal.close)


CHECKS: tuple[Check, ...] = tuple(
    value for name, value in list(globals().items()) if name.startswith("check_")
)
"""All checks, in the order of the clauses."""


def name_of(check: Check) -> str:
    """The name of a check in a report."""
    return getattr(check, "__name__", str(check)).removeprefix("check_")
