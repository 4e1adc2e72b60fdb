"""A client of clusters, with the names and values of the embedded store::

    import revstore.client

    async with await revstore.client.connect("http://127.0.0.1:2379") as client:
        await client.put(b"greeting", b"hello")
        print((await client.get(b"greeting")).value)

``connect_sync`` is the same for programs without an event loop. Nothing is imported
before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revstore.client.lease import AsyncLease
    from revstore.client.opening import connect
    from revstore.client.retry import OutcomeUnknown
    from revstore.client.store import AsyncClient
    from revstore.client.sync import Client, Lease, Watcher, connect_sync
    from revstore.client.values import (
        Alarm,
        AuthStatus,
        LeaseInfo,
        Member,
        Permission,
        Status,
    )
    from revstore.client.watch import AsyncWatcher, WatchBatch
    from revstore.interfaces.channel import ChannelTls

_HOMES = {
    "Alarm": "values",
    "AsyncClient": "store",
    "AsyncLease": "lease",
    "AsyncWatcher": "watch",
    "AuthStatus": "values",
    "ChannelTls": "",
    "Client": "sync",
    "Lease": "sync",
    "LeaseInfo": "values",
    "Member": "values",
    "OutcomeUnknown": "retry",
    "Permission": "values",
    "Status": "values",
    "WatchBatch": "watch",
    "Watcher": "sync",
    "connect": "opening",
    "connect_sync": "sync",
}

__all__ = [
    "Alarm",
    "AsyncClient",
    "AsyncLease",
    "AsyncWatcher",
    "AuthStatus",
    "ChannelTls",
    "Client",
    "Lease",
    "LeaseInfo",
    "Member",
    "OutcomeUnknown",
    "Permission",
    "Status",
    "WatchBatch",
    "Watcher",
    "connect",
    "connect_sync",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'revstore.client' has no attribute {name!r}")
    from importlib import import_module

    module = f"revstore.client.{home}" if home else "revstore.interfaces.channel"
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
