"""SIGKILL at random moments, the same directory opened again and again.

A kill leaves to the system what was written, so this is about what the process still
held in memory, about recovery that is itself killed, and about files in every state
between two calls. What a power cut does is in ``test_power_cut`` and
``test_system_calls``.

Moments: a number of acknowledgements and a number of bytes said later, from outside; a
number of function calls into opening, loading or closing, from inside.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.kills import Ordeal, Zygote

KILLS = 100
SEEDS = range(1, 4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("backend", ["lmdb", "rocksdb"])
def test_nothing_acknowledged_is_lost(
    tmp_path: Path, fast_path: Path, backend: str, seed: int, long_run: bool
) -> None:
    """After each of 100 kills (300 a backend) the store is what was acknowledged."""
    # Whoever is killed does not notice where the data is; one seed is on a real disk.
    place = tmp_path if seed == SEEDS[0] else fast_path
    with Zygote() as zygote:
        ordeal = Ordeal(zygote, place / "data", backend, seed)
        ordeal.go_on(KILLS * 5 if long_run else KILLS)
    assert ordeal.kills_opening >= ordeal.kills // 10
    assert ordeal.checked >= ordeal.kills // 2
