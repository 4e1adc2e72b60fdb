"""A store larger than its memory: ``python -m revstore_bench.big --backend lmdb``.

It is written, ranged in full, watched from revision 1, hashed, compacted and opened
again, and the process's anonymous memory (RssAnon, what cannot be dropped and read
again) is sampled all the while. Pages of files that the kernel keeps in its cache, the
map of LMDB among them, are not counted: they are given up when somebody needs them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import msgspec

import revstore
from revstore.embedded.store import EmbeddedStore
from revstore_bench import host
from revstore_bench.model import SEED
from revstore_bench.workload import make_key

BATCH = 100
LIMIT_BYTES = 400_000_000
SAMPLE_S = 0.01
OVERWRITTEN_PART = 10
"""One key in so many is written twice, so that a compaction has something to do."""
COMPACTION_POLL_S = 0.05


class Phase(msgspec.Struct, frozen=True):
    """What one phase took."""

    name: str
    seconds: float
    count: int
    peak_mb: float
    end_mb: float


class Sampler:
    """The highest RssAnon since the last question."""

    def __init__(self) -> None:
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._peak = max(self._peak, host.memory_bytes("RssAnon"))

    def take(self) -> int:
        """The peak so far; starts anew."""
        peak = max(self._peak, host.memory_bytes("RssAnon"))
        self._peak = 0
        return peak

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()


class BigStore:
    """The phases, in the order in which they are run."""

    def __init__(self, path: Path, backend: str, keys: int, value_bytes: int) -> None:
        self._path = path
        self._backend = backend
        self._keys = keys
        self._overwritten = keys // OVERWRITTEN_PART
        self._random = Random(SEED)
        self._pool = self._random.randbytes(1 << 20)
        self._value_bytes = value_bytes
        self._store = revstore.open(path, backend=backend)

    def phases(self) -> list[tuple[str, Callable[[], int]]]:
        """Names and what they do; each returns how many things it did."""
        return [
            ("write", self.write),
            ("overwrite", self.overwrite),
            ("range", self.range),
            ("watch from 1", self.watch),
            ("hash", self.hash),
            ("compact", self.compact),
            ("range again", self.range),
            ("hash again", self.hash),
            ("open again", self.reopen),
        ]

    @property
    def store(self) -> EmbeddedStore:
        """The store that is open."""
        return self._store

    def _value(self) -> bytes:
        """Bytes that no engine can compress, without making them each time."""
        start = self._random.randrange(len(self._pool) - self._value_bytes)
        return self._pool[start : start + self._value_bytes]

    def _put(self, count: int) -> int:
        for first in range(0, count, BATCH):
            numbers = range(first, min(first + BATCH, count))
            self._store.put_many([(make_key(one), self._value()) for one in numbers])
        return count

    def write(self) -> int:
        """All keys, in order."""
        return self._put(self._keys)

    def overwrite(self) -> int:
        """Some of them again."""
        return self._put(self._overwritten)

    def range(self) -> int:
        """Every row, through the iterator."""
        count = 0
        for _ in self._store.range():
            count += 1
        return must(count, self._keys)

    def watch(self) -> int:
        """The whole history."""
        count = 0
        want = self._keys + self._overwritten
        with self._store.watch(start_revision=1) as watcher:
            for _ in watcher:
                count += 1
                if count == want:
                    break
        return count

    def hash(self) -> int:
        """HashKV over everything."""
        self._store.hash_kv()
        return 1

    def compact(self) -> int:
        """Forget the history and wait until its rows are gone."""
        self._store.compact(self._store.revision)
        while self._store.replica.store.compaction_pending():
            time.sleep(COMPACTION_POLL_S)
        return self._overwritten

    def reopen(self) -> int:
        """Close, and open again."""
        self._store.close()
        self._store = revstore.open(self._path, backend=self._backend)
        return 1


def must(found: int, wanted: int) -> int:
    """The number, if it is the right one.

    Raises:
        AssertionError: it is not.
    """
    if found != wanted:
        raise AssertionError(f"{found} instead of {wanted}")
    return found


def run(
    path: Path, backend: str, keys: int, value_bytes: int, say: Callable[[str], None]
) -> list[Phase]:
    """Run all phases in a fresh directory."""
    sampler = Sampler()
    found: list[Phase] = []
    big = BigStore(path, backend, keys, value_bytes)
    try:
        for name, work in big.phases():
            sampler.take()
            begin = time.perf_counter()
            count = work()
            took = time.perf_counter() - begin
            end = host.memory_bytes("RssAnon")
            phase = Phase(name, took, count, sampler.take() / 1e6, end / 1e6)
            found.append(phase)
            say(line(phase))
    finally:
        sampler.stop()
        big.store.close()
    return found


def line(phase: Phase) -> str:
    """A phase for people."""
    return (
        f"{phase.name:<14}{phase.seconds:>9.1f} s {phase.count:>10,} "
        f"{phase.count / phase.seconds:>12,.0f}/s "
        f"peak RssAnon {phase.peak_mb:>7.1f} MB, at the end {phase.end_mb:>7.1f} MB\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if the memory went over the limit."""
    parser = argparse.ArgumentParser(prog="revstore_bench.big", description=__doc__)
    parser.add_argument("--backend", default="lmdb")
    parser.add_argument("--keys", type=int, default=2_000_000)
    parser.add_argument("--value", type=int, default=1000, help="bytes of a value")
    parser.add_argument("--directory", type=Path, help="where the data goes meanwhile")
    options = parser.parse_args(arguments)

    def say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(dir=options.directory, prefix="big-") as path:
        say(f"{options.backend}: {options.keys:,} keys of {options.value} bytes\n")
        found = run(
            Path(path) / "data", options.backend, options.keys, options.value, say
        )
        bytes_on_disk = sum(
            one.stat().st_blocks * 512 for one in Path(path).rglob("*") if one.is_file()
        )
    peak = max(phase.peak_mb for phase in found)
    kept = peak * 1e6 <= LIMIT_BYTES
    say(f"on disk at the end: {bytes_on_disk / 1e6:,.0f} MB\n")
    verdict = "holds" if kept else "DOES NOT HOLD"
    say(f"peak RssAnon {peak:.1f} MB, limit {LIMIT_BYTES / 1e6:.0f} MB: {verdict}\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
