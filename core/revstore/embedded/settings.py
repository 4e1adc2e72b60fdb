"""From the arguments of ``open`` to a member's settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from revstore.errors import UsageError
from revstore.node.datadir import manifest_backend
from revstore.node.settings import MemberSettings, PluginChoice

DEFAULT_BACKEND = "lmdb"
WAL_OPTIONS: Mapping[str, Any] = {"segment_bytes": 8 << 20}
"""A small store should not reserve 64 MiB for its log, nor read as much at a start."""
TUNABLE = frozenset(MemberSettings.__struct_fields__) - {
    "data_dir",
    "backend",
    "wal",
    "consensus",
}


def make_settings(
    path: str | Path,
    backend: str | None,
    backend_options: Mapping[str, Any] | None,
    wal_options: Mapping[str, Any] | None,
    consensus: str,
    settings: Mapping[str, Any],
) -> MemberSettings:
    """Settings for an embedded store; without a backend, the one that made the data.

    Raises:
        UsageError: a setting is unknown.
        FormatError: the directory was written by a newer revstore.
    """
    unknown = set(settings) - TUNABLE
    if unknown:
        raise UsageError(
            f"unknown setting {', '.join(sorted(unknown))}; "
            f"known ones: {', '.join(sorted(TUNABLE))}"
        )
    directory = Path(path)
    name = backend or manifest_backend(directory) or DEFAULT_BACKEND
    values: dict[str, Any] = {"quota_bytes": 0, **settings}
    return MemberSettings(
        data_dir=directory,
        backend=PluginChoice(name, dict(backend_options or {})),
        wal=PluginChoice("segment", {**WAL_OPTIONS, **(wal_options or {})}),
        consensus=PluginChoice(consensus),
        **values,
    )
