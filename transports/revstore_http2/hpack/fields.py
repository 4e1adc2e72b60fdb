"""One header field, and the fields that both sides know (RFC 7541, appendix A)."""

from __future__ import annotations

import msgspec

ENTRY_OVERHEAD_BYTES = 32
"""What a field counts in a table or list besides its text (RFC 7541, section 4.1)."""


class Field(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A name and a value. Compared and hashed by identity, which is fast."""

    name: bytes
    value: bytes
    size: int
    """What it counts in a table or list."""
    apart: bool = False
    """Whether its value is not part of ``Headers`` (see ``Decoder``)."""


_STATIC = (
    ":authority",
    ":method GET",
    ":method POST",
    ":path /",
    ":path /index.html",
    ":scheme http",
    ":scheme https",
    ":status 200",
    ":status 204",
    ":status 206",
    ":status 304",
    ":status 400",
    ":status 404",
    ":status 500",
    "accept-charset",
    "accept-encoding gzip, deflate",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
)


def make_field(name: bytes, value: bytes, apart: bool = False) -> Field:
    """A field with its size."""
    return Field(name, value, ENTRY_OVERHEAD_BYTES + len(name) + len(value), apart)


STATIC_FIELDS: tuple[Field, ...] = tuple(
    make_field(name, value)
    for name, _, value in (line.encode().partition(b" ") for line in _STATIC)
)
"""The static table; index 1 is its first."""

STATIC_COUNT = len(STATIC_FIELDS)
STATIC_INDEX: dict[tuple[bytes, bytes], int] = {
    (field.name, field.value): number for number, field in enumerate(STATIC_FIELDS, 1)
}
STATIC_NAME_INDEX: dict[bytes, int] = {
    field.name: number for number, field in reversed(list(enumerate(STATIC_FIELDS, 1)))
}
"""The first index with a name."""

assert STATIC_COUNT == 61, "the static table has 61 entries"
