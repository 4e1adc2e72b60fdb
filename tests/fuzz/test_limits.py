"""Too large, too many, too slow: what a client can do by sheer amount."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from revstore.api import errors
from revstore.proto import rpc_pb2 as rpc
from tests.fuzz.target import MESSAGE_BYTES_MAX, NEVER, Target
from tests.fuzz.test_streams import WATCH, open_stream
from tests.fuzz.wire import length_field
from tests.support.process import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def target(shared_target: Target) -> Target:
    """One server stands all of it."""
    return shared_target


REQUEST_BYTES = 1_572_864
PUT, RANGE, TXN = (f"/etcdserverpb.KV/{name}" for name in ("Put", "Range", "Txn"))
WRITES = {
    PUT: length_field(1, b"k"),
    TXN: length_field(2, length_field(2, length_field(1, b"k"))),
    "/etcdserverpb.KV/DeleteRange": length_field(1, b"k"),
    "/etcdserverpb.KV/Compact": b"",
    "/etcdserverpb.Lease/LeaseGrant": b"",
    "/etcdserverpb.Lease/LeaseRevoke": b"",
}


def padded(raw: bytes, size: int) -> bytes:
    """The request with a field that nobody knows, ``size`` bytes in all."""
    for overhead in range(8):
        found = raw + length_field(500, bytes(size - len(raw) - overhead))
        if len(found) == size:
            return found
    raise AssertionError("no such size")


@pytest.mark.parametrize("path", WRITES)
def test_a_write_over_the_limit_of_the_log(target: Target, path: str) -> None:
    """What fits into a message but not into the log is "too large", and not done."""
    before = target.facts()
    for size in (REQUEST_BYTES + 100, MESSAGE_BYTES_MAX):
        answer = target.call(path, padded(WRITES[path], size))
        assert answer.code is grpc.StatusCode.INVALID_ARGUMENT, (size, answer)
        assert answer.text == errors.REQUEST_TOO_LARGE.message
    assert target.facts() == before


def test_a_message_over_the_limit_of_the_transport(target: Target) -> None:
    """Every method and stream refuses a larger message; both servers' words are right."""
    before = target.facts()
    for size in (
        MESSAGE_BYTES_MAX + 1,
        4 * MESSAGE_BYTES_MAX,
        5 * MESSAGE_BYTES_MAX,
        40_000_000,
    ):
        for path in (PUT, RANGE, "/etcdserverpb.Maintenance/Status"):
            answer = target.call(path, padded(b"", size))
            assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED, (path, answer)
            assert "larger than max" in answer.text, answer
        queue: SimpleQueue[bytes | None] = SimpleQueue()
        queue.put(padded(b"", size))
        call = open_stream(target, WATCH, queue)
        with pytest.raises(grpc.RpcError):
            next(call)
        queue.put(None)
        assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, size
    assert target.call(RANGE, padded(length_field(1, b"k"), MESSAGE_BYTES_MAX)).ok
    assert target.facts() == before


def test_header_bombs(target: Target) -> None:
    """Metadata of any amount is refused or ignored, and others go on."""
    channel: Any = target.channel
    status = rpc.StatusRequest().SerializeToString()
    bombs: list[Any] = [
        [("x", "y" * 7000)],
        [("x", "y" * 70_000)],
        [("x", "y" * 900_000)],
        [(f"x{number}", "y") for number in range(5000)],
        [("token", "t" * 5000), ("authorization", "Bearer " + "b" * 1000)],
        [("client-api-version", "?" * 100), ("hasleader", "maybe")],
        [("x-bin", bytes(range(256)) * 8)],
        [("token-bin", b"\xff"), ("grpc-timeout-x", "1"), ("te-x", "x")],
    ]
    for metadata in bombs:
        call = channel.unary_unary("/etcdserverpb.Maintenance/Status").future(
            status, timeout=30, metadata=metadata
        )
        error = call.exception()
        if error is not None:
            assert call.code() not in NEVER, (str(metadata)[:100], error)
        assert target.facts()


def test_a_thousand_calls_at_once(target: Target) -> None:
    """All of 1000 calls in flight are answered, each as if it were alone."""
    head = rpc.RangeRequest(key=b"k")
    first = target.ask(RANGE, head, rpc.RangeResponse).header.revision
    lease = rpc.LeaseGrantRequest(TTL=3600)
    kinds = [
        (PUT, rpc.PutRequest(key=b"k", value=b"v" * 1000)),
        (RANGE, rpc.RangeRequest(key=b"\0", range_end=b"\0")),
        (TXN, rpc.TxnRequest(success=[{"request_put": {"key": b"t", "value": b"1"}}])),
        ("/etcdserverpb.Lease/LeaseGrant", lease),
        ("/etcdserverpb.Maintenance/HashKV", rpc.HashKVRequest()),
        (PUT, rpc.PutRequest()),
        ("/etcdserverpb.Maintenance/Snapshot", rpc.SnapshotRequest()),
        ("/etcdserverpb.KV/NoSuchMethod", rpc.RangeRequest()),
    ]
    going = [
        target.start_call(path, request.SerializeToString())
        for _ in range(125)
        for path, request in kinds
    ]
    codes = Counter(target.answer(call).code for call in going)
    assert codes == {
        grpc.StatusCode.OK: 750,
        grpc.StatusCode.INVALID_ARGUMENT: 125,
        grpc.StatusCode.UNIMPLEMENTED: 125,
    }
    found = target.ask(RANGE, head, rpc.RangeResponse)
    assert found.header.revision == first + 2 * 125


def test_watchers_that_never_read(target: Target) -> None:
    """200 streams that are not read cost bounded memory, hold nobody up, lose nothing."""
    head = target.ask(RANGE, rpc.RangeRequest(key=b"w"), rpc.RangeResponse)
    first = head.header.revision + 1
    queues = []
    calls = []
    for _ in range(200):
        queue: SimpleQueue[bytes | None] = SimpleQueue()
        create = rpc.WatchCreateRequest(key=b"w", start_revision=first, prev_kv=True)
        queue.put(rpc.WatchRequest(create_request=create).SerializeToString())
        queues.append(queue)
        calls.append(open_stream(target, WATCH, queue, timeout_s=None))
    put = rpc.PutRequest(key=b"w", value=b"x" * 40_000).SerializeToString()
    for _ in range(100):
        assert target.call(PUT, put).ok
    slowest = calls[-1]
    seen: list[int] = []
    for raw in slowest:
        seen += [e.kv.mod_revision for e in rpc.WatchResponse.FromString(raw).events]
        if len(seen) == 100:
            break
    assert seen == list(range(first, first + 100))
    assert target.facts()
    for queue, call in zip(queues, calls, strict=True):
        queue.put(None)
        call.cancel()


def test_noise_on_the_port(target: Target) -> None:
    """Connections that speak no HTTP/2, half of it, or nothing, harm nobody else."""
    host, _, port = target.server.address.rpartition(":")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    settings = b"\0\0\0\x04\0\0\0\0\0"
    noises = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 5000,
        preface,
        preface + b"\xff" * 200,
        preface + settings + b"\xff\xff\xff\x01\x04\0\0\0\x01",
        preface + settings + b"\0\0\x05\x01\x04\0\0\0\x01\xff\xff\xff\xff\xff",
        preface + settings + b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\xff\xff" * 50,
        preface + settings + b"\0\0\x08\x06\0\0\0\0\0abcdefgh" * 500,
        preface + settings + b"\0\0\x04\x03\0\0\0\0\x07\0\0\0\x08" * 500,
    ]
    before = target.facts()
    sockets = []
    for number in range(150):
        one = socket.create_connection((host, int(port)), timeout=20)
        sockets.append(one)
        try:
            one.sendall(noises[number % len(noises)])
        except OSError:
            assert number >= len(noises) or noises[number % len(noises)]
    try:
        assert target.facts() == before
    finally:
        for one in sockets:
            one.close()
    assert target.facts() == before
    wait_for(lambda: open_files(target) < 60, "the server closed them")


def open_files(target: Target) -> int:
    """How many descriptors the server has open."""
    return sum(1 for _ in Path(f"/proc/{target.server.pid}/fd").iterdir())
