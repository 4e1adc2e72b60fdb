"""Reading header blocks.

Rules of this file:

1. A block is read whole or raises; after any ``HpackError`` but ``HeaderListTooLargeError``
   the table is out of step and the decoder is of no more use.
2. A block that was read before, byte for byte, gives the same ``Headers`` without being
   read again, if nothing that it depends on changed. One that names only static fields
   and literals depends on nothing; one that names dynamic fields holds until the next
   insertion, eviction or resizing; one that inserts or resizes is never remembered.
3. Equal fields are one object wherever they came from, so that equal lists are found by
   the identity of their members, and a reader interprets each list once (``memo``).
4. Clients put a deadline into each call, and some insert it into the table each time.
   So that such lists are equal nevertheless, the value of one name is kept ``apart``.
5. All that is remembered is bounded in number and, by the bound on lists, in bytes.

RFC 7541; the bounds on integers and lists answer its section 7.
"""

from __future__ import annotations

from typing import Any

from revstore_http2.hpack import huffman
from revstore_http2.hpack.errors import HeaderListTooLargeError, HpackError
from revstore_http2.hpack.fields import (
    ENTRY_OVERHEAD_BYTES,
    STATIC_FIELDS,
    Field,
    make_field,
)
from revstore_http2.hpack.integers import read_integer

TABLE_SIZE = 4096
"""Of the dynamic table, unless agreed otherwise (RFC 9113, section 6.5.2)."""
HEADER_LIST_BYTES_MAX = 16 * 1024

BLOCKS_MAX = 64
BLOCK_BYTES_MAX = 1024
"""How many blocks of which length are remembered, of each kind."""
LISTS_MAX = 64
FIELDS_MAX = 128
FIELD_BYTES_MAX = 512
"""How many lists and literal fields are remembered, and of which length."""

_INDEXED, _DYNAMIC = 0x80, 0xBE
"""First bytes of indexed fields: from here on static, and from here on dynamic."""
_INSERTING, _RESIZING = 0x40, 0x20


class Headers:
    """The fields of a header block, in order."""

    __slots__ = ("fields", "memo", "size")

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self.fields = fields
        """A field kept apart is in its place, with an empty value."""
        self.size = sum([field.size for field in fields])
        """As SETTINGS_MAX_HEADER_LIST_SIZE counts, without the value kept apart."""
        self.memo: Any = None
        """For the reader: what it made of these fields."""

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """Names and values."""
        return [(field.name, field.value) for field in self.fields]


class Decoder:
    """The reading side of one connection."""

    __slots__ = (
        "_blocks_now",
        "_blocks_stable",
        "_entries",
        "_lists",
        "_literals",
        "_marker",
        "_name_apart",
        "_size",
        "_table_limit",
        "_table_max",
        "apart",
        "header_list_max",
    )

    def __init__(
        self,
        table_size: int = TABLE_SIZE,
        header_list_max: int = HEADER_LIST_BYTES_MAX,
        apart: bytes = b"grpc-timeout",
    ) -> None:
        self.header_list_max = header_list_max
        self.apart: bytes | None = None
        """The value of the field kept apart in the block read last; None without it."""
        self._name_apart = apart
        self._marker = make_field(apart, b"", True)
        self._table_limit = table_size
        """What the other side was allowed; ``_table_max`` is what it chose."""
        self._table_max = table_size
        self._entries: list[Field] = []
        """The dynamic table. The newest is the last and has index 62."""
        self._size = 0
        """Invariant: the sum of the sizes of ``_entries``, at most ``_table_max``."""
        self._blocks_stable: dict[bytes, tuple[Headers, bytes | None]] = {}
        self._blocks_now: dict[bytes, tuple[Headers, bytes | None]] = {}
        """Invariant: empty after every change of the table."""
        self._lists: dict[tuple[Field, ...], Headers] = {}
        self._literals: dict[tuple[bytes, bytes], Field] = {}

    def decode(self, block: bytes) -> Headers:
        """Read a complete header block; ``apart`` is set as well.

        Raises:
            HpackError: it is not valid.
            HeaderListTooLargeError: it is, but its fields are more than is taken.
        """
        found = self._blocks_now.get(block) or self._blocks_stable.get(block)
        if found is not None:
            headers, self.apart = found
            return headers
        self.apart = None
        try:
            return self._read(block)
        except IndexError:
            raise HpackError(
                "a header block is cut off or names a field that is not in the table"
            ) from None

    def _read(self, block: bytes) -> Headers:
        entries = self._entries
        fields: list[Field] = []
        position, end = 0, len(block)
        changed = dynamic = False
        while position < end:
            first = block[position]
            position += 1
            if first >= _DYNAMIC:
                dynamic = True
                if first == 0xFF:
                    index, position = read_integer(block, position, 0x7F)
                    field = entries[61 - index]
                else:
                    field = entries[189 - first]
            elif first > _INDEXED:
                fields.append(STATIC_FIELDS[first - 129])
                continue
            elif first == _INDEXED:
                raise HpackError("a header block names the field with index 0")
            elif first >= _INSERTING:
                changed = True
                field, position = self._literal(block, position, first & 0x3F, 0x3F)
                self._insert(field)
            elif first < _RESIZING:
                # A name index of one further byte up to here is that of a static field.
                dynamic |= first & 0x0F == 0x0F and block[position] > 61 - 15
                field, position = self._literal(block, position, first & 0x0F, 0x0F)
            else:
                position = self._resize(block, position, first, bool(fields))
                changed = True
                continue
            if field.apart:
                self.apart = field.value
                field = self._marker
            fields.append(field)
        headers = self._headers(tuple(fields))
        if not changed and end <= BLOCK_BYTES_MAX:
            blocks = self._blocks_now if dynamic else self._blocks_stable
            if len(blocks) >= BLOCKS_MAX:
                blocks.clear()
            blocks[block] = headers, self.apart
        return headers

    def _headers(self, fields: tuple[Field, ...]) -> Headers:
        headers = self._lists.get(fields)
        if headers is None:
            headers = Headers(fields)
            apart = self.apart
            size = headers.size + (len(apart) if apart else 0)
            if size > self.header_list_max:
                raise HeaderListTooLargeError(
                    f"the header fields of a block come to {size} bytes; "
                    f"at most {self.header_list_max} are taken"
                )
            if len(self._lists) >= LISTS_MAX:
                self._lists.clear()
            self._lists[fields] = headers
        return headers

    def _literal(
        self, block: bytes, position: int, index: int, prefix: int
    ) -> tuple[Field, int]:
        """The field of a literal representation, and the position behind it."""
        name_known: Field | None = None
        if index == 0:
            name, position = _string(block, position)
        else:
            if index == prefix:
                index, position = read_integer(block, position, prefix)
            if index <= 61:
                name_known = STATIC_FIELDS[index - 1]
            else:
                name_known = self._entries[61 - index]
            name = name_known.name
        value, position = _string(block, position)
        if name == self._name_apart:
            size = ENTRY_OVERHEAD_BYTES + len(name) + len(value)
            return Field(name, value, size, True), position
        key = (name, value)
        field = self._literals.get(key)
        if field is None:
            field = make_field(name, value)
            if field.size <= FIELD_BYTES_MAX:
                if len(self._literals) >= FIELDS_MAX:
                    self._literals.clear()
                self._literals[key] = field
        return field, position

    def _insert(self, field: Field) -> None:
        if self._blocks_now:
            self._blocks_now.clear()
        entries = self._entries
        self._size += field.size
        entries.append(field)
        if self._size > self._table_max:
            self._evict()

    def _evict(self) -> None:
        """Make the table fit; a field larger than the table empties it."""
        entries = self._entries
        count, size, table_max = 0, self._size, self._table_max
        while size > table_max:
            size -= entries[count].size
            count += 1
        del entries[:count]
        self._size = size

    def _resize(self, block: bytes, position: int, first: int, late: bool) -> int:
        if late:
            raise HpackError("a table is resized behind the first field of a block")
        size = first & 0x1F
        if size == 0x1F:
            size, position = read_integer(block, position, 0x1F)
        if size > self._table_limit:
            raise HpackError(
                f"a table size of {size} was chosen; at most {self._table_limit} is allowed"
            )
        self._blocks_now.clear()
        self._table_max = size
        self._evict()
        return position


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    first = block[position]
    position += 1
    length = first & 0x7F
    if length == 0x7F:
        length, position = read_integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise HpackError("a string in a header block is cut off")
    text = block[position:end]
    return (huffman.decode(text) if first >= 0x80 else text), end
