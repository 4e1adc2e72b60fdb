"""A HashKV in turns of the loop, so that it stops nobody.

Rules of this file:

1. Each turn looks at a bounded number of rows, and whatever waits on the loop comes
   between two turns.
2. The job is closed at its end, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from revstore.api import errors
from revstore.errors import ApiError, StorageError
from revstore.mvcc.hashing import HashJob, HashResult

ROWS_PER_TURN = 1000

Hashed = Callable[[HashResult | ApiError], None]
"""Gets the hash or why there is none, once."""


class Loop(Protocol):
    """Where the turns come from."""

    def schedule(self, work: Callable[[], None], delay_s: float = 0.0) -> None:
        """Run work on the loop, after what waits there already. Raises: nothing."""
        ...


def run_hash(
    loop: Loop,
    job: HashJob,
    done: Hashed,
    given_up: Callable[[], bool] = lambda: False,
) -> None:
    """Begin at once and go on in turns; nobody hears of a job that was given up.

    Raises: nothing; failures go to ``done``.
    """
    if given_up():
        job.close()
        return
    try:
        finished = job.step(ROWS_PER_TURN)
    except (ApiError, StorageError) as exc:
        job.close()
        done(exc if isinstance(exc, ApiError) else errors.storage_failure(exc))
        return
    if finished:
        done(job.result)
    else:
        # A function that knows itself would be a cycle, with the job's memory in it.
        loop.schedule(partial(run_hash, loop, job, done, given_up))
