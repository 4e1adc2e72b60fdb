"""Leases: keeping them alive in the background, over failed members.

When to send and what is lost is decided in ``keeping``; this shell carries it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from revstore.api import errors
from revstore.client.caller import Caller, CallOptions
from revstore.client.keeping import Keeping, Loss
from revstore.client.methods import KEEP_ALIVE
from revstore.client.retry import pause_after
from revstore.client.standing import StandingStream, Work
from revstore.errors import ApiError, InvariantViolation, RevstoreError, Unavailable
from revstore.interfaces.channel import UNAVAILABLE, ChannelStream
from revstore.proto import rpc_pb2

if TYPE_CHECKING:
    from revstore.client.store import AsyncClient

SEND_TIMEOUT_S = 1.0


class AsyncLease:
    """A granted lease; ``async with`` revokes it at the end.

    ``keep`` has it renewed in the background until it is revoked, released or lost.
    """

    def __init__(
        self, client: AsyncClient, lease_id: int, ttl_s: int, alive_at: float
    ) -> None:
        self._client = client
        self.alive_at = alive_at
        """When the newest call was sent that granted or renewed it (loop time)."""
        self._lost: asyncio.Event = asyncio.Event()
        self.id = lease_id
        self.ttl_s = ttl_s
        """Seconds granted; the server may have raised what was asked for."""
        self.loss = ""
        """Why the lease is lost; empty while it is not known to be."""

    @property
    def lost(self) -> bool:
        """Whether a kept lease is lost: its keys are gone, or will be at any time."""
        return self._lost.is_set()

    def keep(self) -> Self:
        """Renew in the background from now on; twice is allowed."""
        self._client.keeper.keep(self)
        return self

    def release(self) -> None:
        """Stop renewing; the lease lives on for its time."""
        self._client.keeper.release(self.id)

    async def wait_lost(self) -> str:
        """Wait until a kept lease is lost; why."""
        await self._lost.wait()
        return self.loss

    async def keep_alive(self) -> int:
        """Renew once; the time to live in seconds, 0 if the lease is gone."""
        sent_at = asyncio.get_running_loop().time()
        ttl_s = await self._client.keep_alive(self.id)
        if ttl_s:
            self.alive_at = sent_at
        return ttl_s

    async def revoke(self) -> None:
        """End the lease and delete its keys. Raises: ApiError NOT_FOUND: it is gone."""
        self.release()
        await self._client.revoke(self.id)

    def tell_lost(self, loss: str) -> None:
        """Called by the keeper."""
        self.loss = loss
        self._lost.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            await self.revoke()
        except ApiError as error:
            if error != errors.LEASE_NOT_FOUND:
                raise


class Keeper(StandingStream):
    """The stream on which all kept leases of a client are renewed."""

    def __init__(self, caller: Caller, options: CallOptions, random: Random) -> None:
        super().__init__(KEEP_ALIVE, caller, options, random)
        self._clock = asyncio.get_running_loop().time
        self._keeping = Keeping()
        self._leases: dict[int, AsyncLease] = {}
        self._wake = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._server: asyncio.Task[None] | None = None
        self._closed = False

    def keep(self, lease: AsyncLease) -> None:
        """Renew a lease until it is released or lost. Raises: Unavailable: closed."""
        if self._closed:
            raise Unavailable("the client is closed")
        if lease.id in self._leases or lease.lost:
            return
        self._leases[lease.id] = lease
        self._keeping.add(lease.id, lease.ttl_s, lease.alive_at)
        self._wake.set()
        loop = asyncio.get_running_loop()
        if self._sender is None or self._sender.done():
            self._sender = loop.create_task(self._guard(self._renew_all()))
        if self._server is None or self._server.done():
            self._server = loop.create_task(self._guard(self.hold()))

    def release(self, lease_id: int) -> None:
        """Let a lease go."""
        self._leases.pop(lease_id, None)
        self._keeping.remove(lease_id)
        self._wake.set()

    async def once(self, lease_id: int, options: CallOptions) -> int:
        """Renew once; the time to live, 0 if the lease is gone.

        Raises:
            ApiError, Unavailable: no member renewed it in time.
        """
        deadline = self._caller.deadline(options.timeout_s)
        attempts = 0
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    answer = await self._ask_once(lease_id)
                    if isinstance(answer, int):
                        return answer
                    attempts += 1
                    count = len(self._caller.pool.urls)
                    await asyncio.sleep(pause_after(attempts, count, self._random))
        except TimeoutError:
            raise Unavailable(
                f"no member renewed the lease {lease_id:x} in time; "
                f"{self._caller.pool.reasons()}"
            ) from None

    async def close(self) -> None:
        """Stop renewing; twice is allowed. Raises: nothing."""
        self._closed = True
        self._leases.clear()
        tasks = [task for task in (self._sender, self._server) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ----- one renewal

    async def _ask_once(self, lease_id: int) -> int | None:
        """A renewal over a stream of its own; None: try again."""
        url, token = "", self._caller.tokens.token
        try:
            opened = await self._caller.open_stream(KEEP_ALIVE, self._options)
            url, token = opened.url, opened.token
            try:
                await opened.stream.send(_request(lease_id))
                message = await opened.stream.receive()
            finally:
                await opened.stream.cancel()
        except ApiError as error:
            if not await self._caller.stream_broke(url, error, token):
                raise
            return None
        if message is None:
            return None
        return int(rpc_pb2.LeaseKeepAliveResponse.FromString(message).TTL)

    # ----- the background

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            # A bug must not leave leases that nobody renews and that look alive.
            self.on_given_up(
                InvariantViolation(f"the renewal of leases failed: {error!r}")
            )
            raise

    async def _renew_all(self) -> None:
        """Send what is due, tell what is lost."""
        while self._leases:
            now = self._clock()
            for lease_id in self._keeping.expired(now):
                self._lose(lease_id, Loss.TIME_UP)
            if self._opened is not None:
                if self._keeping.overdue(now):
                    self.leave(ApiError(UNAVAILABLE, "renewals are not answered"))
                else:
                    await self._send(self._opened.stream, self._keeping.due(now))
            self._wake.clear()
            next_due = self._keeping.next_due(sending=self._opened is not None)
            try:
                async with asyncio.timeout_at(next_due):
                    await self._wake.wait()
            except TimeoutError:
                continue
        self.leave(None)

    async def _send(self, stream: ChannelStream, due: list[int]) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                for lease_id in due:
                    await stream.send(_request(lease_id))
        except TimeoutError:
            self.leave(ApiError(UNAVAILABLE, "the connection takes no renewals"))
        except ApiError as error:
            self.leave(error)

    # ----- the stream

    def needed(self) -> bool:
        """Whether a lease is kept."""
        return bool(self._leases)

    def on_opened(self, stream: ChannelStream) -> Sequence[Work]:
        """What is due can be sent."""
        self._wake.set()
        return ()

    def on_message(self, message: bytes) -> None:
        """A renewal is answered. Raises: DecodeError: it is no answer."""
        answer = rpc_pb2.LeaseKeepAliveResponse.FromString(message)
        self._useful = True
        loss = self._keeping.answered(answer.ID, answer.TTL)
        if loss is not None:
            self._lose(answer.ID, loss)
        self._wake.set()

    def on_gone(self) -> None:
        """What was not answered is sent again on the next one."""
        self._keeping.stream_lost(self._clock())
        self._wake.set()

    def _lose(self, lease_id: int, loss: str) -> None:
        lease = self._leases.pop(lease_id, None)
        if lease is not None:
            lease.tell_lost(str(loss))

    def on_given_up(self, error: RevstoreError) -> None:
        """Tell that all leases are lost."""
        for lease_id in tuple(self._leases):
            self._keeping.remove(lease_id)
            self._lose(lease_id, str(error))
        self._wake.set()


def _request(lease_id: int) -> bytes:
    return rpc_pb2.LeaseKeepAliveRequest(ID=lease_id).SerializeToString()
