"""Backends with content, and snapshots of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from revstore.apply.cluster import Cluster
from revstore.interfaces.backend import Backend, Pair
from revstore.mvcc.store import Store
from revstore.mvcc.tables import KEYSPACES
from revstore.plugin.manager import PluginManager
from revstore.snapshot.format import SnapshotHeader
from revstore.snapshot.writer import describe, write_snapshot
from revstore.types import ConfState

BACKENDS = ("memory", "lmdb", "rocksdb")
CLUSTER_ID = 0xC1
MEMBER_ID = 0xA1

Content = Mapping[str, list[Pair]]


@contextmanager
def open_backend(name: str, path: Path) -> Iterator[Backend]:
    """An engine in a directory."""
    path.mkdir(parents=True, exist_ok=True)
    backend = PluginManager().make_backend(name, path, KEYSPACES, {})
    try:
        yield backend
    finally:
        backend.close()


def fill(backend: Backend, keys: int, mark: bytes = b"v", first: int = 1) -> None:
    """Put keys, delete one, compact, and have a membership, as a member would."""
    store = Store(backend)
    Cluster(store).set_conf_state(ConfState(voters=(MEMBER_ID, 7), learners=(9,)))
    for number in range(keys):
        txn = store.begin()
        txn.put(b"key/%06d" % number, mark * (1 + number % 50), 0)
        txn.commit()
        store.set_applied(first + number, 3)
    store.flush()
    store.close()


def content(backend: Backend) -> Content:
    """All rows of all keyspaces."""
    with backend.snapshot() as reader:
        return {
            name: [pair for part in reader.scan(name, b"", None) for pair in part]
            for name in KEYSPACES
        }


def snapshot_of(
    backend: Backend, compression: str | None = "lz4"
) -> tuple[SnapshotHeader, list[bytes]]:
    """A snapshot of a backend, in pieces."""
    with backend.snapshot() as reader:
        header = describe(reader, CLUSTER_ID, MEMBER_ID)
        return header, list(write_snapshot(reader, header, compression))
