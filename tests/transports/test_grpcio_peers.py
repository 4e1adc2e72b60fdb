"""What is particular to members over gRPC: hostile callers and answerers, garbage at
every depth, calls that end. What the contract says is in ``tests/conformance``."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import msgspec
import pytest
from tests.transports.grpcio_support import (
    FAKE,
    STRANGER,
    answering,
    calling,
    forever,
    hello_of,
    run,
    undisturbed,
)

from revstore.errors import TransportError
from revstore.hookspecs import NoOptions
from revstore.interfaces.peers import Lane, peer_transport
from revstore.peer.lanes.limits import PEER_FRAME_BYTES_MAX
from revstore.peer.lanes.wire import (
    Messages,
    Metadata,
    Open,
    Part,
    Ping,
    encode,
    read_pong,
    write_welcome,
)
from revstore_conformance.peers_harness import (
    DEFAULT_CLUSTER,
    PATIENCE_S,
    Cluster,
    captured_logs,
    said,
)
from revstore_grpcio.client import GrpcioClient
from revstore_grpcio.limits import LIBRARY_RECEIVE_FACTOR
from revstore_grpcio.plugin import CAPABILITIES, make

SEED = 20261122


def test_garbage_on_the_port() -> None:
    """P-13: bytes that are no HTTP/2 end their connection and nothing else."""
    source = random.Random(SEED)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    openings = (b"", b"PRI * HTTP/2.0\r\n", preface, preface + settings)

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair()
        await cluster.reach(one, two)
        one.unreachable.clear()
        parts = urlsplit(two.peers.addresses()[0])
        for opening in openings:
            for _ in range(10):
                data = opening + source.randbytes(source.choice((30, 300, 20_000)))
                reader, writer = await asyncio.open_connection(
                    parts.hostname, parts.port
                )
                writer.write(data)
                with contextlib.suppress(OSError):
                    writer.write_eof()
                    await asyncio.wait_for(reader.read(), PATIENCE_S)
                writer.close()
        await undisturbed(cluster)

    run(check)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ((), "does not speak protocol 1"),
        ((("revstore-protocol", "2"),), "does not speak protocol 1"),
        ((("revstore-protocol", "1"),), "revstore-lane is missing or no number"),
        ((("revstore-protocol", "1"), ("revstore-lane", "7")), "there is no lane 7"),
        (
            (*hello_of(9, 2)[:2], *hello_of(9, 2)[3:]),
            "revstore-sender is missing or no number",
        ),
        (
            (*hello_of(9, 2)[:2], *hello_of(9, 2)[3:], ("revstore-sender", "-")),
            "revstore-sender is missing or no number",
        ),
        (
            (*hello_of(9, 2)[:2], *hello_of(9, 2)[3:], ("revstore-sender", "f" * 17)),
            "revstore-sender is missing or no number",
        ),
    ],
)
def test_a_wrong_hello(hello: Metadata, reason: str) -> None:
    """A caller that does not say who it is gets nowhere, with a log line."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair()
        await cluster.reach(one, two)
        one.unreachable.clear()
        with captured_logs() as lines:
            async with calling(two, hello) as caller:
                code, details = await caller.end()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in details
        assert said(lines, "connection ended", reason)
        await undisturbed(cluster)

    run(check)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (hello_of(STRANGER, 2, cluster_id=0xBAD), "cluster id mismatch"),
        (hello_of(STRANGER, 3), "member id mismatch"),
        (hello_of(2, 2), "claims to be member 2"),
        (hello_of(0, 2), "claims to be member 0"),
    ],
)
@pytest.mark.parametrize("path", ["/revstore.Peers/Lane", "/revstore.Peers/Stream"])
def test_a_wrong_member(hello: Metadata, reason: str, path: str) -> None:
    """P-07: lanes and streams are checked alike, and refused with a log line."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair()
        await cluster.reach(one, two)
        one.unreachable.clear()
        with captured_logs() as lines:
            async with calling(two, hello, path) as caller:
                code, details = await caller.end()
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert reason in details
        assert said(lines, "refused a member", reason)
        await undisturbed(cluster)

    run(check)


def test_a_client_at_the_wrong_door() -> None:
    """A client of the API that calls the address for members is told so."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        client = GrpcioClient(two.peers.addresses()[0])
        with captured_logs() as lines:
            with pytest.raises(Exception, match="the address for members"):
                await client.unary("/etcdserverpb.KV/Range", b"")
            assert said(lines, "connection ended", "a client called")
        await client.close()

    run(check)


BAD_LANE_FRAMES = [
    (b"", "no frame of the protocol"),
    (b"\xc1garbage", "no frame of the protocol"),
    (b"\x91" * 5000, "no frame of the protocol"),
    (msgspec.msgpack.encode([1, ["text"]]), "no frame of the protocol"),
    (msgspec.msgpack.encode([3, -1]), "no frame of the protocol"),
    (msgspec.msgpack.encode([77, b""]), "no frame of the protocol"),
    (encode(Open(b"")), "no frame of the protocol"),
    (encode(Messages([b"x"])) + b"more", "no frame of the protocol"),
    (encode(Messages([bytes(PEER_FRAME_BYTES_MAX)])), "over the limit"),
    (encode(Part(1 << 40, b"x")), "over the limit"),
    (encode(Part(4, b"")), "does not belong"),
    (encode(Part(4, b"12345")), "longer than the whole"),
]


@pytest.mark.parametrize(("data", "reason"), BAD_LANE_FRAMES)
def test_garbage_on_a_lane(data: bytes, reason: str) -> None:
    """P-13: what is no frame ends the lane it came on, with a log line, and what came
    before it counts."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair()
        await cluster.reach(one, two)
        one.unreachable.clear()
        with captured_logs() as lines:
            async with calling(two, hello_of(STRANGER, 2)) as caller:
                await caller.send(Messages([b"good"]), data)
                code, details = await caller.end()
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in details
        assert said(lines, "connection ended", reason)
        assert (STRANGER, Lane.LOG, b"good") in two.messages
        await undisturbed(cluster)

    run(check)


def test_parts_that_do_not_fit() -> None:
    """A message between the parts of another, and parts of two messages, are refused."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        for second, reason in (
            (Messages([b"x"]), "before all parts"),
            (Part(6, b"x"), "does not belong"),
        ):
            async with calling(two, hello_of(STRANGER, 2)) as caller:
                await caller.send(Part(5, b"abc"), second)
                assert reason in (await caller.end())[1]
        async with calling(two, hello_of(STRANGER, 2)) as caller:
            await caller.send(Part(5, b"abc"), Part(5, b"de"), Messages([b"x"]))
            await cluster.until(lambda: len(two.messages) == 2, "both messages")
        assert two.payloads(Lane.LOG) == [b"abcde", b"x"]

    run(check)


def test_a_frame_that_the_library_refuses() -> None:
    """A frame far over the limit never reaches this program, and nobody else notices."""

    async def check(cluster: Cluster) -> None:
        one, two = await cluster.pair()
        await cluster.reach(one, two)
        one.unreachable.clear()
        async with calling(two, hello_of(STRANGER, 2)) as caller:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await caller.send(bytes(PEER_FRAME_BYTES_MAX * LIBRARY_RECEIVE_FACTOR))
            code, _ = await caller.end()
        assert code is not grpc.StatusCode.OK
        await undisturbed(cluster)

    run(check)


def test_probes_are_answered_by_the_newest() -> None:
    """A flood of probes is answered, and nothing piles up while nobody reads."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        async with calling(two, hello_of(STRANGER, 2)) as caller:
            for number in range(2000):
                await caller.send(Ping(number))
            while (await caller.next(read_pong)).number != 1999:
                pass

    run(check)


def test_a_newer_lane_ends_the_older() -> None:
    """P-01: a lane that a member opens again ends its older one; of other members and
    lanes none."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        async with (
            calling(two, hello_of(STRANGER, 2)) as older,
            calling(two, hello_of(STRANGER, 2, Lane.CONTROL)) as other,
        ):
            await older.send(Messages([b"old"]))
            await other.send(Messages([b"other"]))
            await cluster.until(lambda: len(two.messages) == 2, "both")
            async with calling(two, hello_of(STRANGER, 2)) as newer:
                await newer.send(Messages([b"new"]))
                assert "newer connection" in (await older.end())[1]
                await other.send(Messages([b"still"]))
                await newer.send(Messages([b"too"]))
                await cluster.until(lambda: len(two.messages) == 5, "the others")
        assert two.payloads(Lane.LOG) == [b"old", b"new", b"too"]

    run(check)


def test_a_lane_that_is_half_closed() -> None:
    """A caller that says it will say no more is let go soon."""

    async def check(cluster: Cluster) -> None:
        two = await cluster.start(2)
        async with calling(two, hello_of(STRANGER, 2)) as caller:
            await caller.send(Messages([b"last"]))
            await caller.call.done_writing()
            assert "no more" in (await caller.end())[1]
        assert two.payloads(Lane.LOG) == [b"last"]

    run(check)


def test_each_lane_has_its_connection() -> None:
    """P-05: the lanes of a member come over connections of their own."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1)
        peers: dict[str, str] = {}

        async def note(context: Any) -> None:
            found = dict(context.invocation_metadata())
            peers[found["revstore-lane"]] = context.peer()
            await forever(context)

        async with answering(note) as urls:
            one.peers.set_peer(FAKE, urls)
            one.peers.send(FAKE, Lane.BULK, b"x")
            await cluster.until(lambda: len(peers) == 3, "three lanes")
            assert len(set(peers.values())) == 3
            await one.peers.close()

    run(check)


def test_a_member_that_answers_no_probe() -> None:
    """A connection without an answer to its probe is given up and made again."""
    calls: list[str] = []

    async def count(context: Any) -> None:
        calls.append(context.peer())
        await forever(context)

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, probe_interval_s=0.01, probe_timeout_s=0.02)
        async with answering(count) as urls:
            with captured_logs() as lines:
                one.peers.set_peer(FAKE, urls)
                await cluster.until(
                    lambda: said(lines, "member cannot be reached", "no probe"),
                    "the log line",
                )
                await cluster.until(lambda: len(calls) > 4, "other attempts")
            assert FAKE in one.unreachable
            assert one.peers.stats(FAKE).round_trip_s is None
            await one.peers.close()

    run(check)


def test_a_member_that_says_nothing() -> None:
    """An attempt to connect that gets no answer ends after its time."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, connect_timeout_s=0.05)
        # The kernel takes connections and nobody ever reads them.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with captured_logs() as lines:
                one.peers.set_peer(FAKE, [url])
                await cluster.until(
                    lambda: said(
                        lines, "member cannot be reached", "no answer in time"
                    ),
                    "the log line",
                )
            with pytest.raises(TransportError, match="did not answer"):
                await cluster.transport.ask(url, b"?", None, 0.05)
            await one.peers.close()

    run(check)


@pytest.mark.parametrize(
    ("welcome", "reason"),
    [
        (write_welcome(DEFAULT_CLUSTER, 3), "member 2 of cluster c1 was called, 3 of"),
        (write_welcome(0xBAD, FAKE), "of bad answered"),
        ((("other", "x"),), "revstore-cluster-id is missing"),
    ],
)
def test_a_wrong_welcome(welcome: Metadata, reason: str) -> None:
    """P-07: the caller checks who answers, too, and sends it nothing."""
    frames: list[bytes] = []

    async def note(context: Any) -> None:
        while (data := await context.read()) is not grpc.aio.EOF:
            frames.append(data)

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1)
        async with answering(note, welcome) as urls:
            with captured_logs() as lines:
                one.peers.set_peer(FAKE, urls)
                one.peers.send(FAKE, Lane.LOG, b"secret")
                await cluster.until(
                    lambda: said(lines, "member cannot be reached", reason),
                    "the log line",
                )
            await one.peers.close()
        assert not frames

    run(check)


def test_garbage_from_the_answerer() -> None:
    """P-13: an answer that is no frame ends the connection, with a log line."""

    async def rave(context: Any) -> None:
        await context.write(b"\xc1garbage")
        await forever(context)

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1)
        async with answering(rave) as urls:
            with captured_logs() as lines:
                one.peers.set_peer(FAKE, urls)
                await cluster.until(
                    lambda: said(lines, "connection ended", "no frame"), "the log line"
                )
            await one.peers.close()

    run(check)


def test_a_refused_member_waits_longest() -> None:
    """P-06: who was refused does not knock again until the longest pause is over."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, retry_min_s=0.001, retry_max_s=5000.0)
        two = await cluster.start(2)
        two.turn_away[1] = "not now"
        one.peers.set_peer(2, two.peers.addresses())
        await cluster.until(lambda: len(one.refused) == 2, "both lanes refused")
        await cluster.settle()
        assert one.refused == [(2, "not now")] * 2

    run(check)


def test_the_role_is_announced() -> None:
    """The plugin may be chosen as the transport between members."""
    transport = make(NoOptions())
    assert peer_transport("grpcio", transport) is transport
    assert CAPABILITIES.peers


def test_unix_sockets(tmp_path: Path) -> None:
    """Members of one machine may talk over unix sockets."""

    async def check(cluster: Cluster) -> None:
        one = await cluster.start(1, urls=[f"unix://{tmp_path}/one"])
        two = await cluster.start(2, urls=[f"unix://{tmp_path}/two"])
        cluster.introduce()
        await cluster.reach(one, two)
        await cluster.reach(two, one)

    run(check)


def test_coming_and_going() -> None:
    """P-12: members that come, talk, stream and go, in the middle of everything, leave
    no task and make the library complain about nothing."""

    async def check(cluster: Cluster) -> None:
        tasks = asyncio.all_tasks()
        for turn in range(8):
            one, two = await cluster.pair()
            if turn % 2:
                await cluster.reach(one, two)
                writer = await one.peers.open_stream(2, b"")
                with contextlib.suppress(TransportError):
                    await asyncio.wait_for(writer.write(bytes(1_000_000)), PATIENCE_S)
            for lane in Lane:
                one.peers.send(2, lane, bytes(500_000))
            first, second = (one, two) if turn % 4 < 2 else (two, one)
            await asyncio.sleep(0.001 * turn)
            await first.peers.close()
            await second.peers.close()
            cluster.members.clear()
        await cluster.until(lambda: asyncio.all_tasks() <= tasks, "no tasks")

    run(check)
