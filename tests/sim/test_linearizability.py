"""The checker of histories itself, against known histories and a simple twin."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from revstore_conformance.sim.linearizability import (
    UNKNOWN_TIME,
    Action,
    Operation,
    Value,
    check,
    partitions,
)

KEY = b"x"


def put(value: bytes, begin: float, end: float = UNKNOWN_TIME) -> Operation:
    """A put."""
    return Operation("w", begin, end, then=(Action("put", KEY, value),))


def get(seen: Value, begin: float, end: float) -> Operation:
    """A get and what it showed."""
    return Operation("r", begin, end, then=(Action("get", KEY),), seen=(seen,))


def test_a_read_behind_a_write_must_show_it() -> None:
    """A get that begins after a put has returned cannot miss it."""
    assert check([put(b"1", 0, 1), get(b"1", 2, 3)]).linearizable
    verdict = check([put(b"1", 0, 1), get(None, 2, 3)])
    assert not verdict.linearizable
    assert "get x->-" in verdict.text


def test_a_read_beside_a_write_may_show_either() -> None:
    """Operations that overlap may have happened in any order."""
    assert check([put(b"1", 0, 3), get(None, 1, 2)]).linearizable
    assert check([put(b"1", 0, 3), get(b"1", 1, 2)]).linearizable


def test_once_shown_a_value_does_not_vanish() -> None:
    """Two reads in a row cannot show the new value and then the old one."""
    history = [put(b"1", 0, 9), get(b"1", 1, 2), get(None, 3, 4)]
    assert not check(history).linearizable


def test_an_unknown_write_may_happen_at_any_time_or_never() -> None:
    """A put without an answer can show up late, and need not show up at all."""
    assert check([put(b"1", 0), get(None, 5, 6), get(b"1", 7, 8)]).linearizable
    assert check([put(b"1", 0), get(None, 5, 6)]).linearizable
    assert not check([put(b"1", 0), get(b"1", 5, 6), get(None, 7, 8)]).linearizable


def test_transactions_join_their_keys() -> None:
    """A transaction over two keys puts both into one group; other keys stay apart."""
    both = Operation(
        "t", 0, 1, then=(Action("put", b"a", b"1"), Action("put", b"b", b"2"))
    )
    other = Operation("t", 2, 3, then=(Action("put", b"c", b"3"),))
    late = Operation("t", 4, 5, then=(Action("get", b"b"),), seen=(b"2",))
    groups = partitions([both, other, late])
    assert [len(group) for group in groups] == [2, 1]


def test_a_transaction_is_one_step() -> None:
    """Nobody sees one of its writes without the other."""
    both = Operation(
        "t", 0, 9, then=(Action("put", b"a", b"1"), Action("put", b"b", b"2"))
    )
    torn = Operation(
        "r",
        1,
        2,
        then=(Action("get", b"a"), Action("get", b"b")),
        seen=(b"1", None),
    )
    assert not check([both, torn]).linearizable


def twin(history: list[Operation]) -> bool:
    """The same question by trying all orders."""
    for order in permutations(history):
        in_time = all(
            not later.end < earlier.begin
            for place, earlier in enumerate(order)
            for later in order[place + 1 :]
        )
        value: Value = None
        fits = in_time
        for one in order:
            action = one.then[0]
            if action.kind == "put":
                value = action.value
            elif one.seen != (value,):
                fits = False
        if fits:
            return True
    return False


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """A few puts and gets of one key, overlapping as it comes."""
    found: list[Operation] = []
    values = [b"1", b"2", b"3"]
    for number in range(draw(st.integers(1, 5))):
        begin = draw(st.integers(0, 8)) + number / 100
        end = begin + draw(st.integers(1, 5)) + 0.5
        writes = draw(st.booleans())
        if values and writes:
            found.append(put(values.pop(), begin, end))
        else:
            seen = draw(st.sampled_from([None, b"1", b"2", b"3"]))
            found.append(get(seen, begin, end))
    return found


@given(histories())
@settings(max_examples=150, deadline=None)
def test_the_search_agrees_with_trying_all_orders(history: list[Operation]) -> None:
    """On small histories the answer is that of the simple twin."""
    assert check(history).linearizable == twin(history)
