"""Writing header blocks.

Rules of this file:

1. ``encode_plain`` uses the static table and literals that nobody stores: its blocks
   depend on nothing and may be made once and sent on any connection.
2. ``Encoder`` inserts what will come again. What varies from call to call is written
   without indexing, what is secret as never to be indexed (RFC 7541, section 7.1.3).
3. Strings are sent as they are, unless asked for. The Huffman code would save some
   bytes of what is not indexed, and cost time on both sides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from revstore_http2.hpack import huffman
from revstore_http2.hpack.decoder import TABLE_SIZE
from revstore_http2.hpack.fields import (
    ENTRY_OVERHEAD_BYTES,
    STATIC_COUNT,
    STATIC_INDEX,
    STATIC_NAME_INDEX,
)
from revstore_http2.hpack.integers import integer

VARYING = frozenset({b"grpc-timeout", b"content-length", b"date"})
SECRET = frozenset({b"authorization", b"token", b"cookie", b"proxy-authorization"})
ENTRY_BYTES_MAX = 512
"""A longer field is not worth its place in the table."""

_PLAIN, _NEVER, _INSERTING, _RESIZING, _INDEXED = 0x00, 0x10, 0x40, 0x20, 0x80
_HUFFMAN = 0x80


def encode_plain(
    fields: Iterable[tuple[bytes, bytes]], secret: frozenset[bytes] = SECRET
) -> bytes:
    """A header block without state. Names are to be in lower case. Raises: nothing."""
    pieces = []
    for name, value in fields:
        index = STATIC_INDEX.get((name, value))
        if index is not None:
            pieces.append(integer(index, 0x7F, _INDEXED))
        else:
            flags = _NEVER if name in secret else _PLAIN
            pieces.append(_literal(STATIC_NAME_INDEX.get(name, 0), name, value, flags))
    return b"".join(pieces)


class Encoder:
    """The writing side of one connection."""

    __slots__ = (
        "_entries",
        "_huffman",
        "_indices",
        "_inserted",
        "_names",
        "_secret",
        "_size",
        "_size_told",
        "_table_max",
        "_table_wanted",
        "_varying",
    )

    def __init__(
        self,
        table_size: int = TABLE_SIZE,
        varying: frozenset[bytes] = VARYING,
        secret: frozenset[bytes] = SECRET,
        huffman_code: bool = False,
    ) -> None:
        self._huffman = huffman_code
        """Whether a string is sent in its Huffman code where that is shorter."""
        self._table_wanted = table_size
        self._table_max = TABLE_SIZE
        self._varying = varying
        self._secret = secret
        self._entries: deque[tuple[bytes, bytes]] = deque()
        """The dynamic table, the oldest first."""
        self._size = 0
        self._inserted = 0
        """How many were ever inserted; numbers entries for the two tables below."""
        self._indices: dict[tuple[bytes, bytes], int] = {}
        self._names: dict[bytes, int] = {}
        self._size_told: int | None = None
        """The least size since the last block, if the other side must be told of one."""
        if table_size != TABLE_SIZE:
            self.set_table_size(TABLE_SIZE)

    def set_table_size(self, allowed: int) -> None:
        """The other side allows a table of this size (SETTINGS_HEADER_TABLE_SIZE).

        Raises: nothing.
        """
        size = min(allowed, self._table_wanted)
        if size == self._table_max:
            return
        self._table_max = size
        told = self._size_told
        self._size_told = size if told is None else min(told, size)
        self._evict()

    def encode(self, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The next header block; all must reach the other side in order.

        Names are to be in lower case. Raises: nothing.
        """
        pieces = []
        if self._size_told is not None:
            if self._size_told < self._table_max:
                pieces.append(integer(self._size_told, 0x1F, _RESIZING))
            pieces.append(integer(self._table_max, 0x1F, _RESIZING))
            self._size_told = None
        for field in fields:
            index = STATIC_INDEX.get(field) or self._index(self._indices.get(field))
            if index:
                pieces.append(integer(index, 0x7F, _INDEXED))
            else:
                pieces.append(self._write(*field))
        return b"".join(pieces)

    def _write(self, name: bytes, value: bytes) -> bytes:
        index = STATIC_NAME_INDEX.get(name) or self._index(self._names.get(name))
        if name in self._secret:
            return self._literal(index, name, value, _NEVER)
        size = ENTRY_OVERHEAD_BYTES + len(name) + len(value)
        if name in self._varying or size > min(ENTRY_BYTES_MAX, self._table_max):
            return self._literal(index, name, value, _PLAIN)
        written = self._literal(index, name, value, _INSERTING)
        self._entries.append((name, value))
        self._indices[name, value] = self._names[name] = self._inserted
        self._inserted += 1
        self._size += size
        self._evict()
        return written

    def _literal(self, index: int, name: bytes, value: bytes, flags: int) -> bytes:
        return _literal(index, name, value, flags, self._huffman)

    def _index(self, number: int | None) -> int:
        """The index of an entry by its number; 0 if there is none."""
        return 0 if number is None else STATIC_COUNT + self._inserted - number

    def _evict(self) -> None:
        while self._size > self._table_max:
            number = self._inserted - len(self._entries)
            name, value = self._entries.popleft()
            self._size -= ENTRY_OVERHEAD_BYTES + len(name) + len(value)
            if self._indices.get((name, value)) == number:
                del self._indices[name, value]
            if self._names.get(name) == number:
                del self._names[name]


def _literal(
    index: int, name: bytes, value: bytes, flags: int, code: bool = False
) -> bytes:
    prefix = 0x3F if flags == _INSERTING else 0x0F
    if index:
        return integer(index, prefix, flags) + _string(value, code)
    return bytes((flags,)) + _string(name, code) + _string(value, code)


def _string(text: bytes, code: bool) -> bytes:
    if code:
        shorter = huffman.encode(text)
        if len(shorter) < len(text):
            return integer(len(shorter), 0x7F, _HUFFMAN) + shorter
    return integer(len(text), 0x7F, 0) + text
