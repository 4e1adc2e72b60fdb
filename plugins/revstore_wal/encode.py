"""How records become bytes: etcd's frames, walpb and raftpb by hand.

Rules of this file:

1. The bytes are those that etcd's own writer makes: proto2 fields that gogoproto holds
   by value are always present, in the order of their numbers; bytes that are nil are
   left out.
2. A frame is an 8-byte little-endian length word, a ``walpb.Record`` and zeros up to a
   multiple of 8. If there are zeros, the top byte of the word is 0x80 + their number.
3. ``crc`` of a record is CRC-32C over the data of all records of the log so far; a crc
   record (type 4) repeats the value and is itself not counted.
4. ``encode_entries`` is on the way of each write: no call per entry but the checksum,
   no allocation that a table can spare.

A batch mark is a crc record with 16 bytes of data, which etcd's reader skips. It says
how far the file was durable when it was written and where the batch ends, so that a
torn batch can be told from a damaged one; see docs/design/wal-format.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from google_crc32c import extend as crc32c_extend

from revstore.errors import InvariantViolation
from revstore.types import ConfState, Entry, HardState, SnapshotMeta

METADATA = 1
ENTRY = 2
STATE = 3
CRC = 4
SNAPSHOT = 5

MARK_BYTES_MAX = 40
"""The longest frame of a batch mark."""
MARK_DATA = struct.Struct("<IIII")
"""Durable up to, own offset, length of the batch behind it, check."""
OFFSET_MAX = (1 << 32) - 1
"""The largest file offset a mark can name."""

_DIRECT_DATA_MIN = 2048
"""From this length on data is handed on as it is instead of being copied together."""
_TABLE_SIZE_MAX = 4096
_WORD = struct.Struct("<Q")
_FIVE_BYTE_CRC_MIN = 1 << 28


_SHORT = [bytes((n,)) for n in range(128)]
_PAIR = [bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(1 << 14)]
"""Two continued varint bytes: 14 bits in the middle of a longer number."""


def varint(number: int) -> bytes:
    """A base-128 varint of a number from 0 to 2**64 - 1."""
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return _PAIR[number & 0x3FFF] + varint(number >> 14)


def crc_varint(crc: int) -> bytes:
    """The varint of a checksum, which nearly always has five bytes."""
    if crc < _FIVE_BYTE_CRC_MIN:
        return varint(crc)
    return _PAIR[crc & 0x3FFF] + _PAIR[crc >> 14 & 0x3FFF] + _SHORT[crc >> 28]


def length_word(size: int) -> tuple[bytes, bytes]:
    """The length word of a payload and the zeros behind it."""
    pad = -size & 7
    if not pad:
        return _WORD.pack(size), b""
    return _WORD.pack(size | (0x80 | pad) << 56), bytes(pad)


def encode_record(kind: int, crc: int, data: bytes | None) -> bytes:
    """One frame with the given checksum."""
    payload = b"\x08" + _SHORT[kind] + b"\x10" + crc_varint(crc)
    if data is not None:
        payload += b"\x1a" + varint(len(data)) + data
    word, pad = length_word(len(payload))
    return word + payload + pad


def encode_state(state: HardState) -> bytes:
    """raftpb.HardState."""
    return _promise(state.term, state.vote) + varint(state.commit)


@lru_cache(maxsize=4)
def _promise(term: int, vote: int) -> bytes:
    """All of a hard state up to the commit index, alike from write to write."""
    return b"\x08" + varint(term) + b"\x10" + varint(vote) + b"\x18"


@lru_cache(maxsize=16)
def _entry_head(kind: int, term: int) -> bytes:
    """An entry's data up to its index."""
    return b"\x08" + varint(kind) + b"\x10" + varint(term) + b"\x18"


def encode_conf_state(conf: ConfState) -> bytes:
    """raftpb.ConfState."""
    parts = [b"\x08" + varint(member) for member in conf.voters]
    parts += [b"\x10" + varint(member) for member in conf.learners]
    parts += [b"\x18" + varint(member) for member in conf.voters_outgoing]
    parts += [b"\x20" + varint(member) for member in conf.learners_next]
    parts.append(b"\x28\x01" if conf.auto_leave else b"\x28\x00")
    return b"".join(parts)


def encode_snapshot(meta: SnapshotMeta) -> bytes:
    """walpb.Snapshot; the membership is left out if it is empty."""
    data = b"\x08" + varint(meta.index) + b"\x10" + varint(meta.term)
    if meta.conf_state != ConfState():
        conf = encode_conf_state(meta.conf_state)
        data += b"\x1a" + varint(len(conf)) + conf
    return data


def mark_check(synced: int, offset: int, length: int, crc: int) -> int:
    """The check value of a mark's data."""
    return int(crc32c_extend(crc, struct.pack("<III", synced, offset, length)))


def encode_mark(synced: int, offset: int, length: int, crc: int) -> bytes:
    """The mark of a batch: ``length`` bytes follow it, ``crc`` is the sum before it."""
    check = mark_check(synced, offset, length, crc)
    return encode_record(CRC, crc, MARK_DATA.pack(synced, offset, length, check))


def encode_head(
    crc: int, metadata: bytes, state: HardState, snapshot: SnapshotMeta
) -> tuple[bytes, int]:
    """The records that open a file: crc, metadata, hard state, snapshot marker.

    An empty batch closes them, which says that the file is one with marks. Returns the bytes and the checksum after them.
    """
    parts = [encode_record(CRC, crc, None)]
    records = [(METADATA, metadata)]
    if state != HardState():
        records.append((STATE, encode_state(state)))
    records.append((SNAPSHOT, encode_snapshot(snapshot)))
    for kind, data in records:
        crc = crc32c_extend(crc, data)
        parts.append(encode_record(kind, crc, data))
    head = b"".join(parts)
    return head + encode_mark(len(head), len(head), 0, crc), crc


def _entry_frame(size: int) -> tuple[bytes, bytes, bytes]:
    """What stands before, between and behind crc and data of an entry's record.

    For data of ``size`` bytes and a checksum of five varint bytes.
    """
    middle = b"\x1a" + varint(size)
    word, pad = length_word(3 + 5 + len(middle) + size)
    return word + b"\x08\x02\x10", middle, pad


_FRAMES = [_entry_frame(size) for size in range(_TABLE_SIZE_MAX)]


class Encoded:
    """The frames of some entries, the sum after them, and what an index wants to know.

    A sample is (index of an entry, offset of its frame in the pieces, sum before it);
    there is one for about every ``sample_bytes``, none for the first entry. A term is
    (index, term) of the first entry and wherever the term may change.
    """

    __slots__ = ("crc", "data_bytes", "pieces", "samples", "size", "terms")

    def __init__(self, crc: int) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.crc = crc
        self.data_bytes = 0
        self.samples: list[tuple[int, int, int]] = []
        self.terms: list[tuple[int, int]] = []

    def add(self, kind: int, data: bytes) -> None:
        """Append one record."""
        self.crc = crc32c_extend(self.crc, data)
        frame = encode_record(kind, self.crc, data)
        self.pieces.append(frame)
        self.size += len(frame)


def encode_entries(entries: Sequence[Entry], crc: int, sample_bytes: int) -> Encoded:
    """The frames of ``entries``, whose indexes must follow one another.

    Raises:
        InvariantViolation: they do not.
    """
    out = Encoded(crc)
    pieces = out.pieces
    size = data_bytes = 0
    sample_at = sample_bytes
    term = kind = -1
    head = b""
    index = entries[0].index if entries else 0
    high = index >> 14
    high_bytes = _SHORT[high] if high < 0x80 else varint(high)
    for entry in entries:
        if entry.index != index:
            raise InvariantViolation(
                f"entry {entry.index} follows entry {index - 1} in one append"
            )
        if size >= sample_at:
            out.samples.append((index, size, crc))
            sample_at = size + sample_bytes
        if entry.term != term or entry.type != kind:
            term = entry.term
            kind = entry.type
            head = _entry_head(kind, term)
            out.terms.append((index, term))
        if index >> 14 != high:
            high = index >> 14
            high_bytes = varint(high)
        index_bytes = _PAIR[index & 0x3FFF] + high_bytes if high else varint(index)
        payload = entry.data
        length = len(payload)
        data_bytes += length
        if length >= _DIRECT_DATA_MIN:
            start = head + index_bytes + b'"' + varint(length)
            crc = crc32c_extend(crc32c_extend(crc, start), payload)
            before, pad = _long_frame(crc, len(start) + length)
            pieces += (before, start, payload, pad)
            size += len(before) + len(start) + length + len(pad)
            index += 1
            continue
        if length > 127:
            data = head + index_bytes + b'"' + varint(length) + payload
        elif length:
            data = head + index_bytes + b'"' + _SHORT[length] + payload
        else:
            data = head + index_bytes
        crc = crc32c_extend(crc, data)
        if crc >= _FIVE_BYTE_CRC_MIN:
            before, middle, pad = _FRAMES[len(data)]
            frame = (
                before
                + _PAIR[crc & 0x3FFF]
                + _PAIR[crc >> 14 & 0x3FFF]
                + _SHORT[crc >> 28]
                + middle
                + data
                + pad
            )
        else:
            frame = encode_record(ENTRY, crc, data)
        pieces.append(frame)
        size += len(frame)
        index += 1
    out.crc = crc
    out.size = size
    out.data_bytes = data_bytes
    return out


def _long_frame(crc: int, size: int) -> tuple[bytes, bytes]:
    """What stands before and behind the data of an entry's record of any size."""
    payload = b"\x08\x02\x10" + crc_varint(crc) + b"\x1a" + varint(size)
    word, pad = length_word(len(payload) + size)
    return word + payload, pad
