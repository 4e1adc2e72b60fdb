"""Workload profiles: a name for a choice of parts and tuning.

A profile only moves defaults: whatever a file, a variable or a flag says wins. The
reasons behind each value are in ``docs/profiles.md``.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Profile(msgspec.Struct, frozen=True):
    """What one profile chooses."""

    name: str
    summary: str
    settings: dict[str, Any]
    """Values by etcd's spelling, typed as in the model."""
    options: dict[tuple[str, str], dict[str, Any]] = {}
    """Plugin options by (kind, plugin); used only if that plugin is chosen."""


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "read-heavy",
            "Many reads and watches, few writes; data near the size of memory.",
            {
                "backend": "lmdb",
            },
        ),
        Profile(
            "write-heavy",
            "Mostly writes, or data larger than memory.",
            {
                "backend": "rocksdb",
                "backend-batch-limit": 100_000,
                "backend-batch-interval": 2.0,
                "compaction-batch-limit": 5000,
                "compaction-sleep-interval": 0.005,
            },
            {
                ("wal", "segment"): {
                    "segment_bytes": 128 * 1024**2,
                    "tail_bytes_max": 64 * 1024**2,
                }
            },
        ),
        Profile(
            "kubernetes",
            "The store behind a Kubernetes API server.",
            {
                "backend": "lmdb",
                "quota-backend-bytes": 8 * 1024**3,
                "watch-progress-notify-interval": 5.0,
                "feature-gates": {"InitialCorruptCheck": True},
            },
        ),
        Profile(
            "embedded",
            "Inside an application: small, one member, quiet.",
            {
                "backend": "lmdb",
                "consensus": "solo",
                "enable-grpc-gateway": False,
                "log-level": "warn",
                "log-format": "console",
            },
            {
                ("wal", "segment"): {
                    "segment_bytes": 8 * 1024**2,
                    "tail_bytes_max": 4 * 1024**2,
                },
                ("backend", "lmdb"): {"map_bytes": 64 * 1024**3},
            },
        ),
    )
}
"""All profiles by name."""
