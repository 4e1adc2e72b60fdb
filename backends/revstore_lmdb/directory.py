"""What a data directory has besides LMDB's files: an owner and a format.

LMDB itself lets several processes in; a revstore store has one owner (B-10). The lock
is flock's: it belongs to the open file, so a second open in the same process is
refused like one in another process, and the system drops it when the owner dies.

The format is a line of text, because the engines of LMDB do not know one another's
files and would call them damaged.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from revstore.errors import CorruptionError, FormatError, LockedError

LOCK_FILE = "owner.lock"
FORMAT_FILE = "format"
DATA_FILE = "data.mdb"
LAYOUT = 1
"""Version of the layout described in docs/design/backends.md."""


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


def check_format(directory: Path, engine: str) -> None:
    """Compare the stored format with ours, or store ours in a new directory.

    Raises:
        FormatError: another layout or another engine.
        CorruptionError: there are data but no format.
        OSError: the file system failed.
    """
    try:
        stored = (directory / FORMAT_FILE).read_text("ascii", "replace").split()
    except FileNotFoundError:
        if (directory / DATA_FILE).exists():
            raise CorruptionError(
                f"{directory} has {DATA_FILE} but no file {FORMAT_FILE!r}; "
                "it is not a whole revstore store"
            ) from None
        write_format(directory, engine)
        return
    if stored[:3] != ["revstore-lmdb", "layout", str(LAYOUT)]:
        raise FormatError(
            f"{directory} has the format {' '.join(stored)!r}, this version reads "
            f"layout {LAYOUT}; use a newer revstore"
        )
    if stored[3:] != ["engine", engine]:
        raise FormatError(
            f"{directory} has the format {' '.join(stored)!r}; set the option engine "
            "to that of the store"
        )


def write_format(directory: Path, engine: str) -> None:
    """Store the format, durably and whole or not at all. Raises: OSError."""
    partial = directory / (FORMAT_FILE + ".partial")
    partial.write_text(f"revstore-lmdb layout {LAYOUT} engine {engine}\n", "ascii")
    sync_path(partial)
    partial.rename(directory / FORMAT_FILE)
    sync_path(directory)


def sync_path(path: Path) -> None:
    """Make a file or a directory durable. Raises: OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
