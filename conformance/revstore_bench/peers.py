"""``python -m revstore_bench.peers``: what the transports between members carry.

Two members in one process and on one event loop talk over loopback: the figures are for
comparing transports with one another, not for planning a network.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from time import perf_counter

import msgspec

from revstore.errors import TransportError
from revstore.interfaces.peers import (
    IncomingStream,
    Lane,
    PeerHandler,
    PeerOptions,
    Peers,
    PeerTransport,
    peer_transport,
)
from revstore.plugin.manager import PluginManager

TRANSPORTS = {
    "tcp": "tcp://127.0.0.1:0",
    "grpc": "http://127.0.0.1:0",
    "grpcio": "http://127.0.0.1:0",
}
MESSAGE_BYTES = 200
CHUNK_BYTES = 256 * 1024
ON_THE_WAY_MAX = 2000
"""Messages that were sent and have not arrived; below the bound of a lane."""
WARM_UP = 500


class Figures(msgspec.Struct, frozen=True):
    """What one transport did."""

    transport: str
    messages_per_s: float
    """Of 200 bytes each, one way, on the lane of entries."""
    round_trip_us: float
    """Median of one message each way, one at a time, on the lane of votes."""
    stream_mb_per_s: float
    """Of a stream in chunks of 256 KiB."""


class Member(PeerHandler):
    """Counts what comes, and wakes whoever waits for it."""

    def __init__(self) -> None:
        self.peers: Peers
        self.received = 0
        self.echo_to: int | None = None
        self._goal = 0
        self._reached: asyncio.Future[None] | None = None
        self._streams: asyncio.Queue[IncomingStream] = asyncio.Queue()

    def on_message(self, sender: int, lane: Lane, payload: bytes) -> None:
        self.received += 1
        if self.echo_to is not None:
            self.peers.send(self.echo_to, lane, payload)
        if self._reached is not None and self.received >= self._goal:
            self._reached.set_result(None)
            self._reached = None

    def on_stream(self, stream: IncomingStream) -> None:
        self._streams.put_nowait(stream)

    async def until(self, count: int) -> None:
        """Wait until so many messages have come."""
        if self.received < count:
            self._goal = count
            self._reached = asyncio.get_running_loop().create_future()
            await self._reached

    async def next_stream(self) -> IncomingStream:
        """The next stream that was opened to this member."""
        return await self._streams.get()


async def measure(name: str, count: int, stream_bytes: int) -> Figures:
    """The figures of one transport, each of one run."""
    transport = peer_transport(name, PluginManager().make_transport(name, {}))
    members = [await _start(transport, name, member) for member in (1, 2)]
    one, two = members
    try:
        one.peers.set_peer(2, two.peers.addresses())
        two.peers.set_peer(1, one.peers.addresses())
        await _flood(one, two, WARM_UP)
        await _ping_pong(one, two, WARM_UP)
        return Figures(
            transport=name,
            messages_per_s=count / await _timed(lambda: _flood(one, two, count)),
            round_trip_us=1e6 * await _ping_pong(one, two, max(1, count // 20)),
            stream_mb_per_s=stream_bytes
            / 1e6
            / await _timed(lambda: _stream(one, two, stream_bytes)),
        )
    finally:
        for member in members:
            await member.peers.close()


async def _start(transport: PeerTransport, name: str, number: int) -> Member:
    member = Member()
    options = PeerOptions(
        cluster_id=1, member_id=number, urls=[TRANSPORTS[name]], random=Random(number)
    )
    member.peers = await transport.join(options, member)
    return member


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    begin = perf_counter()
    await work()
    return perf_counter() - begin


async def _flood(source: Member, target: Member, count: int) -> None:
    """Send as fast as the messages arrive."""
    payload = bytes(MESSAGE_BYTES)
    begin = target.received
    sent = 0
    while sent < count:
        room = ON_THE_WAY_MAX - (begin + sent - target.received)
        for _ in range(min(room, count - sent)):
            if not source.peers.send(2, Lane.LOG, payload):
                break
            sent += 1
        await asyncio.sleep(0)
    await target.until(begin + count)


async def _ping_pong(source: Member, target: Member, count: int) -> float:
    """Median seconds of a message there and one back."""
    target.echo_to = 1
    times = []
    for _ in range(count):
        begin, waiting = perf_counter(), source.received
        if not source.peers.send(2, Lane.CONTROL, b"ping"):
            raise TransportError("the members lost one another; measure again")
        await source.until(waiting + 1)
        times.append(perf_counter() - begin)
    target.echo_to = None
    return statistics.median(times)


async def _stream(source: Member, target: Member, size: int) -> None:
    writer = await source.peers.open_stream(2, b"")
    stream = await target.next_stream()

    async def read() -> None:
        async for _ in stream.chunks():
            pass
        stream.accept()

    reading = asyncio.ensure_future(read())
    chunk = bytes(CHUNK_BYTES)
    for _ in range(size // CHUNK_BYTES):
        await writer.write(chunk)
    await writer.finish()
    await reading


def median_of(runs: Sequence[Figures]) -> Figures:
    """The median of each figure of several runs."""
    return Figures(
        transport=runs[0].transport,
        messages_per_s=statistics.median(run.messages_per_s for run in runs),
        round_trip_us=statistics.median(run.round_trip_us for run in runs),
        stream_mb_per_s=statistics.median(run.stream_mb_per_s for run in runs),
    )


def render(rows: Sequence[Figures]) -> str:
    """A table, each figure beside its ratio to the first row's."""
    first = rows[0]
    lines = [
        "| transport | messages/s of 200 bytes | round trip, us | stream, MB/s |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        cells = (
            f"{row.messages_per_s:,.0f} ({row.messages_per_s / first.messages_per_s:.2f}x)",
            f"{row.round_trip_us:,.0f} ({row.round_trip_us / first.round_trip_us:.2f}x)",
            f"{row.stream_mb_per_s:,.0f} "
            f"({row.stream_mb_per_s / first.stream_mb_per_s:.2f}x)",
        )
        lines.append(f"| {row.transport} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@contextmanager
def _quiet() -> Iterator[None]:
    """One of two members stops before the other, which is no news here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for and print the table."""
    parser = argparse.ArgumentParser(prog="revstore_bench.peers", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="in each run")
    parser.add_argument("--stream-mb", type=int, default=256, help="in each run")
    parser.add_argument("--runs", type=int, default=3, help="the median counts")
    parser.add_argument(
        "--transports", nargs="+", default=list(TRANSPORTS), choices=list(TRANSPORTS)
    )
    options = parser.parse_args(arguments)
    if min(options.messages, options.stream_mb, options.runs) < 1:
        parser.error("--messages, --stream-mb and --runs are at least 1")
    with _quiet():
        rows = [
            median_of(
                [
                    asyncio.run(
                        measure(name, options.messages, options.stream_mb * 1_000_000)
                    )
                    for _ in range(options.runs)
                ]
            )
            for name in options.transports
        ]
    sys.stdout.write(render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
