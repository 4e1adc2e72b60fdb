"""What a check of the backend contract is given: fresh directories and backends.

A harness is made from the module that a distribution names in its entry point, so it
reaches the plugin by the same door as core, also from a child process.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from revstore.hookspecs import BackendPlugin
from revstore.interfaces.backend import (
    Backend,
    BackendCapabilities,
    Durability,
    Pair,
    Snapshot,
    WriteBatch,
)

KEYSPACES = ("alpha", "beta", "gamma")
CHILD_TIMEOUT_S = 240.0
"""How long a child process may take; only a failing check waits that long."""


class Unsupported(Exception):  # noqa: N818 - a verdict, not an error
    """The plugin declares that it does not have what a check needs."""


def load_plugin(module: str, name: str = "") -> BackendPlugin:
    """The descriptor that a module registers; ``name`` chooses among several.

    Raises:
        ImportError: there is no such module.
        LookupError: the module registers no backend of that name.
    """
    found: list[BackendPlugin] = []
    importlib.import_module(module).revstore_register_backend(found.append)
    for plugin in found:
        if name in ("", plugin.name):
            return plugin
    raise LookupError(f"{module} registers no backend {name!r}")


class BackendHarness:
    """Opens the backend under test, each store in a directory of its own.

    Leaving the harness's ``with`` block closes every backend that a check left open.
    """

    def __init__(
        self,
        module: str,
        root: Path,
        options: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        seed: int = 0,
    ) -> None:
        self.module = module
        self.root = root
        self.options = dict(options or {})
        self.plugin = load_plugin(module, name)
        self.seed = seed
        """Seed of everything random in the checks; printed when one fails."""
        self._numbers = count(1)
        self._opened: list[Backend] = []

    @property
    def capabilities(self) -> BackendCapabilities:
        """What the plugin declares."""
        return self.plugin.capabilities

    def require(self, holds: bool, what: str) -> None:
        """Stop the check where the plugin declares less than it needs.

        Raises:
            Unsupported: ``holds`` is False.
        """
        if not holds:
            raise Unsupported(f"{self.plugin.name} declares: {what}")

    def directory(self) -> Path:
        """A new, empty directory."""
        path = self.root / f"store-{next(self._numbers)}"
        path.mkdir(parents=True)
        return path

    def open(self, directory: Path, keyspaces: tuple[str, ...] = KEYSPACES) -> Backend:
        """Open a store, new or not. Raises: what the plugin's factory raises."""
        options = msgspec.convert(self.options, self.plugin.options)
        backend = self.plugin.factory(directory, keyspaces, options)
        self._opened.append(backend)
        return backend

    @contextmanager
    def store(self) -> Iterator[Backend]:
        """A backend in a new directory, closed at the end."""
        backend = self.open(self.directory())
        try:
            yield backend
        finally:
            backend.close()

    @property
    def weakest(self) -> Durability:
        """The cheapest level that every backend accepts."""
        return Durability.VOLATILE

    def spawn(self, command: str, directory: Path, *rest: str) -> subprocess.Popen[str]:
        """Start ``backend_child`` on a directory, its output in a pipe."""
        arguments = [
            sys.executable,
            "-m",
            "revstore_conformance.backend_child",
            command,
            self.module,
            self.plugin.name,
            json.dumps(self.options),
            str(directory),
            *rest,
        ]
        return subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run_child(self, command: str, directory: Path, *rest: str) -> None:
        """Run ``backend_child`` to its end; it fails the check by its exit code."""
        with self.spawn(command, directory, *rest) as child:
            output, _ = child.communicate(timeout=CHILD_TIMEOUT_S)
        assert child.returncode == 0, f"child {command} failed:\n{output}"

    def __enter__(self) -> BackendHarness:
        return self

    def __exit__(self, *exc: object) -> None:
        for backend in self._opened:
            backend.close()


def write_pairs(
    backend: Backend,
    keyspace: str,
    pairs: list[Pair],
    durability: Durability = Durability.VOLATILE,
) -> None:
    """Put pairs in one batch."""
    batch = WriteBatch()
    batch.keyspace(keyspace).puts = list(pairs)
    backend.write(batch, durability)


def read_all(
    snapshot: Snapshot,
    keyspace: str,
    lo: bytes = b"",
    hi: bytes | None = None,
    **how: Any,
) -> list[Pair]:
    """All pairs of a scan as one list."""
    return [pair for rows in snapshot.scan(keyspace, lo, hi, **how) for pair in rows]


def contents(
    backend: Backend, keyspaces: tuple[str, ...] = KEYSPACES
) -> dict[str, list[Pair]]:
    """Everything that a new snapshot shows."""
    with backend.snapshot() as snapshot:
        return {name: read_all(snapshot, name) for name in keyspaces}
