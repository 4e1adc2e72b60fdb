"""Rows and row keys as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revstore.mvcc import records, tables
from revstore.mvcc.query import bounds
from revstore.proto.kv_pb2 import KeyValue
from revstore.proto.varint import varint

I64 = st.integers(1, 2**63 - 1)
LEASE = st.integers(-(2**63), 2**63 - 1)
KEY = st.binary(max_size=300)
VALUE = st.one_of(st.binary(max_size=300), st.just(b"v" * 3000))
ODD_KEY = st.lists(st.sampled_from([0, 1, 97, 254, 255]), max_size=5).map(bytes)


@given(KEY, I64, I64, I64, VALUE, LEASE)
def test_rows_are_what_protobuf_writes(
    key: bytes, create: int, mod: int, version: int, value: bytes, lease: int
) -> None:
    """A row equals the serialized message and every field is read back from it."""
    message = KeyValue(
        key=key,
        create_revision=create,
        mod_revision=mod,
        version=version,
        value=value,
        lease=lease,
    )
    row = records.encode_kv(key, create, mod, version, value, lease)
    assert row == message.SerializeToString()
    assert records.key_of(row) == key
    assert records.mod_of(row) == mod
    assert records.lease_of(row) == lease
    message.value = b""
    assert records.strip_value(row) == message.SerializeToString()


@given(KEY)
def test_a_tombstone_is_the_key_alone(key: bytes) -> None:
    """The row of a deletion is a KeyValue with nothing but the key."""
    row = records.encode_tombstone(key)
    assert row == KeyValue(key=key).SerializeToString()
    assert records.key_of(row) == key
    assert records.mod_of(row) == 0


@given(I64, st.integers(0, 2**40), st.booleans())
def test_index_values_are_read_back(pred: int, sub: int, deleted: bool) -> None:
    """Predecessor, sub and tombstone flag survive the trip."""
    value = varint(pred) + records.change_suffix(sub, deleted)
    assert records.decode_change(value) == (pred, sub, deleted)
    assert (value[-1] == 0) == (sub == 0 and not deleted)


@given(st.lists(st.tuples(ODD_KEY, st.integers(0, 2**63 - 1)), max_size=20))
def test_index_rows_sort_by_key_then_revision(pairs: list[tuple[bytes, int]]) -> None:
    """Whatever bytes keys hold, rows of INDEX sort as (key, revision) does."""
    rows = sorted(tables.index_key(key, main) for key, main in pairs)
    assert [tables.decode_index_key(row) for row in rows] == sorted(pairs)


@given(ODD_KEY, ODD_KEY, st.integers(0, 2**63 - 1))
def test_an_index_bound_parts_smaller_from_larger_keys(
    key: bytes, other: bytes, main: int
) -> None:
    """Rows of ``other`` lie at or behind the bound of ``key`` iff other >= key."""
    behind = tables.index_key(other, main) >= tables.index_bound(key)
    assert behind == (other >= key)


@given(st.lists(LEASE, max_size=20))
def test_lease_prefixes_sort_as_ids(leases: list[int]) -> None:
    """Negative ids come before positive ones."""
    rows = sorted(tables.lease_key_prefix(lease) for lease in leases)
    assert [tables.lease_of_prefix(row) for row in rows] == sorted(leases)


@pytest.mark.parametrize("lease", [-(2**63), -1, 0, 2**63 - 1])
def test_the_keys_of_a_lease_are_a_range(lease: int) -> None:
    """The range of a lease holds its rows and those of no other lease."""
    lo, hi = tables.lease_key_bounds(lease)
    row = tables.lease_key_prefix(lease) + b"\xff" * 9
    assert lo <= row
    assert hi is None or row < hi
    if lease < 2**63 - 1:
        assert hi == tables.lease_key_prefix(lease + 1)


def test_log_keys_are_those_of_etcd() -> None:
    """8 bytes main, an underscore, 8 bytes sub, and a t for a deletion."""
    key = tables.log_key(5, 2000, True)
    assert key == bytes(7) + b"\x05_" + bytes(6) + b"\x07\xd0t"
    assert tables.split_log_key(key) == (5, 2000, True)
    assert tables.split_log_key(tables.log_key(1, 0, False)) == (1, 0, False)


@pytest.mark.parametrize(
    ("key", "end", "expected"),
    [
        (b"a", b"", (b"a", b"a\x00")),
        (b"a", b"\x00", (b"a", None)),
        (b"a", b"c", (b"a", b"c")),
        (b"c", b"a", None),
        (b"a", b"a", None),
    ],
)
def test_etcds_pairs_name_ranges(
    key: bytes, end: bytes, expected: tuple[bytes, bytes | None] | None
) -> None:
    """Empty end: one key; zero byte: to the end; end not beyond the key: nothing."""
    assert bounds(key, end) == expected
