"""Harnesses for logs that go through the file port of ``revstore_wal``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from revstore.errors import StorageError
from revstore.interfaces.wal import Wal
from revstore_conformance.files import Operation, PowerCut, SimulatedFiles
from revstore_conformance.wal import METADATA, NotRun, WalHarness
from revstore_wal.files import Files, OsFiles

MakeWal = Callable[[Path, bytes, bool, Files], Wal]


class SimulatedHarness(WalHarness):
    """Logs on a simulated disk."""

    def __init__(self, make: MakeWal, directory: Path = Path("/node/wal")) -> None:
        self._make = make
        self.directory = directory
        self.files = SimulatedFiles()

    def reset(self) -> None:
        self.files = SimulatedFiles()

    def open(self, metadata: bytes = METADATA, threaded: bool = False) -> Wal:
        return self._make(self.directory, metadata, threaded, self.files)

    def cut_power_in_sync(self, wal: Wal, random: Random) -> None:
        self.files.before = stop_at_sync
        try:
            wal.sync()
        except (StorageError, PowerCut):
            pass
        finally:
            self.files.before = None
        self.files.crash(random)

    def cut_power(self, random: Random) -> None:
        self.files.crash(random)

    def fail_next(self, kind: str) -> None:
        self.files.fail("pwrite" if kind == "write" else "fdatasync")

    def sync_count(self) -> int:
        if self.files.trace is None:
            self.files.trace = []
        return sum(operation.kind == "fdatasync" for operation in self.files.trace)

    def damage(self, random: Random) -> None:
        names = sorted(self.files.listdir(self.directory))
        path = self.directory / next(name for name in names if name.endswith(".wal"))
        content = bytearray(self.files.content(path))
        _damage(content, random)
        self.files.replace(path, bytes(content))

    def image(self) -> object:
        return {
            name: self.files.content(self.directory / name)
            for name in self.files.listdir(self.directory)
            if name.endswith(".wal")
        }

    def disk_is_memory(self) -> bool:
        return True


class RealHarness(WalHarness):
    """Logs on the real disk, below a directory of the test's own."""

    def __init__(self, make: MakeWal, parent: Path) -> None:
        self._make = make
        self._parent = parent
        self._number = 0

    @property
    def directory(self) -> Path:
        """Where the log is."""
        return self._parent / f"wal{self._number}"

    def reset(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self._number += 1

    def open(self, metadata: bytes = METADATA, threaded: bool = False) -> Wal:
        return self._make(self.directory, metadata, threaded, OsFiles())

    def damage(self, random: Random) -> None:
        path = sorted(self.directory.glob("*.wal"))[0]
        content = bytearray(path.read_bytes())
        _damage(content, random)
        path.write_bytes(content)

    def image(self) -> object:
        return {path.name: path.read_bytes() for path in self.directory.glob("*.wal")}


def stop_at_sync(operation: Operation) -> None:
    """A hook that stops the log before a sync. Raises: PowerCut."""
    if operation.kind == "fdatasync":
        raise PowerCut


def _damage(content: bytearray, random: Random) -> None:
    """Change a few bytes in the first half of what was written."""
    end = len(content.rstrip(b"\0")) // 2
    at = random.randrange(end // 4, end)
    for offset in range(at, min(at + random.choice((1, 8, 512)), end)):
        content[offset] ^= random.randrange(1, 256)


__all__ = ["MakeWal", "NotRun", "RealHarness", "SimulatedHarness", "stop_at_sync"]
