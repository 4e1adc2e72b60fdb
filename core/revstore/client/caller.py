"""Making a call: pick an endpoint, try, judge the failure, try again until the deadline.

The rules are in ``retry`` and ``balancer``; this shell keeps time and carries tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from random import Random
from typing import NamedTuple

import msgspec
from google.protobuf.message import Message

from revstore.api import errors
from revstore.client.methods import AUTHENTICATE, Answer, Method
from revstore.client.pool import Pool
from revstore.client.retry import (
    Kind,
    Verdict,
    final,
    judge,
    judge_stream,
    pause_after,
)
from revstore.client.tokens import Tokens
from revstore.errors import ApiError, Unavailable
from revstore.interfaces.channel import ChannelStream, NotSent
from revstore.proto import rpc_pb2
from revstore.version import ETCD_API_VERSION

NEW_TOKENS_MAX = 3
"""Tokens fetched for one call before its refusal is believed."""


class CallOptions(msgspec.Struct, frozen=True):
    """How calls are made."""

    timeout_s: float | None = 10.0
    """For a call with all its repetitions; None waits for ever."""
    require_leader: bool = False
    """Have members without a leader refuse instead of waiting for one."""


class OpenStream(NamedTuple):
    """A stream, the endpoint that it is at, and the token it was opened with."""

    url: str
    stream: ChannelStream
    token: str


class Caller:
    """Calls at the endpoints of one cluster."""

    def __init__(self, pool: Pool, random: Random, user: str, password: str) -> None:
        self.pool = pool
        self._random = random
        self._user = user
        self._password = password
        self._clock = asyncio.get_running_loop().time
        self.tokens = Tokens(self._authenticate if user else None)
        self._metadata: dict[tuple[str, bool], Mapping[str, str]] = {}
        self.revision = 0
        """The newest revision that an answer told of."""

    # ----- unary

    async def call(
        self, method: Method[Answer], request: Message, options: CallOptions
    ) -> Answer:
        """The answer to a call, tried at as many endpoints as it takes.

        Raises:
            ApiError: the cluster refused, or did not answer a read in time.
            OutcomeUnknown: a change was sent and its answer did not come.
            Unavailable: nothing was sent in time: no endpoint can be reached.
        """
        body = await self._call(method, request.SerializeToString(), options)
        answer = method.answer.FromString(body)
        self.saw(answer)
        return answer

    def deadline(self, timeout_s: float | None) -> float | None:
        """When a time that begins now is up; None: never."""
        return None if timeout_s is None else self._clock() + timeout_s

    def saw(self, answer: object) -> None:
        """Note the revision of an answer's header."""
        header = getattr(answer, "header", None)
        if header is not None and header.revision > self.revision:
            self.revision = header.revision

    async def _call(
        self, method: Method[Answer], message: bytes, options: CallOptions
    ) -> bytes:
        path, kind = method.path, method.kind
        deadline = self.deadline(options.timeout_s)
        avoid: set[str] = set()
        attempts = token_count = 0
        maybe_done = False
        while True:
            if self.tokens.missing:
                await self._first_token(deadline)
            url = await self.pool.pick(avoid, deadline)
            try:
                return await self._once(url, path, message, options, deadline)
            except ApiError as error:
                self.pool.report(url, error)
                if maybe_done and error == method.done_before:
                    return b""
                maybe_done = maybe_done or not isinstance(error, NotSent)
                verdict = self._judge(kind, error)
                if verdict is Verdict.NEW_TOKEN and token_count < NEW_TOKENS_MAX:
                    token_count += 1
                    await self._renew(deadline, error)
                    continue
                if verdict is not Verdict.ELSEWHERE:
                    raise final(kind, error) from None
                attempts += 1
                await self._pause(attempts, deadline, kind, error)
                avoid = {url} if len(avoid) + 1 >= self._count else {*avoid, url}

    @property
    def _count(self) -> int:
        return len(self.pool.urls)

    def _judge(self, kind: Kind, error: ApiError) -> Verdict:
        password = self.tokens.password
        return judge(kind, error, password=password, endpoints=self._count)

    async def _once(
        self,
        url: str,
        path: str,
        message: bytes,
        options: CallOptions,
        deadline: float | None,
    ) -> bytes:
        left = None
        if deadline is not None:
            # In whole milliseconds: a transport can remember the headers of a call, and
            # most calls have all of their time left.
            left = round(deadline - self._clock(), 3)
            if left <= 0:
                raise Unavailable("the time was up before the call was sent")
        channel = self.pool.channel(url)
        return await channel.unary(path, message, self.metadata(options), left)

    async def _pause(
        self, attempts: int, deadline: float | None, kind: Kind, error: ApiError
    ) -> None:
        """Wait before another attempt. Raises: the error, if no time is left."""
        pause = pause_after(attempts, self._count, self._random)
        if deadline is not None and self._clock() + pause >= deadline:
            if isinstance(error, NotSent):
                raise Unavailable(self.pool.reasons()) from error
            raise final(kind, error) from None
        if pause:
            await asyncio.sleep(pause)

    async def first_token(self, timeout_s: float | None) -> None:
        """Fetch the first token. Raises: ApiError: the user was refused; Unavailable."""
        if self.tokens.missing:
            await self._first_token(self.deadline(timeout_s))

    async def _first_token(self, deadline: float | None) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self.tokens.ensure()
        except TimeoutError:
            text = f"no token in time; {self.pool.reasons()}"
            raise Unavailable(text) from None

    async def _renew(self, deadline: float | None, refusal: ApiError) -> None:
        stale = self.tokens.token
        try:
            async with asyncio.timeout_at(deadline):
                await self.tokens.renew(stale)
        except TimeoutError:
            raise refusal from None

    # ----- one endpoint, streams, tokens

    async def call_at(
        self, url: str, method: Method[Answer], request: Message, options: CallOptions
    ) -> Answer:
        """The answer of one endpoint, whatever its health; not repeated elsewhere.

        Raises:
            ApiError: it refused, or cannot be reached (NotSent).
            OutcomeUnknown: a change was sent and its answer did not come.
        """
        deadline = self.deadline(options.timeout_s)
        message = request.SerializeToString()
        if self.tokens.missing:
            await self._first_token(deadline)
        for attempt in range(NEW_TOKENS_MAX):
            try:
                body = await self._once(url, method.path, message, options, deadline)
                answer = method.answer.FromString(body)
                self.saw(answer)
                return answer
            except ApiError as error:
                verdict = self._judge(Kind.CHANGE, error)
                last = attempt == NEW_TOKENS_MAX - 1
                if verdict is not Verdict.NEW_TOKEN or last:
                    raise final(method.kind, error) from None
                await self._renew(deadline, error)
        raise AssertionError("the last attempt returns or raises")

    async def open_stream(self, path: str, options: CallOptions) -> OpenStream:
        """A stream both ways at the next endpoint in turn; waits for one.

        Raises:
            ApiError: the endpoint cannot be reached, or the user was refused.
            Unavailable: no endpoint in time.
        """
        return await self._open(path, None, options, "")

    async def open_answers(
        self, path: str, message: bytes, options: CallOptions, url: str = ""
    ) -> OpenStream:
        """A stream of answers to one message. Raises: as ``open_stream``."""
        return await self._open(path, message, options, url)

    async def _open(
        self, path: str, message: bytes | None, options: CallOptions, url: str
    ) -> OpenStream:
        deadline = self.deadline(options.timeout_s)
        if self.tokens.missing:
            await self._first_token(deadline)
        if not url:
            url = await self.pool.pick((), deadline)
        token = self.tokens.token
        channel = self.pool.channel(url)
        metadata = self.metadata(options)
        try:
            if message is None:
                stream = await channel.bidi_stream(path, metadata)
            else:
                stream = await channel.server_stream(path, message, metadata)
        except ApiError as error:
            self.pool.report(url, error)
            raise
        return OpenStream(url, stream, token)

    async def stream_broke(self, url: str, error: ApiError, token: str) -> bool:
        """Note why a stream ended; renew its token if that was it.

        The answer is whether opening it again makes sense.

        Raises:
            ApiError: the user was refused.
        """
        if url:
            self.pool.report(url, error)
        password = self.tokens.password
        verdict = judge_stream(error, password=password, endpoints=self._count)
        if verdict is Verdict.NEW_TOKEN:
            await self.tokens.renew(token)
        return verdict is not Verdict.RAISE

    @staticmethod
    def token_refusal(reason: str) -> ApiError:
        """The error of a token that a stream refused in a message of its own."""
        known = (errors.INVALID_AUTH_TOKEN, errors.AUTH_OLD_REVISION)
        found = next((one for one in known if one.message in reason), errors.USER_EMPTY)
        return found.fresh()

    def metadata(self, options: CallOptions) -> Mapping[str, str]:
        """What every call carries."""
        key = (self.tokens.token, options.require_leader)
        found = self._metadata.get(key)
        if found is None:
            found = {"client-api-version": ETCD_API_VERSION}
            if key[0]:
                found["token"] = key[0]
            if key[1]:
                found["hasleader"] = "true"
            # Tokens come and go; only those in use are worth keeping.
            self._metadata = {
                known: value
                for known, value in self._metadata.items()
                if known[0] == key[0]
            }
            self._metadata[key] = found
        return found

    async def _authenticate(self) -> str:
        request = rpc_pb2.AuthenticateRequest(name=self._user, password=self._password)
        message = request.SerializeToString()
        attempts = 0
        while True:
            url = await self.pool.pick((), None)
            try:
                body = await self.pool.channel(url).unary(AUTHENTICATE.path, message)
                return AUTHENTICATE.answer.FromString(body).token
            except ApiError as error:
                self.pool.report(url, error)
                if self._judge(AUTHENTICATE.kind, error) is not Verdict.ELSEWHERE:
                    raise
                attempts += 1
                await asyncio.sleep(pause_after(attempts, self._count, self._random))
