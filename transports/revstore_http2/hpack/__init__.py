"""Header compression of HTTP/2 (RFC 7541), without I/O and without dependencies.

``Decoder`` reads the header blocks of one connection, ``Encoder`` writes them,
``encode_plain`` writes blocks that need no state on either side. Bad input raises
``HpackError`` and nothing else.
"""

from __future__ import annotations

from revstore_http2.hpack.decoder import Decoder, Headers
from revstore_http2.hpack.encoder import Encoder, encode_plain
from revstore_http2.hpack.errors import HeaderListTooLargeError, HpackError
from revstore_http2.hpack.fields import Field

__all__ = [
    "Decoder",
    "Encoder",
    "Field",
    "HeaderListTooLargeError",
    "Headers",
    "HpackError",
    "encode_plain",
]
