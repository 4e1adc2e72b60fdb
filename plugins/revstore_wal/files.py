"""The file port of the log: all that it asks of a disk.

Rules of this file:

1. ``Files`` is the only way by which the log touches a disk, so that a simulated disk
   can stand in for it.
2. Every method either does the whole of its work or raises ``OSError``; nothing is
   retried here. A failed ``fdatasync`` leaves unknown what is durable.
3. Nothing is durable before ``fdatasync`` of the file; no name is durable before
   ``fsync_dir`` of its directory.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

from revstore.errors import LockedError


class Files(Protocol):
    """What a log needs of a disk. A handle is a small integer, valid until closed."""

    def make_dir(self, directory: Path) -> None:
        """Create one directory (mode 0700) unless it is there.

        Raises:
            FileNotFoundError: its parent is not there.
            OSError: it cannot be made.
        """
        ...

    def listdir(self, directory: Path) -> list[str]:
        """Names in a directory, in no order. Raises: OSError."""
        ...

    def open(self, path: Path, create: bool = False) -> int:
        """Open for reading and writing; ``create`` makes an empty file (mode 0600).

        Raises:
            OSError: it is not there, or ``create`` and it is there.
        """
        ...

    def close(self, handle: int) -> None:
        """Give the handle back; a lock held by it is released. Raises: OSError."""
        ...

    def size(self, handle: int) -> int:
        """Length of the file in bytes. Raises: OSError."""
        ...

    def read(self, handle: int, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, fewer at the end only. Raises: OSError."""
        ...

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``. Raises: OSError."""
        ...

    def fdatasync(self, handle: int) -> None:
        """Make content and length of the file durable. Raises: OSError."""
        ...

    def fallocate(self, handle: int, size: int) -> None:
        """Reserve space up to ``size``; what was not written reads as zeros.

        Raises: OSError.
        """
        ...

    def truncate(self, handle: int, size: int) -> None:
        """Cut or extend the file to ``size``. Raises: OSError."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its final name, at once or not at all. Raises: OSError."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file. Raises: OSError."""
        ...

    def fsync_dir(self, directory: Path) -> None:
        """Make the names in a directory durable. Raises: OSError."""
        ...

    def lock(self, path: Path) -> int:
        """Take the exclusive lock that ``path`` stands for, creating the file.

        Returns a handle whose closing releases the lock.

        Raises:
            LockedError: it is held, by this process or another.
            OSError: the file could not be made.
        """
        ...


class OsFiles:
    """The files of the operating system."""

    def make_dir(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)

    def listdir(self, directory: Path) -> list[str]:
        return os.listdir(directory)

    def open(self, path: Path, create: bool = False) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        return os.open(path, flags, 0o600)

    def close(self, handle: int) -> None:
        os.close(handle)

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def read(self, handle: int, size: int, offset: int) -> bytes:
        data = os.pread(handle, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        got = len(data)
        while got < size and data:
            data = os.pread(handle, size - got, offset + got)
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def pwrite(self, handle: int, data: bytes, offset: int) -> None:
        done = os.pwrite(handle, data, offset)
        while done < len(data):
            done += os.pwrite(handle, memoryview(data)[done:], offset + done)

    def fdatasync(self, handle: int) -> None:
        os.fdatasync(handle)

    def fallocate(self, handle: int, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
        elif os.fstat(handle).st_size < size:
            os.ftruncate(handle, size)

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        os.remove(path)

    def fsync_dir(self, directory: Path) -> None:
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def lock(self, path: Path) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise LockedError(
                f"{path.parent} is open elsewhere: stop the other process that uses "
                "this data directory, or configure another directory"
            ) from None
        except OSError:
            os.close(handle)
            raise
        return handle


class UnsyncedFiles(OsFiles):
    """The operating system's files without any sync, for tests that want speed."""

    def fdatasync(self, handle: int) -> None:
        """Nothing is waited for."""

    def fsync_dir(self, directory: Path) -> None:
        """Nothing is waited for."""
