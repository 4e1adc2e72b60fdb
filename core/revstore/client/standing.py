"""A stream that is held open while somebody needs it, at one endpoint after another.

Rules of this file:

1. A stream is left when it ends, when its endpoint goes down, when ``leave`` is called
   and when nobody needs it any more.
2. Then another one is opened, if that makes sense; at once after a stream that was of
   use, else after pauses that grow.
3. If it makes no sense, ``on_given_up`` says so to whoever needed the stream.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from random import Random
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from revstore.api.errors import Code
from revstore.client.caller import Caller, CallOptions, OpenStream
from revstore.client.retry import pause_after
from revstore.errors import ApiError, RevstoreError
from revstore.interfaces.channel import UNAVAILABLE, ChannelStream

Work = Coroutine[Any, Any, ApiError | None]
"""Something done on a stream; it ends with the stream, and says why that ended."""


class StandingStream(ABC):
    """The stream of one method; what is sent and what answers mean is a subclass's."""

    def __init__(
        self, path: str, caller: Caller, options: CallOptions, random: Random
    ) -> None:
        self._path = path
        self._caller = caller
        self._options = msgspec.structs.replace(options, timeout_s=None)
        self._random = random
        self._opened: OpenStream | None = None
        self._left: asyncio.Future[ApiError | None] | None = None
        self._useful = False
        """Whether the stream was of use: another one may be opened without a pause."""
        caller.pool.on_down.append(self._endpoint_down)

    @abstractmethod
    def needed(self) -> bool:
        """Whether anybody needs the stream."""

    @abstractmethod
    def on_opened(self, stream: ChannelStream) -> Sequence[Work]:
        """A stream is open; what to do on it beside reading."""

    @abstractmethod
    def on_message(self, message: bytes) -> None:
        """A message came. Raises: DecodeError: it is none of the method's."""

    @abstractmethod
    def on_gone(self) -> None:
        """The stream is gone."""

    @abstractmethod
    def on_given_up(self, error: RevstoreError) -> None:
        """There will be no stream any more, because of this."""

    async def hold(self) -> None:
        """Serve one stream after another until none is needed, or to be had."""
        attempts = 0
        while self.needed():
            self._useful = False
            token = self._caller.tokens.token
            try:
                opened = await self._caller.open_stream(self._path, self._options)
            except RevstoreError as failure:
                goes_on = await self._goes_on("", token, failure)
            else:
                error = await self._serve(opened)
                if error is None:
                    continue
                goes_on = await self._goes_on(opened.url, opened.token, error)
            if not goes_on:
                return
            attempts = 0 if self._useful else attempts + 1
            if attempts:
                count = len(self._caller.pool.urls)
                await asyncio.sleep(pause_after(attempts, count, self._random))

    def leave(self, error: ApiError | None) -> None:
        """Leave the stream, if there is one; None: it is not needed any more."""
        if self._left is not None and not self._left.done():
            self._left.set_result(error)

    async def _serve(self, opened: OpenStream) -> ApiError | None:
        """Use a stream to its end; why it ended."""
        left: asyncio.Future[ApiError | None]
        left = self._left = asyncio.get_running_loop().create_future()
        self._opened = opened
        more = self.on_opened(opened.stream)
        work = [self._read(opened.stream), *more]
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            if not self.needed():
                return None
            ends = [left, *tasks]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return next(end for end in ends if end.done()).result()
        finally:
            self._left = self._opened = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await opened.stream.cancel()
            self.on_gone()

    async def _read(self, stream: ChannelStream) -> ApiError | None:
        try:
            while (message := await stream.receive()) is not None:
                self.on_message(message)
        except ApiError as error:
            return error
        except DecodeError as error:
            return ApiError(Code.INTERNAL, f"the server sent no response: {error}")
        return ApiError(UNAVAILABLE, "the server ended the stream")

    async def _goes_on(self, url: str, token: str, error: RevstoreError) -> bool:
        """Whether to open another stream; tells if not."""
        try:
            broke = self._caller.stream_broke
            if isinstance(error, ApiError) and await broke(url, error, token):
                return True
        except RevstoreError as refusal:
            error = refusal
        self.on_given_up(error)
        return False

    def _endpoint_down(self, url: str) -> None:
        if self._opened is not None and self._opened.url == url:
            self.leave(ApiError(UNAVAILABLE, f"{url} is down"))
