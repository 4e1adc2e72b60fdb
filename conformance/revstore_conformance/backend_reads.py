"""The clauses of the backend contract on order, scans and snapshots (B-03 to B-05, B-08).

Each check names its clauses in its docstring and is given a ``BackendHarness``.
"""

from __future__ import annotations

import gc

import pytest

from revstore.errors import UsageError
from revstore.interfaces.backend import Pair, WriteBatch
from revstore_conformance.backend_harness import (
    KEYSPACES,
    BackendHarness,
    contents,
    read_all,
    write_pairs,
)

MIB = 1024 * 1024


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
                        lists = snapshot.scan_values("alpha", lo, hi, limit=limit)
                        values = [value for _, one in lists for value in one]
                        assert values == [value for _, value in inside[:cut]]
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
                values = snapshot.scan_values("alpha", b"", b"001001", chunk=chunk)
                expected = [(one[-1][0], [value for _, value in one]) for one in lists]
                assert [next(values) for _ in expected[:-1]] == expected[:-1]
                other = snapshot.scan_values("alpha", b"002", None, limit=3)
                assert list(other) == [
                    (b"002002", [b"2000", b"2001", b"2002"]),
                ]
                assert list(values) == expected[-1:]
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


CHECKS = (
    check_bytes_sort_unsigned,
    check_large_values,
    check_every_small_range,
    check_lists_of_a_scan,
    check_bounds_outlive_their_caller,
    check_snapshot_is_one_point_in_time,
    check_many_snapshots,
    check_values_are_bytes_of_their_own,
    check_unknown_keyspace,
)
