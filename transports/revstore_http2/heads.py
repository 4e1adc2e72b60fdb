"""What the header block of a request means, worked out once per distinct block.

Rules of this file:

1. A head is judged in the order of the layers: HTTP/2 (malformed: the stream is reset),
   HTTP (415, 405, 400), gRPC (a status). What is wrong is part of the result, so that
   a head that comes again costs nothing again.
2. The deadline is not part of a head (``hpack.Decoder`` keeps it apart).

References: RFC 9113, sections 8.2, 8.3; "gRPC over HTTP2", requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from revstore_http2.codes import Status
from revstore_http2.events import RequestHead, Route
from revstore_http2.hpack import Field
from revstore_http2.metadata import decode_pairs

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_VALUE_BAD = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z")
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_OF_CONNECTION = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Fields that HTTP/2 has no place for (section 8.2.2)."""
_ENCODINGS = {b"": False, b"identity": False, b"gzip": True}

ACCEPT_ENCODING = b"identity,gzip"


class Refusal(msgspec.Struct, frozen=True):
    """The answer to every request with this head."""

    http_status: int
    code: int
    text: str
    accept_encoding: bool = False
    """Whether to say which compressions are known."""


class PlainHead(msgspec.Struct, frozen=True):
    """A head that is HTTP and not gRPC."""

    method: str
    path: str
    authority: str
    headers: dict[str, str]


class KnownHead:
    """What was found; exactly one of the first four is set."""

    __slots__ = ("call", "content_length", "fault", "head", "plain", "quick", "refusal")

    def __init__(
        self,
        *,
        fault: str = "",
        refusal: Refusal | None = None,
        plain: PlainHead | None = None,
        head: RequestHead | None = None,
        content_length: int | None = None,
    ) -> None:
        self.fault = fault
        """Why the request is malformed; empty if it is not."""
        self.refusal = refusal
        self.plain = plain
        self.head = head
        self.call: Any = head
        """The same, for those who know already that it is one."""
        self.content_length = content_length
        self.quick = head is not None and head.route.single and content_length is None
        """Whether a call may be taken without a state of its own."""


def read_head(
    fields: Sequence[Field], route: Callable[[str], Route], plain_http: bool
) -> KnownHead:
    """Judge the fields of a request. Raises: nothing."""
    pseudo: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for field in fields:
        name, value = field.name, field.value
        fault = _fault_of(name, value, pseudo, bool(regular))
        if fault:
            return KnownHead(fault=fault)
        if name[0] == 0x3A:
            pseudo[name] = value
        elif name == b"content-length" and regular.get(name, value) != value:
            return KnownHead(fault="two content-length fields differ")
        else:
            regular.setdefault(name, value)
    fault = _fault_of_pseudo(pseudo)
    if fault:
        return KnownHead(fault=fault)
    length = regular.get(b"content-length")
    if length is not None and not (length.isdigit() and len(length) <= 18):
        return KnownHead(fault="content-length is not a number")
    content_length = None if length is None else int(length)
    kind = regular.get(b"content-type", b"")
    if plain_http and not kind.startswith(b"application/grpc"):
        plain = _plain(pseudo, regular)
        return KnownHead(plain=plain, content_length=content_length)
    refusal = _refusal_of(pseudo[b":method"], kind)
    if refusal is not None:
        return KnownHead(refusal=refusal)
    return _grpc_head(fields, pseudo, regular, route, content_length)


def _fault_of(
    name: bytes, value: bytes, pseudo: dict[bytes, Any], regular_seen: bool
) -> str:
    """What HTTP/2 forbids about one field, or nothing."""
    if name[:1] == b":":
        if name not in _PSEUDO:
            return f"there is no pseudo-header {name!r} in a request"
        if name in pseudo:
            return f"the pseudo-header {name!r} comes twice"
        if regular_seen:
            return f"the pseudo-header {name!r} comes behind other fields"
    elif not _NAME.match(name):
        return f"{name[:64]!r} is no field name"
    elif name in _OF_CONNECTION:
        return f"the field {name!r} has no place in HTTP/2"
    elif name == b"te" and value != b"trailers":
        return "the field te may only say trailers"
    if _VALUE_BAD.search(value):
        return f"the value of {name!r} has bytes that are not allowed"
    return ""


def _fault_of_pseudo(pseudo: dict[bytes, bytes]) -> str:
    if pseudo.get(b":method") == b"CONNECT":
        return "CONNECT is not served"
    for name in (b":method", b":scheme", b":path"):
        if not pseudo.get(name):
            return f"the pseudo-header {name!r} is missing"
    path = pseudo[b":path"]
    if path[0] != 0x2F and path != b"*":
        return "the path does not begin with a slash"
    return ""


def _plain(pseudo: dict[bytes, bytes], regular: dict[bytes, bytes]) -> PlainHead:
    authority = pseudo.get(b":authority") or regular.get(b"host", b"")
    return PlainHead(
        method=pseudo[b":method"].decode("latin-1"),
        path=pseudo[b":path"].decode("latin-1"),
        authority=authority.decode("latin-1"),
        headers={
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in regular.items()
        },
    )


def _refusal_of(method: bytes, kind: bytes) -> Refusal | None:
    base, rest = kind[:16].lower(), kind[16:17]
    if base != b"application/grpc" or rest not in (b"", b"+", b";"):
        shown = kind.decode("latin-1")
        text = f'invalid gRPC request content-type "{shown}"'
        return Refusal(415, Status.INTERNAL, text)
    if method != b"POST":
        shown = method.decode("latin-1")
        text = f'Received a HEADERS frame with :method "{shown}" which should be POST'
        return Refusal(405, Status.INTERNAL, text)
    return None


def _grpc_head(
    fields: Sequence[Field],
    pseudo: dict[bytes, bytes],
    regular: dict[bytes, bytes],
    route: Callable[[str], Route],
    content_length: int | None,
) -> KnownHead:
    encoding = regular.get(b"grpc-encoding", b"")
    compressed = _ENCODINGS.get(encoding)
    if compressed is None:
        shown = encoding.decode("latin-1")
        text = f'grpc: Decompressor is not installed for grpc-encoding "{shown}"'
        return KnownHead(refusal=Refusal(200, Status.UNIMPLEMENTED, text, True))
    try:
        pairs = decode_pairs((field.name, field.value) for field in fields)
    except ValueError as error:
        text = f"malformed binary metadata: {error}"
        return KnownHead(refusal=Refusal(400, Status.INTERNAL, text))
    path = pseudo[b":path"].decode("latin-1")
    found = route(path)
    if found.refusal is not None:
        return KnownHead(refusal=Refusal(200, *found.refusal))
    metadata: dict[str, str] = {}
    for name, value in pairs:
        if isinstance(value, str):
            metadata.setdefault(name, value)
    authority = pseudo.get(b":authority") or regular.get(b"host", b"")
    head = RequestHead(
        path=path,
        route=found,
        metadata=metadata,
        pairs=pairs,
        authority=authority.decode("latin-1"),
        user_agent=metadata.get("user-agent", ""),
        compressed=compressed,
    )
    return KnownHead(head=head, content_length=content_length)
