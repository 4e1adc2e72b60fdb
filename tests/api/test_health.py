"""The standard health service."""

from __future__ import annotations

from revstore.api.errors import Code
from revstore.api.inprocess import invoke, open_stream
from revstore.errors import ApiError
from revstore.proto import health_pb2
from tests.api.member import FakeMember

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
Response = health_pb2.HealthCheckResponse


def test_check(member: FakeMember) -> None:
    """The member as a whole serves; no other service name is known."""
    call = invoke(member.services, CHECK, b"")
    assert Response.FromString(call.result()).status == Response.SERVING
    request = health_pb2.HealthCheckRequest(service="other").SerializeToString()
    error = invoke(member.services, CHECK, request).outcome
    assert isinstance(error, ApiError)
    assert error.code == Code.NOT_FOUND


def test_watch(member: FakeMember) -> None:
    """A watch tells the status at once and stays open."""
    stream = open_stream(member.services, WATCH)
    stream.push(b"")
    (message,) = stream.take_all()
    assert Response.FromString(message).status == Response.SERVING
    assert not stream.over
    stream.cancel()


def test_watch_of_an_unknown_service(member: FakeMember) -> None:
    """An unknown service is a status, not an error, so that it may appear later."""
    stream = open_stream(member.services, WATCH)
    request = health_pb2.HealthCheckRequest(service="other")
    stream.push(request.SerializeToString())
    (message,) = stream.take_all()
    assert Response.FromString(message).status == Response.SERVICE_UNKNOWN


def test_malformed_bytes(member: FakeMember) -> None:
    """Bytes that are no message get INVALID_ARGUMENT."""
    error = invoke(member.services, CHECK, b"\x0a\xff").outcome
    assert isinstance(error, ApiError)
    assert error.code == Code.INVALID_ARGUMENT
    stream = open_stream(member.services, WATCH)
    stream.push(b"\x0a\xff")
    assert stream.error is not None
    assert stream.error.code == Code.INVALID_ARGUMENT
