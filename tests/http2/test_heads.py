"""Request heads: what gRPC servers answer to, and how; metadata and deadlines."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revstore.errors import ConfigError
from revstore_http2 import Limits
from revstore_http2.codes import FrameType
from revstore_http2.events import HttpRequest, Request
from revstore_http2.metadata import (
    decode_binary,
    encode_binary,
    percent_decode,
    percent_encode,
    timeout_seconds,
    timeout_value,
)
from tests.http2.wire import (
    END,
    SINGLE,
    Pair,
    ServerWire,
    call_fields,
    data,
    message,
)


def _fields(**changes: str) -> list[Pair]:
    found = dict(call_fields())
    for name, value in changes.items():
        key = ":" + name if name == "method" else name.replace("_", "-")
        if value:
            found[key] = value
        else:
            del found[key]
    return list(found.items())


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        (
            _fields(content_type="text/html"),
            "415",
            'invalid gRPC request content-type "text/html"',
        ),
        (_fields(content_type=""), "415", 'invalid gRPC request content-type ""'),
        (
            _fields(content_type="application/grpc-web"),
            "415",
            'invalid gRPC request content-type "application/grpc-web"',
        ),
        (
            _fields(method="GET"),
            "405",
            'Received a HEADERS frame with :method "GET" which should be POST',
        ),
        (_fields(grpc_timeout="5"), "400", "malformed grpc-timeout: '5'"),
        (_fields(grpc_timeout="x5S"), "400", "malformed grpc-timeout: 'x5S'"),
        (
            _fields(grpc_timeout="123456789S"),
            "400",
            "malformed grpc-timeout: '123456789S'",
        ),
        (
            _fields(x_bin="%%%"),
            "400",
            "malformed binary metadata: the value of x-bin is not base64",
        ),
    ],
)
@pytest.mark.parametrize("end", [False, True])
def test_requests_that_are_not_grpc(
    fields: list[Pair], status: str, text: str, end: bool
) -> None:
    """A wrong kind of request is answered in HTTP and in gRPC, as grpc-go does it."""
    wire = ServerWire()
    number = wire.number()
    assert wire.feed(wire.head(number, fields, 5 if end else 4)) == []
    frames = wire.frames()
    found = dict(wire.decode(frames[0].payload))
    assert frames[0].flags & END
    assert found[":status"] == status
    assert found["grpc-status"] == "13"
    assert percent_decode(found["grpc-message"].encode()) == text
    assert [f.kind for f in frames[1:]] == ([] if end else [FrameType.RST_STREAM])
    assert wire.connection.open_streams == 0


@pytest.mark.parametrize(
    "kind", ["application/grpc", "application/grpc+proto", "application/grpc;v=1"]
)
def test_kinds_of_content_that_are_grpc(kind: str) -> None:
    """A suffix of the content type changes nothing."""
    wire = ServerWire()
    number = wire.number()
    head = wire.head(number, _fields(content_type=kind))
    (event,) = wire.feed(head, data(number, message(b"x"), END))
    assert isinstance(event, Request)


def test_metadata() -> None:
    """Text and binary metadata arrive; of a repeated name the first is in the mapping."""
    wire = ServerWire()
    _, sent = wire.call(
        SINGLE,
        b"x",
        ("token", "one"),
        ("token", "two"),
        ("raw-bin", "AAEC,/w=="),
        ("user-agent", "etcdctl"),
    )
    (event,) = wire.feed(sent)
    assert isinstance(event, Request)
    assert event.head.metadata == {"token": "one", "user-agent": "etcdctl"}
    assert event.head.pairs == (
        ("token", "one"),
        ("token", "two"),
        ("raw-bin", b"\0\1\2"),
        ("raw-bin", b"\xff"),
        ("user-agent", "etcdctl"),
    )
    assert event.head.user_agent == "etcdctl"
    assert event.head.authority == "127.0.0.1:2379"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"99999999n", 0.099999999),
        (b"0S", 0),
        (b"", -1),
        (b"S", -1),
        (b"1", -1),
        (b"1s", -1),
        (b"-1S", -1),
        (b"+1S", -1),
        (b"1_0S", -1),
        (b" 1S", -1),
        (b"123456789n", -1),
    ],
)
def test_deadlines_are_read(value: bytes, seconds: float) -> None:
    """A deadline has up to 8 digits and one of six units; else it has no meaning."""
    assert timeout_seconds(value) == pytest.approx(seconds)


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=1e10))
def test_deadlines_are_written(seconds: float) -> None:
    """What is written is readable, not shorter, and exact to a ten-thousandth."""
    value = timeout_value(seconds)
    assert len(value) <= 9
    found = timeout_seconds(value)
    assert found >= seconds * (1 - 1e-9)
    assert found <= seconds * 1.0001 + 1e-8


@settings(deadline=None)
@given(st.text())
def test_texts_survive(text: str) -> None:
    """Any text comes back from its percent-encoding, which is printable ASCII."""
    encoded = percent_encode(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert percent_decode(encoded) == text.encode("utf-8", "replace").decode()


@settings(deadline=None)
@given(st.binary())
def test_any_text_can_be_read(value: bytes) -> None:
    """No grpc-message is an error."""
    percent_decode(value)


@settings(deadline=None)
@given(st.binary())
def test_binary_values_survive(value: bytes) -> None:
    """Binary metadata comes back, with padding and without."""
    encoded = encode_binary(value)
    assert decode_binary(encoded) == value
    assert decode_binary(encoded + b"=" * (-len(encoded) % 4)) == value


def test_plain_http() -> None:
    """Where plain requests are wanted they come whole, and are answered as such."""
    wire = ServerWire(Limits(plain_http=True))
    number = wire.number()
    fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/health"),
        (":authority", "h:1"),
        ("accept", "*/*"),
    ]
    (event,) = wire.feed(wire.head(number, fields, 5))
    assert isinstance(event, HttpRequest)
    assert (event.method, event.path, event.body) == ("GET", "/health", b"")
    assert event.headers == {"accept": "*/*"}
    wire.connection.respond(number, 200, [("Content-Type", "text/plain")], b"fine")
    head, content, trailers = wire.answer(number)
    assert head == [
        (":status", "200"),
        ("content-type", "text/plain"),
        ("content-length", "4"),
    ]
    assert (content, trailers) == (b"fine", [])
    assert wire.connection.open_streams == 0


def test_plain_http_with_a_body() -> None:
    """A body comes with its request, up to a bound."""
    wire = ServerWire(Limits(plain_http=True, body_bytes_max=1000))
    fields = _fields(content_type="application/json")
    for size, good in ((1000, True), (1001, False)):
        number = wire.number()
        wire.feed(wire.head(number, fields), data(number, bytes(500)))
        events = wire.feed(data(number, bytes(size - 500), END))
        if good:
            (event,) = events
            assert isinstance(event, HttpRequest)
            assert event.body == bytes(1000)
            wire.connection.respond(number, 204)
        status = dict(wire.answer(number)[0])[":status"]
        assert status == ("204" if good else "413")
        assert wire.connection.open_streams == 0


@pytest.mark.parametrize(
    "change",
    [
        {"stream_window_bytes": 0},
        {"connection_window_bytes": 65_534},
        {"frame_bytes_max": 16_383},
        {"frame_bytes_max": 1 << 24},
        {"streams_max": 0},
        {"unfinished_bytes_max": 1000},
        {"stream_low_bytes": 1 << 21},
    ],
)
def test_bounds_that_do_not_fit(change: dict[str, int]) -> None:
    """Bounds that contradict one another or the RFC are refused by name."""
    with pytest.raises(ConfigError, match=next(iter(change))):
        Limits(**change)  # type: ignore[arg-type]  # all are numbers
