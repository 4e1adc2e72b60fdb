"""The header blocks of a server's answers.

Rules of this file:

1. Two fields come in every good answer: ``content-type`` and ``grpc-status: 0``. Each is
   put into the client's table once per connection, and named by one byte afterwards.
   Nothing else ever goes into that table, so that their places never change.
2. A client whose table is smaller than the usual one gets blocks without state.
3. Blocks must reach the client in the order in which they were asked for here.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from revstore_http2.codes import Status
from revstore_http2.heads import ACCEPT_ENCODING, Refusal
from revstore_http2.hpack import encode_plain
from revstore_http2.metadata import encode_binary, percent_encode

_Fields = list[tuple[bytes, bytes]]

CONTENT_TYPE = (b"content-type", b"application/grpc")
STATUS_OK = (b"grpc-status", b"0")
TABLE_BYTES_USUAL = 4096
TEXT_CHARACTERS_MAX = 2048
"""Of a status; some clients take no more than 8 KB of trailers."""

_OK_LINE = b"\x88"
"""``:status: 200``."""
_NO_TABLE = b"\x20"
"""The client's table is to be of size 0 from here on (RFC 7541, section 6.3)."""


def _inserting(field: tuple[bytes, bytes]) -> bytes:
    # The same as without indexing, but for the first byte's form.
    name, value = field
    return b"\x40%c%s%c%s" % (len(name), name, len(value), value)


class ResponseBlocks:
    """Writes the blocks of one connection."""

    __slots__ = (
        "_inserted",
        "_plain",
        "_prefix",
        "head_block",
        "head_frame",
        "ok_block",
        "ok_frame",
        "pack_end",
        "pack_reply",
        "quick",
    )

    def __init__(self) -> None:
        self._inserted = 0
        """How many of the two fields are in the client's table."""
        self._plain = False
        self._prefix = b""
        """What the next block must begin with."""
        self._fix(_OK_LINE + b"\xbf", b"\xbe")
        self.quick = False
        """Whether ``pack_reply`` and ``pack_end`` may be used."""

    def _fix(self, head_block: bytes, ok_block: bytes) -> None:
        """From now on the blocks of a good answer are these."""
        self.head_block = head_block
        self.head_frame = len(head_block).to_bytes(3, "big") + b"\x01\x04"
        self.ok_block = ok_block
        self.ok_frame = len(ok_block).to_bytes(3, "big") + b"\x01\x05"
        # HEADERS, and the beginning of DATA up to the message.
        self.pack_reply = Struct(f">5sI{len(head_block)}sIBIBI").pack
        self.pack_end = Struct(f">5sI{len(ok_block)}s").pack
        self.quick = True

    def set_table_size(self, size: int) -> None:
        """The client said how large its table is. Raises: nothing."""
        if size >= TABLE_BYTES_USUAL or self._plain:
            return
        self._plain = True
        self._prefix = _NO_TABLE
        self._fix(encode_plain([(b":status", b"200"), CONTENT_TYPE]), plain_ok())
        self.quick = False

    def plain(self, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        """A block of any fields. Raises: nothing."""
        block = encode_plain(fields)
        if self._prefix:
            block, self._prefix = self._prefix + block, b""
            self.quick = True
        return block

    def head(self, fields: _Fields) -> bytes:
        """What comes before the first message. Raises: nothing."""
        if self._plain:
            return self.plain([(b":status", b"200"), CONTENT_TYPE, *fields])
        rest = encode_plain(fields)
        if self._inserted == 0:
            self._inserted = 1
            return _OK_LINE + _inserting(CONTENT_TYPE) + rest
        if self._inserted == 1:
            return _OK_LINE + b"\xbe" + rest
        return self.head_block + rest

    def ok(self) -> bytes:
        """The trailers of a good answer. Raises: nothing."""
        if self._plain:
            return self.plain([STATUS_OK])
        if self._inserted == 1:
            self._inserted = 2
            self.quick = True
            return _inserting(STATUS_OK)
        # Without a head there is no place for content-type yet.
        return self.ok_block if self._inserted else plain_ok()


def plain_ok() -> bytes:
    """Good trailers without state."""
    return encode_plain([STATUS_OK])


def status_fields(code: int, text: str, details: bytes) -> _Fields:
    """The trailers that say how a call ended. Raises: nothing."""
    fields = [(b"grpc-status", b"%d" % code)]
    if text:
        fields.append((b"grpc-message", percent_encode(text[:TEXT_CHARACTERS_MAX])))
    if details:
        fields.append((b"grpc-status-details-bin", encode_binary(details)))
    return fields


def only_fields(http_status: int) -> _Fields:
    """What an answer without messages begins with. Raises: nothing."""
    return [(b":status", b"%d" % http_status), CONTENT_TYPE]


def refusal_fields(refusal: Refusal) -> _Fields:
    """The whole answer to a request that is refused by its head. Raises: nothing."""
    fields = only_fields(refusal.http_status)
    fields += status_fields(refusal.code, refusal.text, b"")
    if refusal.accept_encoding:
        fields.append((b"grpc-accept-encoding", ACCEPT_ENCODING))
    return fields


HEAD_TOO_LARGE = Refusal(431, Status.RESOURCE_EXHAUSTED, "the header list is too large")
