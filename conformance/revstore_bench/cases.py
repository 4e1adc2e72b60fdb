"""The cases of ``make bench``."""

from __future__ import annotations

from pathlib import Path

from revstore_bench import cluster, embedded, opening, serving
from revstore_bench.budget import BudgetCase
from revstore_bench.model import Case, Scale


def all_cases(scale: Scale, directory: Path) -> list[Case]:
    """Every case there is; making one costs next to nothing but its work list."""
    return [
        *embedded.cases(scale, directory),
        *opening.cases(scale, directory),
        *serving.cases(scale, directory),
        BudgetCase(scale, directory / "budget", ["--transport=grpc"]),
        *cluster.cases(scale, directory),
    ]
