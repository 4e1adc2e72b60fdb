"""The clauses of the backend contract on writing, opening and ending (B-01, B-02, B-06 to B-14).

Each check names its clauses in its docstring and is given a ``BackendHarness``.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from revstore.errors import LockedError, StorageError, UsageError
from revstore.interfaces.backend import Backend, Durability, Pair, WriteBatch
from revstore_conformance.backend_harness import (
    KEYSPACES,
    BackendHarness,
    contents,
    read_all,
    write_pairs,
)

MIB = 1024 * 1024


def check_batch_reaches_all_keyspaces_at_once(harness: BackendHarness) -> None:
    """B-01, B-05: a batch shows in all keyspaces together, and not in older views."""
    with harness.store() as backend:
        before = backend.snapshot()
        batch = WriteBatch()
        for name in KEYSPACES:
            batch.put(name, b"key", name.encode())
        backend.write(batch, harness.weakest)
        with backend.snapshot() as after:
            for name in KEYSPACES:
                assert before.get(name, b"key") is None
                assert after.get(name, b"key") == name.encode()
        before.close()


def check_refused_batch_changes_nothing(harness: BackendHarness) -> None:
    """B-01, B-03: a batch that breaks a limit is refused whole, and can be corrected."""
    with harness.store() as backend:
        too_long = bytes(2 * MIB + 1)
        too_large = bytes(harness.capabilities.value_bytes_max + 1)
        faults: tuple[tuple[str, bytes, bytes], ...] = (
            ("nowhere", b"key", b"value"),
            ("gamma", too_long, b"value"),
            ("gamma", b"key", too_large),
        )
        for name, key, value in faults:
            batch = WriteBatch()
            batch.put("alpha", b"good", b"value")
            batch.put(name, key, value)
            with pytest.raises(UsageError):
                backend.write(batch, harness.weakest)
        batch = WriteBatch()
        batch.delete("alpha", too_long)
        with pytest.raises(UsageError):
            backend.write(batch, harness.weakest)
        assert contents(backend) == {name: [] for name in KEYSPACES}
        write_pairs(backend, "alpha", [(b"good", b"value")])
        assert contents(backend)["alpha"] == [(b"good", b"value")]


def check_order_within_a_batch(harness: BackendHarness) -> None:
    """B-02: ranges go first, then deletes, then puts; the last put of a key wins."""
    with harness.store() as backend:
        write_pairs(backend, "alpha", [(b"a", b"0"), (b"b", b"0"), (b"c", b"0")])
        batch = WriteBatch()
        batch.put("alpha", b"b", b"1")
        batch.put("alpha", b"a", b"1")
        batch.put("alpha", b"b", b"2")
        batch.delete("alpha", b"a")
        batch.delete("alpha", b"absent")
        batch.delete_range("alpha", b"b", None)
        backend.write(batch, harness.weakest)
        assert contents(backend)["alpha"] == [(b"a", b"1"), (b"b", b"2")]


def check_order_with_a_large_range(harness: BackendHarness) -> None:
    """B-02: a put survives a range delete of its own batch, however large the range."""
    rows = [(b"%05d" % number, b"old") for number in range(3000)]
    with harness.store() as backend:
        write_pairs(backend, "alpha", rows)
        write_pairs(backend, "beta", rows)
        batch = WriteBatch()
        batch.put("alpha", b"01500", b"new")
        batch.delete_range("alpha", b"00010", b"02990")
        batch.delete_range("alpha", b"5", b"4")
        batch.delete_range("alpha", b"00000", b"00000")
        backend.write(batch, harness.weakest)
        expected = [*rows[:10], (b"01500", b"new"), *rows[2990:]]
        found = contents(backend)
        assert found["alpha"] == expected
        assert found["beta"] == rows
        batch = WriteBatch()
        batch.delete_range("alpha", b"", None)
        batch.put("alpha", b"", b"empty")
        backend.write(batch, harness.weakest)
        found = contents(backend)
        assert found["alpha"] == [(b"", b"empty")]
        assert found["beta"] == rows


def check_closed_backend(harness: BackendHarness) -> None:
    """B-09: after close everything raises StorageError, open snapshots too."""
    backend = harness.open(harness.directory())
    write_pairs(backend, "alpha", [(b"%d" % number, b"v") for number in range(50)])
    snapshot = backend.snapshot()
    scan = snapshot.scan("alpha", b"", None, chunk=2)
    next(scan)
    backend.close()
    backend.close()
    for call in (
        lambda: write_pairs(backend, "alpha", [(b"k", b"v")]),
        backend.sync,
        backend.snapshot,
        backend.stats,
        backend.compact,
        lambda: snapshot.get("alpha", b"1"),
        lambda: snapshot.get_many("alpha", [b"1"]),
        lambda: snapshot.count("alpha", b"", None),
        lambda: read_all(snapshot, "alpha"),
        lambda: next(scan),
    ):
        with pytest.raises(StorageError):
            call()
    snapshot.close()


def check_closed_snapshot(harness: BackendHarness) -> None:
    """B-09: a closed snapshot raises StorageError; the backend goes on."""
    with harness.store() as backend:
        write_pairs(backend, "alpha", [(b"%d" % number, b"v") for number in range(50)])
        snapshot = backend.snapshot()
        scan = snapshot.scan("alpha", b"", None, chunk=2)
        next(scan)
        snapshot.close()
        for call in (
            lambda: snapshot.get("alpha", b"1"),
            lambda: snapshot.get_many("alpha", [b"1"]),
            lambda: read_all(snapshot, "alpha", reverse=True),
            lambda: next(scan),
        ):
            with pytest.raises(StorageError):
                call()
        assert len(contents(backend)["alpha"]) == 50


def check_reopen(harness: BackendHarness) -> None:
    """B-06: close and open give everything back; a keyspace can be added later."""
    harness.require(harness.capabilities.persistent, "not persistent")
    directory = harness.directory()
    backend = harness.open(directory)
    pairs = [(b"%03d" % number, b"v" * number) for number in range(200)]
    for name in KEYSPACES:
        write_pairs(backend, name, pairs)
    held = backend.snapshot()
    scan = held.scan("alpha", b"", None, chunk=3)
    next(scan)
    backend.close()
    backend = harness.open(directory, ("delta", *reversed(KEYSPACES)))
    assert contents(backend) == dict.fromkeys(KEYSPACES, pairs)
    assert contents(backend, ("delta",)) == {"delta": []}
    backend.close()


def check_second_open_is_refused(harness: BackendHarness) -> None:
    """B-10: a directory that is open here or in another process raises LockedError."""
    harness.require(harness.capabilities.persistent, "not persistent")
    directory = harness.directory()
    backend = harness.open(directory)
    write_pairs(backend, "alpha", [(b"k", b"v")])
    with pytest.raises(LockedError):
        harness.open(directory)
    harness.run_child("locked", directory)
    assert contents(backend)["alpha"] == [(b"k", b"v")]
    backend.close()
    backend = harness.open(directory)
    assert contents(backend)["alpha"] == [(b"k", b"v")]
    backend.close()


def check_failed_write_poisons(harness: BackendHarness) -> None:
    """B-11: after a write that failed for want of room, only reopening helps."""
    harness.require(harness.capabilities.persistent, "not persistent")
    harness.run_child("poison", harness.directory())


def check_ascending_is_only_a_hint(harness: BackendHarness) -> None:
    """B-12: the flag changes nothing, whatever the order and whatever is there.

    LMDB's append mode drops a key out of order without an error.
    """
    long = b"m" * 600
    cases: tuple[tuple[bytes, ...], ...] = (
        (b"a", b"b", b"c"),
        (b"c", b"b", b"a"),
        (b"d", b"d", b"e"),
        (b"x", b"a1", b"y"),
        (b"", b"b"),
        (b"z", long, long + b"1", b"zz"),
        (b"zzz", b"zzzz"),
        (b"zzz", b"zzzzz"),
        (),
    )
    with harness.store() as backend:
        model: dict[bytes, bytes] = {}
        for number, keys in enumerate(cases):
            batch = WriteBatch()
            changes = batch.keyspace("alpha")
            changes.ascending = True
            changes.puts = [
                (key, b"%d.%d" % (number, at)) for at, key in enumerate(keys)
            ]
            model.update(changes.puts)
            backend.write(batch, harness.weakest)
            assert contents(backend)["alpha"] == sorted(model.items())


def check_fork(harness: BackendHarness) -> None:
    """B-13: a forked child is refused, and the parent does not notice it."""
    harness.run_child("fork", harness.directory())


def check_growth_under_readers(harness: BackendHarness) -> None:
    """B-14: the store takes many times its first size while snapshots stay open."""
    rng = random.Random(harness.seed)
    with harness.store() as backend:
        views: list[tuple[int, list[Pair]]] = []
        snapshots = []
        scans = []
        values = [rng.randbytes(MIB // 4) for _ in range(64)]
        for number, value in enumerate(values):
            write_pairs(backend, "alpha", [(b"%03d" % number, value)])
            if number % 16 == 8:
                snapshot = backend.snapshot()
                snapshots.append(snapshot)
                scans.append(snapshot.scan("alpha", b"", None, chunk=2))
                views.append((number, next(scans[-1])))
        expected = [(b"%03d" % number, value) for number, value in enumerate(values)]
        assert contents(backend)["alpha"] == expected
        for (number, first), snapshot, scan in zip(
            views, snapshots, scans, strict=True
        ):
            rest = [pair for one in scan for pair in one]
            assert [*first, *rest] == expected[: number + 1]
            assert read_all(snapshot, "alpha") == expected[: number + 1]
            snapshot.close()
        _check_stats(backend, MIB)


def _check_stats(backend: Backend, least: int) -> None:
    stats = backend.stats()
    assert stats.size_bytes >= least
    assert 0 <= stats.size_in_use_bytes <= stats.size_bytes


def check_levels_above_the_declared_are_refused(harness: BackendHarness) -> None:
    """B-06, B-07: a level above ``durability_max`` is refused, the others accepted."""
    with harness.store() as backend:
        for level in Durability:
            batch = WriteBatch()
            batch.put("alpha", level.name.encode(), b"v")
            if level <= harness.capabilities.durability_max:
                backend.write(batch, level)
                backend.sync()
            else:
                with pytest.raises(UsageError):
                    backend.write(batch, level)
        accepted = int(harness.capabilities.durability_max) + 1
        assert len(contents(backend)["alpha"]) == accepted


def check_checkpoint(harness: BackendHarness) -> None:
    """A checkpoint opens as a backend with the data of its moment; declared or refused."""
    directory = harness.directory()
    target = directory / "nested" / "copy"
    with harness.store() as backend:
        write_pairs(backend, "beta", [(b"k" * 700, b"v"), (b"", b"e")])
        if not harness.capabilities.checkpoint:
            with pytest.raises(UsageError):
                backend.checkpoint(target)
            return
        expected = contents(backend)
        backend.checkpoint(target)
        write_pairs(backend, "beta", [(b"later", b"v")])
        with pytest.raises(UsageError):
            backend.checkpoint(target)
        assert [one.name for one in Path(target).parent.iterdir()] == ["copy"]
    copy = harness.open(target)
    assert contents(copy) == expected
    write_pairs(copy, "beta", [(b"more", b"v")])
    copy.close()


def check_verify_and_compact(harness: BackendHarness) -> None:
    """``verify`` finds a healthy store sound or is refused; ``compact`` loses nothing."""
    with harness.store() as backend:
        rows = [(b"%05d" % number, b"v" * 300) for number in range(3000)]
        write_pairs(backend, "alpha", rows)
        batch = WriteBatch()
        batch.delete_range("alpha", b"00100", b"02900")
        backend.write(batch, harness.weakest)
        backend.compact()
        assert contents(backend)["alpha"] == rows[:100] + rows[2900:]
        if harness.capabilities.verify:
            assert backend.verify() == []
        else:
            with pytest.raises(UsageError):
                backend.verify()


CHECKS = (
    check_batch_reaches_all_keyspaces_at_once,
    check_refused_batch_changes_nothing,
    check_order_within_a_batch,
    check_order_with_a_large_range,
    check_closed_backend,
    check_closed_snapshot,
    check_reopen,
    check_second_open_is_refused,
    check_failed_write_poisons,
    check_ascending_is_only_a_hint,
    check_fork,
    check_growth_under_readers,
    check_levels_above_the_declared_are_refused,
    check_checkpoint,
    check_verify_and_compact,
)
