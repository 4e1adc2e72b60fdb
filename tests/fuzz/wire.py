"""Strategies for the bytes of requests: right, odd and broken.

Encoded by hand, because a protobuf library does not write most of what is wanted here:
numbers no enum has, text that is not UTF-8, fields of the wrong wire type, members of a
oneof side by side, fields that nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

KEYS = (b"a", b"b", b"c", b"ab", b"\0", b"\xff", b"a\0", b"", b"k" * 300)
"""Few, so that requests meet one another."""

TEXTS = (
    *(b"root", b"u", b"r", b"secret", b"3.5.0", b"3.6.0", b"x.y", b"", b"\0"),
    *(b"http://127.0.0.1:2380", b"http://127.0.0.1:1", b"ftp://x", b"http://[::"),
    *(b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", "\u00e9".encode(), b"x" * 5000),
)

NUMBERS = (
    *range(-2, 12),
    *(63, 100, 128, 777, 10**6, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53),
    *(9_000_000_000, 9_000_000_001, 2**63 - 1, -(2**63)),
)

BIG_BYTES = 30_000
DEPTH = 4
SHOWN_BYTES = 400
SHAPES = ("tame",) * 10 + ("wild",) * 8 + ("garbage", "cut", "noise")
VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32, WIRE_6, WIRE_7 = range(8)

_tame_numbers = st.one_of(
    st.sampled_from((0, 0, 0, 1, 2, 5)), st.integers(0, 12), st.integers(1, 200)
)
_tame_bools = st.sampled_from((0, 0, 0, 0, 0, 1))
_tame_keys = st.sampled_from((b"a", b"b", b"c", b"ab", b"abc", b"\0", b"z"))
_tame_texts = st.sampled_from(
    (b"root", b"u", b"u", b"r", b"r", b"secret", b"p", b"3.5.0", b"http://127.0.0.1:1")
)
_numbers = st.one_of(
    st.sampled_from(NUMBERS), st.integers(1, 60), st.integers(-(2**63), 2**63 - 1)
)
_keys = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(KEYS),
    st.binary(max_size=40),
    st.just(b"v" * BIG_BYTES),
)
_texts = st.one_of(st.sampled_from(TEXTS), st.binary(max_size=20))
_enums = st.one_of(
    st.integers(0, 5), st.sampled_from((-1, 6, 99, 2**31 - 1, -(2**31), 2**40))
)
_bools = st.sampled_from((0, 1, 1, 2, 2**64 - 1))


def varint(number: int) -> bytes:
    """A number as protobuf writes it, negative ones in ten bytes."""
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def length_field(number: int, payload: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return varint(number << 3 | LENGTH) + varint(len(payload)) + payload


def number_field(number: int, value: int) -> bytes:
    """A field of a number."""
    return varint(number << 3 | VARINT) + varint(value)


@st.composite
def messages(
    draw: Callable[[Any], Any], kind: Descriptor, depth: int = DEPTH, tame: bool = False
) -> bytes:
    """A message whose fields are all drawn.

    A tame one can be parsed and has a chance to be done; else anything goes.
    """
    parts: list[bytes] = []
    chosen = {
        group.name: draw(st.sampled_from([field.number for field in group.fields]))
        for group in kind.oneofs
    }
    for field in kind.fields:
        group = field.containing_oneof
        if tame and group is not None and chosen[group.name] != field.number:
            continue
        if tame and not depth and field.type == FieldDescriptor.TYPE_MESSAGE:
            continue
        one = tame and (group is not None or field.name == "key")
        count = 1 if one else draw(_counts(field))
        parts += [draw(_field(field, depth, tame)) for _ in range(count)]
    if not tame and draw(st.integers(0, 19)) == 0:
        parts.append(draw(_odd_fields))
    if len(parts) > 1 and draw(st.integers(0, 9)) == 0:
        parts = draw(st.permutations(parts))
    return b"".join(parts)


def _counts(field: FieldDescriptor) -> st.SearchStrategy[int]:
    if field.is_repeated:
        return st.sampled_from((0, 1, 1, 2, 3))
    return st.sampled_from((0, 0, 1, 1, 1, 1, 2))


@st.composite
def _field(
    draw: Callable[[Any], Any], field: FieldDescriptor, depth: int, tame: bool
) -> bytes:
    number = field.number
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type is not None
        inner = b""
        if depth:
            inner = draw(messages(field.message_type, depth - 1, tame))
        return length_field(number, inner)
    if not tame and draw(st.integers(0, 99)) == 0:
        wrong: bytes = draw(_wrong_type(number))
        return wrong
    if field.type == FieldDescriptor.TYPE_BYTES:
        return length_field(number, draw(_tame_keys if tame else _keys))
    if field.type == FieldDescriptor.TYPE_STRING:
        return length_field(number, draw(_tame_texts if tame else _texts))
    if field.type == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        known = st.sampled_from(sorted(field.enum_type.values_by_number))
        return number_field(number, draw(known if tame else _enums))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return number_field(number, draw(_tame_bools if tame else _bools))
    return number_field(number, draw(_tame_numbers if tame else _numbers))


@st.composite
def _wrong_type(draw: Callable[[Any], Any], number: int) -> bytes:
    wire_type = draw(st.integers(0, 7))
    payload: bytes = draw(st.binary(min_size=1, max_size=12))
    return varint(number << 3 | wire_type) + payload


_odd_fields = st.one_of(
    st.builds(length_field, st.integers(70, 2**29 - 1), st.binary(max_size=30)),
    st.builds(number_field, st.integers(0, 2**29 - 1), st.sampled_from(NUMBERS)),
    st.builds(
        lambda number, depth: (
            varint(number << 3 | GROUP) * depth
            + varint(number << 3 | END_GROUP) * depth
        ),
        st.integers(70, 90),
        st.integers(1, 200),
    ),
)


class Raw(bytes):
    """Bytes that are not shown in full when they are long; the seed brings them back."""

    def __repr__(self) -> str:
        shown = bytes.__repr__(self[:SHOWN_BYTES])
        return shown if len(self) <= SHOWN_BYTES else f"{shown}... ({len(self)} bytes)"


def requests(kind: Descriptor) -> st.SearchStrategy[Raw]:
    """What a client sends where a message of ``kind`` is expected."""
    return _requests(kind).map(Raw)


@st.composite
def _requests(draw: Callable[[Any], Any], kind: Descriptor) -> bytes:
    what = draw(st.sampled_from(SHAPES))
    if what == "garbage":
        garbage: bytes = draw(st.binary(max_size=200))
        return garbage
    message: bytes = draw(messages(kind, tame=what == "tame"))
    if what == "cut" and message:
        size: int = draw(st.integers(0, len(message) - 1))
        return message[:size]
    if what == "noise" and message:
        at = draw(st.integers(0, len(message) - 1))
        noise: bytes = draw(st.binary(min_size=1, max_size=3))
        return message[:at] + noise + message[at + 1 :]
    return message


def nested_txn(levels: int, innermost: bytes, branch: int) -> bytes:
    """A transaction in a transaction in a transaction."""
    message = innermost
    for _ in range(levels):
        message = length_field(branch, length_field(4, message))
    return message
