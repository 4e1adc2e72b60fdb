"""Trying a plugin out: import its driver, make it with defaults, close it.

Rules of this file:

1. What is made lives in a temporary directory and is closed again.
2. Nothing is listened on: a transport is made but not started.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from revstore.errors import PluginError, RevstoreError
from revstore.interfaces.backend import Durability, WriteBatch
from revstore.interfaces.consensus import ConsensusStart
from revstore.plugin.manager import PluginManager
from revstore.plugin.report import PluginReport
from revstore.types import ConfState, Entry, HardState

_KEYSPACE = "doctor"


class EmptyLog:
    """A log without any entry, for making a consensus machine."""

    def first_index(self) -> int:
        """Raises: nothing."""
        return 1

    def last_index(self) -> int:
        """Raises: nothing."""
        return 0

    def term(self, index: int) -> int | None:
        """Raises: nothing."""
        return 0 if index == 0 else None

    def read(self, lo: int, hi: int, bytes_max: int = 0) -> list[Entry]:
        """Raises: nothing."""
        return []


def diagnose(manager: PluginManager, report: PluginReport) -> str:
    """What is wrong with a plugin and what to do, empty if it works.

    Raises: nothing.
    """
    if report.status not in ("ok", "driver missing"):
        return report.detail
    try:
        with tempfile.TemporaryDirectory(prefix="revstore-doctor-") as folder:
            _try_out(manager, report, Path(folder))
    except RevstoreError as exc:
        return str(exc)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}; report it to {report.distribution}"
    return ""


def _try_out(manager: PluginManager, report: PluginReport, folder: Path) -> None:
    if report.kind == "backend":
        _try_backend(manager, report.name, folder)
    elif report.kind == "wal":
        wal = manager.make_wal(report.name, folder / "wal", b"doctor", False)
        wal.close()
    elif report.kind == "consensus":
        start = ConsensusStart(
            id=1,
            hard_state=HardState(),
            conf_state=ConfState(voters=(1,)),
            applied=0,
            log=EmptyLog(),
            random=Random(0),
        )
        manager.make_consensus(report.name, start)
    elif report.kind == "transport":
        manager.make_transport(report.name)


def _try_backend(manager: PluginManager, name: str, folder: Path) -> None:
    backend = manager.make_backend(name, folder / "data", [_KEYSPACE])
    try:
        batch = WriteBatch()
        batch.put(_KEYSPACE, b"key", b"value")
        backend.write(batch, min(Durability.SYNC, backend.capabilities.durability_max))
        with backend.snapshot() as snapshot:
            if snapshot.get(_KEYSPACE, b"key") != b"value":
                raise PluginError(f"backend {name!r} does not return what was written")
    finally:
        backend.close()
