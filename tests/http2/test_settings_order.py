"""The order in which new settings are acknowledged and used."""

from __future__ import annotations

from revstore_http2 import frames
from revstore_http2.codes import PREFACE, FrameType, Setting
from revstore_http2.events import Route
from revstore_http2.hpack import encode_plain
from revstore_http2.limits import Limits
from revstore_http2.server import ServerConnection

HEAD = encode_plain(
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/s/m"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
)


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """One frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags))
    return head + stream_id.to_bytes(4, "big") + payload


def kinds_of(data: bytes) -> list[tuple[int, int]]:
    """Kind and flags of each frame."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4]))
        data = data[9 + size :]
    return found


def test_settings_are_acknowledged_before_they_are_used() -> None:
    """A larger window is acknowledged before DATA that needs it.

    grpc's C core ended such streams: "frame of size N overflows local window of 0".
    """
    connection = ServerConnection(lambda path: Route(), Limits(), now=0.0)
    window = Setting.INITIAL_WINDOW_SIZE.to_bytes(2, "big")
    begin = PREFACE + frame(FrameType.SETTINGS, 0, 0, window + (10).to_bytes(4, "big"))
    connection.receive(begin + frame(FrameType.HEADERS, 4, 1, HEAD), 0.0)
    connection.send(1, bytes(1000))
    connection.output()
    assert connection.waiting(1)
    more = window + (5000).to_bytes(4, "big")
    connection.receive(frame(FrameType.SETTINGS, 0, 0, more), 0.0)
    kinds = kinds_of(b"".join(connection.output()))
    assert kinds[0] == (FrameType.SETTINGS, 1)
    assert (FrameType.DATA, 0) in kinds[1:]
    assert frame(FrameType.SETTINGS, 1, 0, b"") == frames.SETTINGS_ACK
