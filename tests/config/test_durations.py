"""Durations in Go's syntax."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revstore.config.durations import (
    format_duration,
    parse_duration,
    seconds_of,
    text_of,
)

NANOSECONDS = st.integers(min_value=-(2**63), max_value=2**63 - 1)


@given(NANOSECONDS)
def test_printed_durations_are_read_back_exactly(nanoseconds: int) -> None:
    """Whatever Go would print is read as the same number of nanoseconds."""
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@given(st.integers(min_value=0, max_value=10**7))
def test_short_text_of_milliseconds_is_read_back(milliseconds: int) -> None:
    """The short form that documents and listings show is read back."""
    seconds = milliseconds / 1000
    assert seconds_of(text_of(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("5s", 5_000_000_000),
        ("100ms", 100_000_000),
        ("1h30m", 5_400_000_000_000),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("2.s", 2_000_000_000),
        ("-1m", -60_000_000_000),
        ("+1us", 1000),
        ("1\u00b5s", 1000),
        ("1\u03bcs", 1000),
        ("1h1h", 7_200_000_000_000),
        ("9223372036854775807ns", 2**63 - 1),
    ],
)
def test_forms_that_go_reads(text: str, nanoseconds: int) -> None:
    """Signs, fractions, several units and the bare zero are read as Go reads them."""
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "1d", "1h30", "--1s", "1e3s", "\u0665s", "1.2.3s"]
)
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    """What Go refuses is refused, with an example of what is right."""
    with pytest.raises(ValueError, match="for example 100ms, 5s or 1h30m"):
        parse_duration(text)


def test_too_long_durations_are_refused() -> None:
    """A duration has to fit in 64 bits of nanoseconds."""
    with pytest.raises(ValueError, match="too long"):
        parse_duration("9223372036854775808ns")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (7200, "2h"),
        (5400, "1h30m"),
        (90, "1m30s"),
        (0.1, "100ms"),
        (0, "0s"),
        (1.5, "1.5s"),
    ],
)
def test_short_texts(seconds: float, text: str) -> None:
    """The short form drops what is zero at the end."""
    assert text_of(seconds) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (999, "999ns"),
        (1000, "1\u00b5s"),
        (1_100_000, "1.1ms"),
        (999_999_999, "999.999999ms"),
        (1_000_000_000, "1s"),
        (60_000_000_000, "1m0s"),
        (3_600_000_000_000, "1h0m0s"),
        (-1_500_000_000, "-1.5s"),
        (2**63 - 1, "2562047h47m16.854775807s"),
    ],
)
def test_printed_durations_are_those_of_go(nanoseconds: int, text: str) -> None:
    """Unit and digits are chosen as Go's Duration.String chooses them."""
    assert format_duration(nanoseconds) == text
