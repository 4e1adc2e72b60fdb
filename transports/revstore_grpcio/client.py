"""A client that speaks bytes; the API's errors come as ApiError.

A call is handed to grpcio only over a connection that stands. So what fails without one
was surely not sent, which grpcio's own UNAVAILABLE does not tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from revstore.errors import ApiError, ConfigError
from revstore.interfaces.channel import (
    NO_METADATA,
    Channel,
    ChannelOptions,
    ChannelStream,
    ChannelTls,
    NotSent,
)
from revstore.net.tls import read_pem

CONNECT_TIMEOUT_S = 5.0
RECONNECT_MIN_MS = 100
RECONNECT_MAX_MS = 1000
RETRIED_WITHIN_S = 2 * RECONNECT_MAX_MS / 1000

_UNBOUNDED = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
_READY = grpc.ChannelConnectivity.READY
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
_DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


_BROKEN = "Internal error from Core"
"""What grpcio says, as INTERNAL, when a call is begun while its connection breaks. No
server has sent it."""


def _api_error(error: grpc.aio.AioRpcError) -> ApiError:
    details = error.details() or ""
    if details == _BROKEN:
        return ApiError(
            grpc.StatusCode.UNAVAILABLE.value[0], f"connection lost: {details}"
        )
    return ApiError(error.code().value[0], details)


def _pairs(metadata: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(metadata.items())


class GrpcioClientStream(ChannelStream):
    """The client's end of a streaming call."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, message: bytes) -> None:
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            raise _api_error(error) from error
        except asyncio.InvalidStateError as error:
            raise await self._outcome() from error

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def receive(self) -> bytes | None:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _api_error(error) from error
        if message is not grpc.aio.EOF:
            return bytes(message)
        outcome = await self._outcome()
        if outcome.code:
            raise outcome
        return None

    async def cancel(self) -> None:
        self._call.cancel()

    async def _outcome(self) -> ApiError:
        code = await self._call.code()
        return ApiError(code.value[0], await self._call.details() or "")


class GrpcioClient(Channel):
    """A channel to one server; see ``Channel``."""

    def __init__(
        self,
        url: str,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        scheme, _, rest = url.partition("://")
        target = f"unix:{rest}" if scheme == "unix" else rest
        settings = (*_UNBOUNDED, *options)
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._closed = False
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=settings)
        else:
            self._channel = grpc.aio.secure_channel(
                target, credentials, options=settings
            )

    async def connect(self) -> None:
        if self._closed:
            raise NotSent("the channel was closed")
        if self._channel.get_state(try_to_connect=True) is _READY:
            return
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._until_ready()
        except TimeoutError:
            text = f"cannot connect to {self._url}: no answer in time"
            raise NotSent(text) from None

    async def _until_ready(self) -> None:
        channel = self._channel
        nothing = f"cannot connect to {self._url}: nothing answers"
        begun = False
        while True:
            try:
                state = channel.get_state(try_to_connect=True)
                if state is _READY:
                    return
                if state is not _FAILED:
                    begun = True
                    await channel.wait_for_state_change(state)
                    continue
                if begun:
                    raise NotSent(nothing)
                # An old failure: grpcio tries again by itself, and says so only when
                # it succeeds.
                async with asyncio.timeout(RETRIED_WITHIN_S):
                    await channel.wait_for_state_change(state)
            except TimeoutError:
                raise NotSent(nothing) from None
            except grpc.aio.UsageError as error:
                raise NotSent("the channel was closed") from error

    async def close(self) -> None:
        self._closed = True
        await self._channel.close()

    async def unary(
        self,
        path: str,
        message: bytes,
        metadata: Mapping[str, str] = NO_METADATA,
        timeout_s: float | None = None,
    ) -> bytes:
        if self._closed or self._channel.get_state() is not _READY:
            timeout_s = await self._connect_within(timeout_s)
        method: Any = self._channel.unary_unary(path)
        try:
            call = method(message, metadata=_pairs(metadata), timeout=timeout_s)
            return bytes(await call)
        except grpc.aio.AioRpcError as error:
            raise _api_error(error) from error

    async def _connect_within(self, timeout_s: float | None) -> float | None:
        """Connect; what is left of the time of a call."""
        if timeout_s is None:
            await self.connect()
            return None
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self.connect()
        except TimeoutError:
            text = "context deadline exceeded"
            raise ApiError(_DEADLINE_EXCEEDED, text) from None
        return max(deadline - clock(), 0.001)

    async def server_stream(
        self, path: str, message: bytes, metadata: Mapping[str, str] = NO_METADATA
    ) -> GrpcioClientStream:
        await self.connect()
        method: Any = self._channel.unary_stream(path)
        return GrpcioClientStream(method(message, metadata=_pairs(metadata)))

    async def bidi_stream(
        self, path: str, metadata: Mapping[str, str] = NO_METADATA
    ) -> GrpcioClientStream:
        await self.connect()
        method: Any = self._channel.stream_stream(path)
        return GrpcioClientStream(method(metadata=_pairs(metadata)))


def open_channel(url: str, options: ChannelOptions) -> GrpcioClient:
    """A channel with TLS from PEM files. Raises: ConfigError."""
    settings: list[tuple[str, Any]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MIN_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MAX_MS),
        ("grpc.min_reconnect_backoff_ms", int(options.connect_timeout_s * 1000)),
    ]
    if options.keepalive_s:
        settings += [
            ("grpc.keepalive_time_ms", int(options.keepalive_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout_s * 1000)),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    credentials = None
    if url.startswith("https://"):
        tls = options.tls or ChannelTls()
        credentials = _credentials(tls)
        if tls.server_name:
            settings.append(("grpc.ssl_target_name_override", tls.server_name))
    return GrpcioClient(url, credentials, settings, options.connect_timeout_s)


def _credentials(tls: ChannelTls) -> grpc.ChannelCredentials:
    if tls.insecure_skip_verify:
        raise ConfigError(
            "grpcio always verifies the server's certificate; name the CA file that "
            "signed it instead of skipping the verification"
        )
    if bool(tls.cert_file) != bool(tls.key_file):
        raise ConfigError("a client certificate needs its key, and a key its file")
    return grpc.ssl_channel_credentials(
        root_certificates=_read("trusted CA file", tls.trusted_ca_file),
        private_key=_read("key file", tls.key_file),
        certificate_chain=_read("certificate file", tls.cert_file),
    )


def _read(what: str, path: str) -> bytes | None:
    return read_pem(what, path) if path else None
