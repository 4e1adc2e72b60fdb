"""Where plugins come from, found without importing any of them.

Rules of this file:

1. Nothing is imported but the standard library; a plugin's module is a name here.
2. Names that this distribution ships are in a table, so that using them costs no
   look at the metadata of every installed distribution. The table says nothing that
   the entry points of the distribution do not say as well; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

GROUP = "revstore"
OWN_DISTRIBUTION = "revstore"
IN_PROCESS = "(in process)"
"""Stands for the distribution of what was registered by ``PluginManager.register``."""

RESTRICT_VARIABLE = "REVSTORE_PLUGINS"

BUILTIN: dict[str, tuple[str, str]] = {
    "solo": ("consensus", "revstore_solo.plugin"),
    "raft": ("consensus", "revstore_raft.plugin"),
    "grpcio": ("transport", "revstore_grpcio.plugin"),
    "grpc": ("transport", "revstore_grpc.plugin"),
    "tcp": ("transport", "revstore_tcp.plugin"),
    "segment": ("wal", "revstore_wal.plugin"),
    "lmdb": ("backend", "revstore_lmdb.plugin"),
    "rocksdb": ("backend", "revstore_rocksdb.plugin"),
    "memory": ("backend", "revstore_memory.plugin"),
}
"""Kind and module of each plugin that this distribution ships, by name."""


class Source(msgspec.Struct, frozen=True):
    """One entry point: a name, the module behind it and who brought it."""

    name: str
    module: str
    distribution: str
    version: str = ""

    def describe(self) -> str:
        """Distribution and version for messages. Raises: nothing."""
        return f"{self.distribution} {self.version}".rstrip()


def builtin_source(name: str) -> Source | None:
    """The shipped plugin of that name, or None. Raises: nothing."""
    found = BUILTIN.get(name)
    return None if found is None else Source(name, found[1], OWN_DISTRIBUTION)


def normalized(distribution: str) -> str:
    """A distribution name in the spelling that is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def allowed_distributions(environ: Mapping[str, str]) -> frozenset[str] | None:
    """The distributions that REVSTORE_PLUGINS admits, None if it is not set.

    The own distribution is always admitted. An empty value admits no other.
    """
    value = environ.get(RESTRICT_VARIABLE)
    if value is None:
        return None
    names = {normalized(part.strip()) for part in value.split(",") if part.strip()}
    return frozenset(names | {OWN_DISTRIBUTION})


def installed_sources(environ: Mapping[str, str]) -> list[Source]:
    """The entry points of all installed distributions that are admitted.

    Sorted by name and distribution. Raises: nothing.
    """
    from importlib import metadata

    allowed = allowed_distributions(environ)
    found = set()
    for entry in metadata.entry_points(group=GROUP):
        distribution = entry.dist.name if entry.dist is not None else "(unknown)"
        if allowed is not None and normalized(distribution) not in allowed:
            continue
        version = entry.dist.version if entry.dist is not None else ""
        module = entry.value.partition(":")[0].strip()
        found.add((entry.name, distribution, version, module))
    return [
        Source(name, module, distribution, version)
        for name, distribution, version, module in sorted(found)
    ]
