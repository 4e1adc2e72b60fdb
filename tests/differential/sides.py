"""One of the two servers of a differential run, asked in the same way as the other."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.message import Message

from revstore.errors import ApiError
from revstore.proto import rpc_pb2 as rpc
from revstore_grpcio.client import GrpcioClient
from tests.differential.ops import UNARY
from tests.differential.tapes import WatchTape
from tests.support.etcd import EtcdProcess
from tests.support.server import ServerProcess

CALL_S = 60.0
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
RANGE_STREAM = "/etcdserverpb.KV/RangeStream"
MISSED = {4, 14}
"""Codes of a call that may not have been answered at all."""


class Side:
    """A server, its connection, and its watch streams."""

    def __init__(self, process: EtcdProcess | ServerProcess) -> None:
        self.process = process
        self.name = "etcd" if isinstance(process, EtcdProcess) else "revstore"
        self.client = GrpcioClient(process.url)
        self.tapes: dict[int, WatchTape] = {}

    async def close(self) -> None:
        """End watches and the connection."""
        for tape in self.tapes.values():
            await tape.close()
        self.tapes.clear()
        await self.client.close()

    async def restart(self, *, kill: bool) -> None:
        """End the server and start it again."""
        await self.close()
        await asyncio.to_thread(self.process.restart, kill=kill)
        self.client = GrpcioClient(self.process.url)

    async def call(self, name: str, request: Message) -> Message | ApiError:
        """A unary call's answer, or its error.

        Raises:
            ConnectionError: the server did not answer.
        """
        path, _, response = UNARY[name]
        try:
            answer = await self.client.unary(
                path, request.SerializeToString(), timeout_s=CALL_S
            )
        except ApiError as error:
            if error.code in MISSED:
                log = self.process.log_text[-3000:]
                raise ConnectionError(f"{path}: {error}\n{log}") from error
            return error
        parsed: Message = response.FromString(answer)
        return parsed

    async def tape(self, stream: int) -> WatchTape:
        """The watch stream of that number, opened if it is not yet."""
        if stream not in self.tapes:
            self.tapes[stream] = await WatchTape.open(self.client, self.name)
        return self.tapes[stream]

    async def keep_alive(self, leases: tuple[int, ...]) -> list[Any]:
        """The answers on one keep-alive stream."""
        stream = await self.client.bidi_stream(KEEP_ALIVE)
        answers = []
        for lease in leases:
            request = rpc.LeaseKeepAliveRequest(ID=lease)
            await stream.send(request.SerializeToString())
            async with asyncio.timeout(CALL_S):
                message = await stream.receive()
            assert message is not None, "the keep-alive stream ended early"
            answers.append(rpc.LeaseKeepAliveResponse.FromString(message))
        await stream.half_close()
        async with asyncio.timeout(CALL_S):
            assert await stream.receive() is None, "one answer too many"
        return answers

    async def range_stream(self, request: Message) -> Message | ApiError:
        """A streamed range, its messages merged into one."""
        stream = await self.client.server_stream(
            RANGE_STREAM, request.SerializeToString()
        )
        merged = rpc.RangeResponse()
        try:
            async with asyncio.timeout(CALL_S):
                while (message := await stream.receive()) is not None:
                    part = rpc.RangeStreamResponse.FromString(message)
                    merged.MergeFrom(part.range_response)
        except ApiError as error:
            return error
        return merged
