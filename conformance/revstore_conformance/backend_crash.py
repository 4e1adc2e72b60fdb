"""Killing a process that writes (B-01, B-06, B-07).

A process that dies leaves its files to the system, so these checks show that batches
are whole and in order and that nothing acknowledged is held back in the process. What
a power cut does is checked by copying directories; see docs/design/backends.md.
"""

from __future__ import annotations

import random
import signal

from revstore.interfaces.backend import Backend, Durability
from revstore_conformance.backend_child import WINDOW, crash_batch
from revstore_conformance.backend_harness import KEYSPACES, BackendHarness, contents

ROUNDS = 2
ACKNOWLEDGED_MAX = 120


def check_kill_while_writing_sync(harness: BackendHarness) -> None:
    """B-01, B-06: what SYNC acknowledged is there after a kill, in whole batches."""
    _kill_while_writing(harness, Durability.SYNC)


def check_kill_while_writing_ordered(harness: BackendHarness) -> None:
    """B-01, B-07: ORDERED keeps a prefix of whole batches after a kill."""
    _kill_while_writing(harness, Durability.ORDERED)


def _kill_while_writing(harness: BackendHarness, level: Durability) -> None:
    harness.require(
        harness.capabilities.durability_max >= level, f"durability below {level.name}"
    )
    rng = random.Random(harness.seed)
    for _ in range(ROUNDS):
        directory = harness.directory()
        enough = rng.randint(1, ACKNOWLEDGED_MAX)
        acknowledged = -1
        with harness.spawn("write", directory, level.name) as child:
            assert child.stdout is not None
            for line in child.stdout:
                assert line.strip().isdigit(), f"the child failed: {line}"
                acknowledged = int(line)
                if acknowledged >= enough:
                    child.send_signal(signal.SIGKILL)
        assert acknowledged >= enough, "the child ended by itself"
        backend = harness.open(directory)
        last = _last_whole_batch(backend)
        if level >= Durability.SYNC:
            assert last >= acknowledged, f"lost batches {last + 1} to {acknowledged}"
        if harness.capabilities.verify:
            assert backend.verify() == []
        backend.write(crash_batch(last + 1), level)
        assert _last_whole_batch(backend) == last + 1
        backend.close()


def _last_whole_batch(backend: Backend) -> int:
    """The newest batch, having checked that all up to it are there, each whole."""
    found = contents(backend)
    keys = [key for key, _ in found[KEYSPACES[0]]]
    last = int(keys[-1]) if keys else -1
    for at, name in enumerate(KEYSPACES):
        numbers = range(max(0, last + 1 - WINDOW), last + 1)
        expected = [
            (b"%08d" % number, b"%08d" % number * (1 + 40 * at)) for number in numbers
        ]
        assert found[name] == expected, f"a batch is torn or missing in {name}"
    return last


CHECKS = (check_kill_while_writing_sync, check_kill_while_writing_ordered)
