"""The window of append messages on the way to one follower.

Rules of this file:

1. A message is in the window from being sent until an index at or above its last
   entry is acknowledged.
2. The window is full once it holds ``count_max`` messages or ``bytes_max`` bytes; the
   message that passes the byte bound is still let in, so a large one is never stuck.
3. Indexes in the window ascend.
"""

from __future__ import annotations

from collections import deque

from revstore.errors import InvariantViolation


class Inflights:
    """Last indexes and sizes of the messages in the window, oldest first."""

    __slots__ = ("_bytes", "_items", "bytes_max", "count_max")

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self.count_max = count_max
        self.bytes_max = bytes_max
        self._items: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def add(self, index: int, size: int) -> None:
        """A message whose last entry is ``index`` was sent.

        Raises:
            InvariantViolation: the window is full, or ``index`` does not ascend.
        """
        if self.full():
            raise InvariantViolation("a message was added to a full window")
        if self._items and index <= self._items[-1][0]:
            raise InvariantViolation(f"index {index} is in the window already")
        self._items.append((index, size))
        self._bytes += size

    def free_up_to(self, index: int) -> None:
        """Everything up to ``index`` was acknowledged."""
        items = self._items
        while items and items[0][0] <= index:
            self._bytes -= items.popleft()[1]

    def full(self) -> bool:
        """Whether no further message may be sent."""
        return len(self._items) >= self.count_max or self._bytes >= self.bytes_max

    def count(self) -> int:
        """How many messages are on the way."""
        return len(self._items)

    def clear(self) -> None:
        """Forget them all: the follower's state is not known any more."""
        self._items.clear()
        self._bytes = 0
