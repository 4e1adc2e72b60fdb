"""The backend "memory": sorted, volatile, the reference for the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from revstore.hookspecs import BackendPlugin, hookimpl
from revstore.interfaces.backend import Backend, BackendCapabilities, Durability

CAPABILITIES = BackendCapabilities(
    durability_max=Durability.VOLATILE, persistent=False, verify=True
)


def make_backend(directory: Path, keyspaces: Sequence[str], options: Any) -> Backend:
    """An empty backend; ``directory`` is not used."""
    from revstore_memory.backend import MemoryBackend

    return MemoryBackend(keyspaces)


@hookimpl
def revstore_register_backend(register: Callable[[BackendPlugin], None]) -> None:
    """Register "memory"."""
    register(
        BackendPlugin(
            name="memory",
            summary="sorted tables in memory; everything is gone at close",
            capabilities=CAPABILITIES,
            factory=make_backend,
        )
    )
