"""SIGKILL at random moments, the same directory opened again and again.

A kill leaves to the system what was written, so this is about what the process still
held in memory, about recovery that is itself killed, and about files in every state
between two calls. What a power cut does is in ``test_power_cut`` and
``test_system_calls``.

Moments: a number of acknowledgements and a number of bytes said later, from outside; a
number of function calls into opening, loading or closing, from inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.kills import Ordeal, Zygote

MEMORY_DISK = Path("/dev/shm")
KILLS = 100
SEEDS = range(1, 4)


@pytest.fixture
def place(tmp_path: Path, seed: int) -> Iterator[Path]:
    """Where the data is: in memory if there is room, but for one seed.

    Whoever is killed does not notice the difference, and syncs cost nothing there.
    """
    if seed == SEEDS[0] or not MEMORY_DISK.is_dir():
        yield tmp_path
        return
    with TemporaryDirectory(dir=MEMORY_DISK) as made:
        yield Path(made)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("backend", ["lmdb", "rocksdb"])
def test_nothing_acknowledged_is_lost(
    place: Path, backend: str, seed: int, long_run: bool
) -> None:
    """After each of 100 kills (300 a backend) the store is what was acknowledged."""
    with Zygote() as zygote:
        ordeal = Ordeal(zygote, place / "data", backend, seed)
        ordeal.go_on(KILLS * 10 if long_run else KILLS)
    assert ordeal.kills_opening >= ordeal.kills // 10
    assert ordeal.checked >= ordeal.kills // 2
