"""Random histories on every backend, compared with the model at every step."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from tests.mvcc.generate import KEYS, Generator
from tests.mvcc.harness import Harness

from revstore.interfaces.backend import Backend
from revstore.mvcc import hashing
from revstore.proto import rpc_pb2

SEEDS = range(6)
STEPS = 250


def step(harness: Harness, make: Generator, random: Random) -> None:
    """One random thing that can happen to a store."""
    model = harness.model
    choice = random.randrange(100)
    if choice < 30:
        harness.apply("put", make.put())
    elif choice < 38:
        harness.apply("delete", make.delete())
    elif choice < 50:
        harness.apply("txn", make.txn(model.revision))
    elif choice < 56:
        harness.apply("txn", make.puts())
    elif choice < 60:
        harness.apply("grant", random.choice([7, -3]))
    elif choice < 64:
        low = max(model.compact_revision - 1, model.revision - 20)
        revision = random.randint(low, model.revision + 1)
        harness.apply("compact", rpc_pb2.CompactionRequest(revision=revision))
    elif choice < 70:
        harness.begin_flush()
    elif choice < 76:
        harness.end_flush()
    elif choice < 79:
        harness.flush()
    elif choice < 82:
        harness.crash(reopen=random.random() < 0.3)
    elif choice < 86:
        harness.store.compaction_step()
    elif choice < 88:
        harness.start_reader()
    elif choice < 90:
        harness.step_reader()
        harness.step_reader()
    elif choice < 91:
        harness.start_job()
    elif choice < 93:
        harness.step_job()
    elif choice < 98:
        low = max(model.compact_revision - 1, -1)
        revision = random.choice([0, random.randint(low, model.revision + 1)])
        harness.read(make.range(revision))
    else:
        harness.check_gets(KEYS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_any_history_reads_as_the_model_says(
    make_backend: Callable[[], Backend], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is put, deleted, flushed, compacted and crashed, all reads agree."""
    if seed % 2:
        # So few bits that they say "perhaps" all the time.
        monkeypatch.setattr(hashing, "_BITS", 64)
    random = Random(seed)
    harness = Harness(make_backend, random)
    make = Generator(random)
    try:
        for number in range(STEPS):
            step(harness, make, random)
            if number % 50 == 49:
                check_all(harness, random)
        harness.compact_physically()
        check_all(harness, random)
        harness.check_tables()
    except BaseException as exc:
        exc.add_note(
            f"replay: pytest tests/mvcc/test_model.py -n 0 -k 'model and {seed}'"
        )
        raise
    finally:
        harness.close()


def check_all(harness: Harness, random: Random) -> None:
    """The dear comparisons."""
    harness.check_history()
    harness.check_leases()
    harness.check_hashes()
    first = max(harness.model.compact_revision, 1)
    harness.check_chunks(0, 3)
    harness.check_chunks(random.randint(first, harness.model.revision), 2)
