"""The client's side of the transport "grpc"."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.transports.grpc_support import (
    serving_grpc as serving,
)
from tests.transports.server_support import ECHO, run

from revstore.errors import ApiError, ConfigError
from revstore.interfaces.channel import ChannelOptions, NotSent
from revstore.interfaces.transport import (
    Call,
    Stream,
    StreamHandler,
)
from revstore_conformance.transport import (
    bidi,
    failure_of,
    receive,
    unary,
    until,
)
from revstore_grpc.client import GrpcChannel, open_channel


def test_nothing_answers() -> None:
    """A call to a port that nobody listens on was not sent."""

    async def check() -> None:
        async with serving() as server:
            url = server.addresses()[0]
        async with GrpcChannel(url) as channel:
            with pytest.raises(NotSent, match="cannot connect"):
                await channel.unary("/t.S/Echo", b"x")
            with pytest.raises(NotSent, match="cannot connect"):
                await channel.bidi_stream("/t.S/In")

    run(check())


def test_a_channel_connects_anew(tmp_path: Path) -> None:
    """After its server came back a channel serves again; what was on its way when the
    server went is not known to be undone."""
    url = f"unix://{tmp_path}/socket"
    parked: list[Call] = []

    async def check() -> None:
        park = unary("/t.S/Park", lambda call, message: parked.append(call))
        async with GrpcChannel(url) as channel:
            async with serving(park, ECHO, urls=[url]):
                call = asyncio.ensure_future(channel.unary("/t.S/Park", b""))
                await until(lambda: bool(parked), "the call")
            error = await failure_of(call)
            assert error.code == 14
            assert not isinstance(error, NotSent)
            async with serving(urls=[url]):
                assert await channel.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_cancelled_calls_tell_the_server() -> None:
    """A call or stream that is given up is over at the server, too."""
    parked: list[Call] = []
    streams: list[Stream] = []

    def open_stream(stream: Stream) -> StreamHandler:
        streams.append(stream)
        return StreamHandler()

    async def check() -> None:
        methods = (
            unary("/t.S/Park", lambda call, message: parked.append(call)),
            bidi("/t.S/In", open_stream),
        )
        async with (
            serving(*methods) as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            call = asyncio.ensure_future(channel.unary("/t.S/Park", b""))
            await until(lambda: bool(parked), "the call")
            call.cancel()
            await until(lambda: parked[0].cancelled(), "the cancellation")
            error = await failure_of(channel.unary("/t.S/Park", b"", timeout_s=0.02))
            assert error == ApiError(4, "context deadline exceeded")
            await until(lambda: parked[1].cancelled(), "the second cancellation")
            stream = await channel.bidi_stream("/t.S/In")
            await until(lambda: bool(streams), "the stream")
            await stream.cancel()
            await stream.cancel()
            assert (await failure_of(stream.receive())).code == 1
            await until(streams[0].cancelled, "the third cancellation")
            link = channel._link
            assert link is not None
            assert not link.unary
            assert not link.streams

    run(check())


def test_a_closed_channel_fails_what_runs() -> None:
    """Closing ends every call and stream with an error, and no new one is sent."""

    async def check() -> None:
        methods = (
            unary("/t.S/Park", lambda call, message: None),
            bidi("/t.S/In", lambda stream: StreamHandler()),
        )
        async with serving(*methods) as server:
            channel = GrpcChannel(server.addresses()[0])
            stream = await channel.bidi_stream("/t.S/In")
            call = asyncio.ensure_future(channel.unary("/t.S/Park", b""))
            await asyncio.sleep(0)
            await channel.close()
            await channel.close()
            assert (await failure_of(call)).code in (1, 14)
            assert (await failure_of(stream.receive())).code == 1
            with pytest.raises(NotSent, match="closed"):
                await channel.unary("/t.S/Park", b"")

    run(check())


def test_a_stream_that_nobody_takes_is_held_back() -> None:
    """Messages that the client does not take wait at the server, all come in the end,
    and other calls go on meanwhile."""
    sent: list[int] = []

    class Producer(StreamHandler):
        def __init__(self, stream: Stream) -> None:
            self.stream = stream
            self.on_writable()

        def on_writable(self) -> None:
            while self.stream.writable() and len(sent) < 500:
                sent.append(len(sent))
                self.stream.send(b"%04d" % sent[-1] + bytes(50_000))
            if len(sent) == 500:
                self.stream.finish()

    async def check() -> None:
        async with (
            serving(bidi("/t.S/Out", Producer), ECHO) as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            stream = await channel.bidi_stream("/t.S/Out")
            quiet, before = 0, -1
            while quiet < 50:
                quiet = quiet + 1 if len(sent) == before else 0
                before = len(sent)
                await asyncio.sleep(0.001)
            assert len(sent) < 500
            assert await channel.unary("/t.S/Echo", b"x") == b"x"
            for number in range(500):
                assert (await receive(stream) or b"")[:4] == b"%04d" % number
            assert await receive(stream) is None

    run(check())


@pytest.mark.parametrize("metadata", [{"bad name": "x"}, {"name": "a\nb"}])
def test_metadata_that_cannot_be_sent(metadata: dict[str, str]) -> None:
    """A call with such metadata fails by itself; the channel goes on."""

    async def check() -> None:
        async with (
            serving() as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            error = await failure_of(channel.unary("/t.S/Echo", b"x", metadata))
            assert error.code == 13
            assert await channel.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_bad_channel_urls() -> None:
    """A URL that cannot be called is refused when the channel is made."""
    for url in ("tcp://127.0.0.1:1", "http://", "unix://"):
        with pytest.raises(ConfigError, match="URL"):
            open_channel(url, ChannelOptions())
