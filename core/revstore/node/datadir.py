"""The data directory: its manifest, its lock, where each part lives.

::

    <data-dir>/            0700
        revstore.json      format number and the plugins that made the data
        lock               held by the process that has the directory open
        member/wal/        the write-ahead log
        member/<backend>/  the engine's files

Server and embedded library share this layout, so a directory written by one can be
opened by the other.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from revstore.durable import make_durable, sync_directory
from revstore.errors import ConfigError, FormatError, LockedError, StorageError
from revstore.version import DATA_FORMAT, revstore_version

MANIFEST = "revstore.json"
LOCK = "lock"


class DataDir:
    """An open, locked data directory."""

    def __init__(
        self, path: Path, wal_dir: Path | None, backend: str, wal: str
    ) -> None:
        """Create or open the directory and lock it.

        Raises:
            LockedError: another process has it open.
            FormatError: it was written in a newer format.
            ConfigError: it was written by another backend or log plugin.
            StorageError: it cannot be created or read.
        """
        self.path = path
        self._lock_fd = -1
        try:
            make_durable(path)
            self._lock()
            self.fresh = not (path / MANIFEST).exists()
            if self.fresh:
                self._refuse_strangers()
                self._write_manifest(backend, wal)
            else:
                self._check_manifest(backend, wal)
            self.backend_path = path / "member" / backend
            self.wal_path = wal_directory(path, wal_dir)
            for part in (path / "member", self.backend_path, self.wal_path):
                make_durable(part)
                # One that is there may be so since a kill, without this.
                sync_directory(part.parent)
        except OSError as exc:
            self.close()
            raise StorageError(f"data directory {path}: {exc}") from exc
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock_fd = os.open(self.path / LOCK, flags, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise LockedError(
                f"data directory {self.path} is open in another process or store; "
                "close that one, or use another directory"
            ) from exc

    def _refuse_strangers(self) -> None:
        if (self.path / "member").exists():
            raise ConfigError(
                f"{self.path} has a 'member' folder but no {MANIFEST}: it was not made "
                "by revstore (an etcd data directory cannot be opened; copy the data "
                "with etcdctl make-mirror)"
            )

    def _write_manifest(self, backend: str, wal: str) -> None:
        sync_directory(self.path.parent)
        text = json.dumps(
            {
                "format": DATA_FORMAT,
                "backend": backend,
                "wal": wal,
                "revstore": revstore_version(),
            },
            indent=2,
        )
        temporary = self.path / f"{MANIFEST}.tmp"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(self.path / MANIFEST)
        sync_directory(self.path)

    def _check_manifest(self, backend: str, wal: str) -> None:
        manifest = read_manifest(self.path)
        for kind, wanted in (("backend", backend), ("wal", wal)):
            found = manifest.get(kind)
            if found != wanted:
                raise ConfigError(
                    f"data directory {self.path} was made with {kind} {found!r}; open "
                    f"it with that one, or use another directory for {wanted!r}"
                )

    def close(self) -> None:
        """Release the lock; twice is allowed."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a data directory.

    Raises:
        FormatError: the format is newer than this version reads, or not readable.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        number = int(manifest["format"])
    except (ValueError, KeyError, TypeError) as exc:
        raise FormatError(f"{path / MANIFEST} is damaged: {exc}") from exc
    if number > DATA_FORMAT:
        raise FormatError(
            f"data directory {path} has format {number}, this revstore reads up to "
            f"{DATA_FORMAT}; upgrade revstore (the data was written by "
            f"{manifest.get('revstore', 'a newer one')})"
        )
    return dict(manifest)


def manifest_backend(path: Path) -> str | None:
    """Which backend made the directory, None if it is not a data directory yet."""
    if not (path / MANIFEST).exists():
        return None
    found = read_manifest(path).get("backend")
    return found if isinstance(found, str) else None


def wal_directory(path: Path, wal_dir: Path | None) -> Path:
    """Where the log of a data directory is; ``wal_dir`` is another place for it."""
    return wal_dir or path / "member" / "wal"
