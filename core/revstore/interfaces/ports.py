"""The small ports through which the machines touch the world.

The simulator stands in for each of them.
"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Monotonic time."""

    def now(self) -> float:
        """Seconds since an arbitrary moment; never goes back. Raises: nothing."""
        ...
