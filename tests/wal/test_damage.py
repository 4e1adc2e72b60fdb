"""Every cut and every damaged sector of a small log, one after the other."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from revstore.apply.entries import encode_metadata
from revstore.errors import CorruptionError
from revstore.types import Entry, HardState
from revstore_conformance.files import SECTOR_BYTES, SimulatedFiles
from revstore_wal.log import SegmentWal
from revstore_wal.options import SegmentOptions

DIRECTORY = Path("/wal")
OPTIONS = SegmentOptions(segment_bytes=16384)
HEAD_BYTES = 96
"""Of each file: checksum, metadata, and some of what follows."""
SIZES = (5, 300, 0, 900, 40, 700, 10, 1300, 64)


class Written:
    """A log of one file: its bytes and, for each synced batch, end and entries."""

    def __init__(self) -> None:
        self.files = SimulatedFiles()
        wal = SegmentWal(DIRECTORY, b"member", False, OPTIONS, self.files)
        self.path = DIRECTORY / "0000000000000000-0000000000000000.wal"
        self.ends = [self.end()]
        self.counts = [0]
        self.entries: list[Entry] = []
        random = Random(7)
        for number, size in enumerate(SIZES):
            data = random.randbytes(size)
            index = len(self.entries) + 1
            batch = [Entry(number + 1, index + n, data) for n in range(2)]
            wal.append(HardState(number + 1, 2, 0), batch)
            wal.sync()
            self.entries += batch
            self.ends.append(self.end())
            self.counts.append(len(self.entries))
        wal.close()
        self.content = self.files.content(self.path)

    def end(self) -> int:
        """Where the last record ends."""
        return -(-len(self.files.content(self.path).rstrip(b"\0")) // 8) * 8

    def batch_of(self, offset: int) -> int:
        """Which batch (0: the head) the byte at ``offset`` belongs to."""
        return sum(end <= offset for end in self.ends)

    def open(self, content: bytes) -> SegmentWal:
        """Open a log whose file has this content."""
        self.files.replace(self.path, content)
        return SegmentWal(DIRECTORY, b"", False, OPTIONS, self.files)

    def read(self, content: bytes) -> list[Entry]:
        """The entries of a log whose file has this content."""
        wal = self.open(content)
        entries = wal.read(1, wal.last_index() + 1)
        wal.close()
        return entries


@pytest.fixture(scope="module")
def written() -> Written:
    return Written()


@pytest.mark.slow
def test_a_file_cut_anywhere_keeps_every_whole_batch(written: Written) -> None:
    """Cut at each byte: the batches that end before the cut are there, no other."""
    for size in range(written.ends[0], written.ends[-1] + 1):
        whole = sum(end <= size for end in written.ends[1:])
        entries = written.read(written.content[:size])
        count = written.counts[whole]
        assert entries == written.entries[:count], f"cut at {size}"


def test_a_file_cut_in_its_head_is_damage(written: Written) -> None:
    """A head is durable before the file has its name, so a lacking one is damage."""
    for size in range(8):
        with pytest.raises(CorruptionError, match="offset 0"):
            written.open(written.content[:size])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["zero", "noise", "flip"])
def test_a_damaged_sector_never_gives_a_wrong_entry(written: Written, how: str) -> None:
    """Each sector: CorruptionError that names its batch, or a cut of what may be torn.

    A cut is allowed for zeros at the very end only: in the last batch, and in what
    shares the last sector with it.
    """
    random = Random(11)
    end = written.ends[-1]
    last_sector = (end - 1) // SECTOR_BYTES * SECTOR_BYTES
    for start in range(0, end, SECTOR_BYTES):
        stop = min(start + SECTOR_BYTES, end)
        content = bytearray(written.content)
        if how == "zero":
            content[start:stop] = bytes(stop - start)
        elif how == "noise":
            content[start:stop] = random.randbytes(stop - start)
        else:
            content[random.randrange(start, stop)] ^= 1 << random.randrange(8)
        first = written.batch_of(start)
        try:
            entries = written.read(bytes(content))
        except CorruptionError as error:
            offset = int(str(error).split("offset ")[1].split(":")[0])
            assert first <= written.batch_of(offset) <= written.batch_of(stop - 1)
            assert written.files.content(written.path) == content, "it was cut"
            continue
        assert how == "zero", f"damage of the sector at {start} was not seen"
        assert entries == written.entries[: len(entries)]
        lost_from = written.ends[written.counts.index(len(entries))]
        assert lost_from >= written.ends[-2] or start >= last_sector


@pytest.mark.slow
@pytest.mark.parametrize("bits", [0xFF, 0x01, 0x80])
def test_each_flipped_byte_is_seen(written: Written, bits: int) -> None:
    """No single damaged byte before the end of the log goes unseen."""
    for offset in range(bits % 3, written.ends[-1], 3):
        content = bytearray(written.content)
        content[offset] ^= bits
        with pytest.raises(CorruptionError, match="nothing was cut"):
            written.open(bytes(content))


def test_each_flipped_bit_of_a_head_is_seen() -> None:
    """No sum covers a record's type: metadata of one of several files that was read as
    a snapshot marker put the log's end at the member's id (seed 439 of harsh)."""
    files, options = SimulatedFiles(), SegmentOptions(segment_bytes=2048)
    metadata = encode_metadata(0x9ABFE0585B9E963B, 0xDD9DD5FF7843A180)
    wal = SegmentWal(DIRECTORY, metadata, False, options, files)
    for index in range(1, 5):
        wal.append(HardState(1, 2, index - 1), [Entry(1, index, b"x" * 1500)])
        wal.sync()
    wal.close()
    names = [name for name in files.listdir(DIRECTORY) if name.endswith(".wal")]
    assert len(names) > 2
    for path in sorted(DIRECTORY / name for name in names):
        sound = files.content(path)
        for bit in range(8 * HEAD_BYTES):
            content = bytearray(sound)
            content[bit // 8] ^= 1 << bit % 8
            files.replace(path, bytes(content))
            with pytest.raises(CorruptionError, match="nothing was cut"):
                SegmentWal(DIRECTORY, b"", False, options, files)
        files.replace(path, sound)
