"""A run follows from its seed, byte for byte."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import hashlib, msgspec
from revstore_conformance.sim.profile import STANDARD
from revstore_conformance.sim.run import Run
digest = hashlib.sha256()
profile = msgspec.structs.replace(STANDARD, fault_phase_s=12.0, operations_min=0)
Run(3, profile, lambda line: digest.update(line.encode())).run()
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_the_transcript_is_the_same_in_another_process() -> None:
    """Not even the order of hashes, which differs between processes, shows."""
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            timeout=120,
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1
