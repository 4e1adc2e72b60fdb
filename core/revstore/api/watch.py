"""The service etcdserverpb.Watch: one bidirectional stream, many watchers.

Rules of this file:

1. Permission is checked once per create request; a watcher that exists is not stopped
   by a token that expires, as in etcd.
2. A refused create request is answered on the stream; only bytes that are no request
   end it.
3. Answers to requests that the client does not read are bounded.
"""

from __future__ import annotations

from revstore.api import errors
from revstore.api.messages import identify, parse
from revstore.api.replica import Replica
from revstore.errors import ApiError
from revstore.interfaces.transport import Method, MethodKind, Stream, StreamHandler
from revstore.proto import rpc_pb2

WATCH = "/etcdserverpb.Watch/Watch"

UNREAD_ANSWERS_MAX = 65_536
"""Requests in a row that are answered while the client does not read."""


def methods(replica: Replica) -> list[Method]:
    """The service's part of the table. Raises: nothing."""

    def open_watch(stream: Stream) -> StreamHandler:
        return WatchHandler(replica, stream)

    return [Method(WATCH, MethodKind.BIDI_STREAM, stream=open_watch)]


def status_text(error: ApiError) -> str:
    """An error as etcd writes it into ``cancel_reason``: Go's text of a gRPC status."""
    name = errors.Code(error.code).name.title().replace("_", "")
    # Go spells these two in its own way.
    name = {"Ok": "OK", "Cancelled": "Canceled"}.get(name, name)
    return f"rpc error: code = {name} desc = {error.message}"


class StreamSink:
    """Puts headers in front of the hub's responses."""

    __slots__ = ("_header", "_header_no_revision", "_send", "writable")

    def __init__(self, replica: Replica, stream: Stream) -> None:
        self._header = replica.header
        self._header_no_revision = replica.header_no_revision
        self._send = stream.send
        self.writable = stream.writable

    def send(self, header_revision: int, body: bytes) -> None:
        """See WatchSink."""
        header = (
            self._header(header_revision)
            if header_revision
            else self._header_no_revision()
        )
        self._send(header + body)


class WatchHandler(StreamHandler):
    """One client's stream."""

    __slots__ = ("_replica", "_stream", "_unread", "_watch")

    def __init__(self, replica: Replica, stream: Stream) -> None:
        self._replica = replica
        self._stream = stream
        self._unread = 0
        self._watch = replica.hub.open_stream(StreamSink(replica, stream))

    def on_message(self, message: bytes) -> None:
        """One request; one without a variant is ignored, as in etcd."""
        try:
            request = parse(rpc_pb2.WatchRequest.FromString, message)
        except ApiError as exc:
            self._fail(exc)
            return
        if self._stream.writable():
            self._unread = 0
        else:
            self._unread += 1
            if self._unread > UNREAD_ANSWERS_MAX:
                self._fail(errors.TOO_MANY_REQUESTS)
                return
        kind = request.WhichOneof("request_union")
        if kind == "create_request":
            self._create(request.create_request)
        elif kind == "cancel_request":
            self._watch.cancel(request.cancel_request.watch_id)
        elif kind == "progress_request":
            self._watch.progress()

    def _create(self, request: rpc_pb2.WatchCreateRequest) -> None:
        replica = self._replica
        try:
            if replica.auth.enabled:
                info = identify(replica, self._stream)
                key = request.key or b"\0"
                replica.auth.check_range(info, key, request.range_end)
        except ApiError as exc:
            self._watch.refuse(status_text(exc))
            return
        self._watch.create(request)

    def on_cancel(self) -> None:
        """The client is gone."""
        self._watch.close()

    def on_writable(self) -> None:
        """The client reads again."""
        self._unread = 0
        self._watch.on_writable()

    def _fail(self, error: ApiError) -> None:
        self._watch.close()
        self._stream.fail(error)
