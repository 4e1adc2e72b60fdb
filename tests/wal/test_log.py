"""What the log "segment" does beyond the contract."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from random import Random

import pytest

from revstore.errors import (
    ConfigError,
    CorruptionError,
    PoisonedError,
    StorageError,
)
from revstore.types import Entry, HardState, SnapshotMeta
from revstore_conformance.files import Operation, SimulatedFiles
from revstore_conformance.wal_harness import stop_at_sync
from revstore_wal.log import SegmentWal
from revstore_wal.options import SegmentOptions

DIRECTORY = Path("/wal")
SMALL = SegmentOptions(segment_bytes=4096, tail_bytes_max=1000, sample_bytes=500)
PATIENCE_S = 20.0


def entries_of(first: int, count: int, size: int = 100) -> list[Entry]:
    return [Entry(1, index, b"x" * size) for index in range(first, first + count)]


def kinds(files: SimulatedFiles) -> list[str]:
    """The operations since the trace was last cleared."""
    assert files.trace is not None
    found = [operation.kind for operation in files.trace]
    files.trace.clear()
    return found


@pytest.fixture
def files() -> SimulatedFiles:
    disk = SimulatedFiles()
    disk.trace = []
    return disk


def test_many_appends_are_one_write_and_one_sync(files: SimulatedFiles) -> None:
    """What was appended since the last sync costs one write and one sync."""
    wal = SegmentWal(DIRECTORY, b"", False, SegmentOptions(), files)
    kinds(files)
    for index in range(1, 100):
        wal.append(HardState(index, 1, 0), entries_of(index, 1))
    wal.sync()
    assert kinds(files) == ["pwrite", "fdatasync"]
    wal.sync()
    assert kinds(files) == []
    wal.close()


def test_a_commit_index_alone_is_not_synced(files: SimulatedFiles) -> None:
    """It is written, its callback runs, and it is durable with what comes next."""
    wal = SegmentWal(DIRECTORY, b"", False, SegmentOptions(), files)
    wal.append(HardState(1, 1, 0), entries_of(1, 1))
    wal.sync()
    kinds(files)
    ran: list[StorageError | None] = []
    wal.append(HardState(1, 1, 1), (), ran.append)
    wal.sync()
    assert kinds(files) == ["pwrite"]
    assert ran == [None]
    wal.append(HardState(1, 1, 1), (), ran.append)
    wal.sync()
    assert kinds(files) == []
    assert ran == [None, None]
    wal.append(HardState(1, 2, 1), ())
    wal.sync()
    assert kinds(files) == ["pwrite", "fdatasync"]
    wal.close()


def test_a_thread_gathers_while_it_syncs(files: SimulatedFiles) -> None:
    """What is appended during a sync becomes durable with the next one, all at once."""
    wal = SegmentWal(DIRECTORY, b"", True, SegmentOptions(), files)
    kinds(files)
    entered, go_on = threading.Event(), threading.Event()

    def slow(operation: Operation) -> None:
        if operation.kind == "fdatasync":
            entered.set()
            assert go_on.wait(PATIENCE_S)

    files.before = slow
    wal.append(None, entries_of(1, 1))
    assert entered.wait(PATIENCE_S)
    for index in range(2, 50):
        wal.append(None, entries_of(index, 1))
    go_on.set()
    wal.sync()
    assert kinds(files) == ["pwrite", "fdatasync"] * 2
    files.before = None
    wal.close()


def test_the_next_file_has_its_name_only_when_its_head_is_durable(
    files: SimulatedFiles,
) -> None:
    """A cut ends the old file, makes the new head durable, then its name."""
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    wal.append(None, entries_of(1, 20))
    wal.append(None, entries_of(21, 20))
    kinds(files)
    wal.sync()
    assert kinds(files) == [
        *("pwrite", "fdatasync", "truncate", "fdatasync"),
        *("open", "fallocate", "pwrite", "fdatasync", "rename", "fsync_dir"),
        *("pwrite", "fdatasync"),
    ]
    names = [name for name in files.listdir(DIRECTORY) if name.endswith(".wal")]
    assert names == [
        "0000000000000000-0000000000000000.wal",
        "0000000000000001-0000000000000015.wal",
    ]
    wal.close()


def test_a_thread_prepares_the_next_file_ahead(files: SimulatedFiles) -> None:
    """Once a file is half full the next one is there, so that a cut need not wait."""
    prepared = threading.Event()
    wal = SegmentWal(DIRECTORY, b"", True, SMALL, files)

    def watch(operation: Operation) -> None:
        if operation.kind == "fallocate":
            prepared.set()

    files.before = watch
    wal.append(None, entries_of(1, 20))
    assert prepared.wait(PATIENCE_S)
    wal.close()
    assert "0.tmp" not in files.listdir(DIRECTORY)


def test_a_marker_is_durable_before_a_file_is_freed(files: SimulatedFiles) -> None:
    """The order is: marker durable, then files removed."""
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    for first in range(1, 101, 10):
        wal.append(None, entries_of(first, 10))
    wal.sync()
    kinds(files)
    wal.save_snapshot(SnapshotMeta(100, 1))
    assert kinds(files) == ["pwrite", "fdatasync"]
    wal.purge_to(100)
    assert kinds(files) == ["remove", "fsync_dir"] * 3
    wal.close()


def test_a_full_disk_poisons_and_a_restart_heals(files: SimulatedFiles) -> None:
    """No space for the next file: waiting callbacks get the error, nothing is lost."""
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    wal.append(None, entries_of(1, 20))
    wal.sync()
    files.fail("fallocate", code=errno.ENOSPC, for_ever=True)
    told: list[StorageError | None] = []
    wal.append(None, entries_of(21, 20), told.append)
    with pytest.raises(StorageError, match="No space left"):
        wal.sync()
    assert isinstance(told[0], StorageError)
    with pytest.raises(PoisonedError, match="repair the disk and restart"):
        wal.append(None, entries_of(41, 1))
    with pytest.raises(StorageError):
        wal.close()
    wal.close()
    files.heal()
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    assert wal.last_index() == 20
    wal.append(None, entries_of(21, 20))
    wal.close()


def test_a_sync_that_failed_once_is_not_believed_later(files: SimulatedFiles) -> None:
    """The kernel would say that the second sync succeeded; nobody asks it."""
    wal = SegmentWal(DIRECTORY, b"", True, SMALL, files)
    files.fail("fdatasync")
    done = threading.Event()
    told: list[StorageError | None] = []

    def note(error: StorageError | None) -> None:
        told.append(error)
        if len(told) == 2:
            done.set()

    wal.append(None, entries_of(1, 1), note)
    try:
        wal.append(None, entries_of(2, 1), note)
    except PoisonedError:
        note(StorageError("refused"))
    assert done.wait(PATIENCE_S)
    assert all(isinstance(error, StorageError) for error in told)
    with pytest.raises(StorageError):
        wal.close()


def test_what_is_read_at_open_is_durable(files: SimulatedFiles) -> None:
    """After a kill in a sync the page cache is read; it must survive a power cut."""
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    wal.append(None, entries_of(1, 5))
    files.before = stop_at_sync
    with pytest.raises(StorageError):
        wal.sync()
    files.before = None
    files.kill()
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    assert wal.last_index() == 5
    files.crash(Random(1), keep=0.0)
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    assert wal.read(1, 6) == entries_of(1, 5)
    wal.close()


def test_nothing_is_left_behind_a_cut(files: SimulatedFiles) -> None:
    """What was behind a torn batch is zero before the log goes on."""
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    wal.append(None, entries_of(1, 1))
    wal.sync()
    path = DIRECTORY / "0000000000000000-0000000000000000.wal"
    end = len(files.content(path).rstrip(b"\0"))
    wal.append(None, entries_of(2, 1, size=2000))
    wal.close()
    torn = bytearray(files.content(path))
    torn[1024:1536] = bytes(512)
    files.replace(path, bytes(torn))
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    assert wal.recovery().truncated_bytes > 1000
    assert wal.last_index() == 1
    assert not any(files.content(path)[end:])
    wal.close()


def test_a_callback_that_raises_stops_the_log(files: SimulatedFiles) -> None:
    """It is a bug; the log's thread lives on and says so to every later call."""
    wal = SegmentWal(DIRECTORY, b"", True, SMALL, files)

    def bad(_error: StorageError | None) -> None:
        raise RuntimeError("a bug")

    wal.append(None, entries_of(1, 1), bad)
    with pytest.raises(StorageError, match="a bug"):
        wal.sync()
    with pytest.raises(PoisonedError):
        wal.append(None, entries_of(2, 1))
    with pytest.raises(StorageError):
        wal.close()


def test_damage_met_by_a_read_is_reported(files: SimulatedFiles) -> None:
    """An entry read from disk is checked again."""
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    for first in range(1, 61, 10):
        wal.append(None, entries_of(first, 10))
        wal.sync()
    path = DIRECTORY / "0000000000000000-0000000000000000.wal"
    content = bytearray(files.content(path))
    content[700] ^= 1
    files.replace(path, bytes(content))
    with pytest.raises(CorruptionError, match="offset"):
        wal.read(1, 61)
    assert wal.read(55, 61) == entries_of(55, 6)
    wal.close()


def test_a_missing_file_is_reported(files: SimulatedFiles) -> None:
    """A gap between files, and a lacking first file, are damage."""
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    for first in range(1, 101, 10):
        wal.append(None, entries_of(first, 10))
    wal.close()
    names = [name for name in files.listdir(DIRECTORY) if name.endswith(".wal")]
    assert len(names) == 4
    gap = files.crashed(Random(1), keep=1.0)
    gap.remove(DIRECTORY / names[1])
    with pytest.raises(CorruptionError, match="missing"):
        SegmentWal(DIRECTORY, b"", False, SMALL, gap)
    files.remove(DIRECTORY / names[0])
    with pytest.raises(CorruptionError, match="lack"):
        SegmentWal(DIRECTORY, b"", False, SMALL, files)


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    """Directory 0700, files 0600, reserved in full."""
    wal = SegmentWal(tmp_path / "a" / "wal", b"", False, SMALL)
    path = tmp_path / "a" / "wal" / "0000000000000000-0000000000000000.wal"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.stat().st_size == SMALL.segment_bytes
    wal.close()


@pytest.mark.parametrize(
    "options",
    [
        SegmentOptions(segment_bytes=100),
        SegmentOptions(tail_bytes_max=-1),
        SegmentOptions(sample_bytes=0),
    ],
)
def test_options_out_of_range_are_refused(
    options: SegmentOptions, files: SimulatedFiles
) -> None:
    """The error names the option and its range."""
    with pytest.raises(ConfigError, match="choose"):
        SegmentWal(DIRECTORY, b"", False, options, files)


def test_unsafe_no_fsync_never_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the option for tests nothing waits for the disk, and callbacks still run."""
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    monkeypatch.setattr(os, "fsync", calls.append)
    options = SegmentOptions(unsafe_no_fsync=True)
    wal = SegmentWal(tmp_path / "wal", b"meta", False, options)
    told: list[object] = []
    wal.append(HardState(1, 1, 0), [Entry(1, 1, b"x")], told.append)
    wal.sync()
    wal.close()
    assert told == [None]
    assert calls == []


def test_several_callers_of_sync_take_turns(files: SimulatedFiles) -> None:
    """Two threads that wrote at once left a file that did not continue the last one."""
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    told: list[int] = []

    def append(index: int) -> None:
        entries = entries_of(index, 1, size=1500)
        wal.append(HardState(1, 1, 0), entries, lambda _: told.append(index))

    second = threading.Thread(target=wal.sync)

    def begin_second(operation: Operation) -> None:
        if operation.kind == "fdatasync":
            files.before = None
            append(3)
            append(4)
            second.start()
            second.join(0.1)

    append(1)
    append(2)
    files.before = begin_second
    wal.sync()
    second.join(PATIENCE_S)
    assert told == [1, 2, 3, 4]
    wal.close()
    wal = SegmentWal(DIRECTORY, b"", False, SMALL, files)
    assert [entry.index for entry in wal.read(1, 5)] == [1, 2, 3, 4]
    wal.close()
