"""Password hashing away from the loop, one at a time.

Rules of this file:

1. At most one hash is with the member's worker thread: work of the storage engine that
   is handed over meanwhile waits for one hash, not for all that clients asked for.
2. The queue is bounded; beyond it a caller is refused at once instead of timing out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from revstore.api import errors
from revstore.errors import ApiError

HASHES_WAITING_MAX = 128
"""About eight seconds of work at the default cost, a little over a request's timeout."""

RunInThread = Callable[[Callable[[], Any], Callable[[Any], None]], None]
"""``run_in_thread(work, done)``: ``done`` gets the result or the exception, on the loop."""

Finished = Callable[[Any], None]


class HashQueue:
    """Hands hashing to a thread, first come first served."""

    def __init__(self, run_in_thread: RunInThread) -> None:
        self._run_in_thread = run_in_thread
        self._waiting: deque[tuple[Callable[[], Any], Finished]] = deque()
        self._busy = False

    def submit(self, work: Callable[[], Any], done: Finished) -> None:
        """Have ``work`` run off the loop; ``done`` gets its result or exception.

        Raises:
            ApiError: TOO_MANY_REQUESTS, and ``done`` is never called.
        """
        if len(self._waiting) >= HASHES_WAITING_MAX:
            raise errors.TOO_MANY_REQUESTS.fresh()
        self._waiting.append((work, done))
        if not self._busy:
            self._busy = True
            self._next()

    def _next(self) -> None:
        work, done = self._waiting.popleft()

        def finished(result: Any) -> None:
            try:
                done(result)
            finally:
                if self._waiting:
                    self._next()
                else:
                    self._busy = False

        self._run_in_thread(work, finished)


def failure_of(result: object) -> ApiError | None:
    """The answer to a caller whose hashing went wrong; None if it did not."""
    if isinstance(result, Exception):
        return ApiError(errors.Code.INTERNAL, "revstore: password hashing failed")
    return None
