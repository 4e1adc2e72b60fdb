"""A client that speaks bytes, for tests and tools; the API's errors come as ApiError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import grpc
import grpc.aio

from revstore.errors import ApiError

_UNBOUNDED = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


def _api_error(error: grpc.aio.AioRpcError) -> ApiError:
    return ApiError(error.code().value[0], error.details() or "")


def _pairs(metadata: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(metadata.items())


class GrpcioClientStream:
    """The client's end of a streaming call."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, message: bytes) -> None:
        """Send one message. Raises: ApiError if the stream ended with an error."""
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise _api_error(error) from error

    async def half_close(self) -> None:
        """Say that no more will come. Raises: nothing."""
        await self._call.done_writing()

    async def receive(self) -> bytes | None:
        """The next message, None at the end. Raises: ApiError of the stream."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _api_error(error) from error
        if message is not grpc.aio.EOF:
            return bytes(message)
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            raise ApiError(code.value[0], await self._call.details() or "")
        return None

    async def cancel(self) -> None:
        """Give up. Raises: nothing."""
        self._call.cancel()


class GrpcioClient:
    """A channel to one server; an async context manager."""

    def __init__(
        self,
        url: str,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        scheme, _, rest = url.partition("://")
        target = f"unix:{rest}" if scheme == "unix" else rest
        settings = (*_UNBOUNDED, *options)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=settings)
        else:
            self._channel = grpc.aio.secure_channel(
                target, credentials, options=settings
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all calls and the connection. Raises: nothing."""
        await self._channel.close()

    async def unary(
        self,
        path: str,
        message: bytes,
        metadata: Mapping[str, str] = {},
        timeout_s: float | None = None,
    ) -> bytes:
        """Make a unary call. Raises: ApiError with the server's code and text."""
        method: Any = self._channel.unary_unary(path)
        try:
            call = method(message, metadata=_pairs(metadata), timeout=timeout_s)
            return bytes(await call)
        except grpc.aio.AioRpcError as error:
            raise _api_error(error) from error

    async def server_stream(
        self, path: str, message: bytes, metadata: Mapping[str, str] = {}
    ) -> GrpcioClientStream:
        """Open a stream of answers to one message. Raises: nothing."""
        method: Any = self._channel.unary_stream(path)
        return GrpcioClientStream(method(message, metadata=_pairs(metadata)))

    async def bidi_stream(
        self, path: str, metadata: Mapping[str, str] = {}
    ) -> GrpcioClientStream:
        """Open a stream both ways. Raises: nothing."""
        method: Any = self._channel.stream_stream(path)
        return GrpcioClientStream(method(metadata=_pairs(metadata)))
