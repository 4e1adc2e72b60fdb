"""Plain HTTP on the port of the transport "grpc"."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.transports.grpc_support import exchange, get, port_of
from tests.transports.grpc_support import (
    serving_grpc as serving,
)
from tests.transports.server_support import run

from revstore.api import errors
from revstore.errors import ApiError
from revstore.interfaces.transport import (
    Call,
)
from revstore.proto import rpc_pb2
from revstore_conformance.transport import (
    PATIENCE_S,
    unary,
    until,
)
from revstore_grpc.client import GrpcChannel
from revstore_grpc.http import HttpCall, HttpRoutes
from revstore_grpc.http1 import Http1
from revstore_grpc.limits import HTTP_BODY_BYTES_MAX, HTTP_HEAD_BYTES_MAX


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [
        (b"", 200, {"health": "true", "reason": ""}),
        (errors.USER_EMPTY, 200, {"health": "true", "reason": ""}),
        (errors.NO_LEADER, 503, {"health": "false", "reason": "RAFT NO LEADER"}),
        (
            ApiError(14, "down"),
            503,
            {"health": "false", "reason": "RANGE ERROR:down"},
        ),
    ],
)
def test_health(
    outcome: bytes | ApiError, status: int, expected: dict[str, str]
) -> None:
    """/health says in etcd's words whether a linearizable read is served."""

    def serve_range(call: Call, message: bytes) -> None:
        if isinstance(outcome, ApiError):
            call.fail(outcome)
        else:
            call.reply(outcome)

    async def check() -> None:
        alarm = unary(
            "/etcdserverpb.Maintenance/Alarm", lambda call, _: call.reply(b"")
        )
        async with serving(
            unary("/etcdserverpb.KV/Range", serve_range), alarm
        ) as server:
            head, _, body = (await exchange(server, get("/health"))).partition(
                b"\r\n\r\n"
            )
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert json.loads(body) == expected

    run(check())


def test_health_tells_of_alarms() -> None:
    """An alarm makes a member unhealthy, unless it is excluded."""
    found = rpc_pb2.AlarmResponse()
    found.alarms.add(memberID=1, alarm=rpc_pb2.NOSPACE)

    async def check() -> None:
        methods = (
            unary("/etcdserverpb.KV/Range", lambda call, _: call.reply(b"")),
            unary(
                "/etcdserverpb.Maintenance/Alarm",
                lambda call, _: call.reply(found.SerializeToString()),
            ),
        )
        async with serving(*methods) as server:
            assert b'"ALARM NOSPACE"' in await exchange(server, get("/health"))
            answer = await exchange(server, get("/health?exclude=NOSPACE"))
            assert answer.startswith(b"HTTP/1.1 200 ")

    run(check())


def test_version_and_unknown_paths() -> None:
    """/version answers as etcd's server does; what nobody registered is 404."""

    async def check() -> None:
        async with serving() as server:
            answer = await exchange(server, get("/version"))
            versions = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert set(versions) == {"etcdserver", "etcdcluster"}
            answer = await exchange(server, get("/none"))
            assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
            assert answer.endswith(b"404 page not found\n")
            answer = await exchange(server, get("/version", method="POST"))
            assert answer.startswith(b"HTTP/1.1 405 ")
            answer = await exchange(server, get("/version", method="HEAD"))
            assert answer.endswith(b"\r\n\r\n")
            assert b"content-length: 0" not in answer

    run(check())


def test_registered_paths() -> None:
    """A function answers its path, or all below it; one that raises is a 500."""
    later: list[HttpCall] = []

    def explode(call: HttpCall) -> None:
        raise ValueError("a bug")

    routes = {
        "/echo": lambda call: call.text(200, f"{call.method} {call.body.decode()}"),
        "/below/": lambda call: call.text(200, f"{call.path} {dict(call.query)}"),
        "/explode": explode,
        "/later": later.append,
    }

    async def check() -> None:
        async with serving(routes=routes) as server:
            request = get("/echo", "content-length: 2", method="POST") + b"hi"
            assert (await exchange(server, request)).endswith(b"\r\n\r\nPOST hi")
            answer = await exchange(server, get("/below/a/b?x=1"))
            assert answer.endswith(b"/below/a/b {'x': ['1']}")
            answer = await exchange(server, get("/explode"))
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert b"a bug" not in answer
            waiting = asyncio.create_task(exchange(server, get("/later")))
            await until(lambda: bool(later), "the request")
            later[0].text(200, "now")
            later[0].text(200, "twice")
            assert (await waiting).endswith(b"\r\n\r\nnow")

    run(check())


def test_requests_sent_ahead() -> None:
    """Requests sent at once are answered in order, however the bytes are cut."""
    routes = {"/": lambda call: call.text(200, call.path)}
    requests = b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n" + get("/3")

    async def check() -> None:
        async with serving(routes=routes) as server:
            whole = await exchange(server, requests)
            assert [whole.index(b"/%d" % one) for one in (1, 2, 3)] == sorted(
                whole.index(b"/%d" % one) for one in (1, 2, 3)
            )
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            for byte in requests:
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(0)
            assert await asyncio.wait_for(reader.read(), PATIENCE_S) == whole
            writer.close()
            await writer.wait_closed()

    run(check())


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n"
            % (HTTP_BODY_BYTES_MAX + 1),
            413,
        ),
        (b"GET / HTTP/1.1\r\nx: " + b"x" * HTTP_HEAD_BYTES_MAX, 431),
    ],
)
def test_bad_requests(request_bytes: bytes, status: int) -> None:
    """What is not understood is answered and ends the connection, and only that."""

    async def check() -> None:
        async with (
            serving() as server,
            GrpcChannel(server.addresses()[0]) as channel,
        ):
            answer = await exchange(server, request_bytes)
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert b"connection: close" in answer
            assert await channel.unary("/t.S/Echo", b"x") == b"x"

    run(check())


def test_a_silent_http_connection_is_closed() -> None:
    """A connection without a request is closed when its time is up."""

    class Loop:
        """Keeps the last timer."""

        def call_later(self, delay: float, function: Any) -> Any:
            self.due = function
            return self

        def cancel(self) -> None:
            self.due = None

    class Transport:
        """Notes that it was closed."""

        closed = False

        def close(self) -> None:
            self.closed = True

    loop: Any = Loop()
    transport: Any = Transport()
    http1 = Http1(loop, transport, HttpRoutes())
    http1.receive(b"GET / HT")
    loop.due()
    assert transport.closed
