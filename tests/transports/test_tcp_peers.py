"""What is particular to members over TCP: hostile and silent members,
sockets that nobody reads. What the contract says is in ``tests/conformance``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.transports.peers_support import run_members

from revstore.errors import ConfigError, TransportError
from revstore.interfaces.peers import Lane, LaneLimits, PeerOptions
from revstore.net.tls import certificate_fits
from revstore_conformance.peers_harness import (
    PATIENCE_S,
    Cluster,
    Member,
    captured_logs,
    said,
)
from revstore_tcp.framing import (
    MAGIC,
    FrameReader,
    RecordType,
    frame,
    record,
    records_of,
)
from revstore_tcp.limits import PEER_STREAMS_MAX, STREAM_WINDOW
from revstore_tcp.messages import (
    GoAway,
    Hello,
    Role,
    Welcome,
    read_end,
    read_goaway,
    read_hello,
    write_goaway,
    write_hello,
    write_open,
    write_welcome,
)
from revstore_tcp.transport import TcpTransport

CLUSTER = 0xC1
LOCAL = "tcp://127.0.0.1:0"


def run(test: Callable[[Cluster], Awaitable[None]], url: str = LOCAL) -> None:
    """Run a test on members of its own, with a bound on its time."""
    run_members(test, url, TcpTransport)


class Fake:
    """One raw connection from or to a member."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, called: bool
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.hello = Hello(Role.MEMBER)
        self._frames = FrameReader(greeting=called)
        self._records: list[tuple[int, int, int, bytes]] = []

    def send(self, *records: bytes) -> None:
        """Send records in one frame."""
        self.writer.write(frame(b"".join(records)))

    async def next(self, kind: RecordType) -> bytes:
        """The payload of the next record of a type."""
        while True:
            while self._records:
                found, _, _, payload = self._records.pop(0)
                if found == kind:
                    return payload
            data = await asyncio.wait_for(self.reader.read(65536), PATIENCE_S)
            assert data, f"closed before {kind.name}"
            for body in self._frames.feed(data):
                self._records += records_of(body)

    async def closed(self) -> None:
        """Wait until the other side has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(self.reader.read(65536), PATIENCE_S):
                pass


class FakeMember:
    """A listener that takes calls from a member and does what a test says."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.calls: dict[int, Fake] = {}
        """Newest connection of each lane."""
        self.count = 0
        self.welcome = Welcome(CLUSTER, 2)
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def urls(self) -> list[str]:
        """Where it listens."""
        assert self._server is not None
        return [f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"]

    async def __aenter__(self) -> FakeMember:
        # A small window of the kernel, so that an unread socket is full soon.
        self._server = await asyncio.start_server(
            self._take, "127.0.0.1", 0, limit=2**14
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        # asyncio loses a connection that it is accepting while a server is closed:
        # whoever calls this one stops first.
        await self._cluster.close()
        await asyncio.sleep(0.01)
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0.01)

    async def _take(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._writers.append(writer)
        fake = Fake(reader, writer, called=True)
        try:
            fake.hello = read_hello(await fake.next(RecordType.HELLO))
        except (AssertionError, ConnectionError):
            return
        fake.send(record(RecordType.WELCOME, 0, write_welcome(self.welcome)))
        self.calls[fake.hello.lane] = fake
        self.count += 1


@asynccontextmanager
async def calling(
    member: Member, lane: Lane = Lane.CONTROL, sender: int = 1
) -> AsyncIterator[Fake]:
    """A raw connection to a member that has been welcomed."""
    parts = urlsplit(member.peers.addresses()[0])
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    fake = Fake(reader, writer, called=False)
    hello = Hello(Role.MEMBER, lane, CLUSTER, sender, member.member)
    writer.write(MAGIC)
    fake.send(record(RecordType.HELLO, 0, write_hello(hello)))
    try:
        await fake.next(RecordType.WELCOME)
        yield fake
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def test_sockets_that_nobody_reads_delay_no_heartbeat() -> None:
    """P-05 at the socket: with bulk and log sockets full to the brim because the other
    side does not read them, heartbeats pass at once, and both lanes drop in the end."""
    mebi = 1024 * 1024
    limits = LaneLimits(4096, 16 * mebi)

    async def check(cluster: Cluster) -> None:
        async with FakeMember(cluster) as fake:
            one = await cluster.start(1, limits=(limits, limits, limits))
            one.peers.set_peer(2, fake.urls)
            assert one.peers.send(2, Lane.BULK, b"connect")
            await cluster.until(lambda: len(fake.calls) == 3, "three lanes")
            for lane in (Lane.BULK, Lane.LOG):
                count = 0
                while one.peers.send(2, lane, bytes(mebi)):
                    count += 1
                    await asyncio.sleep(0)
                    assert count < 100, "the lane has no bound"
            for number in range(50):
                assert one.peers.send(2, Lane.CONTROL, b"heartbeat %d" % number)
                found = await fake.calls[Lane.CONTROL].next(RecordType.MESSAGE)
                assert found == b"heartbeat %d" % number
            await cluster.until(lambda: 2 in one.unreachable, "on_unreachable")

    run(check)


def test_a_member_that_answers_no_probe_is_given_up() -> None:
    """A connection whose other side is silent is given up and made anew."""

    async def check(cluster: Cluster) -> None:
        async with FakeMember(cluster) as fake:
            one = await cluster.start(1, probe_interval_s=0.01, probe_timeout_s=0.05)
            one.peers.set_peer(2, fake.urls)
            await cluster.until(lambda: fake.count >= 4, "a second connection")
            assert 2 in one.unreachable
            assert one.peers.stats(2).send_failures >= 1

    run(check)


def test_probes_measure_the_round_trip() -> None:
    """The round trip time is that of the newest probe that was answered on the control
    lane; another answer is none."""

    async def check(cluster: Cluster) -> None:
        async with FakeMember(cluster) as fake:
            one = await cluster.start(1)
            one.peers.set_peer(2, fake.urls)
            await cluster.until(lambda: len(fake.calls) == 2, "two lanes")
            probe = await fake.calls[Lane.LOG].next(RecordType.PING)
            fake.calls[Lane.LOG].send(record(RecordType.PONG, 0, probe))
            probe = await fake.calls[Lane.CONTROL].next(RecordType.PING)
            fake.calls[Lane.CONTROL].send(record(RecordType.PONG, 0, b"another"))
            await cluster.settle()
            assert one.peers.stats(2).round_trip_s is None
            fake.calls[Lane.CONTROL].send(record(RecordType.PONG, 0, probe))
            await cluster.until(
                lambda: one.peers.stats(2).round_trip_s is not None, "the figure"
            )
            assert (one.peers.stats(2).round_trip_s or 0) > 0

    run(check)


@pytest.mark.parametrize("welcome", [Welcome(0xBAD, 2), Welcome(CLUSTER, 3)])
def test_a_wrong_answer_is_not_trusted(welcome: Welcome) -> None:
    """A member that welcomes under another cluster or member id gets no message."""

    async def check(cluster: Cluster) -> None:
        async with FakeMember(cluster) as fake:
            fake.welcome = welcome
            one = await cluster.start(1)
            with captured_logs() as lines:
                one.peers.set_peer(2, fake.urls)
                await cluster.until(lambda: fake.count >= 3, "a second attempt")
            assert said(lines, "connection ended", "answered")
            assert not one.peers.stats(2).connected

    run(check)


def test_an_attempt_that_ends_in_an_unexpected_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P-06: whatever an attempt raises, it is in the log and there is another."""
    raised: list[int] = []

    async def broken(*_: object) -> None:
        raised.append(1)
        raise RuntimeError("nobody expects this")

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.start(1), await cluster.start(2)
        with captured_logs() as lines, monkeypatch.context() as patch:
            patch.setattr("revstore_tcp.outbound.dial", broken)
            one.peers.set_peer(2, two.peers.addresses())
            await cluster.until(lambda: len(raised) > 4, "another attempt")
        assert said(lines, "a connection to a member raised", "")
        two.peers.set_peer(1, one.peers.addresses())
        await cluster.reach(one, two)

    run(check)


def test_being_refused_slows_the_attempts_down() -> None:
    """After a refusal the pauses are the longest, and the node is told."""

    async def check(cluster: Cluster) -> None:
        async with FakeMember(cluster) as fake:
            one = await cluster.start(1, retry_min_s=0.001, retry_max_s=1000.0)
            one.peers.set_peer(2, fake.urls)
            await cluster.until(lambda: len(fake.calls) == 2, "two lanes")
            for lane in (Lane.CONTROL, Lane.LOG):
                goaway = write_goaway(GoAway.REFUSED, "you were removed")
                fake.calls[lane].send(record(RecordType.GOAWAY, 0, goaway))
            await cluster.until(lambda: len(one.refused) == 2, "two refusals")
            assert set(one.refused) == {(2, "you were removed")}
            await cluster.settle()
            assert fake.count == 2

    run(check)


def test_a_newer_connection_ends_the_older() -> None:
    """Two connections of one sender and lane would mix the order: the newer one stays."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        async with calling(two) as first, calling(two) as second:
            await first.closed()
            second.send(record(RecordType.MESSAGE, 0, b"x"))
            await cluster.until(lambda: len(two.messages) == 1, "the message")
            async with calling(two, Lane.LOG) as third:
                third.send(record(RecordType.MESSAGE, 0, b"y"))
                second.send(record(RecordType.MESSAGE, 0, b"z"))
                await cluster.until(lambda: len(two.messages) == 3, "both lanes")

    run(check)


@pytest.mark.parametrize(
    ("hello", "code", "reason"),
    [
        (Hello(Role.CLIENT), GoAway.PROTOCOL, "a client called"),
        (Hello(Role.MEMBER, 7, CLUSTER, 1, 2), GoAway.PROTOCOL, "a client called"),
        (Hello(Role.MEMBER, 0, 5, 1, 2), GoAway.CLUSTER, "cluster id mismatch"),
        (Hello(Role.MEMBER, 0, CLUSTER, 1, 3), GoAway.MEMBER, "member id mismatch"),
        (Hello(Role.MEMBER, 0, CLUSTER, 2, 2), GoAway.MEMBER, "claims to be"),
        (Hello(Role.MEMBER, 0, CLUSTER, 0, 2), GoAway.MEMBER, "claims to be"),
    ],
)
def test_wrong_greetings(hello: Hello, code: GoAway, reason: str) -> None:
    """A greeting that does not fit is answered with a code and the reason."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        parts = urlsplit(two.peers.addresses()[0])
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        fake = Fake(reader, writer, called=False)
        writer.write(MAGIC)
        with captured_logs() as lines:
            fake.send(record(RecordType.HELLO, 0, write_hello(hello)))
            found = read_goaway(await fake.next(RecordType.GOAWAY))
        assert found[0] == code
        assert reason in found[1]
        assert said(lines, "refused a member", reason)
        await fake.closed()
        writer.close()

    run(check)


HOSTILE = [
    (Lane.LOG, record(RecordType.OPEN, 1, write_open(b"", b"", 0, b""))),
    (Lane.BULK, record(RecordType.OPEN, 1, b"")),
    (Lane.BULK, record(RecordType.OPEN, 0, write_open(b"", b"", 0, b""))),
    (Lane.BULK, record(RecordType.MESSAGE, 0, b"", 1)),
    (Lane.CONTROL, record(RecordType.MESSAGE, 0, b"\xff\xff\xff\xffx", 1)),
]


@pytest.mark.parametrize(("lane", "one"), HOSTILE)
def test_rules_broken_by_a_member(lane: Lane, one: bytes) -> None:
    """What a member may not send ends its connection, and another member's stay."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        async with calling(two, Lane.CONTROL, sender=9) as other:
            async with calling(two, lane) as fake:
                with captured_logs() as lines:
                    fake.send(one)
                    code, _ = read_goaway(await fake.next(RecordType.GOAWAY))
                assert code == GoAway.PROTOCOL
                assert said(lines, "connection ended", "")
                await fake.closed()
            other.send(record(RecordType.MESSAGE, 0, b"still here"))
            await cluster.until(lambda: len(two.messages) == 1, "the other member")

    run(check)


@settings(max_examples=20, deadline=None)
@given(some.sampled_from(Lane), some.lists(some.binary(max_size=60), max_size=4))
def test_garbage_from_a_member(lane: Lane, pieces: list[bytes]) -> None:
    """Random bytes in good frames, and bare, from a member that was let in: others are
    still served."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        async with calling(two, Lane.CONTROL, sender=9) as other:
            async with calling(two, lane) as fake:
                for piece in pieces:
                    if piece:
                        fake.send(piece)
                fake.writer.write(b"".join(pieces))
                fake.writer.write_eof()
                await fake.closed()
            other.send(record(RecordType.MESSAGE, 0, b"still here"))
            await cluster.until(
                lambda: (9, Lane.CONTROL, b"still here") in two.messages, "the other"
            )

    run(check)


def test_a_chunk_without_credit() -> None:
    """A member that sends more than a stream's window loses its connection, and the
    reader hears that the stream broke."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2, stream_window_bytes=STREAM_WINDOW)
        async with calling(two, Lane.BULK) as fake:
            fake.send(record(RecordType.OPEN, 1, write_open(b"", b"", 0, b"meta")))
            for _ in range(2 + STREAM_WINDOW // 60_000):
                fake.send(record(RecordType.MESSAGE, 1, bytes(60_000)))
            _, reason = read_goaway(await fake.next(RecordType.GOAWAY))
            assert "without credit" in reason
        (stream,) = two.streams
        await cluster.settle()
        with pytest.raises(TransportError, match="connection lost"):
            [chunk async for chunk in stream.chunks()]

    run(check)


def test_a_chunk_whose_last_part_comes_behind_the_end() -> None:
    """P-10: nothing is added to a stream once its sum has fitted."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        async with calling(two, Lane.BULK) as fake:
            fake.send(
                record(RecordType.OPEN, 1, write_open(b"", b"", 0, b"meta")),
                record(RecordType.MESSAGE, 1, (5).to_bytes(4, "big") + b"ch", 1),
                record(RecordType.FINISH, 1, bytes(12)),
                record(RecordType.MESSAGE, 1, b"unk"),
            )
            _, reason = read_goaway(await fake.next(RecordType.GOAWAY))
            assert "behind the end" in reason

    run(check)


def test_a_stream_with_a_wrong_sum() -> None:
    """P-10: a stream whose sum does not fit what arrived fails on both ends."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        async with calling(two, Lane.BULK) as fake:
            fake.send(
                record(RecordType.OPEN, 1, write_open(b"", b"", 0, b"meta")),
                record(RecordType.MESSAGE, 1, b"chunk"),
                record(RecordType.FINISH, 1, b"\0\0\0\1" + (5).to_bytes(8, "big")),
            )
            found = read_end(await fake.next(RecordType.END))
            assert "not what was written" in str(found)
            (stream,) = two.streams
            with pytest.raises(TransportError, match="not what was written"):
                [chunk async for chunk in stream.chunks()]

    run(check)


def test_too_many_streams() -> None:
    """Streams of one member are bounded; one over the bound is refused by itself."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair()
        await cluster.reach(one, two)
        writers = [
            await one.peers.open_stream(2, b"") for _ in range(PEER_STREAMS_MAX + 1)
        ]
        with pytest.raises(TransportError, match="streams at once"):
            await asyncio.wait_for(writers[-1].finish(), PATIENCE_S)
        assert len(two.streams) == PEER_STREAMS_MAX
        for writer in writers:
            writer.abort()

    run(check)


def test_unix_sockets(tmp_path: Path) -> None:
    """Members of one machine may talk over unix sockets."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, urls=[f"unix://{tmp_path}/one"])
        two = await cluster.start(2, urls=[f"unix://{tmp_path}/two"])
        cluster.introduce()
        await cluster.reach(one, two)
        await cluster.reach(two, one)

    run(check)


def test_bad_options() -> None:
    """No URL, TLS without certificates, and a TLS peer without them are refused before
    anything runs, with what to do."""

    async def check(cluster: Cluster) -> None:
        def options(*urls: str) -> PeerOptions:
            return PeerOptions(CLUSTER, 1, urls, Random(1))

        for urls, reason in (
            ((), "at least one"),
            (("tcps://127.0.0.1:0",), "tcps://"),
        ):
            with pytest.raises(ConfigError, match=reason):
                await TcpTransport().join(options(*urls), Member(1))
        one = await cluster.start(1)
        with pytest.raises(ConfigError, match="by TLS"):
            one.peers.set_peer(2, ["tcps://127.0.0.1:1"])
        assert one.peers.send(2, Lane.CONTROL, b"x") is False

    run(check)


@pytest.mark.parametrize(
    ("names", "allowed", "hosts", "fits"),
    [
        (["IP Address:10.0.0.1"], [], ["10.0.0.1"], True),
        (["IP Address:10.0.0.1"], [], ["10.0.0.2"], False),
        (["IP Address:0:0:0:0:0:0:0:1"], [], ["::1"], True),
        (["DNS:Node-1.example"], [], ["node-1.example."], True),
        (["DNS:*.example"], [], ["node-1.example"], True),
        (["DNS:*.example"], [], ["a.node-1.example"], False),
        (["DNS:node-1.example"], ["node-2.example"], ["node-1.example"], False),
        (["DNS:node-1.example"], ["node-1.example"], [], True),
        ([], ["member"], [], True),
        ([], [], ["member"], False),
    ],
)
def test_certificates_and_addresses(
    names: list[str], allowed: list[str], hosts: list[str], fits: bool
) -> None:
    """Alternative names are compared with addresses, all names with the allow list."""
    pairs = [tuple(name.split(":", 1)) for name in names]
    certificate: dict[str, Any] = {
        "subject": ((("commonName", "member"),),),
        "subjectAltName": tuple(pairs),
    }
    assert certificate_fits(certificate, allowed, hosts) is fits
