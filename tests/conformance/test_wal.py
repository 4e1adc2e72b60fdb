"""The contract of a write-ahead log, run over every shipped plugin."""

from __future__ import annotations

from pathlib import Path

import pytest

from revstore.interfaces.wal import Wal
from revstore_conformance.wal import CHECKS, Check, NotRun, WalHarness, name_of
from revstore_conformance.wal_harness import RealHarness, SimulatedHarness
from revstore_wal.files import Files
from revstore_wal.log import SegmentWal
from revstore_wal.options import SegmentOptions

SMALL = SegmentOptions(segment_bytes=8192, tail_bytes_max=2048, sample_bytes=1024)


def make_segment(directory: Path, metadata: bytes, threaded: bool, files: Files) -> Wal:
    """The plugin "segment" with small files and little memory."""
    return SegmentWal(directory, metadata, threaded, SMALL, files)


@pytest.fixture(params=["segment-simulated", "segment-real"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> WalHarness:
    if request.param == "segment-simulated":
        return SimulatedHarness(make_segment)
    return RealHarness(make_segment, tmp_path)


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_contract(harness: WalHarness, check: Check) -> None:
    """Each clause of the contract holds."""
    try:
        check(harness)
    except NotRun as reason:
        pytest.skip(str(reason))
