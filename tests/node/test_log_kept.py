"""How much of the log a member keeps, and so reads at its next start."""

from __future__ import annotations

from pathlib import Path

import pytest

import revstore

SEGMENT_BYTES = 1 << 20
VALUE = bytes(50_000)
PUTS = 100


@pytest.mark.parametrize("backend", ["lmdb", "rocksdb"])
def test_the_log_is_purged_by_bytes_too(backend: str, tmp_path: Path) -> None:
    """A few large entries are enough for the log behind the backend to be freed.

    Only the number of entries counted: ten thousand transactions of 100 kB kept a
    gigabyte of log, all of it read at the next start.
    """
    options = {"segment_bytes": SEGMENT_BYTES}
    path = tmp_path / "store"
    with revstore.open(
        path, backend=backend, wal_options=options, snapshot_bytes=SEGMENT_BYTES
    ) as store:
        for number in range(PUTS):
            store.put(b"%d" % number, VALUE)
            store.sync()
        assert store.replica.wal.first_index() > PUTS // 2
    with revstore.open(path, wal_options=options) as store:
        assert store.count() == PUTS


@pytest.mark.parametrize("backend", ["lmdb", "rocksdb"])
def test_a_clean_close_leaves_one_segment(backend: str, tmp_path: Path) -> None:
    """What was closed in order is not read again from the log at the next start."""
    options = {"segment_bytes": SEGMENT_BYTES}
    path = tmp_path / "store"
    with revstore.open(path, backend=backend, wal_options=options) as store:
        for number in range(PUTS):
            store.put(b"%d" % number, VALUE)
        assert store.replica.wal.first_index() == 1
        revision = store.revision
    assert len(list((path / "member" / "wal").glob("*.wal"))) == 1
    with revstore.open(path, wal_options=options) as store:
        assert store.revision == revision
        assert store.count() == PUTS


def test_a_volatile_backend_keeps_the_whole_log(tmp_path: Path) -> None:
    """Nothing is purged that only the log has."""
    options = {"segment_bytes": SEGMENT_BYTES}
    path = tmp_path / "store"
    for again in range(2):
        with revstore.open(
            path, backend="memory", wal_options=options, snapshot_bytes=SEGMENT_BYTES
        ) as store:
            assert store.count() == again * PUTS
            for number in range(PUTS):
                store.put(b"%d" % number, VALUE)
                store.sync()
            assert store.count() == PUTS
            assert store.replica.wal.first_index() == 1
