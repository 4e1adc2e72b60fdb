"""A power cut at any write boundary loses nothing that was reported durable."""

from __future__ import annotations

from pathlib import Path

import pytest

from revstore.interfaces.wal import Wal
from revstore_conformance.wal_power import run_power_cuts
from revstore_wal.files import Files
from revstore_wal.log import SegmentWal
from revstore_wal.options import SegmentOptions

SMALL = SegmentOptions(segment_bytes=6000, tail_bytes_max=1500, sample_bytes=700)


def make_segment(directory: Path, metadata: bytes, threaded: bool, files: Files) -> Wal:
    return SegmentWal(directory, metadata, threaded, SMALL, files)


@pytest.mark.slow
def test_nothing_durable_is_lost_and_the_rest_is_a_prefix() -> None:
    """At 1000 points and more over eight seeds the recovered log is one it may be."""
    runs = [run_power_cuts(make_segment, seed, calls=100) for seed in range(8)]
    assert sum(run.points for run in runs) >= 1000
    assert sum(run.torn for run in runs) >= 50
