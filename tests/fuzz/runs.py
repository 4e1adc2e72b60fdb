"""Random runs with a seed that is told."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

SEED_VARIABLE = "REVSTORE_SEED"
LONG_FACTOR = 20

Drawn = TypeVar("Drawn")


def run(
    name: str,
    usual_seed: int,
    examples: int,
    strategy: st.SearchStrategy[Drawn],
    body: Callable[[Drawn], None],
    long_run: bool,
) -> None:
    """Draw examples and try each; a failure tells the seed and how to replay.

    The server keeps its state from one example to the next, so what failed may not
    fail alone: the seed brings the whole run back. Raises: what ``body`` raises.
    """
    chosen = int(os.environ.get(SEED_VARIABLE, usual_seed))
    option = " --long" if long_run else ""
    command = f"{SEED_VARIABLE}={chosen} pytest -n 0 tests/fuzz -k {name}{option}"

    @seed(chosen)
    @settings(
        max_examples=examples * (LONG_FACTOR if long_run else 1),
        deadline=None,
        database=None,
        phases=(Phase.generate,) if not long_run else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def attempt(drawn: Drawn) -> None:
        note(f"replay: {command}")
        body(drawn)

    with warnings.catch_warnings():
        # A request of a megabyte may be part of what failed; the seed brings it back.
        warnings.simplefilter("ignore", HypothesisWarning)
        attempt()
