"""The clauses of the backend contract that one process can see (B-01 to B-14).

Each check names its clauses in its docstring and is given a ``BackendHarness``.
"""

from __future__ import annotations

import gc
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


def check_bytes_sort_unsigned(harness: BackendHarness) -> None:
    """B-03: keys sort as unsigned bytes, a prefix before what it is a prefix of."""
    keys = [b"", b"\x00", b"\x00\x00", b"\x00\x01", b"\x01", b"a", b"a\x00", b"a\xff"]
    keys += [b"b", b"\x7f", b"\x80", b"\xfe\xff", b"\xff", b"\xff\x00", b"\xff\xff"]
    with harness.store() as backend:
        write_pairs(backend, "beta", [(key, b"=" + key) for key in reversed(keys)])
        with backend.snapshot() as snapshot:
            assert [key for key, _ in read_all(snapshot, "beta")] == keys
            assert snapshot.get("beta", b"") == b"="
            assert read_all(snapshot, "alpha") == []
            assert read_all(snapshot, "gamma") == []
            assert read_all(snapshot, "gamma", reverse=True) == []


def check_large_values(harness: BackendHarness) -> None:
    """B-03: empty values and values of the largest size come back as they were."""
    size = harness.capabilities.value_bytes_max
    assert size >= 64 * MIB
    with harness.store() as backend:
        large = b"x" * (size - 1) + b"y"
        write_pairs(backend, "alpha", [(b"empty", b""), (b"large", large)])
        with backend.snapshot() as snapshot:
            assert snapshot.get("alpha", b"empty") == b""
            assert snapshot.get("alpha", b"large") == large
            assert read_all(snapshot, "alpha", b"empty", b"f") == [(b"empty", b"")]


def check_every_small_range(harness: BackendHarness) -> None:
    """B-04: every pair of bounds gives the right rows, both ways, limited or not."""
    alphabet = (b"", b"\x00", b"a", b"a\x00", b"ab", b"b", b"\xff", b"\xff\xff")
    pairs = [(key, b"v" + key) for key in alphabet[::2]]
    with harness.store() as backend:
        write_pairs(backend, "alpha", pairs)
        write_pairs(backend, "beta", [(key, b"other") for key in alphabet])
        with backend.snapshot() as snapshot:
            for lo in alphabet:
                for hi in (*alphabet, None):
                    inside = [
                        pair
                        for pair in pairs
                        if pair[0] >= lo and (hi is None or pair[0] < hi)
                    ]
                    assert snapshot.count("alpha", lo, hi) == len(inside)
                    for limit in (0, 1, 2):
                        cut = limit or None
                        found = read_all(snapshot, "alpha", lo, hi, limit=limit)
                        assert found == inside[:cut]
                        found = read_all(
                            snapshot, "alpha", lo, hi, limit=limit, reverse=True
                        )
                        assert found == inside[::-1][:cut]


def check_lists_of_a_scan(harness: BackendHarness) -> None:
    """B-04: no list of a scan is empty or longer than asked; scans do not disturb one
    another, and one may be given up."""
    rows = [(b"%06d" % number, b"%d" % number) for number in range(2500)]
    with harness.store() as backend:
        write_pairs(backend, "alpha", rows)
        with backend.snapshot() as snapshot:
            for chunk in (1, 7, 1000):
                lists = list(snapshot.scan("alpha", b"", b"001001", chunk=chunk))
                assert all(0 < len(one) <= chunk for one in lists)
                assert [pair for one in lists for pair in one] == rows[:1001]
            forward = snapshot.scan("alpha", b"", None, chunk=10)
            backward = snapshot.scan("alpha", b"", None, chunk=7, reverse=True)
            merged: tuple[list[Pair], list[Pair]] = ([], [])
            for _ in range(50):
                merged[0].extend(next(forward))
                merged[1].extend(next(backward))
                assert snapshot.get("alpha", b"001234") == b"1234"
            assert merged[0] == rows[: len(merged[0])]
            assert merged[1] == rows[::-1][: len(merged[1])]
            del forward, backward
            gc.collect()
            assert read_all(snapshot, "alpha") == rows


def check_bounds_outlive_their_caller(harness: BackendHarness) -> None:
    """B-04: a scan whose bounds were temporary objects stops where it should.

    rocksdict 0.3.29 freed an upper bound that only the engine still used, and scans ran
    past it.
    """
    rows = [(b"%06d" % number, b"v") for number in range(1000)]
    with harness.store() as backend:
        write_pairs(backend, "alpha", rows)
        with backend.snapshot() as snapshot:
            for number in range(0, 900, 9):
                scan = snapshot.scan(
                    "alpha", b"%06d" % number, b"%06d" % (number + 50), chunk=9
                )
                churn = [b"%06d" % (999 - other) for other in range(200)]
                gc.collect(0)
                found = [pair for one in scan for pair in one]
                assert found == rows[number : number + 50]
                del churn


def check_snapshot_is_one_point_in_time(harness: BackendHarness) -> None:
    """B-05: gets, scans and counts of a snapshot never show a later write.

    rocksdict 0.3.29 iterates over the newest data even when asked through a snapshot.
    """
    rows = [(b"%04d" % number, b"old") for number in range(300)]
    with harness.store() as backend:
        for name in KEYSPACES:
            write_pairs(backend, name, rows)
        snapshot = backend.snapshot()
        started = snapshot.scan("alpha", b"", None, chunk=10)
        first = next(started)
        batch = WriteBatch()
        for name in KEYSPACES:
            batch.delete_range(name, b"0000", b"0150")
            batch.put(name, b"0200", b"new")
            batch.put(name, b"9999", b"new")
        backend.write(batch, harness.weakest)
        backend.compact()
        for name in KEYSPACES:
            assert read_all(snapshot, name) == rows
            assert read_all(snapshot, name, reverse=True) == rows[::-1]
            assert snapshot.count(name, b"", None) == len(rows)
            assert snapshot.get(name, b"0200") == b"old"
            assert snapshot.get_many(name, [b"0001", b"9999"]) == [b"old", None]
        assert first + [pair for one in started for pair in one] == rows
        snapshot.close()
        assert len(contents(backend)["alpha"]) == 151


def check_many_snapshots(harness: BackendHarness) -> None:
    """B-05: two hundred snapshots, each of its own time, can be open together."""
    with harness.store() as backend:
        held = []
        for number in range(200):
            write_pairs(backend, "alpha", [(b"n", b"%d" % number)])
            held.append(backend.snapshot())
        for number, snapshot in enumerate(held):
            assert snapshot.get("alpha", b"n") == b"%d" % number
        for snapshot in held:
            snapshot.close()
            snapshot.close()


def check_values_are_bytes_of_their_own(harness: BackendHarness) -> None:
    """B-08: what was handed out is ``bytes`` and outlives the backend."""
    backend = harness.open(harness.directory())
    rows = [(b"%03d" % number, bytes((number,)) * 5000) for number in range(100)]
    write_pairs(backend, "alpha", rows)
    with backend.snapshot() as snapshot:
        one = snapshot.get("alpha", b"007")
        many = snapshot.get_many("alpha", [key for key, _ in rows])
        pairs = read_all(snapshot, "alpha")
    batch = WriteBatch()
    batch.delete_range("alpha", b"", None)
    backend.write(batch, harness.weakest)
    write_pairs(backend, "alpha", [(key, bytes(5000)) for key, _ in rows])
    backend.close()
    del backend
    gc.collect()
    assert one == rows[7][1]
    assert many == [value for _, value in rows]
    assert pairs == rows
    assert {type(part) for pair in pairs for part in pair} == {bytes}
    assert type(one) is bytes


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


def check_unknown_keyspace(harness: BackendHarness) -> None:
    """B-03: reading a keyspace that was not named at open raises UsageError."""
    with harness.store() as backend, backend.snapshot() as snapshot:
        for call in (
            lambda: snapshot.get("nowhere", b"k"),
            lambda: snapshot.get_many("nowhere", [b"k"]),
            lambda: read_all(snapshot, "nowhere"),
            lambda: snapshot.count("nowhere", b"", None),
        ):
            with pytest.raises(UsageError):
                call()


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
    check_bytes_sort_unsigned,
    check_large_values,
    check_every_small_range,
    check_lists_of_a_scan,
    check_bounds_outlive_their_caller,
    check_snapshot_is_one_point_in_time,
    check_many_snapshots,
    check_values_are_bytes_of_their_own,
    check_closed_backend,
    check_closed_snapshot,
    check_unknown_keyspace,
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
