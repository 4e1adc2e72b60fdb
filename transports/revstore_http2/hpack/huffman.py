"""Strings in the static Huffman code (RFC 7541, section 5.2 and appendix B).

Rules of this file:

1. The code is canonical, so the lengths of its words say it all.
2. Decoding goes byte by byte. A row belongs to an inner node of the tree; for a byte it
   holds the symbols that the byte completes and the row to go on with.
3. Rows fill when they are used. All of them together have 65,536 entries, some 10 MB,
   which only an attacker would ever make.
"""

from __future__ import annotations

from revstore_http2.hpack.errors import HpackError

SYMBOLS = 257
END_OF_STRING = 256
SHORT_BYTES = 64
"""Up to this length gluing bytes together is faster than collecting them."""

# Of symbols 0-255 and the end of the string, in bits.
_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c"
    "060a0a0c0d06080b0a0a080b080606060505050606060606060607080f060c0a"
    "0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c"
    "1416141416161617161717171717181718181617181717171715161716171718"
    "1615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b"
    "14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a"
    "1e"
)

_Node = list["_Node | int"]
"""Two branches; a number is a symbol."""


class _Row(dict[int, "tuple[bytes, _Row]"]):
    """What each byte leads to from one node of the tree."""

    __slots__ = ("complete", "node")

    def __init__(self, node: _Node, complete: bool) -> None:
        super().__init__()
        self.node = node
        self.complete = complete
        """Whether a string may end here: what was read since the last symbol is a
        padding of ones shorter than a byte."""

    def __missing__(self, byte: int) -> tuple[bytes, _Row]:
        node = self.node
        symbols = bytearray()
        for shift in range(7, -1, -1):
            branch = node[byte >> shift & 1]
            if not isinstance(branch, int):
                node = branch
            elif branch == END_OF_STRING:
                raise HpackError("a Huffman string contains the end-of-string symbol")
            else:
                symbols.append(branch)
                node = _TREE
        found = bytes(symbols), _ROWS[id(node)]
        self[byte] = found
        return found


def decode(text: bytes) -> bytes:
    """The string behind its Huffman code.

    Raises:
        HpackError: it does not end as a string has to.
    """
    row = _START
    if len(text) <= SHORT_BYTES:
        found = b""
        for byte in text:
            more, row = row[byte]
            found += more
    else:
        pieces = []
        for byte in text:
            more, row = row[byte]
            pieces.append(more)
        found = b"".join(pieces)
    if not row.complete:
        raise HpackError("a Huffman string has a padding that is not allowed")
    return found


def encode(text: bytes) -> bytes:
    """The Huffman code of a string. Raises: nothing."""
    bits = width = 0
    for symbol in text:
        code, more = _CODES[symbol]
        bits = bits << more | code
        width += more
    padding = -width % 8
    bits = bits << padding | (1 << padding) - 1
    return bits.to_bytes((width + padding) // 8, "big")


def _make_codes() -> list[tuple[int, int]]:
    """The code and its length in bits of each symbol."""
    codes = [(0, 0)] * SYMBOLS
    code = width = 0
    for symbol in sorted(range(SYMBOLS), key=lambda one: (_LENGTHS[one], one)):
        code <<= _LENGTHS[symbol] - width
        width = _LENGTHS[symbol]
        codes[symbol] = code, width
        code += 1
    return codes


def _grow_tree() -> _Node:
    root: _Node = [0, 0]
    for symbol, (code, width) in enumerate(_CODES):
        node = root
        for shift in range(width - 1, 0, -1):
            branch = node[code >> shift & 1]
            if isinstance(branch, int):
                branch = node[code >> shift & 1] = [0, 0]
            node = branch
        node[code & 1] = symbol
    return root


def _make_rows(root: _Node) -> dict[int, _Row]:
    padding: list[_Node] = [root]
    for _ in range(7):
        branch = padding[-1][1]
        assert not isinstance(branch, int), "no symbol is seven ones"
        padding.append(branch)
    endings = {id(node) for node in padding}
    rows: dict[int, _Row] = {}
    todo = [root]
    while todo:
        node = todo.pop()
        rows[id(node)] = _Row(node, id(node) in endings)
        todo.extend(branch for branch in node if not isinstance(branch, int))
    return rows


_CODES = _make_codes()
_TREE = _grow_tree()
_ROWS = _make_rows(_TREE)
_START = _ROWS[id(_TREE)]
