"""Keys that engines find hard: long, nearly equal, empty, all zeros, all ones (B-03).

Engines limit the length of a key (511 bytes in LMDB 0.9, 1978 in 1.0) or cut it into
pieces; the lengths here stand on both sides of every such limit that is known.
"""

from __future__ import annotations

import random

from revstore.interfaces.backend import WriteBatch
from revstore_conformance.backend_harness import (
    BackendHarness,
    read_all,
    write_pairs,
)

LENGTHS = (0, 1, 2, 254, 255, 509, 510, 511, 512, 513, 1011, 1012, 1013, 1014)
LENGTHS_LONG = (1515, 1978, 1979, 4096, 65_536, 100_000)
KEY_BYTES_MAX = 2 * 1024 * 1024


def hard_keys() -> list[bytes]:
    """Sorted keys of all lengths that share long prefixes."""
    keys = set()
    for length in LENGTHS + LENGTHS_LONG:
        for fill in (b"\x00", b"p", b"\xff"):
            stem = fill * length
            keys.add(stem)
            if length < KEY_BYTES_MAX and fill == b"p":
                keys |= {stem + b"\x00", stem + b"\xff", stem + b"p\x00", stem + b"q"}
        if length:
            keys |= {b"p" * (length - 1) + b"o", b"p" * (length - 1) + b"q"}
    keys |= {b"s" * 600 + bytes((last,)) for last in (0, 1, 127, 128, 254, 255)}
    return sorted(keys)


def check_hard_keys_are_found_and_ordered(harness: BackendHarness) -> None:
    """B-03, B-04: every key is found and every range is right, whatever its length."""
    rng = random.Random(harness.seed)
    keys = hard_keys()
    shuffled = rng.sample(keys, len(keys))
    with harness.store() as backend:
        for at in range(0, len(shuffled), 7):
            pairs = [(key, b"v%d" % len(key)) for key in shuffled[at : at + 7]]
            write_pairs(backend, "alpha", pairs)
        with backend.snapshot() as snapshot:
            model = [(key, b"v%d" % len(key)) for key in keys]
            assert read_all(snapshot, "alpha") == model
            assert read_all(snapshot, "alpha", reverse=True) == model[::-1]
            assert snapshot.count("alpha", b"", None) == len(keys)
            assert snapshot.get_many("alpha", keys) == [value for _, value in model]
            absent = [key + b"\x01" for key in keys if key + b"\x01" not in set(keys)]
            assert snapshot.get_many("alpha", absent) == [None] * len(absent)
            assert snapshot.get_many("beta", keys) == [None] * len(keys)
            bounds = keys + absent
            for _ in range(300):
                lo, hi = rng.choice(bounds), rng.choice([*bounds, None])
                limit = rng.choice((0, 0, 1, 3))
                expected = [
                    pair
                    for pair in model
                    if pair[0] >= lo and (hi is None or pair[0] < hi)
                ]
                found = read_all(snapshot, "alpha", lo, hi, limit=limit)
                assert found == expected[: limit or None], (lo[:9], len(lo))
                assert snapshot.count("alpha", lo, hi) == len(expected)
                found = read_all(snapshot, "alpha", lo, hi, limit=limit, reverse=True)
                assert found == expected[::-1][: limit or None], (lo[:9], len(lo))


def check_hard_keys_are_deleted(harness: BackendHarness) -> None:
    """B-03: deleting hard keys, singly and by range, leaves exactly the others."""
    rng = random.Random(harness.seed)
    keys = hard_keys()
    with harness.store() as backend:
        write_pairs(backend, "alpha", [(key, key[-9:]) for key in keys])
        live = set(keys)
        while live:
            batch = WriteBatch()
            if rng.random() < 0.3:
                lo, hi = sorted(rng.sample([*keys, b"\xff" * 100_001], 2))
                narrow = sorted(live)[: rng.randint(1, 9)]
                if rng.random() < 0.8:
                    lo, hi = narrow[0], narrow[-1] + b"\x00"
                batch.delete_range("alpha", lo, hi)
                live -= {key for key in live if lo <= key < hi}
            else:
                for key in rng.sample(sorted(live), min(len(live), 5)):
                    batch.delete("alpha", key)
                    live.discard(key)
            backend.write(batch, harness.weakest)
            with backend.snapshot() as snapshot:
                found = read_all(snapshot, "alpha")
                assert found == [(key, key[-9:]) for key in sorted(live)]
        if harness.capabilities.verify:
            assert backend.verify() == []
        write_pairs(backend, "alpha", [(b"p" * 1000, b"again")])
        with backend.snapshot() as snapshot:
            assert read_all(snapshot, "alpha") == [(b"p" * 1000, b"again")]


def check_the_longest_key(harness: BackendHarness) -> None:
    """B-03: a key of 2 MiB is stored, found, scanned both ways and deleted."""
    longest = bytes(range(256)) * (KEY_BYTES_MAX // 256)
    twin = longest[:-1] + b"\x00"
    with harness.store() as backend:
        write_pairs(backend, "alpha", [(longest, b"1"), (twin, b"2"), (b"z", b"3")])
        with backend.snapshot() as snapshot:
            assert snapshot.get("alpha", longest) == b"1"
            expected = [(twin, b"2"), (longest, b"1"), (b"z", b"3")]
            assert read_all(snapshot, "alpha") == expected
            assert read_all(snapshot, "alpha", reverse=True) == expected[::-1]
            assert read_all(snapshot, "alpha", longest, b"z") == [(longest, b"1")]
        batch = WriteBatch()
        batch.delete("alpha", longest)
        batch.delete_range("alpha", twin, longest)
        backend.write(batch, harness.weakest)
        with backend.snapshot() as snapshot:
            assert read_all(snapshot, "alpha") == [(b"z", b"3")]


CHECKS = (
    check_hard_keys_are_found_and_ordered,
    check_hard_keys_are_deleted,
    check_the_longest_key,
)
