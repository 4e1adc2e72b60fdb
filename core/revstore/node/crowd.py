"""Whether it pays to sleep while proposals gather, learned from how many came.

Where calls reach the loop one by one, as behind grpcio, a crowd of clients looks like
a few: each call takes turns of the loop and a thread's help. A batch that sleeps until
no more come is large if there is a crowd, and late for nothing if there is none.
"""

from __future__ import annotations

CROWD = 16
"""A batch of so many was worth sleeping for."""
CHANCES = 8
"""So many in a row that were not end it: a crowd takes a few batches to line up."""
RETRY_BATCHES = 256
"""Then so many are not slept for."""


class Crowd:
    """What the batches so far tell."""

    def __init__(self) -> None:
        self._chances = CHANCES
        self._pause = 0
        """Batches not to be slept for before the next try."""

    def worth_sleeping(self) -> bool:
        """Whether to sleep for the next batch. Raises: nothing."""
        if self._pause:
            self._pause -= 1
            return False
        return True

    def slept(self, batch: int) -> None:
        """A batch of so many was slept for. Raises: nothing."""
        self._chances = CHANCES if batch >= CROWD else self._chances - 1
        if not self._chances:
            self._chances = CHANCES
            self._pause = RETRY_BATCHES
