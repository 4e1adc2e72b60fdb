"""Streams of requests in any order, right, odd and broken."""

from __future__ import annotations

from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from hypothesis import strategies as st

from revstore.proto import rpc_pb2 as rpc
from tests.fuzz.runs import run
from tests.fuzz.target import CALL_S, MALFORMED, NEVER, Target, parses
from tests.fuzz.wire import length_field, messages, number_field, requests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

WATCH = "/etcdserverpb.Watch/Watch"
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
LAST_ID = 987_654_321


def open_stream(
    target: Target,
    path: str,
    sent: SimpleQueue[bytes | None],
    timeout_s: float | None = CALL_S,
) -> Any:
    """A stream of bytes both ways that sends what is queued, up to None."""
    stream: Any = target.channel.stream_stream(path)
    return stream(iter(sent.get, None), timeout=timeout_s, wait_for_ready=True)


def check_end(error: Any, kind: type[Any], sent: Sequence[bytes]) -> None:
    """A stream may end only because of a request that is none."""
    assert error.code() not in NEVER, (sent, error)
    broken = not all(parses(kind, raw) for raw in sent)
    assert broken == error.details().startswith(MALFORMED), (sent, error)


def test_watch(target: Target, long_run: bool) -> None:
    """Watch: nothing but bytes that are no request ends it; nothing changes the store."""
    for number in range(30):
        put = rpc.PutRequest(key=b"abc"[number % 3 :][:1], value=bytes([number]))
        target.ask("/etcdserverpb.KV/Put", put, rpc.PutResponse)
    before = target.facts()
    last = rpc.WatchCreateRequest(key=b"zz", watch_id=LAST_ID, start_revision=10**12)
    marker = rpc.WatchRequest(create_request=last).SerializeToString()

    def body(sent: Sequence[bytes]) -> None:
        queue: SimpleQueue[bytes | None] = SimpleQueue()
        for raw in (*sent, marker):
            queue.put(bytes(raw))
        call = open_stream(target, WATCH, queue)
        try:
            for raw in call:
                answer = rpc.WatchResponse.FromString(raw)
                if answer.created and answer.watch_id == LAST_ID:
                    assert all(parses(rpc.WatchRequest, raw) for raw in sent), sent
                    break
        except grpc.RpcError as error:
            check_end(error, rpc.WatchRequest, sent)
        finally:
            queue.put(None)
            call.cancel()

    # Mostly real requests: one that is none ends the stream.
    kind: Any = rpc.WatchRequest.DESCRIPTOR
    one = st.one_of(_watches(), _watches(), _watches(), messages(kind), requests(kind))
    run("test_watch", 5, 150, st.lists(one, max_size=8), body, long_run)
    assert target.facts() == before


def _watches() -> st.SearchStrategy[bytes]:
    keys = st.sampled_from((b"a", b"b", b"", b"\0", b"zzz"))
    small = st.one_of(st.integers(-3, 40), st.sampled_from((2**63 - 1, -(2**63))))

    def create(key: bytes, end: bytes, start: int, watch_id: int, flags: int) -> bytes:
        inner = length_field(1, key) + length_field(2, end) + number_field(3, start)
        inner += number_field(4, flags & 1) + number_field(5, flags >> 1 & 3)
        inner += number_field(6, flags >> 3 & 1) + number_field(8, flags >> 4 & 1)
        return length_field(1, inner + number_field(7, watch_id))

    return st.one_of(
        st.builds(create, keys, keys, small, st.integers(-2, 3), st.integers(0, 31)),
        st.builds(lambda number: length_field(2, number_field(1, number)), small),
        st.just(length_field(3, b"")),
    )


def test_keep_alive(target: Target, long_run: bool) -> None:
    """LeaseKeepAlive: one answer for each request in order, until one that is none."""
    for lease_id in (1, 2, 777, -5):
        grant = rpc.LeaseGrantRequest(ID=lease_id, TTL=3600)
        target.ask("/etcdserverpb.Lease/LeaseGrant", grant, rpc.LeaseGrantResponse)
    before = target.facts()
    kind: Any = rpc.LeaseKeepAliveRequest

    def body(sent: Sequence[bytes]) -> None:
        queue: SimpleQueue[bytes | None] = SimpleQueue()
        for raw in sent:
            queue.put(bytes(raw))
        queue.put(None)
        call = open_stream(target, KEEP_ALIVE, queue)
        try:
            answers = [rpc.LeaseKeepAliveResponse.FromString(raw).ID for raw in call]
        except grpc.RpcError as error:
            check_end(error, kind, sent)
        else:
            assert answers == [kind.FromString(raw).ID for raw in sent]

    one = st.one_of(messages(kind.DESCRIPTOR), requests(kind.DESCRIPTOR))
    run("test_keep_alive", 6, 100, st.lists(one, max_size=12), body, long_run)
    assert target.facts() == before
