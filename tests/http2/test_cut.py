"""Bytes may be cut anywhere: neither events nor answers know of it."""

from __future__ import annotations

import hpack
import pytest

from revstore_http2 import ClientConnection, ServerConnection
from revstore_http2.events import CallEnded, Event, MessageReceived, ResponseStarted
from tests.http2.traffic import Shell, client_traffic, exchange
from tests.http2.wire import (
    ACK,
    SINGLE,
    STREAM,
    data,
    frame,
    frames_of,
    message,
    ping,
    route,
    settings,
)

Streams = dict[int, list[object]]


def _server() -> ServerConnection:
    return ServerConnection(route, now=0.0)


def _answers(sent: bytes) -> Streams:
    """What each stream was answered, by content; the frames may be cut differently."""
    decoder = hpack.Decoder()
    found: Streams = {}
    for one in frames_of(sent):
        answer = found.setdefault(one.stream_id, [])
        if one.kind == 1:
            answer.append((decoder.decode(one.payload), one.flags))
        elif one.kind == 0:
            last = answer.pop() if isinstance(answer[-1], bytes) else b""
            answer.append(last + one.payload)  # type: ignore[operator]  # bytes
        elif one.kind == 3:
            answer.append(one)
    del found[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_cut_at_every_byte(seed: int) -> None:
    """Two pieces, cut at each position, are the same as one."""
    sent = b"".join(client_traffic(seed, 5))
    whole, out = exchange(_server(), [sent])
    expected = _answers(out)
    for cut in range(1, len(sent)):
        shell, out = exchange(_server(), [sent[:cut], sent[cut:]])
        where = f"seed {seed}, cut at {cut}"
        assert shell.calls == whole.calls, where
        assert shell.others == whole.others == [], where
        assert _answers(out) == expected, where


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 25))
def test_single_bytes(seed: int) -> None:
    """Byte by byte, frame by frame and in one piece give the same."""
    pieces = client_traffic(seed, 25)
    sent = b"".join(pieces)
    whole, out = exchange(_server(), [sent])
    expected = _answers(out)
    for cut in (pieces, [sent[at : at + 1] for at in range(len(sent))]):
        shell, out = exchange(_server(), cut)
        assert shell.calls == whole.calls, f"seed {seed}"
        assert _answers(out) == expected, f"seed {seed}"
    assert sum("Request" in said for said in whole.calls.values()) > 5


def test_the_short_way_and_the_general_way() -> None:
    """Calls that arrive whole and calls in parts are answered by the same bytes."""
    sent = client_traffic(99, 30)
    server = _server()
    whole, out = exchange(server, [b"".join(sent)])
    general = _server()
    general._quick_word_max = 0
    shell, other = exchange(general, [b"".join(sent)])
    assert shell.calls == whole.calls
    assert _answers(other) == _answers(out)


def _client_run(cuts: list[bytes]) -> list[object]:
    client = ClientConnection("h:1", now=0.0)
    for path in (SINGLE, STREAM, SINGLE):
        client.call(path, b"x")
    events: list[Event] = []
    for piece in cuts:
        events += client.receive(piece, 0.0)
        client.output()
    found: list[object] = []
    for event in events:
        if isinstance(event, MessageReceived):
            found.append((event.stream_id, event.message))
        elif isinstance(event, ResponseStarted | CallEnded):
            found.append((event.stream_id, type(event), event.pairs))
        else:
            found.append(event)
    return found


def test_cut_answers_at_every_byte() -> None:
    """For a client it is the same."""
    encoder = hpack.Encoder()
    head = [(":status", "200"), ("content-type", "application/grpc"), ("a", "b")]
    pieces = [settings(), frame(4, ACK, 0)]
    for number in (1, 5, 3):
        pieces.append(frame(1, 4, number, encoder.encode(head)))
        pieces += data(number, message(b"one") + message(b"two")[:4]), ping()
        pieces.append(data(number, message(b"two")[4:]))
        pieces.append(frame(1, 5, number, encoder.encode([("grpc-status", "0")])))
    sent = b"".join(pieces)
    expected = _client_run([sent])
    assert len(expected) == 12
    for cut in range(1, len(sent)):
        assert _client_run([sent[:cut], sent[cut:]]) == expected, f"cut at {cut}"


def test_a_shell_is_told_everything_once() -> None:
    """No stream gets two ends, and nothing after an end."""
    shell, _ = exchange(_server(), client_traffic(5, 200, resets=True))
    assert isinstance(shell, Shell)
    for number, said in shell.calls.items():
        ends = [
            at
            for at, what in enumerate(said)
            if what in ("Request", "Cancelled", "HalfClosed")
        ]
        assert len(ends) <= 1, (number, said)
