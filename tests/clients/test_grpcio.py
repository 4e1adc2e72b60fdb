"""A plain grpcio client, synchronous, with our own messages."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from revstore.proto import health_pb2, rpc_pb2
from tests.support.server import ServerProcess, start_server

pytestmark = pytest.mark.slow
CALL_S = 30.0


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, transport: str
) -> Iterator[ServerProcess]:
    """A served member on LMDB."""
    folder = tmp_path_factory.mktemp("grpcio")
    with start_server("lmdb", folder / "data", transport=transport) as found:
        yield found


def unary(
    channel: grpc.Channel, path: str, request: Message, kind: type[Any], **how: Any
) -> Any:
    """The answer to one call."""
    call: Any = channel.unary_unary(
        path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=kind.FromString,
    )
    return call(request, timeout=CALL_S, wait_for_ready=True, **how)


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_compression(
    server: ServerProcess, transport: str, compression: grpc.Compression
) -> None:
    """A client that compresses gets the same answers; deflate is gRPC's to refuse."""
    if transport == "grpc" and compression is grpc.Compression.Deflate:
        with grpc.insecure_channel(server.address, compression=compression) as channel:
            put = rpc_pb2.PutRequest(key=b"packed", value=bytes(1000))
            with pytest.raises(grpc.RpcError, match="grpc-encoding"):
                unary(channel, "/etcdserverpb.KV/Put", put, rpc_pb2.PutResponse)
        return
    value = compression.name.encode() * 1000
    with grpc.insecure_channel(server.address, compression=compression) as channel:
        put = rpc_pb2.PutRequest(key=b"packed", value=value)
        unary(channel, "/etcdserverpb.KV/Put", put, rpc_pb2.PutResponse)
        get = rpc_pb2.RangeRequest(key=b"packed")
        found = unary(channel, "/etcdserverpb.KV/Range", get, rpc_pb2.RangeResponse)
        assert found.kvs[0].value == value


def test_metadata_and_health(server: ServerProcess) -> None:
    """Metadata that etcd's own client sends is taken; the health service answers."""
    metadata = (("hasleader", "true"), ("client-api-version", "3.6.0"))
    with grpc.insecure_channel(server.address) as channel:
        status = unary(
            channel,
            "/etcdserverpb.Maintenance/Status",
            rpc_pb2.StatusRequest(),
            rpc_pb2.StatusResponse,
            metadata=metadata,
        )
        assert status.leader == status.header.member_id
        health = unary(
            channel,
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest(),
            health_pb2.HealthCheckResponse,
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_streams_both_ways(server: ServerProcess) -> None:
    """A synchronous client watches, renews a lease and ends both streams itself."""
    requests: SimpleQueue[Message | None] = SimpleQueue()
    with grpc.insecure_channel(server.address) as channel:
        watch: Any = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=rpc_pb2.WatchResponse.FromString,
        )
        create = rpc_pb2.WatchCreateRequest(key=b"s", prev_kv=True)
        requests.put(rpc_pb2.WatchRequest(create_request=create))
        responses = watch(iter(requests.get, None), timeout=CALL_S)
        assert next(responses).created
        for value in (b"1", b"2"):
            put = rpc_pb2.PutRequest(key=b"s", value=value)
            unary(channel, "/etcdserverpb.KV/Put", put, rpc_pb2.PutResponse)
        events = [next(responses).events[0] for _ in range(2)]
        assert [event.prev_kv.value for event in events] == [b"", b"1"]
        # As with etcd, watches outlive the end of the client's requests.
        requests.put(None)
        put = rpc_pb2.PutRequest(key=b"s", value=b"3")
        unary(channel, "/etcdserverpb.KV/Put", put, rpc_pb2.PutResponse)
        assert next(responses).events[0].kv.value == b"3"
        responses.cancel()
        grant = rpc_pb2.LeaseGrantRequest(TTL=600, ID=9)
        unary(
            channel, "/etcdserverpb.Lease/LeaseGrant", grant, rpc_pb2.LeaseGrantResponse
        )
        renew: Any = channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=rpc_pb2.LeaseKeepAliveResponse.FromString,
        )
        asked = [rpc_pb2.LeaseKeepAliveRequest(ID=number) for number in (9, 10, 9)]
        answers = renew(iter(asked), timeout=CALL_S)
        assert [answer.TTL for answer in answers] == [600, 0, 600]
