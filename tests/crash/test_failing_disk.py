"""A disk that fails: work is refused from then on, and nothing acknowledged is lost."""

from __future__ import annotations

import errno
import os
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

import revstore
from revstore.api import errors
from revstore.errors import ApiError, PoisonedError, StorageError
from revstore.node.settings import MemberSettings
from revstore.types import ApplyResult
from revstore_wal.options import SegmentOptions
from tests.crash.disk import Machine, Plugins
from tests.crash.load import Load
from tests.crash.model import Facts, Model
from tests.crash.power import Member, facts_with_past

SMALL = SegmentOptions(segment_bytes=6000, tail_bytes_max=1500, sample_bytes=700)
SETTINGS: dict[str, Any] = {
    "snapshot_count": 5,
    "catchup_entries": 1,
    "compaction_sleep_s": 0.0,
}
OPS = 25
LOG_FAULTS = [
    ("pwrite", errno.EIO),
    ("pwrite", errno.ENOSPC),
    ("fdatasync", errno.EIO),
    ("fallocate", errno.ENOSPC),
    ("rename", errno.EIO),
    ("fsync_dir", errno.EIO),
    ("truncate", errno.EIO),
    ("remove", errno.EIO),
]


class FailingRun:
    """A load until something fails; then what is refused, and what is left."""

    def __init__(self, kind: str, place: Path) -> None:
        place.mkdir()
        self.plugins = Plugins(kind)
        self.machine = Machine(kind, place, SMALL, numbers=count(1))
        self.member = Member(self.machine, self.plugins, SETTINGS)
        self.member.shell.settle()
        self._load = Load(Random(5), 0, 1)
        self._model = Model()
        self._states: list[Facts] = [facts_with_past(self._model.store)]
        self._acknowledged = 0

    @property
    def failed(self) -> bool:
        """Whether the member has stopped."""
        return self.member.shell.replica.stopped

    def run(self) -> None:
        """Make requests one after the other until the member stops."""
        shell = self.member.shell
        for _ in range(OPS):
            op = self._load.next(
                self._model.revision, self._model.store.compact_revision
            )
            result = self._model.apply(op.tag, op.payload)
            assert isinstance(result, ApplyResult), (op, result)
            self._states.append(facts_with_past(self._model.store))
            answers = self.member.propose(op)
            try:
                shell.clock.time += 0.2
                shell.replica.tick()
                shell.settle()
            except StorageError:
                shell.replica.pump()
            assert len(answers) == 1, "a request was left without an answer"
            if isinstance(answers[0], ApiError):
                assert answers[0].code == errors.Code.UNAVAILABLE, answers
                assert self.failed
                return
            self._acknowledged += 1
            if self.failed:
                return

    def check_refused(self) -> None:
        """Requests and reads are refused, with the first failure as the reason."""
        replica = self.member.shell.replica
        answers = self.member.shell.put(b"0/late")
        reads: list[ApiError | None] = []
        replica.read(reads.append)
        for answer in (*answers, *reads):
            assert isinstance(answer, ApiError), answer
            assert answer.code == errors.Code.UNAVAILABLE
            assert "restart the member" in answer.message
            assert str(replica.failure) in answer.message

    def check_reopened(self, machine: Machine) -> None:
        """What was acknowledged is on a machine; the one request behind it may be."""
        member = Member(machine, self.plugins, SETTINGS)
        member.shell.settle()
        found = facts_with_past(member.store)
        assert member.shell.replica.failure is None
        member.crash()
        assert found in self._states[self._acknowledged :], found

    def check_both_ends(self) -> None:
        """Reopened after the process ended, and after a power cut."""
        self.machine.files.heal()
        random = Random(1)
        cut = self.machine.power_cut(random)
        killed = self.machine.killed()
        self.member.crash()
        self.check_reopened(cut)
        self.check_reopened(killed)
        self._model.close()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), LOG_FAULTS)
def test_a_log_that_fails(fast_path: Path, kind: str, code: int) -> None:
    """Whichever write or sync of the log fails, it is the last one that is tried."""
    failures = 0
    for number in (*range(1, 16), 20, 40):
        run = FailingRun("lmdb", fast_path / str(number))
        files = run.machine.files
        files.fail(kind, count=number, code=code)
        files.trace = []
        run.run()
        if not run.failed:
            run.member.crash()
            break
        failures += 1
        run.check_refused()
        with pytest.raises(StorageError):
            run.member.shell.replica.wal.sync()
        assert _after_failure(files.trace, kind, number) <= {"remove"}
        run.check_both_ends()
    assert failures >= 2, f"{kind} was only met {failures} times"


def _after_failure(trace: list[Any], kind: str, number: int) -> set[str]:
    """The kinds of operations behind the one that failed."""
    seen = 0
    for position, operation in enumerate(trace):
        seen += operation.kind == kind
        if seen == number:
            return {later.kind for later in trace[position + 1 :]}
    raise AssertionError("nothing failed")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["memory", "lmdb", "rocksdb"])
def test_an_engine_that_fails(fast_path: Path, engine: str) -> None:
    """A flush that fails stops the member; the log has what was acknowledged."""
    for number in range(1, 6):
        run = FailingRun(engine, fast_path / str(number))
        backend = run.machine.backend
        assert backend is not None
        backend.fail_at = ("write", number)
        run.run()
        assert run.failed
        run.check_refused()
        with pytest.raises(PoisonedError):
            run.member.store.begin_flush()
        assert backend.calls_after_failure == 0, (
            "a failed write was followed by another"
        )
        run.check_both_ends()


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
def test_an_embedded_store_says_so_to_every_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The caller gets the failure, later ones the sticky error, and closing is quiet."""
    tries: list[int] = []

    def fail(*_: object) -> int:
        tries.append(1)
        raise OSError(errno.EIO, "the disk is gone")

    store = revstore.open(tmp_path / "data", backend="lmdb")
    assert store.put(b"kept", b"1").revision == 2
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError, match="the disk is gone"):
            store.put(b"lost", b"1")
    for _ in range(2):
        with pytest.raises(PoisonedError, match="the disk is gone"):
            store.put(b"refused", b"1")
    assert len(tries) == 1
    store.close()
    with revstore.open(tmp_path / "data") as store:
        assert store.get(b"kept") is not None
        assert store.get(b"refused") is None


def test_a_server_has_these_settings_too() -> None:
    """The settings that make purging frequent here are those of any member."""
    assert set(SETTINGS) <= set(MemberSettings.__struct_fields__)
