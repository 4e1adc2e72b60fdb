"""The rules that hold for every call, before its service sees it.

Rules of this file, in etcd's order:

1. A service that the cluster's version does not have: NOT_CAPABLE.
2. A learner serves only ``Status`` and a serializable ``Range``, and of the streams
   only ``Snapshot``: NOT_SUPPORTED_FOR_LEARNER.
3. ``client-api-version`` that is not UTF-8: INVALID_CLIENT_API_VERSION. A transport
   hands bytes that are not UTF-8 on as surrogate escapes.
4. ``hasleader: true`` while no leader is known: NO_LEADER. A stream opened with it is
   also ended when the leader is lost later; see ``RequireLeader``.
5. A stopped member: STOPPED.
6. A token that another member made a moment ago works here, too: whose token is from
   an entry that is not applied yet waits for a read barrier (etcd: a simple token waits
   for the index in it).
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import DecodeError

from revstore.api import errors
from revstore.api.replica import Replica
from revstore.auth.tokens import token_index
from revstore.errors import ApiError
from revstore.interfaces.transport import (
    Call,
    Method,
    Stream,
    StreamFunction,
    StreamHandler,
    UnaryFunction,
)
from revstore.proto import rpc_pb2

STATUS = "/etcdserverpb.Maintenance/Status"
RANGE = "/etcdserverpb.KV/Range"
SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"

LATE_MESSAGES_MAX = 1_000
"""What a client may send on a stream before its token is known."""

CLUSTER_VERSION_MIN = (3, 0)
"""The version that has every service of the table."""

_parse_range = rpc_pb2.RangeRequest.FromString


class RequireLeader:
    """The open streams that must not outlive the leader.

    Invariant: a stream is in ``streams`` from its opening until its end, whoever ends
    it.
    """

    def __init__(self) -> None:
        self.streams: set[LeaderStream] = set()

    def leader_lost(self) -> None:
        """End every such stream with NO_LEADER.

        The node calls this when no leader was known for three election timeouts.
        Raises: nothing.
        """
        for stream in tuple(self.streams):
            stream.leader_lost()


class LeaderStream(Stream):
    """A stream whose client asked for ``hasleader``; passes everything on."""

    __slots__ = ("_registry", "_stream", "handler")

    def __init__(self, stream: Stream, registry: RequireLeader) -> None:
        self._stream = stream
        self._registry = registry
        self.handler = StreamHandler()
        registry.streams.add(self)

    def metadata(self) -> Mapping[str, str]:
        return self._stream.metadata()

    def peer(self) -> str:
        return self._stream.peer()

    def reply(self, message: bytes) -> None:
        self.closed()
        self._stream.reply(message)

    def fail(self, error: ApiError) -> None:
        self.closed()
        self._stream.fail(error)

    def cancelled(self) -> bool:
        return self._stream.cancelled()

    def send(self, message: bytes) -> None:
        self._stream.send(message)

    def writable(self) -> bool:
        return self._stream.writable()

    def finish(self) -> None:
        self.closed()
        self._stream.finish()

    def closed(self) -> None:
        """The stream is over."""
        self._registry.streams.discard(self)

    def leader_lost(self) -> None:
        """End the stream with NO_LEADER and let the service clean up."""
        if self in self._registry.streams:
            self.fail(errors.NO_LEADER)
            self.handler.on_cancel()


class LeaderHandler(StreamHandler):
    """Passes input on until the stream is over, and notes the client's end."""

    def __init__(self, stream: LeaderStream, registry: RequireLeader) -> None:
        self._stream = stream
        self._open = registry.streams

    def on_message(self, message: bytes) -> None:
        if self._stream in self._open:
            self._stream.handler.on_message(message)

    def on_half_close(self) -> None:
        if self._stream in self._open:
            self._stream.handler.on_half_close()

    def on_cancel(self) -> None:
        if self._stream in self._open:
            self._stream.closed()
            self._stream.handler.on_cancel()

    def on_writable(self) -> None:
        if self._stream in self._open:
            self._stream.handler.on_writable()


class LateHandler(StreamHandler):
    """Keeps a stream's input until it can be known whose stream it is (rule 6)."""

    def __init__(self, stream: Stream, open_stream: StreamFunction) -> None:
        self._stream = stream
        self._open = open_stream
        self._handler: StreamHandler | None = None
        self._messages: list[bytes] = []
        self._half_closed = False
        self._over = False

    def current(self, error: ApiError | None) -> None:
        """This member has caught up, or cannot. Raises: nothing."""
        if self._over:
            return
        messages, self._messages = self._messages, []
        if error is not None:
            self._over = True
            self._stream.fail(error)
            return
        self._handler = self._open(self._stream)
        for message in messages:
            self._handler.on_message(message)
        if self._half_closed:
            self._handler.on_half_close()

    def on_message(self, message: bytes) -> None:
        if self._handler is not None:
            self._handler.on_message(message)
        elif not self._over:
            self._messages.append(message)
            if len(self._messages) > LATE_MESSAGES_MAX:
                self._over = True
                self._messages = []
                self._stream.fail(errors.TOO_MANY_REQUESTS)

    def on_half_close(self) -> None:
        self._half_closed = True
        if self._handler is not None:
            self._handler.on_half_close()

    def on_cancel(self) -> None:
        self._over = True
        if self._handler is not None:
            self._handler.on_cancel()

    def on_writable(self) -> None:
        if self._handler is not None:
            self._handler.on_writable()


def guard(method: Method, replica: Replica, registry: RequireLeader) -> Method:
    """The method with the common rules in front."""
    unary = stream = None
    if method.unary is not None:
        unary = _guard_unary(method.path, method.unary, replica)
    if method.stream is not None:
        stream = _guard_stream(method.path, method.stream, replica, registry)
    return Method(path=method.path, kind=method.kind, unary=unary, stream=stream)


def _guard_unary(path: str, serve: UnaryFunction, replica: Replica) -> UnaryFunction:
    def guarded(call: Call, message: bytes) -> None:
        metadata = call.metadata()
        if (
            replica.leader
            and not replica.stopped
            and not replica.is_learner
            and capable(replica.cluster_version)
            and metadata.get("client-api-version", "").isascii()
            and "token" not in metadata
            and "authorization" not in metadata
        ):
            serve(call, message)
            return
        refusal = _refusal(replica, metadata, learner_may=_learner(path, message))
        if refusal is not None:
            call.fail(refusal)
        elif not is_ahead(replica, metadata):
            serve(call, message)
        else:
            replica.read(lambda error: late(call, message, error))

    def late(call: Call, message: bytes, error: ApiError | None) -> None:
        if call.cancelled():
            return
        if error is not None:
            call.fail(error)
        else:
            serve(call, message)

    return guarded


def _guard_stream(
    path: str, open_stream: StreamFunction, replica: Replica, registry: RequireLeader
) -> StreamFunction:
    def guarded(stream: Stream) -> StreamHandler:
        metadata = stream.metadata()
        refusal = _refusal(replica, metadata, learner_may=path == SNAPSHOT)
        if refusal is not None:
            stream.fail(refusal)
            return StreamHandler()
        if is_ahead(replica, metadata):
            handler = LateHandler(stream, open_now)
            replica.read(handler.current)
            return handler
        return open_now(stream)

    def open_now(stream: Stream) -> StreamHandler:
        if not requires_leader(stream.metadata()):
            return open_stream(stream)
        watched = LeaderStream(stream, registry)
        try:
            watched.handler = open_stream(watched)
        except BaseException:
            watched.closed()
            raise
        return LeaderHandler(watched, registry)

    return guarded


def is_ahead(replica: Replica, metadata: Mapping[str, str]) -> bool:
    """Whether the client's token is from an entry that is not applied here yet."""
    index = token_index(metadata) if replica.multi_member else 0
    return index > replica.store.applied_index


def capable(cluster_version: str) -> bool:
    """Whether the cluster's version has the services; undecided counts as capable."""
    if cluster_version.startswith("3."):
        return True
    major, _, rest = cluster_version.partition(".")
    minor = rest.partition(".")[0]
    if not major.isdecimal() or not minor.isdecimal():
        return True
    return (int(major), int(minor)) >= CLUSTER_VERSION_MIN


def requires_leader(metadata: Mapping[str, str]) -> bool:
    """Whether the client wants no answer from a member without a leader."""
    return metadata.get("hasleader") == "true"


def is_utf8(text: str) -> bool:
    """Whether a metadata value was UTF-8 on the wire."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _learner(path: str, message: bytes) -> bool:
    if path != RANGE:
        return path == STATUS
    try:
        return bool(_parse_range(message).serializable)
    except DecodeError:
        return False


def _refusal(
    replica: Replica, metadata: Mapping[str, str], learner_may: bool
) -> ApiError | None:
    if not capable(replica.cluster_version):
        return errors.NOT_CAPABLE
    if replica.is_learner and not learner_may:
        return errors.NOT_SUPPORTED_FOR_LEARNER
    if not is_utf8(metadata.get("client-api-version", "")):
        return errors.INVALID_CLIENT_API_VERSION
    if not replica.leader and requires_leader(metadata):
        return errors.NO_LEADER
    if replica.stopped:
        return errors.STOPPED
    return None
