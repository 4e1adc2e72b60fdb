"""A power cut at every write boundary of recorded runs, over seeds.

Covered: everything that the log has not synced is dropped or torn, sector by sector and
name by name; the engine is rolled back to what its promises keep; both combined with
each other, with purging, and with cuts of the recovery itself. Not covered here: cuts
in the middle of an engine's own write (``test_system_calls``).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.power import PowerRun, run_power_cuts

POINTS = {"memory": 250, "lmdb": 200, "rocksdb": 150}
"""Of each test; with two seeds, and one member on raft beside, 1600 in all."""
SEEDS = (1, 1001)
MEMBERS = [(kind, "solo") for kind in sorted(POINTS)] + [("lmdb", "raft")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kind", "consensus"), MEMBERS)
def test_nothing_acknowledged_is_lost(
    fast_path: Path, kind: str, consensus: str, seed: int, long_run: bool
) -> None:
    """After a power cut anywhere a member holds a prefix with all acknowledged writes."""
    wanted = POINTS[kind] * (20 if long_run else 1)
    runs: list[PowerRun] = []
    while (missing := wanted - sum(run.points for run in runs)) > 0:
        place = fast_path / str(len(runs))
        place.mkdir()
        number = seed + len(runs)
        runs.append(run_power_cuts(kind, place, number, missing, consensus))
    assert sum(run.torn for run in runs) > 0
    assert sum(run.replayed for run in runs) >= wanted // 4
    if kind != "memory":
        assert sum(run.purged for run in runs) >= wanted // 10
