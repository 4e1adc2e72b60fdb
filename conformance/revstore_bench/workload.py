"""Keys, values and orders that all cases share; the same in every run."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from revstore_bench.model import BATCH, KEY_BYTES, SEED, VALUE_BYTES

Pair = tuple[bytes, bytes]


def make_key(number: int) -> bytes:
    """A key of 32 bytes that sorts as its number does."""
    return b"key/%0*d" % (KEY_BYTES - 4, number)


def make_value(size: int = VALUE_BYTES) -> bytes:
    """Bytes that no engine can compress."""
    return Random(SEED).randbytes(size)


def make_pairs(count: int, *, shuffled: bool) -> list[Pair]:
    """Pairs in key order, or in an order of their own that is always the same."""
    numbers = list(range(count))
    if shuffled:
        Random(SEED).shuffle(numbers)
    value = make_value()
    return [(make_key(number), value) for number in numbers]


def batches(pairs: Sequence[Pair], size: int = BATCH) -> list[Sequence[Pair]]:
    """The pairs in transactions."""
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def some_keys(count: int, of: int) -> list[bytes]:
    """Random keys out of the first ``of``."""
    random = Random(SEED + 1)
    return [make_key(random.randrange(of)) for _ in range(count)]
