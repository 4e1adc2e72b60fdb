"""The union of granted ranges against a naive twin."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from revstore.auth.permissions import (
    OPEN_END,
    RangeSet,
    UserPermissions,
    granted_range,
    is_grantable,
    request_range,
)
from revstore.proto.auth_pb2 import Permission

ALPHABET = (0, 1, 2)
DEPTH = 3
POINTS = sorted(
    bytes(letters)
    for length in range(DEPTH + 2)
    for letters in itertools.product(ALPHABET, repeat=length)
)
"""Every string that can lie inside or on the border of a range of short keys."""

KEYS = st.binary(max_size=2).map(lambda raw: bytes(byte % 3 for byte in raw))
ENDS = st.one_of(KEYS, st.just(OPEN_END), st.just(b""))
NEAR_INFINITY = b"\xff" * 8


def inside(point: bytes, start: bytes, end: bytes | None) -> bool:
    """Whether a point lies in a half-open range."""
    return start <= point and (end is None or point < end)


@given(granted=st.lists(st.tuples(KEYS, ENDS), max_size=6), key=KEYS, end=ENDS)
def test_covered_is_every_point_granted(
    granted: list[tuple[bytes, bytes]], key: bytes, end: bytes
) -> None:
    """A range is covered exactly if each point of it lies in some granted range."""
    spans = [
        span
        for start, stop in granted
        if (span := granted_range(Permission(key=start, range_end=stop))) is not None
    ]
    wanted = request_range(key, end)
    points = [*POINTS, NEAR_INFINITY]
    naive = all(
        any(inside(point, *span) for span in spans)
        for point in points
        if inside(point, *wanted)
    )
    assert RangeSet(spans).covers(*wanted) == naive, f"{spans} {wanted}"
    assert RangeSet(spans).covers_key(key) == RangeSet(spans).covers(key, key + b"\0")


def test_open_end_needs_infinity() -> None:
    """An open-ended request is refused unless one grant reaches infinity."""
    finite = RangeSet([(b"a", b"\xff" * 40)])
    open_ended = RangeSet([(b"a", b"c"), (b"b", None)])
    assert not finite.covers(*request_range(b"a", OPEN_END))
    assert open_ended.covers(*request_range(b"a", OPEN_END))
    assert not open_ended.covers(*request_range(b"\0", OPEN_END))


def test_touching_ranges_join_and_gaps_do_not() -> None:
    """Two grants that touch cover a request across them, a gap of one key does not."""
    assert RangeSet([(b"a", b"b"), (b"b", b"c")]).covers(b"a", b"c")
    assert not RangeSet([(b"a", b"b"), (b"b\0", b"c")]).covers(b"a", b"c")
    point = request_range(b"b", b"")
    assert RangeSet([(b"a", b"b"), point, (b"b\0", b"c")]).covers(b"a", b"c")


def test_empty_request_needs_its_key() -> None:
    """A range whose end is not after its key is judged as the key alone."""
    assert request_range(b"c", b"a") == (b"c", b"c\0")
    assert request_range(b"c", b"c") == (b"c", b"c\0")
    assert not RangeSet([(b"a", b"c")]).covers(*request_range(b"c", b"a"))


def test_types_fill_the_right_sets() -> None:
    """READ, WRITE and READWRITE grant what they say and nothing else."""
    permissions = UserPermissions(
        False,
        [
            Permission(permType=Permission.READ, key=b"r"),
            Permission(permType=Permission.WRITE, key=b"w"),
            Permission(permType=Permission.READWRITE, key=b"x"),
        ],
    )
    readable = [key for key in (b"r", b"w", b"x") if permissions.read.covers_key(key)]
    writable = [key for key in (b"r", b"w", b"x") if permissions.write.covers_key(key)]
    assert readable == [b"r", b"x"]
    assert writable == [b"w", b"x"]


def test_what_may_be_granted() -> None:
    """A permission needs a key, a known type and a range that is not empty."""
    assert is_grantable(Permission(key=b"a"))
    assert is_grantable(Permission(key=b"b", range_end=OPEN_END))
    assert is_grantable(Permission(key=b"a", range_end=b"b"))
    assert not is_grantable(Permission(key=b"b", range_end=b"b"))
    assert not is_grantable(Permission(key=b"b", range_end=b"a"))
    assert not is_grantable(Permission(range_end=OPEN_END))
    unknown = Permission.FromString(b"\x08\x07\x12\x01a")
    assert not is_grantable(unknown)
