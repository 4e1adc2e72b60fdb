"""How bytes become records again.

Rules of this file:

1. Bytes of a file are not trusted: whatever is not exactly a record raises
   ``BadFrame`` with the offset of its frame; beyond this file records are valid.
2. Nothing here decides whether a bad frame is a torn tail or damage; that is
   ``revstore_wal.scan``.
3. Unknown fields are refused, except in the record of a snapshot marker and in a
   membership, which later versions of etcd have extended before.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from google_crc32c import extend as crc32c_extend

from revstore.types import ConfState, Entry, EntryType, HardState, SnapshotMeta
from revstore_wal.encode import CRC, MARK_DATA, mark_check

_WORD = struct.Struct("<Q").unpack_from
_U64_MAX = (1 << 64) - 1
_TYPES = {int(kind): kind for kind in EntryType}


class BadFrame(Exception):  # noqa: N818 - it never leaves the package
    """What is at ``offset`` is no record; ``size`` is how far its frame would reach."""

    def __init__(self, offset: int, size: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset
        self.size = size
        self.reason = reason


class Malformed(Exception):  # noqa: N818 - it never leaves the package
    """Bytes are not the message that they should be."""


class Frame(NamedTuple):
    """One valid record."""

    offset: int
    end: int
    kind: int
    crc: int
    data: bytes


class Mark(NamedTuple):
    """What a batch mark says."""

    synced: int
    offset: int
    length: int


def read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """A varint and the offset behind it.

    Raises:
        Malformed: there is none.
    """
    try:
        byte = data[offset]
        offset += 1
        if byte < 0x80:
            return byte, offset
        number = byte & 0x7F
        shift = 7
        while True:
            byte = data[offset]
            offset += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
    except IndexError:
        raise Malformed("a number is cut off") from None
    if number > _U64_MAX:
        raise Malformed("a number is too large")
    return number, offset


def read_frame(data: bytes, offset: int, end: int, crc: int) -> Frame:
    """The record whose frame starts at ``offset`` and reaches at most to ``end``.

    ``crc`` is the sum before it; a crc record is not checked here.

    Raises:
        BadFrame: there is no valid record.
    """
    if offset + 8 > end:
        raise BadFrame(offset, end - offset, "the length word is cut off")
    word: int = _WORD(data, offset)[0]
    if not word:
        raise BadFrame(offset, 0, "the length word is zero")
    size = word & 0xFFFFFFFFFFFFFF
    top = word >> 56
    pad = top & 7
    if top != (0x80 | pad if pad else 0) or not size or -size & 7 != pad:
        raise BadFrame(offset, 8, "the length word is not one")
    start = offset + 8
    stop = start + size
    following = stop + pad
    if following > end:
        raise BadFrame(offset, following - offset, "the record is cut off")
    try:
        kind, record_crc, body = _read_record(data, start, stop)
    except Malformed as error:
        raise BadFrame(offset, following - offset, str(error)) from None
    if kind != CRC and crc32c_extend(crc, body) != record_crc:
        raise BadFrame(offset, following - offset, "the checksum is wrong")
    if pad and data[stop:following] != bytes(pad):
        raise BadFrame(offset, following - offset, "the padding is not zero")
    return Frame(offset, following, kind, record_crc, body)


def _read_record(data: bytes, offset: int, stop: int) -> tuple[int, int, bytes]:
    """Type, checksum and data of the walpb.Record in ``data[offset:stop]``."""
    if data[offset] != 0x08 or data[offset + 2 : offset + 3] != b"\x10":
        raise Malformed("the record is not one")
    kind = data[offset + 1]
    crc, offset = read_varint(data, offset + 3)
    if crc >> 32 or offset > stop:
        raise Malformed("the record's checksum is not one")
    if offset == stop:
        return kind, crc, b""
    if data[offset] != 0x1A:
        raise Malformed("the record has an unknown field")
    length, offset = read_varint(data, offset + 1)
    if offset + length != stop:
        raise Malformed("the record's data has another length")
    return kind, crc, data[offset:stop]


def read_usual_entry(
    data: bytes, offset: int, end: int, crc: int
) -> tuple[int, int, Entry] | None:
    """What ``read_frame`` and ``read_entry`` give for a valid entry of the usual form.

    Returns the offset behind it, the sum after it and the entry; None if anything is
    unusual or wrong. It is here because a log is mostly such entries, and opening it
    and reading it back would take twice as long without.
    """
    start = offset + 8
    if start + 16 > end or data[start : start + 3] != b"\x08\x02\x10":
        return None
    word: int = _WORD(data, offset)[0]
    size = word & 0xFFFFFFFFFFFFFF
    stop = start + size
    top, zeros = _PADDING[size & 7]
    following = stop + len(zeros)
    if word >> 56 != top or following > end or data[stop:following] != zeros:
        return None
    one, two, three, four, five, tag, length, more = data[start + 3 : start + 11]
    if tag != 0x1A or five > 15 or not one & two & three & four & 0x80:
        return None
    at = start + 10
    if length > 127:
        if more > 127:
            return None
        length = length & 127 | more << 7
        at += 1
    if at + length != stop:
        return None
    body = data[at:stop]
    crc = crc32c_extend(crc, body)
    low = one & 127 | (two & 127) << 7 | (three & 127) << 14
    if crc != low | (four & 127) << 21 | five << 28:
        return None
    try:
        return following, crc, read_entry(body)
    except Malformed:
        return None


_PADDING = [(0x80 | -size & 7 if size else 0, bytes(-size & 7)) for size in range(8)]


def read_entry(data: bytes) -> Entry:
    """raftpb.Entry.

    Raises:
        Malformed: it is not one.
    """
    if data[:1] != b"\x08":
        raise Malformed("the entry has no type")
    kind = _TYPES.get(data[1] if len(data) > 1 else -1)
    if kind is None or data[2:3] != b"\x10":
        raise Malformed("the entry's type is not one")
    term, offset = read_varint(data, 3)
    if data[offset : offset + 1] != b"\x18":
        raise Malformed("the entry has no index")
    index, offset = read_varint(data, offset + 1)
    if offset == len(data):
        return Entry(term, index, b"", kind)
    if data[offset] != 0x22:
        raise Malformed("the entry has an unknown field")
    length, offset = read_varint(data, offset + 1)
    if offset + length != len(data):
        raise Malformed("the entry's data has another length")
    return Entry(term, index, data[offset:], kind)


def read_state(data: bytes) -> HardState:
    """raftpb.HardState.

    Raises:
        Malformed: it is not one.
    """
    numbers = []
    offset = 0
    for tag in (b"\x08", b"\x10", b"\x18"):
        if data[offset : offset + 1] != tag:
            raise Malformed("the hard state lacks a field")
        number, offset = read_varint(data, offset + 1)
        numbers.append(number)
    if offset != len(data):
        raise Malformed("the hard state has an unknown field")
    return HardState(*numbers)


def read_fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """Numbers and values of the fields of any message of varints and bytes.

    Raises:
        Malformed: it is not one.
    """
    fields: list[tuple[int, int | bytes]] = []
    offset = 0
    while offset < len(data):
        tag, offset = read_varint(data, offset)
        value, offset = read_varint(data, offset)
        if tag & 7 == 0:
            fields.append((tag >> 3, value))
        elif tag & 7 == 2 and offset + value <= len(data):
            fields.append((tag >> 3, data[offset : offset + value]))
            offset += value
        else:
            raise Malformed("a field has an unknown form")
    return fields


def read_snapshot(data: bytes) -> SnapshotMeta:
    """walpb.Snapshot.

    Raises:
        Malformed: it is not one.
    """
    index = term = 0
    conf = ConfState()
    for number, value in read_fields(data):
        if number == 1 and isinstance(value, int):
            index = value
        elif number == 2 and isinstance(value, int):
            term = value
        elif number == 3 and isinstance(value, bytes):
            conf = _read_conf_state(value)
    return SnapshotMeta(index, term, conf)


def _read_conf_state(data: bytes) -> ConfState:
    members: dict[int, list[int]] = {1: [], 2: [], 3: [], 4: []}
    auto_leave = False
    for number, value in read_fields(data):
        if not isinstance(value, int):
            raise Malformed("a membership holds bytes")
        if number in members:
            members[number].append(value)
        elif number == 5:
            auto_leave = bool(value)
    return ConfState(
        tuple(members[1]),
        tuple(members[2]),
        tuple(members[3]),
        tuple(members[4]),
        auto_leave,
    )


def read_mark(frame: Frame) -> Mark | None:
    """What a crc record says as a batch mark, None if it is a plain one.

    Raises:
        BadFrame: it is a mark, but not of this place.
    """
    if not frame.data:
        return None
    if len(frame.data) == MARK_DATA.size:
        synced, offset, length, check = MARK_DATA.unpack(frame.data)
        expected = mark_check(synced, offset, length, frame.crc)
        if check == expected and offset == frame.offset and synced <= offset:
            return Mark(synced, offset, length)
    raise BadFrame(frame.offset, frame.end - frame.offset, "the batch mark is wrong")
