"""What a unary call costs in the HTTP/2 machine: bytes in, reply, bytes out.

``python -m revstore_bench.http2`` feeds a server's machine with the bytes of puts as
clients send them and answers each call, without sockets and without a store. The figure
is the least of some rounds, as that of timeit: everything above it is the machine
around.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from random import Random
from struct import Struct
from time import perf_counter

import msgspec

from revstore_http2 import Limits, ServerConnection
from revstore_http2.codes import PREFACE
from revstore_http2.events import Request, Route
from revstore_http2.frames import settings, window_update
from revstore_http2.hpack import Encoder, encode_plain
from revstore_http2.metadata import timeout_value

PATH = "/etcdserverpb.KV/Put"
REPLY = b"\x0a\x14" + bytes(20)
"""About as long as the answer to a put."""
CALLS = 1000
READ_BYTES = 64 * 1024
"""What one read of a socket gives."""

_HEADER = Struct(">IBI").pack
_FIELDS = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH.encode()),
    (b":authority", b"127.0.0.1:2379"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-go/1.56.0"),
    (b"te", b"trailers"),
)

Blocks = Callable[[int], bytes]
"""The header block of a call by its number."""


class Figure(msgspec.Struct, frozen=True):
    """One line of the result."""

    name: str
    per_call_us: float
    target_us: float


def plain_blocks() -> Blocks:
    """Blocks without state, the same each time, as h2load sends them from the second
    call on."""
    block = encode_plain(_FIELDS)
    return lambda number: block


def indexed_blocks() -> Blocks:
    """Every field out of the table: what a client without deadlines sends."""
    encoder = Encoder()
    return lambda number: encoder.encode(_FIELDS)


def deadline_blocks(seed: int = 1) -> Blocks:
    """A deadline that differs in each call and goes into the table, as Go does it."""
    encoder = Encoder(varying=frozenset())
    random = Random(seed)

    def block(number: int) -> bytes:
        timeout = timeout_value(5 - random.random() / 100)
        return encoder.encode((*_FIELDS, (b"grpc-timeout", timeout)))

    return block


def opening() -> bytes:
    """What a client sends first."""
    return PREFACE + settings([(4, 2**20)]) + window_update(0, 2**30)


def calls(blocks: Blocks, numbers: Iterable[int], together: int = 1) -> bytes:
    """The frames of puts; ``together`` heads come before their messages."""
    pieces: list[bytes] = []
    late: list[bytes] = []
    for number in numbers:
        stream_id = 2 * number + 1
        block = blocks(number)
        message = b"\x0a\x20%032d\x12\x64%0100d" % (number, number)
        pieces += _HEADER(len(block) << 8 | 1, 4, stream_id), block
        length = len(message)
        late += _HEADER(length + 5 << 8, 1, stream_id), length.to_bytes(5, "big")
        late.append(message)
        if len(late) >= 3 * together:
            pieces += late
            late.clear()
    return b"".join(pieces + late)


def time_calls(blocks: Blocks, rounds: int, together: int, read_bytes: int) -> float:
    """Microseconds per call, the least of some rounds."""
    route = Route(single=True)
    server = ServerConnection(lambda path: route, Limits(), now=0.0)
    server.receive(opening(), 0.0)
    best = float("inf")
    for turn in range(rounds):
        data = calls(blocks, range(turn * CALLS, (turn + 1) * CALLS), together)
        reads = [
            data[start : start + read_bytes]
            for start in range(0, len(data), read_bytes)
        ]
        answered = 0
        begin = perf_counter()
        for read in reads:
            for event in server.receive(read, 0.0):
                if type(event) is Request:
                    server.reply(event.stream_id, REPLY)
                    answered += 1
            while pieces := server.output():
                b"".join(pieces)
        best = min(best, perf_counter() - begin)
        if answered != CALLS:
            raise AssertionError(f"{answered} of {CALLS} calls were answered")
        server.receive(window_update(0, CALLS * (len(REPLY) + 5)), 0.0)
    return best / CALLS * 1e6


def figures(rounds: int = 30) -> list[Figure]:
    """All lines."""
    one = len(calls(plain_blocks(), range(1)))
    return [
        Figure(
            "blocks without state", time_calls(plain_blocks(), rounds, 1, READ_BYTES), 6
        ),
        Figure(
            "blocks that repeat", time_calls(indexed_blocks(), rounds, 1, READ_BYTES), 6
        ),
        Figure(
            "a deadline in each call",
            time_calls(deadline_blocks(), rounds, 1, READ_BYTES),
            10,
        ),
        Figure(
            "deadlines, ten heads before ten messages",
            time_calls(deadline_blocks(), rounds, 10, READ_BYTES),
            12,
        ),
        Figure("one call per read", time_calls(plain_blocks(), rounds, 1, one), 10),
    ]


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="revstore_bench.http2", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    for figure in figures(options.rounds):
        sys.stdout.write(
            f"{figure.name:42} {figure.per_call_us:6.2f} us a call"
            f"  (target {figure.target_us:g})\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
