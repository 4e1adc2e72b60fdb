"""Large ranges: read in bounded chunks, with turns of the loop between.

Rules of this file:

1. All chunks of an answer come from one revision, pinned by the first chunk; writes
   and compactions between the chunks do not show.
2. A step does a bounded amount of work and then gives the loop back.
3. If users or roles changed while chunks were read, the answer is AUTH_OLD_REVISION:
   the permission check was made before the first chunk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from revstore.api import errors
from revstore.api.messages import RESPONSE_BYTES_MAX, response_too_large
from revstore.api.replica import AuthInfo, Replica
from revstore.apply.validate import check_range_request
from revstore.errors import ApiError, StorageError
from revstore.interfaces.transport import Call, Stream, StreamHandler
from revstore.mvcc.query import RangeQuery, RangeResult
from revstore.mvcc.records import messages_field
from revstore.proto import rpc_pb2
from revstore.proto.varint import varint

CHUNK_ROWS = 1000
"""Rows of a unary range read in one turn of the loop."""

STREAM_ROWS_FIRST = 10
"""Rows in the first message of a RangeStream; then adapted to the size aimed at."""

STREAM_ROWS_MAX = 10_000
STREAM_READ_ROWS = 32
"""Rows read from the store at once for a stream; bounds memory for large values."""

KVS = 2
"""Field number of the rows in a RangeResponse."""

CUSTOM_SORT = ApiError(
    errors.Code.UNIMPLEMENTED, "RangeStream does not support custom sort orders"
)
REVISION_FILTER = ApiError(
    errors.Code.UNIMPLEMENTED, "RangeStream does not support revision filters"
)

_parse_range = rpc_pb2.RangeRequest.FromString
_NONE, _ASCEND = rpc_pb2.RangeRequest.NONE, rpc_pb2.RangeRequest.ASCEND
_KEY = rpc_pb2.RangeRequest.KEY


def has_filter(request: rpc_pb2.RangeRequest) -> bool:
    """Whether rows are dropped by revision."""
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def wants_chunks(request: rpc_pb2.RangeRequest) -> bool:
    """Whether a range may be large and its answer is just rows in key order."""
    return (
        not 0 < request.limit <= CHUNK_ROWS
        and not request.count_only
        and request.sort_target == _KEY
        and request.sort_order in (_NONE, _ASCEND)
        and not has_filter(request)
    )


def _query(request: rpc_pb2.RangeRequest) -> RangeQuery:
    return RangeQuery(
        key=request.key,
        end=request.range_end,
        limit=request.limit,
        revision=request.revision,
        keys_only=request.keys_only,
        count_only=request.count_only,
    )


def _totals(result: RangeResult) -> bytes:
    """The fields ``more`` and ``count`` of a RangeResponse."""
    fields = b"\x18\x01" if result.more else b""
    return fields + b"\x20" + varint(result.count) if result.count else fields


def is_last(chunk: RangeResult) -> bool:
    """Whether a chunk of ``Store.range_chunks`` ends the range: ``count`` is set on the
    last one only, and an empty range has ``more`` unset."""
    return bool(chunk.count) or not chunk.more


class RangeJob:
    """One unary range that may be large."""

    __slots__ = (
        "_auth_revision",
        "_call",
        "_chunks",
        "_parts",
        "_replica",
        "_revision",
    )

    def __init__(
        self, replica: Replica, call: Call, request: rpc_pb2.RangeRequest
    ) -> None:
        self._replica = replica
        self._call = call
        self._auth_revision = replica.auth.revision
        self._parts: list[bytes] = []
        self._revision = replica.store.revision
        self._chunks = replica.store.range_chunks(_query(request), rows=CHUNK_ROWS)

    def step(self) -> None:
        """Read one chunk; answer if it was the last, else ask for another turn.

        Raises:
            ApiError: at the first step, what a range may raise; later steps fail the
                call instead.
        """
        chunk = next(self._chunks)
        self._parts.append(messages_field(KVS, chunk.kvs))
        if is_last(chunk):
            self._parts.append(_totals(chunk))
            self._answer()
        else:
            self._replica.schedule(self._next)

    def _next(self) -> None:
        if self._call.cancelled():
            self._close()
            return
        try:
            self.step()
        except ApiError as error:
            self._call.fail(error)
        except StorageError as error:
            self._call.fail(errors.storage_failure(error))

    def _answer(self) -> None:
        self._close()
        replica = self._replica
        if replica.auth.revision != self._auth_revision:
            self._call.fail(errors.AUTH_OLD_REVISION)
            return
        parts = self._parts
        parts.insert(0, replica.header(self._revision))
        size = sum(map(len, parts))
        if size > RESPONSE_BYTES_MAX:
            self._call.fail(response_too_large(size))
        else:
            self._call.reply(b"".join(parts))

    def _close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()


class RangeStreamer(StreamHandler):
    """One RangeStream: messages that grow towards the request limit, then the totals.

    Only the last message has header, ``more`` and ``count``.
    """

    def __init__(self, replica: Replica, stream: Stream) -> None:
        self._replica = replica
        self._stream = stream
        self._request = rpc_pb2.RangeRequest()
        self._info: AuthInfo | None = None
        self._auth_revision = 0
        self._chunks: Iterator[RangeResult] | None = None
        self._rows: deque[bytes] = deque()
        self._batch = STREAM_ROWS_FIRST
        self._revision = 0
        self._totals = b""
        self._exhausted = False
        """Whether the last chunk was read, and ``_totals`` with it."""
        self._scheduled = False
        self._over = False

    def on_message(self, message: bytes) -> None:
        """The request."""
        try:
            request = self._request = _parse_range(message)
            check_range_request(request)
            if request.sort_order != _NONE and not (
                request.sort_order == _ASCEND and request.sort_target == _KEY
            ):
                raise CUSTOM_SORT.fresh()
            if has_filter(request):
                raise REVISION_FILTER.fresh()
            if self._replica.auth.enabled:
                self._info = self._replica.authenticate(self._stream.metadata())
        except ApiError as error:
            self._fail(error)
        except DecodeError as error:
            self._fail(errors.bad_request(str(error)))
        else:
            if request.serializable:
                self._begin(None)
            else:
                self._replica.read(self._begin)

    def on_cancel(self) -> None:
        """The client is gone: let go of the store's snapshot."""
        self._close()

    def on_writable(self) -> None:
        """There is room again."""
        self._later()

    def _begin(self, error: ApiError | None) -> None:
        if self._over:
            return
        if error is not None:
            self._fail(error)
            return
        request, store = self._request, self._replica.store
        auth = self._replica.auth
        try:
            if auth.enabled:
                auth.check_range(self._info, request.key, request.range_end)
            self._auth_revision = auth.revision
            self._revision = store.revision
            self._chunks = store.range_chunks(_query(request), rows=STREAM_READ_ROWS)
            self._fetch()
        except ApiError as refused:
            self._fail(refused)
            return
        except StorageError as failed:
            self._fail(errors.storage_failure(failed))
            return
        self._step()

    def _later(self) -> None:
        if not self._scheduled and not self._over:
            self._scheduled = True
            self._replica.schedule(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._over or not self._stream.writable():
            return
        try:
            self._step()
        except ApiError as error:
            self._fail(error)
        except StorageError as error:
            self._fail(errors.storage_failure(error))

    def _step(self) -> None:
        """Send one message."""
        target = self._replica.max_request_bytes
        rows, size = self._take(target)
        if not self._rows:
            self._finish(rows)
            return
        self._stream.send(_message(messages_field(KVS, rows)))
        if size < target // 2:
            self._batch = min(self._batch * 2, STREAM_ROWS_MAX)
        elif size > target * 2:
            self._batch = max(self._batch // 2, 1)
        self._later()

    def _take(self, target: int) -> tuple[list[bytes], int]:
        """The rows of the next message and their size; at least one if any is left."""
        rows: list[bytes] = []
        size = 0
        waiting = self._rows
        while waiting and len(rows) < self._batch and size < target:
            row = waiting.popleft()
            rows.append(row)
            size += len(row)
            if not waiting:
                self._fetch()
        return rows, size

    def _fetch(self) -> None:
        """Read ahead, so that the last message is known to be the last."""
        while not self._rows and not self._exhausted and self._chunks is not None:
            chunk = next(self._chunks)
            self._rows.extend(chunk.kvs)
            if is_last(chunk):
                self._exhausted = True
                self._totals = _totals(chunk)

    def _finish(self, rows: list[bytes]) -> None:
        if self._replica.auth.revision != self._auth_revision:
            self._fail(errors.AUTH_OLD_REVISION)
            return
        body = (
            self._replica.header(self._revision)
            + messages_field(KVS, rows)
            + self._totals
        )
        self._stream.send(_message(body))
        self._close()
        self._stream.finish()

    def _fail(self, error: ApiError) -> None:
        self._close()
        self._stream.fail(error)

    def _close(self) -> None:
        self._over = True
        close = getattr(self._chunks, "close", None)
        self._chunks = None
        if close is not None:
            close()


def _message(body: bytes) -> bytes:
    """A RangeStreamResponse around a serialized RangeResponse."""
    return b"\x0a" + varint(len(body)) + body
