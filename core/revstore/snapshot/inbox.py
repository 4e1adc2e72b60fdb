"""Where a snapshot of another member waits until the backend has it.

Rules of this file:

1. A snapshot that is still being received is a spool, which no crash survives. It
   becomes the one that waits by ``commit``, in one step, when all of it is durable.
2. While one waits the backend counts as damaged (``install``). It leaves, durably,
   only after the backend has it, or when the next one takes its place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Protocol

from revstore.durable import sync_directory
from revstore.errors import StorageError

SYNC_BYTES = 32 << 20
"""So much is written before it is synced, lest the last sync take very long."""


SPOOL = ".spool"
"""How the names of spools go on."""


class Spool(Protocol):
    """A snapshot that is being received. Methods are called by one thread at a time."""

    def write(self, piece: bytes) -> None:
        """Add bytes. Raises: StorageError."""
        ...

    def finish(self) -> None:
        """Make everything durable. Raises: StorageError."""
        ...

    def open(self) -> BinaryIO:
        """Read it, after ``finish``; the caller closes. Raises: StorageError."""
        ...

    def commit(self) -> None:
        """Make a finished one the snapshot that waits, durably (rule 1).

        Raises: StorageError.
        """
        ...

    def discard(self) -> None:
        """Throw it away; one that was committed stays. Raises: nothing."""
        ...


class Inbox(Protocol):
    """Room for one snapshot that waits and for one spool."""

    def spool(self) -> Spool:
        """Begin a spool; what was spooled before is lost. Raises: StorageError."""
        ...

    def open(self) -> BinaryIO | None:
        """The snapshot that waits, None if there is none; the caller closes it.

        Raises: StorageError.
        """
        ...

    def clear(self) -> None:
        """Forget what waits and what is spooled, durably. Raises: StorageError."""
        ...


class FileSpool:
    """A spool that is a file."""

    def __init__(self, path: Path, target: Path) -> None:
        """``target`` is its name once it is committed. Raises: StorageError."""
        self.path = path
        self._target = target
        self._unsynced = 0
        try:
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - see finish
        except OSError as exc:
            raise _failed("begun", path, exc) from exc

    def write(self, piece: bytes) -> None:
        """See ``Spool``."""
        try:
            view = memoryview(piece)
            while view:
                view = view[self._file.write(view) :]
            self._unsynced += len(piece)
            if self._unsynced >= SYNC_BYTES:
                self._unsynced = 0
                os.fdatasync(self._file.fileno())
        except (OSError, ValueError) as exc:
            raise _failed("written", self.path, exc) from exc

    def finish(self) -> None:
        """See ``Spool``."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        except (OSError, ValueError) as exc:
            raise _failed("synced", self.path, exc) from exc

    def open(self) -> BinaryIO:
        """See ``Spool``."""
        try:
            return self.path.open("rb")
        except OSError as exc:
            raise _failed("read", self.path, exc) from exc

    def commit(self) -> None:
        """See ``Spool``."""
        try:
            self.path.rename(self._target)
            sync_directory(self._target.parent)
        except OSError as exc:
            raise _failed("kept", self._target, exc) from exc

    def discard(self) -> None:
        """See ``Spool``."""
        try:
            self._file.close()
            self.path.unlink(missing_ok=True)
        except OSError:
            pass  # The next spool, or the next start, takes its place.


class FileInbox:
    """An inbox of files in the member's directory."""

    def __init__(self, path: Path) -> None:
        """``path`` is where a snapshot waits; spools are beside it."""
        self._path = path
        self._spools = 0

    def spool(self) -> FileSpool:
        """See ``Inbox``."""
        self._remove_spools()
        # A name of its own: who still holds an older spool must not meet this one.
        self._spools += 1
        name = f"{self._path.stem}{SPOOL}{self._spools}"
        return FileSpool(self._path.with_name(name), self._path)

    def open(self) -> BinaryIO | None:
        """See ``Inbox``."""
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise _failed("read", self._path, exc) from exc

    def clear(self) -> None:
        """See ``Inbox``."""
        self._remove_spools()
        try:
            if self._path.exists():
                self._path.unlink()
                sync_directory(self._path.parent)
        except OSError as exc:
            raise _failed("removed", self._path, exc) from exc

    def _remove_spools(self) -> None:
        try:
            for path in self._path.parent.glob(f"{self._path.stem}{SPOOL}*"):
                path.unlink(missing_ok=True)
        except OSError as exc:
            raise _failed("made room for", self._path, exc) from exc


def _failed(what: str, path: Path, exc: Exception) -> StorageError:
    return StorageError(f"the snapshot {path} could not be {what}: {exc}")
