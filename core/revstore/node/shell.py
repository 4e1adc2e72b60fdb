"""What a replica asks of the shell that drives it.

Three shells drive the same replica: the asyncio node, the embedded store in the
caller's thread, and the simulator. A shell holds no decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from revstore.interfaces.ports import Clock

T = TypeVar("T")


class Shell(Protocol):
    """The world around a replica. "The loop" is the thread that drives it."""

    @property
    def clock(self) -> Clock:
        """Monotonic time."""
        ...

    def request_pump(self) -> None:
        """Have ``Replica.pump`` run soon; called on the loop. Raises: nothing."""
        ...

    def wake(self) -> None:
        """The same, callable from any thread. Raises: nothing."""
        ...

    def schedule(self, work: Callable[[], None], delay_s: float = 0.0) -> None:
        """Run ``work`` on the loop, not before ``delay_s``. Raises: nothing."""
        ...

    def run_in_thread(
        self, work: Callable[[], T], done: Callable[[T | Exception], None]
    ) -> None:
        """Run blocking work elsewhere; ``done`` gets its result or exception on the
        loop. Works handed over run one after the other. Raises: nothing."""
        ...
