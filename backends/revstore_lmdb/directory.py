"""The exclusive lock of a data directory.

LMDB itself lets several processes in; a revstore store has one owner (B-10). The lock
is flock's: it belongs to the open file, so a second open in the same process is
refused like one in another process, and the system drops it when the owner dies.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from revstore.errors import LockedError

LOCK_FILE = "owner.lock"


class DirectoryLock:
    """Holds the directory from construction until ``release``."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            LockedError: somebody else holds it.
        """
        path = directory / LOCK_FILE
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._fd)
            raise LockedError(
                f"{directory} is open in another process or by another backend; "
                "close that one first"
            ) from exc

    def release(self) -> None:
        """Let the directory go; a forked child that kept the file does not hold it."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Close the file without unlocking: a forked child must leave its parent's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
