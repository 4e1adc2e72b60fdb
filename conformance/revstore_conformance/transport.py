"""Checks of the transport contract, clause by clause (T-01 to T-06).

Each check serves a small table of its own through the transport under test and looks
at it from the client's side. Use::

    @pytest.mark.parametrize("check", CHECKS, ids=name_of)
    def test_contract(check):
        asyncio.run(check(harness))

A harness makes the transport and a client for what it serves; see ``Harness``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from revstore.errors import ApiError
from revstore.interfaces.transport import (
    Call,
    ClientServer,
    Method,
    MethodKind,
    ServeOptions,
    ServiceTable,
    Stream,
    StreamHandler,
    Transport,
)

PATIENCE_S = 20.0
"""How long a check waits for what must happen; only a failing one waits that long."""


class ClientStream(Protocol):
    """The client's end of a streaming call."""

    async def send(self, message: bytes) -> None:
        """Send one message. Raises: ApiError if the stream has failed."""
        ...

    async def half_close(self) -> None:
        """Say that no more will come. Raises: nothing."""
        ...

    async def receive(self) -> bytes | None:
        """The next message, None at the end. Raises: ApiError of the stream."""
        ...

    async def cancel(self) -> None:
        """Give up. Raises: nothing."""
        ...


class Client(Protocol):
    """A client of one server."""

    async def unary(
        self, path: str, message: bytes, metadata: Mapping[str, str] = {}
    ) -> bytes:
        """Make a unary call. Raises: ApiError."""
        ...

    async def server_stream(
        self, path: str, message: bytes, metadata: Mapping[str, str] = {}
    ) -> ClientStream:
        """Open a stream of answers. Raises: nothing."""
        ...

    async def bidi_stream(
        self, path: str, metadata: Mapping[str, str] = {}
    ) -> ClientStream:
        """Open a stream both ways. Raises: nothing."""
        ...

    async def close(self) -> None:
        """End everything. Raises: nothing."""
        ...


class Harness(Protocol):
    """How to make the transport under test and a client for what it serves."""

    def transport(self) -> Transport:
        """A new transport."""
        ...

    def options(self) -> ServeOptions:
        """How to serve; port 0 where ports matter."""
        ...

    async def connect(self, server: ClientServer) -> Client:
        """A client of a server that the transport made."""
        ...


Check = Callable[[Harness], Awaitable[None]]


def unary(path: str, function: Callable[[Call, bytes], None]) -> Method:
    """A unary method for a table."""
    return Method(path=path, kind=MethodKind.UNARY, unary=function)


def bidi(path: str, function: Callable[[Stream], StreamHandler]) -> Method:
    """A streaming method for a table."""
    return Method(path=path, kind=MethodKind.BIDI_STREAM, stream=function)


def server_stream(path: str, function: Callable[[Stream], StreamHandler]) -> Method:
    """A method with one message in and many out, for a table."""
    return Method(path=path, kind=MethodKind.SERVER_STREAM, stream=function)


def table_of(*methods: Method) -> ServiceTable:
    """A table of these methods."""
    return {method.path: method for method in methods}


@asynccontextmanager
async def serving(
    harness: Harness, *methods: Method
) -> AsyncIterator[tuple[Client, ClientServer]]:
    """A server of these methods and a client of it."""
    transport = harness.transport()
    server = await transport.serve_clients(table_of(*methods), harness.options())
    try:
        client = await harness.connect(server)
        try:
            yield client, server
        finally:
            await client.close()
    finally:
        await server.drain(0)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Let the loop run until something holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not condition():
        assert loop.time() < deadline, f"waited {PATIENCE_S} s in vain: {what}"
        await asyncio.sleep(0.001)


async def failure_of(work: Awaitable[object]) -> ApiError:
    """The error that a call ends with."""
    try:
        found = await asyncio.wait_for(work, PATIENCE_S)
    except ApiError as error:
        return error
    raise AssertionError(f"the call gave {found!r} instead of an error")


async def receive(stream: ClientStream) -> bytes | None:
    """The next message of a stream, with a bound on the wait."""
    return await asyncio.wait_for(stream.receive(), PATIENCE_S)


class Recorder(StreamHandler):
    """Notes every callback, and the thread it came on."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.events: list[str] = []
        self.threads: set[int] = set()

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    def on_message(self, message: bytes) -> None:
        self._note("message " + message.decode())

    def on_half_close(self) -> None:
        self._note("half-close")

    def on_cancel(self) -> None:
        self._note("cancel")

    def on_writable(self) -> None:
        self._note("writable")


async def check_t01_first_answer_wins(harness: Harness) -> None:
    """T-01: the first of several answers reaches the client."""
    other = ApiError(5, "too late")

    def reply_first(call: Call, message: bytes) -> None:
        call.reply(b"first " + message)
        call.reply(b"second")
        call.fail(other)

    def fail_first(call: Call, message: bytes) -> None:
        call.fail(ApiError(9, message.decode()))
        call.reply(b"second")

    methods = unary("/t.S/Reply", reply_first), unary("/t.S/Fail", fail_first)
    async with serving(harness, *methods) as (client, _):
        assert await client.unary("/t.S/Reply", b"x") == b"first x"
        error = await failure_of(client.unary("/t.S/Fail", b"why not"))
        assert error == ApiError(9, "why not")


async def check_t01_answer_may_come_later(harness: Harness) -> None:
    """T-01: an answer after the handler returned reaches its own call, in any order."""
    waiting: dict[bytes, Call] = {}

    def park(call: Call, message: bytes) -> None:
        waiting[message] = call

    async with serving(harness, unary("/t.S/Park", park)) as (client, _):
        calls = {
            name: asyncio.ensure_future(client.unary("/t.S/Park", name))
            for name in (b"a", b"b", b"c")
        }
        await until(lambda: len(waiting) == 3, "three calls parked")
        for name in (b"c", b"a"):
            waiting[name].reply(b"answer " + name)
            assert await calls[name] == b"answer " + name
        waiting[b"b"].fail(ApiError(14, "not now"))
        assert await failure_of(calls[b"b"]) == ApiError(14, "not now")


async def check_t01_empty_reply(harness: Harness) -> None:
    """T-01: an empty message is an answer like any other."""
    method = unary("/t.S/Empty", lambda call, message: call.reply(message))
    async with serving(harness, method) as (client, _):
        assert await client.unary("/t.S/Empty", b"") == b""


async def check_metadata_is_lower_case(harness: Harness) -> None:
    """The handler sees the client's metadata under lower-case names, and a peer."""
    seen: list[tuple[Mapping[str, str], str]] = []

    def note(call: Call, message: bytes) -> None:
        seen.append((call.metadata(), call.peer()))
        call.reply(b"")

    async with serving(harness, unary("/t.S/Note", note)) as (client, _):
        await client.unary("/t.S/Note", b"", {"token": "abc", "hasleader": "true"})
    metadata, peer = seen[0]
    assert metadata["token"] == "abc"
    assert metadata["hasleader"] == "true"
    assert peer


async def check_unknown_paths(harness: Harness) -> None:
    """Unknown methods and services are refused in the words of grpc-go."""
    method = unary("/t.S/Known", lambda call, message: call.reply(b""))
    async with serving(harness, method) as (client, _):
        error = await failure_of(client.unary("/t.S/Other", b""))
        assert error == ApiError(12, "unknown method Other for service t.S")
        error = await failure_of(client.unary("/t.None/Known", b""))
        assert error == ApiError(12, "unknown service t.None")


async def check_t02_messages_in_order(harness: Harness) -> None:
    """T-02: messages arrive in order, then the half-close, and nothing twice."""
    recorders: list[Recorder] = []

    def open_stream(stream: Stream) -> StreamHandler:
        recorders.append(Recorder(stream))
        return recorders[0]

    async with serving(harness, bidi("/t.S/In", open_stream)) as (client, _):
        stream = await client.bidi_stream("/t.S/In")
        for number in range(50):
            await stream.send(str(number).encode())
        await stream.half_close()
        await until(
            lambda: bool(recorders) and "half-close" in recorders[0].events,
            "the half-close",
        )
        recorders[0].stream.finish()
        assert await receive(stream) is None
    expected = [f"message {number}" for number in range(50)] + ["half-close"]
    assert recorders[0].events == expected


async def check_t02_nothing_after_cancel(harness: Harness) -> None:
    """T-02: a client that gives up is reported once, and nothing comes after it."""
    recorders: list[Recorder] = []

    def open_stream(stream: Stream) -> StreamHandler:
        recorders.append(Recorder(stream))
        return recorders[0]

    async with serving(harness, bidi("/t.S/In", open_stream)) as (client, _):
        stream = await client.bidi_stream("/t.S/In")
        await stream.send(b"one")
        await until(
            lambda: bool(recorders) and bool(recorders[0].events), "one message"
        )
        await stream.cancel()
        await until(lambda: recorders[0].events[-1] == "cancel", "on_cancel")
        assert recorders[0].stream.cancelled()
        recorders[0].stream.send(b"into the void")
        recorders[0].stream.finish()
    # A library may report the end of input before the reason for it.
    events = [event for event in recorders[0].events if event != "half-close"]
    assert events == ["message one", "cancel"]
    assert recorders[0].events[-1] == "cancel"


async def check_t03_send_never_blocks(harness: Harness) -> None:
    """T-03: a stream nobody reads turns not writable, then writable again; all that
    was sent arrives in order."""
    size = 16 * 1024
    sent: list[bytes] = []

    class Producer(StreamHandler):
        def __init__(self, stream: Stream) -> None:
            self.stream = stream
            self.blocked = 0

        def on_message(self, message: bytes) -> None:
            self.fill()

        def on_writable(self) -> None:
            self.fill()

        def fill(self) -> None:
            while self.stream.writable():
                if len(sent) == 1000:
                    self.stream.finish()
                    return
                body = len(sent).to_bytes(4, "big") * (size // 4)
                sent.append(body)
                self.stream.send(body)
            self.blocked += 1

    producers: list[Producer] = []

    def open_stream(stream: Stream) -> StreamHandler:
        producers.append(Producer(stream))
        return producers[0]

    async with serving(harness, server_stream("/t.S/Out", open_stream)) as (client, _):
        stream = await client.server_stream("/t.S/Out", b"go")
        await until(
            lambda: bool(producers) and producers[0].blocked > 0, "a full queue"
        )
        assert len(sent) < 1000, "the queue has no bound"
        received = []
        while (message := await receive(stream)) is not None:
            received.append(message)
    assert len(sent) == 1000
    assert received == sent


async def check_t04_nothing_after_the_end(harness: Harness) -> None:
    """T-04: what is sent after finish or fail is ignored; what was sent before
    arrives."""
    error = ApiError(11, "far out")

    def finish(stream: Stream) -> StreamHandler:
        stream.send(b"before")
        stream.finish()
        stream.send(b"after")
        stream.fail(error)
        return StreamHandler()

    def fail(stream: Stream) -> StreamHandler:
        stream.send(b"before")
        stream.fail(error)
        stream.send(b"after")
        stream.finish()
        return StreamHandler()

    methods = server_stream("/t.S/Finish", finish), server_stream("/t.S/Fail", fail)
    async with serving(harness, *methods) as (client, _):
        stream = await client.server_stream("/t.S/Finish", b"")
        assert await receive(stream) == b"before"
        assert await receive(stream) is None
        stream = await client.server_stream("/t.S/Fail", b"")
        assert await receive(stream) == b"before"
        assert await failure_of(stream.receive()) == error


async def check_t05_exception_ends_one_call(harness: Harness) -> None:
    """T-05: a handler that raises ends its call with INTERNAL; other calls go on."""

    def explode(call: Call, message: bytes) -> None:
        raise ValueError("a bug")

    class Bomb(StreamHandler):
        def on_message(self, message: bytes) -> None:
            raise ValueError("another bug")

    def explode_open(stream: Stream) -> StreamHandler:
        raise ValueError("a third bug")

    methods = (
        unary("/t.S/Explode", explode),
        unary("/t.S/Echo", lambda call, message: call.reply(message)),
        bidi("/t.S/Bomb", lambda stream: Bomb()),
        bidi("/t.S/Open", explode_open),
    )
    async with serving(harness, *methods) as (client, _):
        error = await failure_of(client.unary("/t.S/Explode", b""))
        assert error.code == 13
        assert "a bug" not in error.message
        stream = await client.bidi_stream("/t.S/Bomb")
        await stream.send(b"x")
        assert (await failure_of(stream.receive())).code == 13
        stream = await client.bidi_stream("/t.S/Open")
        assert (await failure_of(stream.receive())).code == 13
        assert await client.unary("/t.S/Echo", b"still here") == b"still here"


async def check_t06_callbacks_on_the_loop(harness: Harness) -> None:
    """T-06: handlers and callbacks run on the thread of the loop that serves."""
    threads: set[int] = set()
    recorders: list[Recorder] = []

    def note(call: Call, message: bytes) -> None:
        threads.add(threading.get_ident())
        call.reply(b"")

    def open_stream(stream: Stream) -> StreamHandler:
        recorders.append(Recorder(stream))
        return recorders[0]

    methods = unary("/t.S/Note", note), bidi("/t.S/In", open_stream)
    async with serving(harness, *methods) as (client, _):
        await client.unary("/t.S/Note", b"")
        stream = await client.bidi_stream("/t.S/In")
        await stream.send(b"x")
        await until(lambda: bool(recorders) and bool(recorders[0].events), "a message")
        await stream.cancel()
        await until(lambda: recorders[0].events[-1] == "cancel", "on_cancel")
    assert threads | recorders[0].threads == {threading.get_ident()}


async def check_drain_ends_streams(harness: Harness) -> None:
    """Draining cancels streams, lets an answered call end and takes no new ones."""
    recorders: list[Recorder] = []

    def open_stream(stream: Stream) -> StreamHandler:
        recorders.append(Recorder(stream))
        return recorders[0]

    echo = unary("/t.S/Echo", lambda call, message: call.reply(message))
    async with serving(harness, echo, bidi("/t.S/In", open_stream)) as (client, server):
        stream = await client.bidi_stream("/t.S/In")
        await stream.send(b"x")
        await until(lambda: bool(recorders) and bool(recorders[0].events), "a message")
        await asyncio.wait_for(server.drain(PATIENCE_S), PATIENCE_S)
        assert recorders[0].events[-1] == "cancel"
        await failure_of(client.unary("/t.S/Echo", b""))


CHECKS: tuple[Check, ...] = (
    check_t01_first_answer_wins,
    check_t01_answer_may_come_later,
    check_t01_empty_reply,
    check_metadata_is_lower_case,
    check_unknown_paths,
    check_t02_messages_in_order,
    check_t02_nothing_after_cancel,
    check_t03_send_never_blocks,
    check_t04_nothing_after_the_end,
    check_t05_exception_ends_one_call,
    check_t06_callbacks_on_the_loop,
    check_drain_ends_streams,
)
"""Every check of the contract."""


def name_of(check: Check) -> str:
    """A check's name for a test id."""
    return getattr(check, "__name__", repr(check)).removeprefix("check_")
