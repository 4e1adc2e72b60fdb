"""A machine whose power can be cut: the log on a simulated disk, the engine on copies.

The log runs on ``SimulatedFiles``, which knows what each sync made durable. An engine
cannot be given another disk, so its directory is copied after each of its writes, and
a power cut puts back a copy that the engine's promises allow:

- memory: nothing at all, always;
- lmdb: the state after the newest write or, if that was not SYNC, the one before;
- rocksdb: the newest state with its log cut anywhere behind what was synced.

What happens in the middle of an engine's own write is in ``test_system_calls``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from revstore.hookspecs import BackendPlugin, WalPlugin
from revstore.interfaces.backend import (
    Backend,
    BackendStats,
    Durability,
    Snapshot,
    WriteBatch,
)
from revstore.interfaces.wal import Wal, WalCapabilities
from revstore.node.datadir import MANIFEST
from revstore.plugin.manager import PluginManager
from revstore_conformance.files import SimulatedFiles
from revstore_wal.log import SegmentWal
from revstore_wal.options import SegmentOptions

LOG_DIRECTORY = Path("/node/wal")
BACKEND = "recorded"
LOG = "simulated"
VANISHED_MAX = 20


class Engine:
    """What the engine's directory may be after a power cut."""

    def __init__(self, kind: str, place: Path, numbers: count[int]) -> None:
        self.kind = kind
        self._place = place
        self._numbers = numbers
        self._copies: list[Path] = []
        self._synced_logs: dict[str, int] = {}
        self.on_change: Callable[[], None] | None = None

    def changed(self, directory: Path, synced: bool) -> None:
        """A write (or a sync) has returned."""
        if self.kind == "memory":
            return
        copy = self._place / f"copy-{next(self._numbers)}"
        _copy(directory, copy)
        self._copies.append(copy)
        keep = 1 if synced or self.kind == "rocksdb" else 2
        for old in self._copies[:-keep]:
            shutil.rmtree(old)
        del self._copies[:-keep]
        if synced:
            logs = copy.glob("*.log")
            self._synced_logs = {path.name: path.stat().st_size for path in logs}
        if self.on_change is not None:
            self.on_change()

    def after_cut(self, target: Path, random: Random) -> None:
        """Make ``target`` what a power cut could leave."""
        if not self._copies:
            target.mkdir()
            return
        shutil.copytree(random.choice(self._copies), target)
        logs = sorted(target.glob("*.log"))
        if logs:
            size = logs[-1].stat().st_size
            least = self._synced_logs.get(logs[-1].name, 0)
            cut = random.choice((least, size, random.randint(least, size)))
            with logs[-1].open("r+b") as file:
                file.truncate(cut)

    def after_kill(self, target: Path) -> None:
        """Make ``target`` what the death of the process leaves."""
        if self._copies:
            shutil.copytree(self._copies[-1], target)
        else:
            target.mkdir()

    def forget(self) -> None:
        """Remove all copies."""
        for copy in self._copies:
            shutil.rmtree(copy)
        self._copies.clear()


def _copy(source: Path, target: Path) -> None:
    """Copy in the order that docs/design/backends.md asks for."""
    patterns = ("data.mdb", "format", "*.sst", "MANIFEST-*", "CURRENT", "OPTIONS-*")
    for _ in range(VANISHED_MAX):
        target.mkdir()
        try:
            for pattern in (*patterns, "IDENTITY", "rocksdict-config.json", "*.log"):
                for path in source.glob(pattern):
                    shutil.copyfile(path, target / path.name)
            return
        except FileNotFoundError:
            shutil.rmtree(target)
    raise AssertionError(f"{source} does not hold still")


class RecordedBackend(Backend):
    """An engine whose directory is copied after each write; can be told to fail."""

    def __init__(self, inner: Backend, directory: Path, engine: Engine) -> None:
        self.capabilities = inner.capabilities
        self._inner = inner
        self._directory = directory
        self._engine = engine
        self.fail_at: tuple[str, int] | None = None
        """The how-manieth write, or sync, from now on fails."""
        self.calls_after_failure = 0
        engine.changed(directory, synced=True)

    def _may_fail(self, kind: str) -> None:
        from revstore.errors import StorageError

        if self.fail_at is None or self.fail_at[0] != kind:
            return
        self.fail_at = (kind, self.fail_at[1] - 1)
        if self.fail_at[1] < 0:
            self.calls_after_failure += 1
        if self.fail_at[1] <= 0:
            raise StorageError(f"injected: {kind} of the engine")

    def write(self, batch: WriteBatch, durability: Durability) -> None:
        self._may_fail("write")
        self._inner.write(batch, durability)
        self._engine.changed(self._directory, durability >= Durability.SYNC)

    def sync(self) -> None:
        self._may_fail("sync")
        self._inner.sync()
        self._engine.changed(self._directory, synced=True)

    def snapshot(self) -> Snapshot:
        return self._inner.snapshot()

    def stats(self) -> BackendStats:
        return self._inner.stats()

    def checkpoint(self, path: Path) -> None:
        self._inner.checkpoint(path)

    def compact(self) -> None:
        self._inner.compact()

    def verify(self) -> list[str]:
        return self._inner.verify()

    def close(self) -> None:
        self._inner.close()


class Plugins:
    """A plugin manager whose log and engine are those of the machine being opened."""

    def __init__(self, kind: str) -> None:
        self.machine: Machine | None = None
        self.manager = PluginManager({})
        self._real = real = self.manager.find("backend", kind)
        self.manager.register(
            BackendPlugin(
                name=BACKEND,
                summary="Copied after each write.",
                capabilities=real.capabilities,
                factory=self._make_backend,
                options=real.options,
            )
        )
        self.manager.register(
            WalPlugin(
                name=LOG,
                summary="On a simulated disk.",
                capabilities=WalCapabilities(persistent=True),
                factory=self._make_wal,
            )
        )

    def _make_backend(
        self, directory: Path, keyspaces: Sequence[str], options: Any
    ) -> Backend:
        assert self.machine is not None
        inner = self._real.factory(directory, keyspaces, options)
        backend = RecordedBackend(inner, directory, self.machine.engine)
        self.machine.backend = backend
        return backend

    def _make_wal(
        self, directory: Path, metadata: bytes, threaded: bool, options: Any
    ) -> Wal:
        assert self.machine is not None
        machine = self.machine
        return SegmentWal(
            LOG_DIRECTORY, metadata, threaded, machine.options, machine.files
        )


class Machine:
    """One data directory on disks whose power can be cut."""

    def __init__(
        self,
        kind: str,
        place: Path,
        options: SegmentOptions,
        files: SimulatedFiles | None = None,
        numbers: count[int] | None = None,
    ) -> None:
        self.kind = kind
        self.files = files or SimulatedFiles()
        self._place = place
        self.options = options
        self._numbers = numbers or count(1)
        self.engine = Engine(kind, place, self._numbers)
        self.directory = place / f"data-{next(self._numbers)}"
        self.backend: RecordedBackend | None = None

    def power_cut(self, random: Random) -> Machine:
        """A machine that finds what a power cut now could leave; this one goes on."""
        twin = self._twin(self.files.crashed(random))
        self.engine.after_cut(twin._engine_directory(), random)
        return twin

    def killed(self) -> Machine:
        """A machine that finds what the death of the process leaves."""
        self.files.kill()
        twin = self._twin(self.files)
        self.engine.after_kill(twin._engine_directory())
        return twin

    def _twin(self, files: SimulatedFiles) -> Machine:
        twin = Machine(self.kind, self._place, self.options, files, self._numbers)
        member = twin.directory / "member"
        member.mkdir(parents=True)
        shutil.copyfile(self.directory / MANIFEST, twin.directory / MANIFEST)
        return twin

    def _engine_directory(self) -> Path:
        return self.directory / "member" / BACKEND

    def forget(self) -> None:
        """Remove what the machine has on the real disk."""
        self.engine.forget()
        shutil.rmtree(self.directory)
