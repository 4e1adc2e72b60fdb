"""The log agrees with a model whatever is called, and wherever it crashes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from revstore.interfaces.wal import Wal
from revstore_conformance.wal import WalHarness
from revstore_conformance.wal_harness import RealHarness, SimulatedHarness
from revstore_conformance.wal_machine import WalMachine
from revstore_wal.files import Files
from revstore_wal.log import SegmentWal
from revstore_wal.options import SegmentOptions

SMALL = SegmentOptions(segment_bytes=4096, tail_bytes_max=1200, sample_bytes=600)


def make_segment(directory: Path, metadata: bytes, threaded: bool, files: Files) -> Wal:
    return SegmentWal(directory, metadata, threaded, SMALL, files)


def make_threaded(
    directory: Path, metadata: bytes, threaded: bool, files: Files
) -> Wal:
    return SegmentWal(directory, metadata, True, SMALL, files)


class SimulatedMachine(WalMachine):
    """On a simulated disk, with crashes."""

    def make_harness(self) -> WalHarness:
        return SimulatedHarness(make_segment)


class RealMachine(WalMachine):
    """On real files, with a thread."""

    def make_harness(self) -> WalHarness:
        self.parent = Path(tempfile.mkdtemp(prefix="revstore-wal-"))
        return RealHarness(make_threaded, self.parent)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.parent)


TestSimulated = pytest.mark.slow(SimulatedMachine.TestCase)
TestSimulated.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
TestReal = pytest.mark.slow(RealMachine.TestCase)
TestReal.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
