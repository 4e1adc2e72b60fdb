"""Thousands of random operations, answered as a real etcd answers them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.differential.harness import (
    FAILURES,
    SEED_VARIABLE,
    Run,
    chosen_seed,
    differs_again,
    has_restarts,
    shrink,
)
from tests.differential.ops import CloseWatches, Op
from tests.differential.runner import MismatchError
from tests.differential.sides import Side
from tests.support.etcd import ETCD, NO_ETCD

OPS, RESTARTS = 2_600, 2
"""Of each of the two runs on a backend."""

OPS_LONG, RESTARTS_LONG = 20_000, 20
SHRINK_RUNS = 60

needs_etcd = pytest.mark.skipif(ETCD is None, reason=NO_ETCD)


@needs_etcd
@pytest.mark.etcd
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("usual_seed", [1, 2])
@pytest.mark.parametrize("backend", ["memory", "lmdb", "rocksdb"])
def test_random_operations_get_etcds_answers(
    tmp_path: Path, backend: str, usual_seed: int, long_run: bool
) -> None:
    """Every answer, event and hash is etcd's, across restarts, but for the list."""
    seed = chosen_seed(usual_seed + 10 * len(backend))
    run = Run(backend, tmp_path)
    count, restarts = (OPS_LONG, RESTARTS_LONG) if long_run else (OPS, RESTARTS)
    try:
        run.generate(seed, count, restarts)
    except FAILURES as error:
        pytest.fail(_report(run, seed, error, long_run), pytrace=False)
    assert len(run.ops) >= count
    assert run.reached > count // 5
    assert min(has_restarts(run.ops)) >= 1
    assert run.differences.used["hash revision"] > count // 50
    unused = run.differences.unused()
    assert not unused, f"seed {seed}: differences that did not show: {unused}"


def _report(run: Run, seed: int, error: Exception, long_run: bool) -> str:
    option = " --long" if long_run else ""
    command = (
        f"{SEED_VARIABLE}={seed} pytest -n 0 {__name__.replace('.', '/')}.py"
        f" -k '{run.backend} and 1'{option}"
    )
    kept = run.ops
    if long_run:
        again = differs_again(run.backend, run.folder)
        kept = shrink(run.ops, again, SHRINK_RUNS)
    tail = "\n".join(str(op) for op in kept[-60:])
    return (
        f"operation {len(run.ops)} of seed {seed} differs; again with\n  {command}\n"
        f"{error}\nlast of {len(kept)} operations:\n{tail}"
    )


@needs_etcd
@pytest.mark.etcd
@pytest.mark.slow
def test_a_wrong_answer_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single answer that is not etcd's ends the run at that operation."""
    honest = Side.call

    async def call(side: Side, name: str, request: Any) -> Any:
        answer: Any = await honest(side, name, request)
        if side.name == "revstore" and name == "DeleteRange":
            answer.deleted += 1
        return answer

    monkeypatch.setattr(Side, "call", call)
    run = Run("memory", tmp_path)
    with pytest.raises(MismatchError, match="deleted: "):
        run.generate(1, 500, 0)
    assert str(run.ops[-1]).startswith("DeleteRange")


def test_a_failing_list_is_shrunk() -> None:
    """Of a list whose failure takes two operations, these two are left."""
    ops: list[Op] = [CloseWatches(number) for number in range(100)]

    def differs(some: object) -> bool:
        assert isinstance(some, list)
        return ops[17] in some and ops[20] in some

    assert shrink(ops, differs, 1000) == [ops[17], ops[20]]
    assert len(shrink(ops, differs, 3)) == 50
