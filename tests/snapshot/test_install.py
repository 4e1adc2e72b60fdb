"""Installing a snapshot: between any backends, and with a crash at any step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from revstore.errors import CorruptionError
from revstore.interfaces.backend import Backend, Durability, WriteBatch
from revstore.interfaces.wal import Wal
from revstore.node.snapshots import finish_install
from revstore.snapshot import install
from revstore.snapshot.inbox import FileInbox
from revstore.snapshot.install import Installation
from revstore.snapshot.writer import write_snapshot
from revstore.types import SnapshotMeta
from tests.snapshot.support import BACKENDS, content, fill, open_backend, snapshot_of

PAIRS = [(one, other) for one in BACKENDS for other in BACKENDS]


class Crash(BaseException):
    """The process ends."""


class Marker(msgspec.Struct):
    """The part of a log's recovery that counts here."""

    snapshot: SnapshotMeta


class MarkedLog:
    """A log that knows of a snapshot up to an entry."""

    def __init__(self, index: int) -> None:
        self._found = Marker(SnapshotMeta(index, 3))

    def recovery(self) -> Marker:
        """What was found at open."""
        return self._found


def log_at(index: int) -> Wal:
    """See ``MarkedLog``."""
    return cast(Wal, MarkedLog(index))


class Dying:
    """A backend in front of which the process ends after so many writes."""

    def __init__(self, backend: Backend, writes: int) -> None:
        self.capabilities = backend.capabilities
        self.snapshot = backend.snapshot
        self._backend = backend
        self._left = writes
        self.levels: list[Durability] = []
        self.bytes_max = 0

    def write(self, batch: WriteBatch, durability: Durability) -> None:
        """See ``Backend``."""
        if not self._left:
            raise Crash
        self._left -= 1
        self.levels.append(durability)
        puts = [pair for part in batch.keyspaces.values() for pair in part.puts]
        size = sum(len(key) + len(value) for key, value in puts)
        self.bytes_max = max(self.bytes_max, size)
        self._backend.write(batch, durability)


def dying(backend: Backend, writes: int) -> Any:
    """See ``Dying``."""
    return Dying(backend, writes)


def received(inbox: FileInbox, pieces: Sequence[bytes]) -> None:
    """Have a snapshot wait."""
    spool = inbox.spool()
    for piece in pieces:
        spool.write(piece)
    spool.finish()
    spool.commit()


def waits(inbox: FileInbox) -> bool:
    """Whether a snapshot waits."""
    file = inbox.open()
    if file is not None:
        file.close()
    return file is not None


def install_all(backend: Backend, inbox: FileInbox) -> None:
    """Every step of an installation."""
    file = inbox.open()
    assert file is not None
    installation = Installation(backend, file)
    try:
        while not installation.step():
            pass
    finally:
        installation.close()


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_any_backend_takes_over_what_any_other_holds(
    tmp_path: Path, source: str, target: str
) -> None:
    """All rows are there afterwards, none of the old ones is, and a restart has them."""
    inbox = FileInbox(tmp_path / "snapshot.in")
    with open_backend(source, tmp_path / "a") as backend:
        fill(backend, 400)
        _, pieces = snapshot_of(backend)
        wanted = content(backend)
    with open_backend(target, tmp_path / "b") as backend:
        fill(backend, 450, b"old")
        received(inbox, pieces)
        install_all(backend, inbox)
        assert content(backend) == wanted
    if target != "memory":
        with open_backend(target, tmp_path / "b") as backend:
            assert content(backend) == wanted
    inbox.clear()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_crash_at_any_step_is_finished_at_the_next_start(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was written, the next start has exactly the snapshot."""
    monkeypatch.setattr(install, "BATCH_BYTES", 10_000)
    monkeypatch.setattr("revstore.snapshot.format.BATCH_BYTES", 4_000)
    inbox = FileInbox(tmp_path / "snapshot.in")
    with open_backend("memory", tmp_path / "a") as source:
        fill(source, 300)
        header, pieces = snapshot_of(source)
        wanted = content(source)
    steps = 0
    over = False
    while not over:
        with open_backend(name, tmp_path / f"b{steps}") as backend:
            fill(backend, 50, b"old")
            received(inbox, pieces)
            kept = not backend.capabilities.persistent
            try:
                install_all(dying(backend, steps), inbox)
                over = True
            except Crash:
                assert content(backend) != wanted
            finish_install(backend, log_at(header.index), inbox)
            assert content(backend) == wanted, f"after {steps} writes"
            assert waits(inbox) is kept
        steps += 1
    assert steps >= 12


def test_steps_are_bounded_and_only_the_last_is_synced(tmp_path: Path) -> None:
    """No batch is much larger than the bound, and syncs do not add up."""
    inbox = FileInbox(tmp_path / "snapshot.in")
    with open_backend("lmdb", tmp_path / "a") as backend:
        fill(backend, 20, b"x" * 40_000)
        _, pieces = snapshot_of(backend)
        received(inbox, pieces)
        watched = dying(backend, 1000)
        install_all(watched, inbox)
    last = watched.levels.pop()
    assert last is Durability.SYNC
    assert set(watched.levels) == {Durability.ORDERED}
    assert watched.bytes_max < install.BATCH_BYTES + 3 * (1 << 20)
    inbox.clear()


def test_what_the_log_does_not_know_of_is_not_installed(tmp_path: Path) -> None:
    """The crash came before the log forgot anything: the member goes on as it was."""
    inbox = FileInbox(tmp_path / "snapshot.in")
    with open_backend("memory", tmp_path / "a") as backend:
        fill(backend, 30)
        header, pieces = snapshot_of(backend)
    with open_backend("memory", tmp_path / "b") as backend:
        fill(backend, 10, b"old")
        before = content(backend)
        received(inbox, pieces)
        finish_install(backend, log_at(header.index - 1), inbox)
        assert content(backend) == before
    assert not waits(inbox)


def test_what_was_finished_is_not_installed_again(tmp_path: Path) -> None:
    """A file that a power cut brought back does not turn the member back."""
    inbox = FileInbox(tmp_path / "snapshot.in")
    with open_backend("lmdb", tmp_path / "a") as backend:
        fill(backend, 30)
        header, pieces = snapshot_of(backend)
        fill(backend, 10, b"later", first=31)
        before = content(backend)
        received(inbox, pieces)
        finish_install(backend, log_at(header.index + 5), inbox)
        assert content(backend) == before
    assert not waits(inbox)


def test_a_damaged_snapshot_that_waits_stops_the_start(tmp_path: Path) -> None:
    """The backend may be half replaced, so the member has to be added again."""
    inbox = FileInbox(tmp_path / "snapshot.in")
    with open_backend("memory", tmp_path / "a") as backend:
        fill(backend, 30)
        header, pieces = snapshot_of(backend)
        data = bytearray(b"".join(pieces))
        data[len(data) // 2] ^= 4
        received(inbox, [bytes(data)])
        before = content(backend)
        with pytest.raises(CorruptionError, match="delete its data directory"):
            finish_install(backend, log_at(header.index), inbox)
        assert content(backend) == before
    assert waits(inbox)


def test_a_snapshot_whose_rows_say_something_else_is_refused(tmp_path: Path) -> None:
    """The header's place in the log has to be that of the rows."""
    inbox = FileInbox(tmp_path / "snapshot.in")
    with open_backend("memory", tmp_path / "a") as backend:
        fill(backend, 30)
        with backend.snapshot() as reader:
            header = msgspec.structs.replace(snapshot_of(backend)[0], index=31)
            pieces = list(write_snapshot(reader, header))
        received(inbox, pieces)
        with pytest.raises(CorruptionError, match="stands at entry 31"):
            install_all(backend, inbox)
