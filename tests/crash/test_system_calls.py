"""A power cut between any two system calls of a whole store, engine included.

A child loads an embedded store under strace; its calls are replayed on a simulated
disk, which before each of them can say what a power cut would leave: each unsynced
sector and each unsynced name of every file may be there or not. The directory thus made
is opened.

Covered: the data directory with its manifest, the log, LMDB's file (meta pages and
commits torn in the middle), RocksDB's log, tables and manifests, purging, compaction
and closing. As journaling file systems do, the order of names within a directory is
kept, and an append is kept up to some byte: RocksDB relies on that for its manifest
(the log does not: ``test_power_cut`` tears it sector by sector). Not covered: writes through a mapping (only LMDB's lock file, which is no data), and
disks that lie about a sync.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

import revstore
from revstore.errors import ApiError
from tests.crash.calls import Replay, calls_of, record, why_not
from tests.crash.child import Life
from tests.crash.frames import Begin, Done, Failed, Frame, split_frames
from tests.crash.model import Facts, Model
from tests.crash.power import facts_with_past

POINTS_MIN = 250
SETTINGS: dict[str, Any] = {
    "flush_interval_s": 0.0,
    "snapshot_count": 6,
    "catchup_entries": 1,
    "compaction_sleep_s": 0.0,
    "compaction_batch_limit": 10,
}
WAL_OPTIONS = {"segment_bytes": 20_000}
BACKEND_OPTIONS: dict[str, dict[str, Any]] = {
    "lmdb": {},
    "rocksdb": {"write_buffer_bytes": 64 * 1024},
}


class Recording:
    """What a child did, and what the model says of each number of its requests."""

    def __init__(self, root: Path, backend: str, seed: int) -> None:
        self.root = root
        self.backend = backend
        self.life = Life(
            directory=str(root / "data"),
            backend=backend,
            run=1,
            seed=seed,
            known=1,
            ops=45,
            settings=SETTINGS,
            backend_options=BACKEND_OPTIONS[backend],
            wal_options=WAL_OPTIONS,
        )
        self.trace = root.with_name("trace")
        command = ["tests.crash.child", msgspec.json.encode(self.life).decode()]
        record(command, self.trace)
        replay = Replay(root)
        for call in calls_of(self.trace):
            replay.make(call)
        self.states = _states(list(split_frames(bytes(replay.said))))

    def check_cut(self, replay: Replay, random: Random, place: Path) -> None:
        """Cut the power now: the store opens and holds a prefix. Raises: AssertionError."""
        frames = list(split_frames(bytes(replay.said)))
        done = sum(isinstance(frame, Done) for frame in frames)
        begun = sum(isinstance(frame, Begin) for frame in frames)
        replay.files.crashed(random, in_order=True).dump(self.root, place)
        with revstore.open(
            place / "data",
            backend=self.backend,
            backend_options=self.life.backend_options,
            wal_options=WAL_OPTIONS,
        ) as store:
            with store._lock:
                found = facts_with_past(store.replica.store)
            allowed = self.states[done : begun + 1]
            assert found in allowed, (
                f"found {found}\nafter {done} of {begun}: {allowed}"
            )
            assert store.put(b"0/after", b"").revision == found.revision + 1
            if self.backend == "rocksdb":
                assert store.replica.backend.verify() == []
        shutil.rmtree(place)


def _states(frames: list[Frame]) -> list[Facts]:
    """The facts after each number of requests."""
    model = Model()
    states = [facts_with_past(model.store)]
    for frame in frames:
        assert not isinstance(frame, Failed), frame
        if isinstance(frame, Begin):
            result = model.apply(frame.tag, frame.payload)
            assert not isinstance(result, ApiError), result
            states.append(facts_with_past(model.store))
    model.close()
    return states


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("backend", sorted(BACKEND_OPTIONS))
def test_nothing_acknowledged_is_lost(fast_path: Path, backend: str) -> None:
    """After a power cut between any two calls the store opens with all it acknowledged."""
    (fast_path / "root").mkdir()
    recording = Recording(fast_path / "root", backend, seed=3)
    random = Random(3)
    replay = Replay(recording.root)
    points = 0
    for call in calls_of(recording.trace):
        before = replay.files.operation_count()
        replay.make(call)
        if replay.files.operation_count() == before:
            continue
        points += 1
        try:
            recording.check_cut(replay, random, fast_path / "cut")
        except Exception as error:
            raise AssertionError(f"cut after {call.name}, {points}: {error}") from error
    assert points >= POINTS_MIN
