"""What the tests of members over gRPC share: members, and raw calls from and to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from tests.transports.peers_support import run_members

from revstore.interfaces.peers import Lane, PeerTransport
from revstore.peer.lanes.wire import (
    LANE_PATH,
    STREAM_PATH,
    Frame,
    Hello,
    Metadata,
    encode,
    write_hello,
    write_welcome,
)
from revstore_conformance.peers_harness import (
    DEFAULT_CLUSTER,
    PATIENCE_S,
    Cluster,
    Member,
    captured_logs,
)
from revstore_grpcio.transport import GrpcioTransport

LOCAL = "http://127.0.0.1:0"
FAKE = 2
"""The member that a fake pretends to be."""
STRANGER = 9
"""The member that a raw call pretends to be."""
WELCOME = write_welcome(DEFAULT_CLUSTER, FAKE)


POLLER = "PollerCompletionQueue._handle_events"
"""grpcio's one poller of the process may still have something for the loop of an earlier
test, which is closed; it says so in the log of this one."""


def run(
    test: Callable[[Cluster], Awaitable[None]],
    url: str = LOCAL,
    transport: type[PeerTransport] = GrpcioTransport,
) -> None:
    """Run a test on members of its own, with a bound on its time; the library has
    nothing to complain about."""
    with quiet_library():
        run_members(test, url, transport)


@contextmanager
def quiet_library() -> Iterator[None]:
    """Nothing in here makes grpcio log a warning, and no task ends unheard."""
    with captured_logs() as lines:
        yield
    loud = [
        line.getMessage()
        for line in lines
        if line.name.partition(".")[0] in ("grpc", "asyncio")
        and line.levelno >= logging.WARNING
        and POLLER not in line.getMessage()
    ]
    assert not loud


async def undisturbed(cluster: Cluster) -> None:
    """The first two members still talk, on the connection they had."""
    one, two = cluster.members[:2]
    await cluster.reach(one, two)
    assert not one.unreachable
    assert {sender for sender, _, _ in two.messages} <= {1, STRANGER}


def target_of(member: Member) -> str:
    """Where the library calls a member."""
    return urlsplit(member.peers.addresses()[0]).netloc


def hello_of(
    sender: int,
    to: int,
    lane: Lane = Lane.LOG,
    cluster_id: int = DEFAULT_CLUSTER,
    link: int = 1,
) -> Metadata:
    """The metadata of a call of a member."""
    return write_hello(Hello(cluster_id, sender, to, lane, link))


class Caller:
    """A call to a member that sends what it likes."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, *frames: Any) -> None:
        """Send frames; bytes go as they are."""
        for frame in frames:
            data = frame if isinstance(frame, bytes) else encode(frame)
            await asyncio.wait_for(self.call.write(data), PATIENCE_S)

    async def next(self, read: Callable[[bytes], Frame]) -> Frame:
        """The next frame that the member sends."""
        return read(await asyncio.wait_for(self.call.read(), PATIENCE_S))

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Wait until the member ends the call; how it does."""
        async with asyncio.timeout(PATIENCE_S):
            # The status comes behind the messages and only to who has read them.
            with contextlib.suppress(grpc.aio.AioRpcError):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            return await self.call.code(), await self.call.details() or ""


@asynccontextmanager
async def calling(
    member: Member, hello: Metadata, path: str = LANE_PATH
) -> AsyncIterator[Caller]:
    """A call to a member, made by hand."""
    async with grpc.aio.insecure_channel(target_of(member)) as channel:
        call: Any = channel.stream_stream(path)(metadata=hello)
        yield Caller(call)
        call.cancel()


@asynccontextmanager
async def streaming(member: Member, sender: int) -> AsyncIterator[Caller]:
    """A stream to a member, made by hand, and the lane it needs."""
    hello = hello_of(sender, member.member, Lane.BULK)
    async with calling(member, hello) as lane:
        await asyncio.wait_for(lane.call.initial_metadata(), PATIENCE_S)
        async with calling(member, hello, STREAM_PATH) as caller:
            yield caller


Answering = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def answering(
    answer: Answering, welcome: Metadata = WELCOME
) -> AsyncIterator[list[str]]:
    """A server that takes the calls of members and does what a test says; its URLs."""

    async def take(_frames: Any, context: Any) -> None:
        await context.send_initial_metadata(welcome)
        await answer(context)

    class Everything(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.stream_stream_rpc_method_handler(take)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Everything(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield [f"http://127.0.0.1:{port}"]
    finally:
        await server.stop(None)


async def forever(context: Any) -> None:
    """Answer nothing until the caller goes."""
    while await context.read() is not grpc.aio.EOF:
        pass
    await asyncio.get_running_loop().create_future()
