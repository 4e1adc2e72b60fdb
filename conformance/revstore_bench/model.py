"""What a benchmark case is, and what it reports.

Rules of this file:

1. A case is prepared once and sampled several times; the samples of all cases take
   turns, so that a slow minute of the machine falls on all of them.
2. One sample measures the store and what it is compared with, one after the other.
   Ratios are made within a sample, and the median is taken of the ratios.
3. Nothing is thrown away: every sample stays in the report.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import msgspec

SEED = 20_260_101
"""Of every random choice that a case makes."""

Sample = Mapping[str, float]
"""Figures of one repetition, by name."""


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much each case does."""

    name: str
    repetitions: int
    keys: int
    """Keys that a store is filled with."""
    gets: int
    rows: int
    """Rows of a range."""
    singles: int
    """Single durable puts."""
    open_keys: tuple[int, int]
    """Keys of the small and of the large store that are opened."""
    calls: int
    """Calls made to a server for one figure."""
    in_flight: int


TINY = Scale(
    name="tiny",
    repetitions=1,
    keys=400,
    gets=50,
    rows=100,
    singles=10,
    open_keys=(100, 300),
    calls=200,
    in_flight=20,
)
QUICK = Scale(
    name="quick",
    repetitions=1,
    keys=60_000,
    gets=20_000,
    rows=10_000,
    singles=300,
    open_keys=(10_000, 100_000),
    calls=10_000,
    in_flight=1000,
)
STANDARD = Scale(
    name="standard",
    repetitions=5,
    keys=200_000,
    gets=50_000,
    rows=10_000,
    singles=1000,
    open_keys=(10_000, 1_000_000),
    calls=30_000,
    in_flight=1000,
)

KEY_BYTES = 32
VALUE_BYTES = 100
BATCH = 100
"""Puts in one transaction."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report: a figure, what it stands beside, and its target."""

    name: str
    unit: str
    figure: str
    """Name of the figure within the samples."""
    beside: str = ""
    """Name of the figure that it is compared with, if any."""
    beside_name: str = ""
    """What that figure is, in words."""
    target_min: float | None = None
    target_max: float | None = None
    target_of: str = ""
    """Name of the figure the target is for, where it is another one, such as a ratio."""
    durability: str = "-"


class Case(ABC):
    """One benchmark; made once, prepared once, sampled, closed."""

    name: str
    """``group/subject``, what ``--only`` looks into."""

    def __init__(self, scale: Scale, directory: Path) -> None:
        self.scale = scale
        self.directory = directory

    def prepare(self) -> None:  # noqa: B027 - most cases have nothing to prepare
        """Do once what all samples share."""

    @abstractmethod
    def sample(self, number: int) -> Sample:
        """Measure once."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """What to show of the samples."""

    def settings(self) -> Mapping[str, object]:
        """The engine's effective settings, for the report."""
        return {}

    def close(self) -> None:  # noqa: B027 - most cases hold nothing
        """Release what ``prepare`` made; called also after a failure."""


Factory = Callable[[Scale, Path], list[Case]]


class Series(msgspec.Struct, frozen=True):
    """The samples of one figure."""

    values: list[float]

    @property
    def median(self) -> float:
        """The middle value."""
        return median(self.values)

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)


def series_of(samples: list[Sample], figure: str) -> Series:
    """One figure over all samples that have it."""
    return Series([sample[figure] for sample in samples if figure in sample])


def holds(row: Row, samples: list[Sample]) -> bool | None:
    """Whether the median meets the row's target; None if there is none."""
    if row.target_min is None and row.target_max is None:
        return None
    value = series_of(samples, row.target_of or row.figure).median
    if row.target_min is not None and value < row.target_min:
        return False
    return row.target_max is None or value <= row.target_max
