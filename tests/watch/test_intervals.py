"""The interval index against a list that is searched from end to end."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from revstore.watch.intervals import IntervalIndex

KEYS = st.binary(max_size=2) | st.sampled_from([b"a", b"b", b"c", b"a\0", b"\xff\xff"])


class IndexMachine(RuleBasedStateMachine):
    """Adds and removes at will; both must find the same."""

    def __init__(self) -> None:
        super().__init__()
        self.index: IntervalIndex[int] = IntervalIndex(Random(1))
        self.twin: set[tuple[bytes, bytes | None, int]] = set()

    @rule(low=KEYS, high=st.none() | KEYS, item=st.integers(0, 3))
    def add(self, low: bytes, high: bytes | None, item: int) -> None:
        self.index.add(low, high, item)
        self.twin.add((low, high, item))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if not self.twin:
            return
        ordered = sorted(self.twin, key=repr)
        chosen = data.draw(st.sampled_from(ordered))
        self.index.remove(*chosen)
        self.twin.remove(chosen)

    @rule(key=KEYS)
    def find(self, key: bytes) -> None:
        wanted = sorted(
            item
            for low, high, item in self.twin
            if low <= key and (high is None or key < high)
        )
        assert sorted(self.index.find(key)) == wanted

    @invariant()
    def same_size(self) -> None:
        ranges = {(low, high) for low, high, _ in self.twin}
        assert len(self.index) == len(ranges)
        assert bool(self.index) == bool(ranges)


TestIndex = IndexMachine.TestCase


@pytest.mark.parametrize("order", ["ascending", "descending", "nested", "random"])
def test_the_tree_stays_flat(order: str) -> None:
    """No order of adding makes searching slow: the depth grows with the logarithm."""
    count = 2000
    ranges = [(b"%06d" % number, b"%06d" % (number + 3)) for number in range(count)]
    if order == "descending":
        ranges.reverse()
    elif order == "nested":
        ranges = [(b"%06d" % n, b"%06d" % (2 * count - n)) for n in range(count)]
    elif order == "random":
        Random(2).shuffle(ranges)
    index: IntervalIndex[int] = IntervalIndex(Random(3))
    for number, (low, high) in enumerate(ranges):
        index.add(low, high, number)
    assert index.depth() < 45
    for number, (low, high) in enumerate(ranges[: count // 2]):
        index.remove(low, high, number)
    assert index.depth() < 45
    assert len(index) == count // 2
    for number, (low, high) in enumerate(ranges[count // 2 :]):
        index.remove(low, high, number + count // 2)
    assert not index


def test_removing_what_is_not_there_is_an_error() -> None:
    """The caller's book-keeping is checked."""
    index: IntervalIndex[int] = IntervalIndex(Random(1))
    index.add(b"a", b"b", 1)
    for absent in ((b"a", b"c", 1), (b"a", b"b", 2), (b"a", None, 1)):
        with pytest.raises(KeyError):
            index.remove(*absent)
