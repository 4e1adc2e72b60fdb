"""A loop on virtual time, and a cluster of scripted members behind fake channels."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, TypeVar

from revstore.api import errors
from revstore.api.errors import Code
from revstore.client.methods import HEALTH, KEEP_ALIVE, WATCH
from revstore.client.opening import connect
from revstore.client.store import AsyncClient
from revstore.errors import ApiError
from revstore.interfaces.channel import NO_METADATA, Channel, ChannelStream, NotSent
from revstore.proto import rpc_pb2

Result = TypeVar("Result")

SERVING = b"\x08\x01"
Answer = bytes | ApiError | None
"""None: no answer ever comes."""


class _VirtualSelector(selectors.SelectSelector):
    """Instead of waiting it moves the clock."""

    now = 0.0

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found:
            assert timeout is not None, "everything waits and nothing will happen"
            self.now += max(timeout, 0.0)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once when nothing is to be done."""

    def __init__(self) -> None:
        self.virtual = _VirtualSelector()
        super().__init__(self.virtual)

    def time(self) -> float:
        """Virtual seconds."""
        return self.virtual.now


def run(coroutine: Coroutine[Any, Any, Result], limit_s: float = 600.0) -> Result:
    """What a coroutine returns on virtual time, within so many virtual seconds."""
    loop = VirtualLoop()

    async def bounded() -> Result:
        async with asyncio.timeout(limit_s):
            return await coroutine

    try:
        return loop.run_until_complete(bounded())
    finally:
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _cancel_all() -> None:
    own = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not own]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class FakeStream(ChannelStream):
    """The client's end; the member pushes and breaks."""

    def __init__(self, member: FakeMember, metadata: Mapping[str, str]) -> None:
        self.member = member
        self.metadata = dict(metadata)
        self.sent: list[bytes] = []
        self.inbox: deque[bytes] = deque()
        self.error: ApiError | None = None
        self.over = False
        self._arrived = asyncio.Event()

    async def send(self, message: bytes) -> None:
        if self.error is not None:
            raise self.error.fresh()
        self.sent.append(message)
        self.member.on_message(self, message)

    async def half_close(self) -> None:
        self.end(None)

    async def receive(self) -> bytes | None:
        while not self.inbox:
            if self.error is not None:
                raise self.error.fresh()
            if self.over:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        return self.inbox.popleft()

    async def cancel(self) -> None:
        self.end(ApiError(Code.CANCELLED, "context canceled"))

    def push(self, message: bytes) -> None:
        """A message of the member arrives."""
        self.inbox.append(message)
        self._arrived.set()

    def end(self, error: ApiError | None) -> None:
        """The stream is over."""
        self.over = True
        self.error = self.error or error
        self.member.streams.pop(self, None)
        self._arrived.set()


class FakeMember:
    """What one endpoint does; a test changes it as it likes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.up = True
        self.health: Answer = SERVING
        self.answers: dict[str, Callable[[bytes, Mapping[str, str]], Answer]] = {}
        self.calls: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.streams: dict[FakeStream, str] = {}
        self.opened: list[str] = []
        self.on_message: Callable[[FakeStream, bytes], None] = lambda *_: None
        self.refuse_stream: ApiError | None = None

    def named(self, name: str) -> list[tuple[bytes, Mapping[str, str]]]:
        """The calls of a method, by the end of its path."""
        return [call[1:] for call in self.calls if call[0].endswith(f"/{name}")]

    def go_down(self) -> None:
        """Nothing listens any more, and all connections break."""
        self.up = False
        self.break_streams(ApiError(Code.UNAVAILABLE, "connection lost"))

    def break_streams(self, error: ApiError) -> None:
        """End all streams."""
        for stream in tuple(self.streams):
            stream.end(error)

    def streams_of(self, path: str) -> list[FakeStream]:
        """The open streams of a method."""
        return [stream for stream, name in self.streams.items() if name == path]


class FakeChannel(Channel):
    """A channel to a fake member; what is not scripted is never answered."""

    def __init__(self, member: FakeMember) -> None:
        self.member = member
        self.closed = False

    async def connect(self) -> None:
        await asyncio.sleep(0)
        if self.closed or not self.member.up:
            raise NotSent(f"cannot connect to {self.member.url}")

    async def unary(
        self,
        path: str,
        message: bytes,
        metadata: Mapping[str, str] = NO_METADATA,
        timeout_s: float | None = None,
    ) -> bytes:
        await self.connect()
        member = self.member
        answer: Answer
        if path == HEALTH.path:
            answer = member.health
        else:
            member.calls.append((path, message, dict(metadata)))
            script = member.answers.get(path.rpartition("/")[2])
            answer = None if script is None else script(message, metadata)
        if answer is None:
            if timeout_s is None:
                await asyncio.Event().wait()
            assert timeout_s is not None
            await asyncio.sleep(timeout_s)
            raise errors.DEADLINE_EXCEEDED.fresh()
        if isinstance(answer, ApiError):
            raise answer.fresh()
        return answer

    async def server_stream(
        self, path: str, message: bytes, metadata: Mapping[str, str] = NO_METADATA
    ) -> ChannelStream:
        stream = await self.bidi_stream(path, metadata)
        await stream.send(message)
        return stream

    async def bidi_stream(
        self, path: str, metadata: Mapping[str, str] = NO_METADATA
    ) -> ChannelStream:
        await self.connect()
        self.member.opened.append(path)
        stream = FakeStream(self.member, metadata)
        self.member.streams[stream] = path
        if self.member.refuse_stream is not None:
            stream.end(self.member.refuse_stream)
        return stream

    async def close(self) -> None:
        self.closed = True
        for stream in tuple(self.member.streams):
            stream.end(ApiError(Code.UNAVAILABLE, "the channel was closed"))


class FakeCluster:
    """Members "m0", "m1", ... and clients of them."""

    def __init__(self, count: int = 3) -> None:
        urls = [f"fake://m{number}:1" for number in range(count)]
        self.members = {url: FakeMember(url) for url in urls}

    def __getitem__(self, number: int) -> FakeMember:
        return list(self.members.values())[number]

    @property
    def all(self) -> list[FakeMember]:
        """The members."""
        return list(self.members.values())

    def answer(
        self, name: str, script: Callable[[bytes, Mapping[str, str]], Answer]
    ) -> None:
        """What all members answer to a method."""
        for member in self.all:
            member.answers[name] = script

    def calls(self, name: str) -> list[str]:
        """The members that got calls of a method, in the order of the members."""
        return [member.url for member in self.all for _ in member.named(name)]

    async def client(self, **options: Any) -> AsyncClient:
        """A client of the members."""
        return await connect(
            list(self.members),
            open_channel=lambda url: FakeChannel(self.members[url]),
            random=Random(5),
            **options,
        )


async def until(condition: Callable[[], object], what: str) -> None:
    """Let virtual time pass until something holds; an hour is enough for all."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {what}")


def message(response: Any, revision: int = 0) -> bytes:
    """A response with a header."""
    response.header.revision = revision
    found: bytes = response.SerializeToString()
    return found


def put_answer(revision: int = 2) -> bytes:
    """What a member says to a put."""
    return message(rpc_pb2.PutResponse(), revision)


__all__ = ["KEEP_ALIVE", "WATCH", "FakeCluster", "FakeMember", "run", "until"]
