"""The snapshot stream, and the dump in it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revstore.api import errors
from revstore.api.dump import (
    BLOCK_BYTES,
    FORMAT,
    FRAME_BYTES_AIM,
    KIND_HEADER,
    MAGIC,
    ROW_OVERHEAD,
    DumpHeader,
    DumpReader,
    DumpSize,
    Rows,
    frame,
    header_bytes,
    rows_frames,
)
from revstore.api.inprocess import DirectStream
from revstore.api.snapshot_stream import BLOB_BYTES
from revstore.errors import CorruptionError, FormatError
from revstore.mvcc.tables import CURRENT, KEYSPACES
from revstore.proto import kv_pb2
from revstore.proto import rpc_pb2 as r
from tests.api.member import CLUSTER, MEMBER, FakeMember
from tests.api.test_kv import allow, fill, log_in

HEADER = DumpHeader(
    version="3.6.0",
    revision=7,
    compact_revision=-1,
    cluster_id=1,
    member_id=2,
    keyspaces=("one", "two"),
)


def drain(member: FakeMember, stream: DirectStream) -> list[r.SnapshotResponse]:
    """All messages of a snapshot."""
    found = []
    while not stream.over or stream.queue:
        member.run()
        found += [r.SnapshotResponse.FromString(one) for one in stream.take_all()]
    assert stream.error is None
    return found


def snapshot(member: FakeMember) -> list[r.SnapshotResponse]:
    """A whole snapshot."""
    return drain(member, member.stream("Maintenance/Snapshot", r.SnapshotRequest()))


def read(data: bytes, piece: int = 1 << 20) -> dict[str, list[tuple[bytes, bytes]]]:
    """The rows of a dump by keyspace, fed in pieces."""
    reader = DumpReader()
    found: dict[str, list[tuple[bytes, bytes]]] = {}
    for start in range(0, len(data), piece):
        for keyspace, rows in reader.feed(data[start : start + piece]):
            found.setdefault(keyspace, []).extend(rows)
    assert reader.finish() == sum(map(len, found.values()))
    return found


def dump(tables: list[list[Rows]]) -> bytes:
    """A dump of these tables, checked against the size known before."""
    size = DumpSize(HEADER)
    for table in tables:
        for _ in size.add_keyspace(table):
            pass
    data = header_bytes(HEADER)
    for number, table in enumerate(tables):
        data += b"".join(rows_frames(number, table))
    data += size.tail()
    assert len(data) == size.total()
    return data


@pytest.mark.parametrize("count", [0, 3, 3000])
def test_stream_is_what_clients_expect(member: FakeMember, count: int) -> None:
    """Blobs of at most 32 KiB, counted down, then the SHA-256; no headers; a length
    that etcd's client accepts."""
    fill(member, count, 50)
    found = snapshot(member)
    data = b"".join(message.blob for message in found[:-1])
    assert found[-1].blob == hashlib.sha256(data).digest()
    assert (len(data) + 32) % BLOCK_BYTES == 32
    left = len(data)
    for message in found:
        assert not message.HasField("header")
        assert message.version == "3.6.0"
        assert len(message.blob) <= BLOB_BYTES
        left -= len(message.blob) if message is not found[-1] else 0
        assert message.remaining_bytes == left
    assert left == 0


def test_dump_has_every_row(member: FakeMember) -> None:
    """The dump holds all keyspaces, byte for byte, and says what it is."""
    fill(member, 2000, 100)
    member.put(b"last", bytes(200_000))
    member.call(
        "Lease/LeaseGrant", r.LeaseGrantRequest(ID=7, TTL=60), r.LeaseGrantResponse
    )
    data = b"".join(message.blob for message in snapshot(member)[:-1])
    reader = DumpReader()
    reader.feed(data)
    assert reader.header is not None
    assert reader.header.revision == member.store.revision
    assert reader.header.cluster_id == CLUSTER
    assert reader.header.member_id == MEMBER
    found = read(data, piece=4321)
    with member.backend.snapshot() as view:
        for keyspace in KEYSPACES:
            rows = [row for part in view.scan(keyspace, b"", None) for row in part]
            assert found.get(keyspace, []) == rows, keyspace
    assert len(found[CURRENT]) == 2001


def test_dump_is_one_moment(member: FakeMember) -> None:
    """Writes, flushes and compactions while the dump is sent do not show in it."""
    fill(member, 5000, 100)
    stream = member.stream("Maintenance/Snapshot", r.SnapshotRequest())
    for _ in range(20):
        member.turn()
    for number in range(200):
        member.put(b"key%06d" % number, b"new")
    member.call("KV/Compact", r.CompactionRequest(revision=5100), r.CompactionResponse)
    member.store.flush()
    data = b"".join(message.blob for message in drain(member, stream)[:-1])
    rows = [kv_pb2.KeyValue.FromString(row) for _, row in read(data)[CURRENT]]
    assert len(rows) == 5000
    assert max(row.mod_revision for row in rows) == 5001


def test_slow_client_holds_memory_down(member: FakeMember) -> None:
    """Only a few blobs wait for a client that does not read; leaving frees the rest."""
    fill(member, 5000, 1000)
    stream = member.stream(
        "Maintenance/Snapshot", r.SnapshotRequest(), queue_messages_max=4
    )
    member.run()
    assert 4 <= len(stream.queue) < 30
    stream.cancel()
    assert member.run() == 0


def test_snapshot_needs_root(member: FakeMember) -> None:
    """With auth on only root may copy everything."""
    ann = allow(member)
    path, request = "Maintenance/Snapshot", r.SnapshotRequest()
    assert member.stream(path, request).error == errors.USER_EMPTY
    assert member.stream(path, request, ann).error == errors.PERMISSION_DENIED
    root = log_in(member, "root")
    assert drain(member, member.stream(path, request, root))


row_lists = st.lists(
    st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=400)), max_size=30),
    max_size=20,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(row_lists, max_size=2), st.integers(1, 5000))
def test_any_rows_come_back(tables: list[list[Rows]], piece: int) -> None:
    """Whatever the rows and however they arrive, they come back, and the size was
    known before."""
    data = dump(tables)
    assert len(data) % BLOCK_BYTES == 0
    found = read(data, piece)
    for name, table in zip(("one", "two"), tables, strict=False):
        assert found.get(name, []) == [row for part in table for row in part]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damage_is_found(data: st.DataObject) -> None:
    """One changed byte anywhere is an error that says where, never other rows."""
    rows = [(b"k%d" % number, bytes(number)) for number in range(50)]
    whole = bytearray(dump([[rows], [rows]]))
    position = data.draw(st.integers(0, len(whole) - 1), label="position")
    whole[position] ^= data.draw(st.integers(1, 255), label="flip")
    with pytest.raises(CorruptionError):
        read(bytes(whole))


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_cut_off_dump(kept: int) -> None:
    """A dump that ends early is not taken for a whole one."""
    whole = dump([[[(b"a", b"b")]]])
    with pytest.raises(CorruptionError, match="cut off"):
        read(whole[:kept])


@pytest.mark.parametrize("difference", [-1, 0, 1])
def test_rows_that_fill_a_frame(difference: int) -> None:
    """The size known before is right also where a frame ends exactly."""
    value = bytes(FRAME_BYTES_AIM - ROW_OVERHEAD - 1 + difference)
    rows = [(b"a", value), (b"b", value), (b"c", b"")]
    assert read(dump([[rows]])) == {"one": rows}


def test_missing_rows_are_found() -> None:
    """A dump whose frames are whole but fewer than it says is refused."""
    rows = [(b"a", b"1"), (b"b", b"2")]
    size = DumpSize(HEADER)
    for _ in size.add_keyspace([rows]):
        pass
    data = header_bytes(HEADER) + b"".join(rows_frames(0, [rows[:1]])) + size.tail()
    with pytest.raises(CorruptionError, match="1 rows instead of 2"):
        read(data)


def test_newer_format_is_refused() -> None:
    """A dump of a format to come names the version that can read it."""
    text = b'{"format":%d,"version":"9.9.0","revision":1,"compact_revision":1,'
    text += b'"cluster_id":1,"member_id":1,"keyspaces":[]}'
    with pytest.raises(FormatError, match=r"9\.9\.0"):
        DumpReader().feed(MAGIC + frame(KIND_HEADER, text % (FORMAT + 1)))
