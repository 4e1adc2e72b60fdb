"""What the cases that stand beside etcd have in common: turns, ratios, rows.

A figure of a side is named ``FIGURE_SIDE``, the ratio of ours to etcd's
``FIGURE_ratio``; it is made within one sample.
"""

from __future__ import annotations

from revstore_bench.load import LoadReport
from revstore_bench.model import Row

SIDES = ("revstore", "etcd")


def names_in_turn(number: int) -> tuple[str, ...]:
    """Who goes first changes from sample to sample."""
    return SIDES[::-1] if number % 2 else SIDES


def compare(found: dict[str, float], figure: str, least: float = 0.0) -> None:
    """Add the ratio of ours to etcd's.

    Both count as at least ``least``: what the system can tell of the figure at all.
    """
    ours, theirs = (max(found[f"{figure}_{name}"], least) for name in SIDES)
    found[f"{figure}_ratio"] = ours / theirs


def quantiles(
    found: dict[str, float], figure: str, name: str, report: LoadReport
) -> None:
    """Add the median and the 99th percentile of a load, in milliseconds."""
    found[f"{figure}_p50_ms_{name}"] = report.quantile(0.5) / 1000
    found[f"{figure}_p99_ms_{name}"] = report.quantile(0.99) / 1000


def beside(
    what: str,
    figure: str,
    unit: str,
    *,
    low: float | None = None,
    high: float | None = None,
    durability: str = "-",
) -> Row:
    """Our figure beside etcd's; ``low`` and ``high`` bound the ratio of them."""
    judged = low is not None or high is not None
    return Row(
        name=what,
        unit=unit,
        figure=f"{figure}_revstore",
        beside=f"{figure}_etcd",
        beside_name="etcd",
        target_min=low,
        target_max=high,
        target_of=f"{figure}_ratio" if judged else "",
        durability=durability,
    )
