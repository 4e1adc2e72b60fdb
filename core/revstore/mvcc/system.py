"""The small keyspaces: leases and their keys, alarms, users, members.

Rules of this file:

1. A keyspace is read through the overlays like the keys; there is no history.
"""

from __future__ import annotations

from revstore.interfaces.backend import Pair
from revstore.mvcc.layers import Layers


def system_get(layers: Layers, keyspace: str, key: bytes) -> bytes | None:
    """The newest value of a key."""
    for layer in (layers.active, layers.flushing):
        if layer is not None:
            rows = layer.system.get(keyspace)
            if rows is not None and key in rows:
                return rows[key]
    return layers.snapshot.get(keyspace, key)


def system_scan(
    layers: Layers, keyspace: str, lo: bytes, hi: bytes | None
) -> list[Pair]:
    """The pairs with lo <= key < hi, sorted."""
    pairs: list[Pair] = []
    for part in layers.snapshot.scan(keyspace, lo, hi):
        pairs += part
    merged: dict[bytes, bytes | None] = {}
    for layer in (layers.flushing, layers.active):
        if layer is not None:
            merged |= {
                key: value
                for key, value in layer.system.get(keyspace, {}).items()
                if key >= lo and (hi is None or key < hi)
            }
    if not merged:
        return pairs
    merged = {**dict(pairs), **merged}
    return sorted((key, value) for key, value in merged.items() if value is not None)
