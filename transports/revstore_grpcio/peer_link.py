"""A connection that this member made: a channel, the call of its lane, and streams.

The library cancels the whole call when a task is cancelled inside one of its methods,
and raises CancelledError where a call was cancelled from elsewhere; here both happen
only when the connection is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from revstore import logs
from revstore.errors import TransportError
from revstore.net.addresses import Address
from revstore.peer.lanes.limits import PEER_FRAME_BYTES_MAX
from revstore.peer.lanes.wire import (
    LANE_PATH,
    STREAM_PATH,
    ProtocolError,
    error_of,
    read_pong,
)
from revstore.peer.streams import wake
from revstore_grpcio.addresses import target_of
from revstore_grpcio.peer_streams import GrpcioOutgoingStream
from revstore_grpcio.peer_tls import Calling

if TYPE_CHECKING:
    from revstore.peer.lanes.lane import PeerLane

_log = logs.get(__name__)

CALL_OVER = (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError)
"""What the library raises from a call that has ended."""


class OutboundLink:
    """See above."""

    def __init__(self, lane: PeerLane, calling: Calling | None) -> None:
        self._lane = lane
        self._calling = calling
        self._loop = lane.peer.owner.loop
        self._number = lane.peer.owner.next_link()
        self._channel: Any = None
        self._call: Any = None
        self._writer: asyncio.Task[None] | None = None
        self._work: asyncio.Future[None] | None = None
        self._streams: set[GrpcioOutgoingStream] = set()
        self._given_up = ""
        """Why this side gave the connection up."""
        self._closed = False

    async def open(self, address: Address) -> None:
        """Connect, and see that the right member answers.

        Raises:
            TransportError: nobody, or another member answered, or it refused.
            OSError: the member cannot be reached.
        """
        self._channel = await open_channel(address, self._calling)
        call: Any = self._channel.stream_stream(LANE_PATH)(
            metadata=self._lane.hello(self._number)
        )
        self._call = call
        try:
            await self._welcomed(call)
        except grpc.aio.AioRpcError as error:
            raise error_of(error.code().value[0], error.details()) from error
        self._writer = self._loop.create_task(self._write_out())

    async def read_in(self) -> None:
        """Read until the connection is over, which is always an error.

        Raises:
            TransportError: why it is over.
        """
        read = self._call.read
        try:
            while True:
                data = await read()
                if data is grpc.aio.EOF:
                    raise TransportError("the member ended the connection")
                self._lane.answered(read_pong(data).number)
        except CALL_OVER as error:
            if isinstance(error, grpc.aio.AioRpcError):
                raise error_of(error.code().value[0], error.details()) from error
            raise TransportError(f"the connection is over: {error}") from error
        except ProtocolError as error:
            _log.warn(
                "connection ended",
                peer=f"member {self._lane.peer.member:x}",
                reason=str(error),
            )
            raise
        except asyncio.CancelledError:
            if not self._given_up or _being_cancelled():
                raise
            raise TransportError(self._given_up) from None

    def wake(self) -> None:
        """There is something to send. Raises: nothing."""
        wake(self._work)

    def open_stream(self, meta: bytes) -> GrpcioOutgoingStream:
        """Start a stream. Raises: nothing."""
        call: Any = self._channel.stream_stream(STREAM_PATH)(
            metadata=self._lane.hello(self._number)
        )
        found = GrpcioOutgoingStream(
            call, self._lane.peer.member, meta, self._welcomed, self._streams.discard
        )
        self._streams.add(found)
        return found

    def give_up(self, reason: str) -> None:
        """Break the connection; ``read_in`` says why. Raises: nothing."""
        self._given_up = reason
        self._call.cancel()

    def close(self, reason: str) -> Sequence[asyncio.Task[None]]:
        """End everything; what to wait for. Raises: nothing."""
        if self._closed:
            return ()
        self._closed = True
        tasks: list[asyncio.Task[None]] = []
        for stream in tuple(self._streams):
            tasks += stream.tasks
            stream.fail(f"connection lost: {reason}")
        if self._writer is not None:
            self._writer.cancel()
            tasks.append(self._writer)
        if self._call is not None:
            self._call.cancel()
        if self._channel is not None:
            closing = self._loop.create_task(self._channel.close())
            self._lane.peer.owner.keep(closing)
            tasks.append(closing)
        return tasks

    async def _write_out(self) -> None:
        write, next_frame = self._call.write, self._lane.next_frame
        try:
            while True:
                frame = next_frame()
                if frame is None:
                    self._work = self._loop.create_future()
                    await self._work
                else:
                    await write(frame)
        except CALL_OVER:
            # The call is over; the reading task hears why.
            return

    async def _welcomed(self, call: Any) -> None:
        """Wait until the right member has let a call in.

        Raises:
            ProtocolError: another member answered.
            AioRpcError: the call was refused or failed.
        """
        metadata = dict(await call.initial_metadata())
        if not metadata or call.done():
            # A refusal has no welcome; its status may come a moment later.
            await call.read()
        self._lane.check(metadata)


async def open_channel(address: Address, calling: Calling | None) -> Any:
    """A channel with a connection of its own; it connects at the first call.

    Raises:
        TransportError: the member's certificate has none of the allowed names.
        OSError: the member cannot be reached.
    """
    options: list[tuple[str, int | str]] = [
        # Else channels to one address share a connection, and lanes would wait (P-05).
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_receive_message_length", PEER_FRAME_BYTES_MAX),
        ("grpc.max_send_message_length", -1),
    ]
    target = target_of(address)
    if not address.tls or calling is None:
        return grpc.aio.insecure_channel(target, options=options)
    credentials, name = await calling.credentials(address)
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(target, credentials, options=options)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
