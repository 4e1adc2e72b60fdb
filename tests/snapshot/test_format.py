"""The format of snapshots: what is written is read, and damage is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from random import Random

import google_crc32c
import msgspec
import pyarrow as pa
import pytest

from revstore.errors import ConfigError, CorruptionError, FormatError
from revstore.interfaces.backend import Pair, Snapshot
from revstore.mvcc.tables import CURRENT, KEYSPACES, META
from revstore.snapshot import format as layout
from revstore.snapshot import writer
from revstore.snapshot.format import Checker, SnapshotHeader, decode_header
from revstore.snapshot.reader import SnapshotReader, check_whole
from revstore.types import ConfState
from tests.snapshot.support import (
    CLUSTER_ID,
    MEMBER_ID,
    content,
    fill,
    open_backend,
    snapshot_of,
)

HEADER = SnapshotHeader(
    version="3.6.0",
    cluster_id=CLUSTER_ID,
    member_id=MEMBER_ID,
    index=5,
    term=2,
    conf_state=ConfState(voters=(1, 2)),
    revision=4,
    compact_revision=-1,
)


class Rows(Snapshot):
    """A view of a backend that makes its rows up, and counts what it holds at once."""

    def __init__(self, rows: dict[str, Sequence[Pair]]) -> None:
        self.rows = rows
        self.most = 0

    def get(self, keyspace: str, key: bytes) -> bytes | None:
        """See ``Snapshot``."""
        return dict(self.rows.get(keyspace, ())).get(key)

    def get_many(self, keyspace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Snapshot``."""
        return [self.get(keyspace, key) for key in keys]

    def scan(
        self,
        keyspace: str,
        lo: bytes,
        hi: bytes | None,
        *,
        reverse: bool = False,
        limit: int = 0,
        chunk: int = 1000,
    ) -> Iterator[list[Pair]]:
        """See ``Snapshot``."""
        rows = self.rows.get(keyspace, ())
        for start in range(0, len(rows), chunk):
            self.most = max(self.most, len(rows[start : start + chunk]))
            yield list(rows[start : start + chunk])

    def close(self) -> None:
        """See ``Snapshot``."""


def pieces_of(rows: dict[str, Sequence[Pair]], compression: str | None) -> list[bytes]:
    """A snapshot of made-up rows."""
    return list(writer.write_snapshot(Rows(rows), HEADER, compression))


def rows_in(data: bytes) -> dict[str, list[Pair]]:
    """What a snapshot holds."""
    file = BytesIO(data)
    expected = check_whole(file)
    reader = SnapshotReader(file)
    found: dict[str, list[Pair]] = {name: [] for name in KEYSPACES}
    for name, pairs in reader.batches():
        found[name] += pairs
    assert reader.rows == expected
    reader.close()
    return found


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_what_is_written_is_read(tmp_path: Path, compression: str | None) -> None:
    """All rows of all keyspaces come back, and the header says where they stand."""
    with open_backend("memory", tmp_path) as backend:
        fill(backend, 300)
        header, pieces = snapshot_of(backend, compression)
        assert rows_in(b"".join(pieces)) == content(backend)
    assert (header.index, header.term, header.revision) == (300, 3, 301)
    assert header.conf_state.learners == (9,)
    reader = SnapshotReader(BytesIO(b"".join(pieces)))
    assert reader.header == header
    reader.close()


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_every_kind_of_row_survives(compression: str | None) -> None:
    """Empty keys and values, long ones, and bytes of any kind."""
    rows: dict[str, Sequence[Pair]] = {
        CURRENT: [
            (b"", b""),
            (b"\x00", b"\xff" * 3_000_000),
            (b"\xff" * 2000, b"\x00"),
        ],
        META: [(b"state", b"{}")],
    }
    found = rows_in(b"".join(pieces_of(rows, compression)))
    assert {name: pairs for name, pairs in found.items() if pairs} == rows


def test_a_store_without_rows_has_a_snapshot() -> None:
    """Header, end and footer are there all the same."""
    found = rows_in(b"".join(pieces_of({}, "lz4")))
    assert not any(found.values())


def test_any_arrow_reader_reads_it() -> None:
    """The footer is behind the stream's end, so it does not disturb."""
    data = b"".join(pieces_of({CURRENT: [(b"k", b"v")]}, None))
    with pa.ipc.open_stream(BytesIO(data)) as stream:
        table = stream.read_all()
    assert table.to_pydict() == {"keyspace": [0], "key": [b"k"], "value": [b"v"]}


def test_memory_is_bounded_by_a_batch() -> None:
    """No piece is much larger than a batch, and no more rows are read at once."""
    for value_bytes in (4000, 400_000):
        rows = [
            (b"%08d" % n, b"x" * value_bytes) for n in range(8_000_000 // value_bytes)
        ]
        view = Rows({CURRENT: rows})
        sizes = [len(piece) for piece in writer.write_snapshot(view, HEADER, None)]
        most = min(value_bytes * writer.SCAN_ROWS, value_bytes + 100_000)
        assert max(sizes) < 1.1 * layout.BATCH_BYTES + max(most, 260_000)
        assert view.most == min(writer.SCAN_ROWS, len(rows))
        assert len(sizes) >= 6


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_every_flipped_bit_is_noticed(compression: str | None) -> None:
    """Whichever byte is damaged, nothing of the snapshot is used."""
    data = b"".join(pieces_of({CURRENT: [(b"key", b"value" * 9)]}, compression))
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(CorruptionError):
            check_whole(BytesIO(bytes(damaged)))


def test_every_cut_is_noticed() -> None:
    """A snapshot that ends early is refused, wherever it ends."""
    data = b"".join(pieces_of({CURRENT: [(b"key", b"value" * 9)]}, None))
    for end in range(len(data)):
        with pytest.raises(CorruptionError, match=r"cut off|damaged"):
            check_whole(BytesIO(data[:end]))


def test_the_checker_takes_pieces_of_any_size() -> None:
    """What it finds does not depend on how the bytes were cut."""
    data = b"".join(pieces_of({CURRENT: [(b"a", b"1"), (b"b", b"2")]}, None))
    random = Random(5)
    for _ in range(50):
        checker, start = Checker(), 0
        while start < len(data):
            size = random.choice((1, 2, 5, 19, 20, 21, 300))
            checker.feed(data[start : start + size])
            start += size
        assert checker.finish() == 2
        assert checker.bytes == len(data)


def rewritten(data: bytes, rows: int) -> bytes:
    """An Arrow stream with a footer that is right for it."""
    return data + layout.footer(rows, google_crc32c.value(data))


def stream_of(batches: list[tuple[int, list[bytes], bytes]]) -> bytes:
    """A snapshot of batches (keyspace, keys, checksum) whatever they are."""
    schema = writer.make_schema(HEADER)
    sink = BytesIO()
    with pa.ipc.new_stream(sink, schema) as stream:
        for number, keys, checksum in batches:
            batch = writer.make_batch(schema, number, keys, keys)
            checksum = checksum or b"%08x" % writer.checksum_of(batch)
            stream.write_batch(batch, custom_metadata={layout.CHECKSUM: checksum})
    return rewritten(sink.getvalue(), sum(len(keys) for _, keys, _ in batches))


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        ([(0, [b"a"], b"00000000")], "checksum of the batch"),
        ([(1, [b"a"], b""), (0, [b"b"], b"")], "keyspace 0"),
        ([(99, [b"a"], b"")], "keyspace 99"),
        ([(0, [], b"")], "not of one keyspace"),
    ],
)
def test_batches_that_cannot_be_are_refused(
    batches: list[tuple[int, list[bytes], bytes]], text: str
) -> None:
    """A mistake of whoever wrote it is damage, although the bytes came as sent."""
    file = BytesIO(stream_of(batches))
    check_whole(file)
    reader = SnapshotReader(file)
    with pytest.raises(CorruptionError, match=text):
        list(reader.batches())
    reader.close()


def test_bytes_that_are_no_arrow_are_refused() -> None:
    """Right checksums do not make a snapshot."""
    file = BytesIO(rewritten(b"something else entirely", 0))
    check_whole(file)
    with pytest.raises(CorruptionError, match="no snapshot"):
        SnapshotReader(file)


def test_an_arrow_stream_of_somebody_else_is_refused() -> None:
    """Without a header it says nothing of itself."""
    sink = BytesIO()
    with pa.ipc.new_stream(sink, pa.schema([("a", pa.int8())])):
        pass
    with pytest.raises(CorruptionError, match="header cannot be read"):
        SnapshotReader(BytesIO(sink.getvalue()))


def test_a_newer_format_is_refused_with_what_to_do() -> None:
    """Members of different versions say so, also if the header has changed."""
    newer = msgspec.json.encode({"format": 2, "version": "9.9", "else": True})
    with pytest.raises(FormatError, match=r"same version on all members \(9\.9"):
        decode_header(newer)
    strange = msgspec.structs.replace(HEADER, keyspaces=("current", "colours"))
    with pytest.raises(FormatError, match="colours"):
        decode_header(layout.encode_header(strange))


def test_missing_pyarrow_is_told_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever starts a cluster without it learns what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'revstore\[arrow\]'"):
        layout.arrow()
    monkeypatch.setattr(layout, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'revstore\[arrow\]'"):
        layout.require_arrow()
