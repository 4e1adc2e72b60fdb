"""The bytes of records and entries are those of etcd's generated messages."""

from __future__ import annotations

import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from revstore.proto import raft_pb2, record_pb2
from revstore.types import ConfState, Entry, EntryType, HardState, SnapshotMeta
from revstore_wal import decode, encode

U64 = st.integers(0, (1 << 64) - 1)
IDS = st.lists(U64, max_size=3).map(tuple)


def frames(data: bytes) -> list[record_pb2.Record]:
    """The records in ``data``, taken apart without our own reader."""
    records = []
    while data:
        (word,) = struct.unpack("<Q", data[:8])
        size = word & 0xFFFFFFFFFFFFFF
        pad = -size % 8
        assert word >> 56 == (0x80 | pad if pad else 0)
        assert data[8 + size : 8 + size + pad] == bytes(pad)
        payload = data[8 : 8 + size]
        record = record_pb2.Record.FromString(payload)
        assert record.SerializeToString() == payload
        records.append(record)
        data = data[8 + size + pad :]
    return records


@given(
    first=st.integers(1, 1 << 63),
    bodies=st.lists(
        st.tuples(U64, st.sampled_from(EntryType), st.binary(max_size=300)),
        min_size=1,
        max_size=8,
    ),
    large=st.integers(0, 6000),
    crc=st.integers(0, (1 << 32) - 1),
)
def test_entries_are_records_of_raftpb(
    first: int,
    bodies: list[tuple[int, EntryType, bytes]],
    large: int,
    crc: int,
) -> None:
    """Each entry is a frame that protobuf reads and would write the same."""
    bodies[0] = (*bodies[0][:2], bytes(large))
    entries = [
        Entry(term, first + n, data, kind)
        for n, (term, kind, data) in enumerate(bodies)
    ]
    encoded = encode.encode_entries(entries, crc, 1 << 20)
    data = b"".join(encoded.pieces)
    assert len(data) == encoded.size
    for entry, record in zip(entries, frames(data), strict=True):
        message = raft_pb2.Entry(
            Type=raft_pb2.EntryType.Name(entry.type), Term=entry.term, Index=entry.index
        )
        if entry.data:
            message.Data = entry.data
        assert record.type == encode.ENTRY
        assert sorted(record.data) == sorted(message.SerializeToString())
        assert raft_pb2.Entry.FromString(record.data) == message
        crc = google_crc32c.extend(crc, record.data)
        assert record.crc == crc
        assert decode.read_entry(record.data) == entry
    assert encoded.crc == crc


@given(term=U64, vote=U64, commit=U64)
def test_a_hard_state_is_that_of_raftpb(term: int, vote: int, commit: int) -> None:
    """All three fields are present, zeros too."""
    data = encode.encode_state(HardState(term, vote, commit))
    message = raft_pb2.HardState(term=term, vote=vote, commit=commit)
    assert data == message.SerializeToString()
    assert decode.read_state(data) == HardState(term, vote, commit)


@given(
    index=U64,
    term=U64,
    conf=st.builds(ConfState, IDS, IDS, IDS, IDS, st.booleans()),
)
def test_a_snapshot_marker_is_that_of_walpb(
    index: int, term: int, conf: ConfState
) -> None:
    """Index and term are present; the membership is, unless it is empty."""
    meta = SnapshotMeta(index, term, conf)
    data = encode.encode_snapshot(meta)
    message = record_pb2.Snapshot(index=index, term=term)
    if conf != ConfState():
        message.conf_state.voters.extend(conf.voters)
        message.conf_state.learners.extend(conf.learners)
        message.conf_state.voters_outgoing.extend(conf.voters_outgoing)
        message.conf_state.learners_next.extend(conf.learners_next)
        message.conf_state.auto_leave = conf.auto_leave
    assert data == message.SerializeToString()
    assert decode.read_snapshot(data) == meta


def test_a_head_is_crc_metadata_state_marker_and_an_empty_batch() -> None:
    """A file opens with the sum so far and what a reader needs without older files."""
    head, crc = encode.encode_head(
        77, b"meta", HardState(3, 2, 1), SnapshotMeta(9, 2, ConfState((1,)))
    )
    records = frames(head)
    kinds = [record.type for record in records]
    assert kinds == [
        encode.CRC,
        encode.METADATA,
        encode.STATE,
        encode.SNAPSHOT,
        encode.CRC,
    ]
    assert records[0].crc == 77
    assert not records[0].HasField("data")
    assert records[-1].crc == crc == records[-2].crc


@given(data=st.binary(max_size=120), crc=st.integers(0, (1 << 32) - 1))
def test_any_bytes_are_a_record_or_a_bad_frame(data: bytes, crc: int) -> None:
    """The reader raises nothing but BadFrame and Malformed, whatever the bytes."""
    for offset in range(0, len(data), 8):
        try:
            decode.read_frame(data, offset, len(data), crc)
        except decode.BadFrame:
            continue
    for read in (decode.read_entry, decode.read_state, decode.read_snapshot):
        try:
            read(data)
        except decode.Malformed:
            continue


def test_a_mark_of_another_place_is_refused() -> None:
    """A mark copied to another offset is not taken for one."""
    mark = encode.encode_mark(0, 64, 100, 5)
    frame = decode.read_frame(bytes(64) + mark, 64, 64 + len(mark), 5)
    assert decode.read_mark(frame) == decode.Mark(0, 64, 100)
    moved = decode.read_frame(bytes(72) + mark, 72, 72 + len(mark), 5)
    with pytest.raises(decode.BadFrame, match="mark"):
        decode.read_mark(moved)
