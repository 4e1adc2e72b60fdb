"""grpc.health.v1.Health: Check and Watch.

The only service name that is known is the empty one: the member as a whole, which
serves until it is stopped (as etcd, which says SERVING also without a leader).
"""

from __future__ import annotations

from functools import partial

from revstore.api.errors import Code
from revstore.api.messages import parse
from revstore.api.replica import Replica
from revstore.errors import ApiError
from revstore.interfaces.transport import (
    Call,
    Method,
    MethodKind,
    Stream,
    StreamHandler,
)
from revstore.proto import health_pb2

UNKNOWN_SERVICE = ApiError(Code.NOT_FOUND, "unknown service")

_Response = health_pb2.HealthCheckResponse
_parse_check = health_pb2.HealthCheckRequest.FromString

SERVING = _Response(status=_Response.SERVING).SerializeToString()
NOT_SERVING = _Response(status=_Response.NOT_SERVING).SerializeToString()
SERVICE_UNKNOWN = _Response(status=_Response.SERVICE_UNKNOWN).SerializeToString()


def methods(replica: Replica) -> list[Method]:
    """The methods of the service."""
    return [
        Method(
            path="/grpc.health.v1.Health/Check",
            kind=MethodKind.UNARY,
            unary=partial(check, replica),
        ),
        Method(
            path="/grpc.health.v1.Health/Watch",
            kind=MethodKind.SERVER_STREAM,
            stream=partial(HealthWatch, replica),
        ),
    ]


def check(replica: Replica, call: Call, message: bytes) -> None:
    """Check."""
    try:
        request = parse(_parse_check, message)
    except ApiError as error:
        call.fail(error)
        return
    if request.service:
        call.fail(UNKNOWN_SERVICE)
    else:
        call.reply(NOT_SERVING if replica.stopped else SERVING)


class HealthWatch(StreamHandler):
    """Sends the status once; it changes only with the end of the stream."""

    def __init__(self, replica: Replica, stream: Stream) -> None:
        self._replica = replica
        self._stream = stream

    def on_message(self, message: bytes) -> None:
        """The request."""
        try:
            request = parse(_parse_check, message)
        except ApiError as error:
            self._stream.fail(error)
            return
        if request.service:
            self._stream.send(SERVICE_UNKNOWN)
        else:
            self._stream.send(NOT_SERVING if self._replica.stopped else SERVING)
