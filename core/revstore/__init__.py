"""revstore: an etcd-compatible, revisioned key-value store made of plugins.

As a library::

    import revstore

    with revstore.open("data") as store:
        store.put(b"greeting", b"hello")
        print(store.get(b"greeting").value)

``revstore.aio.open`` is the same for asyncio; ``revstore serve`` runs a server that
any etcd client can use. Nothing is imported before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revstore.embedded.events import WatchCanceled
    from revstore.embedded.lease import Lease
    from revstore.embedded.store import EmbeddedStore
    from revstore.embedded.store import open_store as open
    from revstore.embedded.txn import Compare, Delete, Get, Put, Txn
    from revstore.embedded.values import (
        DeleteResult,
        EventType,
        HashAnswer,
        KeyValue,
        PutResult,
        RangeAnswer,
        TxnResult,
        WatchEvent,
        prefix_end,
    )
    from revstore.embedded.watch import Watcher
    from revstore.errors import ApiError, RevstoreError

_HOMES = {
    "ApiError": "revstore.errors",
    "Compare": "revstore.embedded.txn",
    "Delete": "revstore.embedded.txn",
    "DeleteResult": "revstore.embedded.values",
    "EmbeddedStore": "revstore.embedded.store",
    "EventType": "revstore.embedded.values",
    "Get": "revstore.embedded.txn",
    "HashAnswer": "revstore.embedded.values",
    "KeyValue": "revstore.embedded.values",
    "Lease": "revstore.embedded.lease",
    "Put": "revstore.embedded.txn",
    "PutResult": "revstore.embedded.values",
    "RangeAnswer": "revstore.embedded.values",
    "RevstoreError": "revstore.errors",
    "Txn": "revstore.embedded.txn",
    "TxnResult": "revstore.embedded.values",
    "WatchCanceled": "revstore.embedded.events",
    "WatchEvent": "revstore.embedded.values",
    "Watcher": "revstore.embedded.watch",
    "open": "revstore.embedded.store",
    "prefix_end": "revstore.embedded.values",
}

__all__ = [
    "ApiError",
    "Compare",
    "Delete",
    "DeleteResult",
    "EmbeddedStore",
    "EventType",
    "Get",
    "HashAnswer",
    "KeyValue",
    "Lease",
    "Put",
    "PutResult",
    "RangeAnswer",
    "RevstoreError",
    "Txn",
    "TxnResult",
    "WatchCanceled",
    "WatchEvent",
    "Watcher",
    "open",
    "prefix_end",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'revstore' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), "open_store" if name == "open" else name)
    globals()[name] = value
    return value
