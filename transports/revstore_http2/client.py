"""The client's side of a connection: calls go out, answers come in.

Rules of this file:

1. A call's head without its deadline is the same block each time: it is made once and
   kept, and its blocks depend on nothing, so they may be sent in any order.
2. What the other side says about a call's end is translated once: a gRPC status, else
   the HTTP status or the code of the reset, as gRPC lays down.
3. A call of which the server surely did nothing says so (``CallEnded.unprocessed``).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from revstore.errors import Unavailable
from revstore_http2 import frames
from revstore_http2.codes import (
    FRAME_BYTES_LEAST,
    FRAME_HEADER_BYTES,
    MESSAGE_PREFIX_BYTES,
    PREFACE,
    STREAM_ID_MAX,
    ErrorCode,
    Flag,
    FrameType,
    Setting,
    Status,
    name_of,
)
from revstore_http2.connection import Connection
from revstore_http2.events import (
    CallEnded,
    CallsAllowed,
    MessageReceived,
    Pairs,
    ResponseStarted,
)
from revstore_http2.faults import CallFault, ConnectionFault, StreamFault
from revstore_http2.frames import HEADER
from revstore_http2.hpack import Field, Headers, encode_plain
from revstore_http2.limits import Limits
from revstore_http2.metadata import (
    decode_binary,
    decode_pairs,
    encode_pairs,
    percent_decode,
    timeout_value,
)
from revstore_http2.stream import Stream

_DATA, _HEADERS = int(FrameType.DATA), int(FrameType.HEADERS)
_END_STREAM = int(Flag.END_STREAM)
_END_BOTH = _END_STREAM | int(Flag.END_HEADERS)

HEADS_MAX = 256
"""How many heads of calls are kept."""
_HALF_CLOSE = object()
_STATUS_OF_HTTP = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}
_STATUS_OF_RESET: dict[int, Status] = {
    ErrorCode.REFUSED_STREAM: Status.UNAVAILABLE,
    ErrorCode.CANCEL: Status.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}


class _Answer(msgspec.Struct, frozen=True, eq=False):
    """What the header block of a response means."""

    http_status: int
    """0 in trailers."""
    code: int | None
    text: str
    details: bytes
    pairs: Pairs
    compressed: bool
    fault: str


class ClientConnection(Connection):
    """What a client makes for a connection it has opened.

    The preface and the settings are in the output from the beginning, and calls may be
    made at once.
    """

    def __init__(
        self,
        authority: str,
        limits: Limits | None = None,
        *,
        now: float,
        scheme: str = "http",
        user_agent: str = "grpc-python-revstore",
    ) -> None:
        super().__init__(limits or Limits(), now)
        self._fields = [
            (b":method", b"POST"),
            (b":scheme", scheme.encode("latin-1")),
            (b":authority", authority.encode("latin-1")),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", user_agent.encode("latin-1")),
            (b"grpc-accept-encoding", b"identity,gzip"),
        ]
        self._heads: dict[tuple[str, Pairs], bytes] = {}
        self._timeout = -1.0, b""
        """The deadline that was written last, and its field."""
        self._prefix = b""
        """What the next header block must begin with."""
        self._next_stream = 1
        self._peer_streams_max = STREAM_ID_MAX
        self._closing = False
        """Whether the server takes no new calls."""
        self._told_full = False
        """Whether the shell was refused a call and waits for ``CallsAllowed``."""
        self._out.append(PREFACE)
        self._first_output([(Setting.ENABLE_PUSH, 0)])

    # What the shell does.

    @property
    def can_call(self) -> bool:
        """Whether another call may be made now (streams, GOAWAY).

        If it is False for want of streams, ``CallsAllowed`` follows. Raises: nothing.
        """
        if len(self._streams) < self._peer_streams_max:
            return not (self._closing or self.over or self._next_stream > STREAM_ID_MAX)
        self._told_full = True
        return False

    def call(
        self,
        path: str,
        message: bytes | None = None,
        *,
        timeout_s: float | None = None,
        pairs: Iterable[tuple[str, str | bytes]] = (),
    ) -> int:
        """Start a call; with a message, that is its only one.

        Without, ``send`` sends messages and ``half_close`` ends them. Returns the
        stream's number. The deadline is for the server: the shell keeps its own.

        Raises:
            Unavailable: ``can_call`` is False.
            UsageError: a name or value of the metadata cannot be sent.
        """
        key = (path, tuple(pairs))
        block = self._heads.get(key) or self._make_head(*key)
        if not self.can_call:
            raise Unavailable("the server takes no more calls on this connection now")
        if timeout_s is not None:
            known, field = self._timeout
            if timeout_s != known:
                field = encode_plain([(b"grpc-timeout", timeout_value(timeout_s))])
                self._timeout = timeout_s, field
            block += field
        if self._prefix:
            block, self._prefix = self._prefix + block, b""
        stream_id = self._next_stream
        self._next_stream = stream_id + 2
        self._opened += 1
        stream = Stream(stream_id, self._peer_window, self.limits.stream_window_bytes)
        stream.given = stream.head_sent = True
        self._streams[stream_id] = stream
        if len(block) <= FRAME_BYTES_LEAST:
            self._out += frames.pack_header(len(block) << 8 | 1, 4, stream_id), block
        else:
            self._out.append(
                frames.header_block(stream_id, block, False, self._peer_frame_max)
            )
        if message is not None:
            self._send_only(stream, message)
        return stream_id

    def half_close(self, stream_id: int) -> None:
        """Send no more messages in a call. Raises: nothing."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.ending is None:
            stream.ending = _HALF_CLOSE
            if not stream.queue:
                self._send_end(stream)

    # Output.

    def _make_head(self, path: str, pairs: Pairs) -> bytes:
        fields = [*self._fields, (b":path", path.encode("utf-8"))]
        fields.sort(key=lambda field: field[0][:1] != b":")
        block = encode_plain(fields + encode_pairs(pairs))
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        self._heads[path, pairs] = block
        return block

    def _send_only(self, stream: Stream, message: bytes) -> None:
        """The only message of a call, and the end of this direction with it."""
        size = len(message) + MESSAGE_PREFIX_BYTES
        if (
            size <= self._quick_max
            and size <= self._send_window
            and size <= self._out_left
        ):
            stream.send_window -= size
            self._send_window -= size
            self._out_left -= size
            stream.ending = _HALF_CLOSE
            stream.ended_here = True
            self._out += (
                frames.pack_message_header(
                    size << 8, 1, stream.stream_id, 0, len(message)
                ),
                message,
            )
            return
        self.send(stream.stream_id, message)
        self.half_close(stream.stream_id)

    def _send_head(self, stream: Stream) -> None:
        raise AssertionError("a call begins with its head")

    def _send_end(self, stream: Stream) -> None:
        stream.ended_here = True
        self._out.append(frames.pack_header(0, 1, stream.stream_id))

    # Input.

    def _take_frames(self, data: bytes, position: int) -> int:
        size = len(data)
        unpack = HEADER.unpack_from
        decode, streams = self._decode, self._streams
        word_max = self.limits.frame_bytes_max << 8 | 0xFF
        while size - position >= FRAME_HEADER_BYTES:
            word, flags, stream_id = unpack(data, position)
            start = position + FRAME_HEADER_BYTES
            end = start + (word >> 8)
            if end > size or word > word_max:
                self._check_length(word >> 8)
                break
            position = end
            kind = word & 0xFF
            stream = streams.get(stream_id)
            if stream is not None:
                # The short way of what nearly all answers are made of.
                if kind == _HEADERS and flags | _END_STREAM == _END_BOTH:
                    headers = decode(data[start:end])
                    try:
                        self._take_headers(stream_id, headers, flags == _END_BOTH)
                    except StreamFault as fault:
                        self._stream_fault(fault)
                    if self.over:
                        break
                    continue
                if (
                    kind == _DATA
                    and not flags
                    and self._take_whole(stream, data, start, end)
                ):
                    continue
            self._take_frame(kind, flags, stream_id & STREAM_ID_MAX, data[start:end])
            if self._block_stream or self.over:
                break
        return position

    def _take_whole(self, stream: Stream, data: bytes, start: int, end: int) -> bool:
        """Take DATA that is exactly one message, if nothing speaks against it."""
        size = end - start
        if (
            stream.attached is None
            or stream.body
            or stream.on_hold
            or not MESSAGE_PREFIX_BYTES <= size <= stream.credit
            or size > self.limits.message_bytes_max
            or int.from_bytes(data[start : start + MESSAGE_PREFIX_BYTES], "big")
            != size - MESSAGE_PREFIX_BYTES
        ):
            return False
        self._received += size
        stream.credit -= size
        message = data[start + MESSAGE_PREFIX_BYTES : end]
        self.pending.append(MessageReceived(stream.stream_id, message))
        if stream.credit <= self.limits.stream_window_bytes >> 1:
            self._renew(stream)
        return True

    def _take_headers(self, stream_id: int, headers: Headers | None, end: bool) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self._late_frame(stream_id, "HEADERS")
            return
        if headers is None:
            self._call_fault(
                stream,
                CallFault(Status.RESOURCE_EXHAUSTED, "the header list is too large"),
            )
            return
        answer: _Answer = headers.memo or self._know(headers)
        started: _Answer | None = stream.attached
        if answer.fault or (started is not None) == bool(answer.http_status):
            reason = answer.fault or "a head where trailers are due, or the reverse"
            raise StreamFault(
                stream_id,
                ErrorCode.PROTOCOL_ERROR,
                f"malformed response: {reason} (8.1.1)",
            )
        if 100 <= answer.http_status < 200 and not end:
            return
        if end:
            self._finish_call(stream, answer)
        elif started is not None:
            reason = "trailers do not end the stream (8.1)"
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, reason)
        elif answer.http_status != 200:
            self._call_fault(stream, _fault_of_http(answer.http_status))
        else:
            stream.attached = answer
            stream.compressed = answer.compressed
            self.pending.append(ResponseStarted(stream_id, answer.pairs))

    def _know(self, headers: Headers) -> _Answer:
        answer = _read_answer(headers.fields)
        headers.memo = answer
        return answer

    def _finish_call(self, stream: Stream, answer: _Answer) -> None:
        if stream.body:
            self._call_fault(stream, CallFault(Status.INTERNAL, "unexpected EOF"))
            return
        while stream.held:
            # Behind the end there would be no place for them.
            self.pending.append(
                MessageReceived(stream.stream_id, stream.held.popleft())
            )
        if answer.code is not None:
            code, text = answer.code, answer.text
        elif answer.http_status not in (0, 200):
            fault = _fault_of_http(answer.http_status)
            code, text = fault.code, fault.text
        else:
            code, text = Status.UNKNOWN, "the server sent no grpc-status"
        self.pending.append(
            CallEnded(stream.stream_id, code, text, answer.details, answer.pairs)
        )
        if not stream.ended_here:
            self._write_reset(stream.stream_id, ErrorCode.CANCEL)
        self._forget(stream.stream_id)

    def _take_data(self, stream: Stream, data: bytes, end: bool) -> None:
        if stream.attached is None:
            raise StreamFault(
                stream.stream_id, ErrorCode.PROTOCOL_ERROR, "DATA before HEADERS (8.1)"
            )
        super()._take_data(stream, data, end)

    def _stream_ended(self, stream: Stream) -> None:
        raise CallFault(Status.INTERNAL, "the server ended the call without trailers")

    def _call_fault(self, stream: Stream, fault: CallFault) -> None:
        self._write_reset(stream.stream_id, ErrorCode.CANCEL)
        self._say_end(stream.stream_id, fault.code, fault.text)
        self._forget(stream.stream_id)

    def _say_end(
        self, stream_id: int, code: int, text: str, unprocessed: bool = False
    ) -> None:
        self.pending.append(
            CallEnded(stream_id, int(code), text, unprocessed=unprocessed)
        )

    # Ends.

    def _reset_there(self, stream: Stream | None, stream_id: int, code: int) -> None:
        self._say_end(
            stream_id,
            _STATUS_OF_RESET.get(code, Status.INTERNAL),
            f"the server has reset the call ({name_of(code)})",
            code == ErrorCode.REFUSED_STREAM,
        )

    def _stream_faulted(self, stream: Stream | None, fault: StreamFault) -> None:
        self._say_end(fault.stream_id, Status.INTERNAL, fault.reason)

    def _stream_lost(self, stream: Stream | None, stream_id: int, reason: str) -> None:
        self._say_end(stream_id, Status.UNAVAILABLE, reason)

    def _going_away(self, last_stream_id: int, code: int, reason: str) -> None:
        """Calls that the server will not look at are over (6.8)."""
        self._closing = True
        late = [number for number in self._streams if number > last_stream_id]
        text = f"the server is going away ({name_of(code)}) {reason}".rstrip()
        for stream_id in late:
            self._say_end(stream_id, Status.UNAVAILABLE, text, unprocessed=True)
            self._forget(stream_id)
        self._stream_closed()

    def _stream_closed(self) -> None:
        if self._closing and not self._streams:
            self._drop_all()
        elif self._told_full and len(self._streams) < self._peer_streams_max:
            self._told_full = False
            self.pending.append(CallsAllowed())

    # The connection.

    def _idle(self, stream_id: int) -> bool:
        return stream_id >= self._next_stream or not stream_id & 1

    def _setting_changed(self, key: int, value: int) -> None:
        if key == Setting.MAX_CONCURRENT_STREAMS:
            self._peer_streams_max = value
            if self._told_full:
                self._stream_closed()
        elif key == Setting.ENABLE_PUSH and value:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "a server may not enable push (6.5.2)"
            )
        elif key == Setting.HEADER_TABLE_SIZE and value < 4096:
            # The table is not used, but its new size must be acknowledged.
            self._prefix = b"\x20"


def _fault_of_http(status: int) -> CallFault:
    code = _STATUS_OF_HTTP.get(status, Status.UNKNOWN)
    return CallFault(
        code, f"unexpected HTTP status code received from server: {status}"
    )


def _read_answer(fields: tuple[Field, ...]) -> _Answer:
    """Judge the fields of a response or of its trailers. Raises: nothing."""
    found: dict[bytes, bytes] = {}
    fault = ""
    for field in fields:
        name, value = field.name, field.value
        if name[:1] == b":" and (name != b":status" or found):
            fault = f"the pseudo-header {name!r} where it has no place"
        found.setdefault(name, value)
    status = found.get(b":status", b"0")
    if not (status.isdigit() and len(status) <= 3):
        fault, status = "the status is no number", b"0"
    code = found.get(b"grpc-status")
    pairs: Pairs = ()
    details = b""
    try:
        details = decode_binary(found.get(b"grpc-status-details-bin", b""))
        pairs = decode_pairs((field.name, field.value) for field in fields)
    except ValueError as error:
        fault = fault or str(error)
    encoding = found.get(b"grpc-encoding", b"identity")
    if encoding not in (b"identity", b"gzip"):
        fault = f"messages are compressed by {encoding!r}"
    number = None
    if code is not None:
        # A status that is no number is an unknown error.
        number = int(code) if code.isdigit() and len(code) < 10 else Status.UNKNOWN
    return _Answer(
        http_status=int(status),
        code=number,
        text=percent_decode(found.get(b"grpc-message", b"")),
        details=details,
        pairs=pairs,
        compressed=encoding == b"gzip",
        fault=fault,
    )
