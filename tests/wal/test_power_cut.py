"""A power cut at any write boundary loses nothing that was reported durable."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from revstore.errors import StorageError
from revstore.interfaces.wal import Wal
from revstore.types import Entry, HardState
from revstore_conformance.files import SimulatedFiles
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


def test_what_was_read_at_open_is_durable_although_its_sync_had_failed() -> None:
    """A failed sync leaves clean pages that no later sync writes: opening rewrites them.

    Found by the simulator: the process was started again on the page cache, went on
    behind the batch whose sync had failed, and a power cut later left a hole.
    """
    files = SimulatedFiles()
    path = Path("/wal")
    log = make_segment(path, b"", False, files)
    log.append(HardState(1, 1, 0), [Entry(1, 1, b"a" * 600)])
    log.sync()
    log.append(None, [Entry(1, 2, b"b" * 600)])
    files.fail("fdatasync")
    with pytest.raises(StorageError):
        log.sync()
    files.kill()
    again = make_segment(path, b"", False, files)
    found = again.last_index()
    again.append(None, [Entry(1, found + 1, b"c" * 600)])
    again.sync()
    files.crash(Random(1), keep=0.0)
    after = make_segment(path, b"", False, files)
    assert after.last_index() == found + 1
    after.close()
