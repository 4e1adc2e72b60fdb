"""RFC 9113, sections 7 to 10: error codes, requests and responses, bounds.

What is wrong, and what it leads to. The server's machine is under test unless a name
says otherwise.
"""

from __future__ import annotations

import hpack
import pytest

from revstore_http2 import ErrorCode, Limits
from revstore_http2.events import (
    Cancelled,
    Request,
    StreamRefused,
)
from tests.http2.wire import (
    END,
    SINGLE,
    STREAM,
    ClientWire,
    Pair,
    ServerWire,
    call_fields,
    data,
    frame,
    message,
    rst,
)


def test_7_unknown_error_codes() -> None:
    """7: an unknown error code is as good as any."""
    wire = ServerWire()
    number = wire.start(STREAM)
    (event,) = wire.feed(rst(number, 0xDEADBEEF))
    assert isinstance(event, Cancelled)


def test_8_1_trailers_of_a_client() -> None:
    """8.1: trailers end the client's side; they must, and hold no pseudo-headers."""
    wire = ServerWire()
    number = wire.number()
    head = wire.head(number, call_fields())
    trailers = wire.head(number, [("x", "y")], 5)
    (event,) = wire.feed(head, data(number, message(b"x")), trailers)
    assert isinstance(event, Request)
    for fields, flags in (([("x", "y")], 4), ([(":path", "/")], 5)):
        wire = ServerWire()
        number = wire.start(STREAM)
        sent = wire.head(number, fields, flags)
        wire.must_reset(number, ErrorCode.PROTOCOL_ERROR, sent)


def test_8_1_1_content_length() -> None:
    """8.1.1: content must be as long as content-length says."""
    for length, good in ((6, True), (5, False), (7, False)):
        wire = ServerWire()
        number, sent = wire.call(SINGLE, b"x", ("content-length", str(length)))
        if good:
            assert isinstance(wire.feed(sent)[0], Request)
        else:
            wire.must_reset(number, ErrorCode.PROTOCOL_ERROR, sent)


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("8.2.1", [*call_fields(), ("Upper", "x")]),
        ("8.2.1", [*call_fields(), ("sp ace", "x")]),
        ("8.2.1", [*call_fields(), ("", "x")]),
        ("8.2.1", [*call_fields(), ("a", "nul\0")]),
        ("8.2.1", [*call_fields(), ("a", "line\n")]),
        ("8.2.1", [*call_fields(), ("a", "line\r")]),
        ("8.2.1", [*call_fields(), ("a", " x")]),
        ("8.2.1", [*call_fields(), ("a", "x\t")]),
        ("8.2.2", [*call_fields(), ("connection", "close")]),
        ("8.2.2", [*call_fields(), ("keep-alive", "1")]),
        ("8.2.2", [*call_fields(), ("proxy-connection", "x")]),
        ("8.2.2", [*call_fields(), ("transfer-encoding", "chunked")]),
        ("8.2.2", [*call_fields(), ("upgrade", "h2c")]),
        ("8.2.2", [*call_fields(), ("te", "gzip")]),
        ("8.3", [*call_fields(), (":late", "x")]),
        ("8.3", [*call_fields(), (":path", "/late")]),
        ("8.3", [(":status", "200"), *call_fields()]),
        ("8.3", [(":path", "/twice"), *call_fields()]),
        ("8.3.1", call_fields()[1:]),
        ("8.3.1", [call_fields()[0], *call_fields()[2:]]),
        ("8.3.1", [*call_fields()[:2], *call_fields()[3:]]),
        ("8.3.1", call_fields("")),
        ("8.3.1", call_fields("no/slash")),
        ("8.1.1", [*call_fields(), ("content-length", "x")]),
        ("8.1.1", [*call_fields(), ("content-length", "1"), ("content-length", "2")]),
        ("8.5", [(":method", "CONNECT"), (":authority", "x:1")]),
    ],
)
def test_8_malformed_requests(section: str, fields: list[Pair]) -> None:
    """8.2, 8.3: a malformed request is PROTOCOL_ERROR of its stream."""
    for path_in_parts in (False, True):
        wire = ServerWire()
        number = wire.number()
        if path_in_parts:
            block = wire.encoder.encode(fields)
            sent = frame(1, 0, number, block[:1]) + frame(9, 4, number, block[1:])
        else:
            sent = wire.head(number, fields)
        events = wire.must_reset(
            number, ErrorCode.PROTOCOL_ERROR, sent, data(number, message(b"x"), END)
        )
        assert [type(event) for event in events] == [StreamRefused], section


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("content-type", "application/grpc")],
        [(":status", "2x0")],
        [(":status", "200"), (":status", "200")],
        [("a", "b"), (":status", "200")],
    ],
)
def test_8_malformed_responses(fields: list[Pair]) -> None:
    """8.3.2: a malformed response ends its call with an error and PROTOCOL_ERROR."""
    client = ClientWire()
    number = client.connection.call(SINGLE, b"x")
    client.output()
    block = hpack.Encoder().encode(fields)
    events = client.must_reset(
        number, ErrorCode.PROTOCOL_ERROR, frame(1, 4, number, block)
    )
    assert [getattr(event, "code", None) for event in events] == [1, 13]
    assert client.connection.can_call


def test_10_5_1_a_header_list_that_is_too_large() -> None:
    """10.5.1: a header list over the bound is answered 431; others go on."""
    wire = ServerWire(Limits(header_list_bytes_max=500))
    number, sent = wire.call(SINGLE, b"x", ("a", "b" * 500))
    assert wire.feed(sent) == []
    head = dict(wire.answer(number)[0])
    assert head[":status"] == "431"
    assert head["grpc-status"] == "8"
    _, sent = wire.call(SINGLE)
    assert isinstance(wire.feed(sent)[0], Request)
