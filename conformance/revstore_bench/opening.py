"""How long a store takes to open, and what it costs in memory, by its size.

Rules of this file:

1. Each opening is a process of its own, so that its memory is its own.
2. "After a kill": a child writes some more and kills itself, so that the log has
   entries that the backend lacks; the next opening replays them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

import revstore
from revstore_bench import host
from revstore_bench.model import Case, Row, Sample, Scale
from revstore_bench.workload import batches, make_key, make_pairs, make_value

FILL_BATCH = 128
KILL_TRANSACTIONS = 50
CHILD_TIMEOUT_S = 600

RATIO_MAX = 1.5
MEMORY_MAX = 150.0
"""Megabytes."""


class OpeningCase(Case):
    """The openings of one backend."""

    def __init__(self, backend: str, scale: Scale, directory: Path) -> None:
        super().__init__(scale, directory)
        self.backend = backend
        self.name = f"open/{backend}"

    def prepare(self) -> None:
        for count in self.scale.open_keys:
            with revstore.open(self._path(count), backend=self.backend) as store:
                for batch in batches(make_pairs(count, shuffled=True), FILL_BATCH):
                    store.put_many(batch)

    def _path(self, count: int) -> Path:
        return self.directory / f"keys-{count}"

    def sample(self, number: int) -> Sample:
        small, large = (self._path(count) for count in self.scale.open_keys)
        few, many = self._open(small), self._open(large)
        found = {
            "small_ms": few["open_ms"],
            "large_ms": many["open_ms"],
            "ratio": many["open_ms"] / few["open_ms"],
            "memory_mb": many["rss_mb"] - few["rss_mb"],
        }
        for path in (small, large):
            run_child("kill", path, expected=-signal.SIGKILL)
        few, many = self._open(small), self._open(large)
        found["killed_small_ms"] = few["open_ms"]
        found["killed_large_ms"] = many["open_ms"]
        found["killed_ratio"] = many["open_ms"] / few["open_ms"]
        return found

    def _open(self, path: Path) -> dict[str, float]:
        text = run_child("open", path)
        return msgspec.json.decode(text, type=dict[str, float])

    def rows(self) -> list[Row]:
        small, large = self.scale.open_keys
        return [
            Row(
                name=f"{self.name}: {large} keys",
                unit="ms",
                figure="large_ms",
                beside="small_ms",
                beside_name=f"{small} keys",
                target_max=RATIO_MAX,
                target_of="ratio",
            ),
            Row(
                name=f"{self.name}: {large} keys, more memory",
                unit="MB",
                figure="memory_mb",
                target_max=MEMORY_MAX,
            ),
            Row(
                name=f"{self.name}: {large} keys, after a kill",
                unit="ms",
                figure="killed_large_ms",
                beside="killed_small_ms",
                beside_name=f"{small} keys, after a kill",
            ),
        ]


def run_child(what: str, path: Path, expected: int = 0) -> str:
    """Run this module in a process of its own; its output."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, what, str(path)],
        capture_output=True,
        text=True,
        timeout=CHILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != expected:
        raise RuntimeError(f"{what} of {path} ended so: {done.stderr[-2000:]}")
    return done.stdout


def open_and_tell(path: Path) -> str:
    """Open a store once; what it took, as JSON."""
    rss = host.memory_bytes("VmRSS")
    begin = time.perf_counter()
    store = revstore.open(path)
    took = time.perf_counter() - begin
    store.get(make_key(0))
    grown = host.memory_bytes("VmRSS") - rss
    store.close()
    report = {"open_ms": took * 1e3, "rss_mb": grown / 1e6}
    return msgspec.json.encode(report).decode()


def write_and_die(path: Path) -> None:
    """Leave a store as a crash leaves it."""
    store = revstore.open(path)
    value = make_value()
    for number in range(KILL_TRANSACTIONS):
        first = number * FILL_BATCH
        keys = [make_key(first + offset) for offset in range(FILL_BATCH)]
        store.put_many([(key, value) for key in keys])
    os.kill(os.getpid(), signal.SIGKILL)


def cases(scale: Scale, directory: Path) -> list[Case]:
    """All cases of this file."""
    return [
        OpeningCase(backend, scale, directory / f"open-{backend}")
        for backend in ("lmdb", "rocksdb")
    ]


if __name__ == "__main__":
    if sys.argv[1] == "open":
        sys.stdout.write(open_and_tell(Path(sys.argv[2])))
    else:
        write_and_die(Path(sys.argv[2]))
