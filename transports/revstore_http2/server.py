"""The server's side of a connection: calls come in, and how it ends.

Rules of this file:

1. A call with one message that arrives whole, as nearly all do, costs one event and no
   state but its number: ``_streams`` says None for it until its answer has to wait. One
   of which only the head has come waits in ``_fresh``. ``_take_frames`` is kept flat.
2. Everything else takes the general way; the two give the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from revstore_http2 import frames
from revstore_http2.answers import Answering, Trailers
from revstore_http2.codes import (
    FRAME_HEADER_BYTES,
    MESSAGE_PREFIX_BYTES,
    PREFACE,
    STREAM_ID_MAX,
    ErrorCode,
    Flag,
    FrameType,
    Setting,
    Status,
)
from revstore_http2.control import DRAIN_PING
from revstore_http2.events import (
    Cancelled,
    Drained,
    HalfClosed,
    HttpRequest,
    OtherProtocol,
    Request,
    Route,
    StreamStarted,
)
from revstore_http2.faults import CallFault, ConnectionFault, StreamFault
from revstore_http2.frames import HEADER, MESSAGE_HEADER
from revstore_http2.guards import PingPolicy
from revstore_http2.heads import KnownHead, Refusal, read_head
from revstore_http2.hpack import HeaderListTooLargeError, Headers
from revstore_http2.limits import Limits
from revstore_http2.metadata import timeout_seconds
from revstore_http2.responses import HEAD_TOO_LARGE
from revstore_http2.stream import Stream

_MESSAGE_DATA_BYTES = FRAME_HEADER_BYTES + MESSAGE_PREFIX_BYTES
_DATA, _HEADERS = int(FrameType.DATA), int(FrameType.HEADERS)
_END_STREAM, _END_HEADERS = int(Flag.END_STREAM), int(Flag.END_HEADERS)


class ServerConnection(Answering):
    """What a server makes for each connection that it accepts.

    ``route`` is asked for the meaning of a path, once for each distinct head; it must
    not raise. The settings are in the output from the beginning.
    """

    def __init__(
        self,
        route: Callable[[str], Route],
        limits: Limits | None = None,
        *,
        now: float,
    ) -> None:
        super().__init__(limits or Limits(), now)
        self._route = route
        self._pings = PingPolicy(self.limits)
        self._streams_max = self.limits.streams_max
        """How many streams may be open; 0 when no new ones are taken."""
        self._drain_deadline: float | None = None
        """Until when the client may still start calls; None unless draining begins."""
        self._preface_seen = False
        self._fresh: dict[int, tuple[KnownHead, float | None]] = {}
        """Calls with one message of which only the head has come."""
        limits = self.limits
        self._word_max = limits.frame_bytes_max << 8 | 0xFF
        """Length and type of the largest frame that is taken."""
        self._quick_word_max = (
            min(limits.frame_bytes_max, limits.message_bytes_max + 5) << 8
        )
        """The same of DATA with a whole message."""
        settings: list[tuple[int, int]] = []
        if limits.tell_streams_max:
            settings.append((Setting.MAX_CONCURRENT_STREAMS, limits.streams_max))
        self._first_output(settings)

    # What the shell does.

    def drain(self, now: float) -> None:
        """Take no new calls, in two steps, so that none is lost on the way.

        When all running ones are over, ``over`` turns true, and ``Drained`` is given.
        Raises: nothing.
        """
        if self.over or self._draining:
            return
        self._draining = True
        self._drain_deadline = now + self.limits.drain_timeout_s
        self._write_goaway(STREAM_ID_MAX, ErrorCode.NO_ERROR, "")
        self._out.append(frames.ping(DRAIN_PING, ack=False))
        self._set_quick()

    # Input.

    def _begin(self, data: bytes, position: int) -> int:
        if self._preface_seen:
            return position
        if not data.startswith(PREFACE):
            if PREFACE.startswith(data):
                return -1
            self._drop_all()
            self._out.clear()
            self.pending.append(OtherProtocol(data))
            return len(data)
        self._preface_seen = True
        return position + len(PREFACE)

    def _take_frames(self, data: bytes, position: int) -> int:
        size = len(data)
        unpack, unpack_message = HEADER.unpack_from, MESSAGE_HEADER.unpack_from
        decoder, pending = self._decoder, self.pending
        decode, streams, fresh = decoder.decode, self._streams, self._fresh
        word_max, quick_max = self._word_max, self._quick_word_max
        received = 0
        while size - position >= FRAME_HEADER_BYTES:
            word, flags, stream_id = unpack(data, position)
            start = position + FRAME_HEADER_BYTES
            position = start + (word >> 8)
            if position > size or word > word_max:
                self._check_length(word >> 8)
                position = start - FRAME_HEADER_BYTES
                break
            kind = word & 0xFF
            if (
                kind == _HEADERS
                and flags == _END_HEADERS
                and self._last_stream < stream_id <= STREAM_ID_MAX
                and stream_id & 1
            ):
                try:
                    headers = decode(data[start:position])
                except HeaderListTooLargeError:
                    self._open(stream_id, None, False)
                    continue
                known = headers.memo or self._know(headers)
                apart = decoder.apart
                timeout = None if apart is None else timeout_seconds(apart)
                if (
                    not known.quick
                    or (timeout is not None and timeout < 0)
                    or len(streams) + len(fresh) >= self._streams_max
                ):
                    self._open(stream_id, known, False)
                    continue
                self._last_stream = stream_id
                self._opened += 1
                if size - position >= _MESSAGE_DATA_BYTES:
                    word, flags, other, compressed, length = unpack_message(
                        data, position
                    )
                    body = position + _MESSAGE_DATA_BYTES
                    end = body + length
                    if (
                        other == stream_id
                        and flags == _END_STREAM
                        and not compressed
                        and word == length + MESSAGE_PREFIX_BYTES << 8 <= quick_max
                        and end <= size
                    ):
                        position = end
                        received += length + MESSAGE_PREFIX_BYTES
                        streams[stream_id] = None
                        pending.append(
                            Request(stream_id, known.call, timeout, data[body:end])
                        )
                        continue
                fresh[stream_id] = known, timeout
                continue
            stream_id &= STREAM_ID_MAX
            if stream_id not in fresh or not self._take_message_of(
                stream_id, kind, flags, data, start, position
            ):
                self._take_frame(kind, flags, stream_id, data[start:position])
                if self._block_stream:
                    break
        self._received += received
        return position

    def _take_message_of(
        self, stream_id: int, kind: int, flags: int, data: bytes, start: int, end: int
    ) -> bool:
        """A frame for a call of which only the head is there; whether that was all.

        If it is not the whole message in one piece, the call gets a state.
        """
        known, timeout = self._fresh.pop(stream_id)
        size = end - start
        if (
            kind == _DATA
            and flags == _END_STREAM
            and size <= self._quick_word_max >> 8
            and int.from_bytes(data[start : start + MESSAGE_PREFIX_BYTES], "big")
            == size - MESSAGE_PREFIX_BYTES
        ):
            self._received += size
            self._streams[stream_id] = None
            message = data[start + MESSAGE_PREFIX_BYTES : end]
            self.pending.append(Request(stream_id, known.call, timeout, message))
            return True
        self._start(stream_id, known, timeout)
        return False

    def _know(self, headers: Headers) -> KnownHead:
        known = read_head(headers.fields, self._route, self.limits.plain_http)
        headers.memo = known
        return known

    def _take_headers(self, stream_id: int, headers: Headers | None, end: bool) -> None:
        if not stream_id & 1:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "a client's stream has an odd number (5.1.1)"
            )
        if stream_id > self._last_stream:
            known = None
            if headers is not None:
                known = headers.memo or self._know(headers)
            self._open(stream_id, known, end)
            return
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended_there:
            if stream_id in self._streams:
                reason = "HEADERS on a stream that has ended (5.1)"
                raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, reason)
            if not self._passed_over(stream_id):
                raise ConnectionFault(
                    ErrorCode.STREAM_CLOSED,
                    "HEADERS on a stream that is closed (5.1, 5.1.1)",
                )
            return
        if not end:
            reason = "trailers do not end the stream (8.1)"
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, reason)
        if headers is not None and any(f.name[:1] == b":" for f in headers.fields):
            reason = "a pseudo-header among the trailers (8.1)"
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, reason)
        self._take_data(stream, b"", True)

    def _open(self, stream_id: int, known: KnownHead | None, end: bool) -> None:
        """A new stream, in the general way. Raises: ConnectionFault."""
        self._last_stream = stream_id
        if not self._streams_max:
            return
        self._opened += 1
        try:
            if known is None:
                self._refuse_head(stream_id, HEAD_TOO_LARGE, end)
                return
            if known.fault:
                reason = f"malformed request: {known.fault} (8.1.1)"
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, reason)
            if self.open_streams >= self._streams_max:
                reason = f"more than {self._streams_max} streams at once (5.1.2)"
                raise StreamFault(stream_id, ErrorCode.REFUSED_STREAM, reason)
            if known.refusal is not None:
                self._refuse_head(stream_id, known.refusal, end)
                return
            apart = self._decoder.apart
            timeout = None if apart is None else timeout_seconds(apart)
            if timeout is not None and timeout < 0 and known.head is not None:
                shown = (apart or b"").decode("latin-1")
                text = f"malformed grpc-timeout: {shown!r}"
                refusal = Refusal(400, Status.INTERNAL, text)
                self._refuse_head(stream_id, refusal, end)
                return
            stream = self._start(stream_id, known, timeout)
            if end:
                self._take_data(stream, b"", True)
        except StreamFault as fault:
            self._stream_fault(fault)

    def _start(self, stream_id: int, known: KnownHead, timeout: float | None) -> Stream:
        """Give a call a state, and tell the shell if it may have many messages."""
        stream = Stream(stream_id, self._peer_window, self.limits.stream_window_bytes)
        stream.attached = known
        stream.timeout_s = timeout
        stream.left = known.content_length
        self._streams[stream_id] = stream
        head = known.head
        if head is not None:
            stream.single = head.route.single
            stream.compressed = head.compressed
            if not stream.single:
                stream.given = True
                self.pending.append(StreamStarted(stream_id, head, timeout))
        return stream

    def _take_data(self, stream: Stream, data: bytes, end: bool) -> None:
        if stream.ending is not None:
            # The call is over for the shell, and its end waits in the queue.
            stream.ended_there |= end
            return
        known: KnownHead = stream.attached
        if known.plain is None:
            super()._take_data(stream, data, end)
            return
        stream.body += data
        if len(stream.body) > self.limits.body_bytes_max:
            self.respond(stream.stream_id, 413)
            return
        if not end:
            self._renew(stream)
            return
        stream.ended_there = True
        stream.given = True
        plain = known.plain
        self.pending.append(
            HttpRequest(
                stream_id=stream.stream_id,
                method=plain.method,
                path=plain.path,
                authority=plain.authority,
                headers=plain.headers,
                body=bytes(stream.body),
            )
        )

    def _stream_ended(self, stream: Stream) -> None:
        if not stream.single:
            if not stream.on_hold:
                self.pending.append(HalfClosed(stream.stream_id))
            return
        message = stream.message
        if message is None:
            text = "no message in a call that takes one"
            raise CallFault(Status.INTERNAL, text)
        stream.message = None
        stream.given = True
        known: KnownHead = stream.attached
        stream_id = stream.stream_id
        if stream.send_window == self._peer_window:
            # Nothing is left to remember: the answer may go the short way.
            self._streams[stream_id] = None
        self.pending.append(Request(stream_id, known.call, stream.timeout_s, message))

    def _call_fault(self, stream: Stream, fault: CallFault) -> None:
        if stream.ending is not None:
            return
        if stream.given:
            reason = fault.text
            self.pending.append(Cancelled(stream.stream_id, ErrorCode.CANCEL, reason))
        self._end(stream, Trailers(fault.code, fault.text))

    # The connection.

    @property
    def open_streams(self) -> int:
        """Calls that are not over. Raises: nothing."""
        return len(self._streams) + len(self._fresh)

    def _idle(self, stream_id: int) -> bool:
        return stream_id > self._last_stream or not stream_id & 1

    def _check_ping(self) -> None:
        answered, self._sent_mark = self._sent_mark, False
        if not self._pings.allows(self._now, not self.open_streams, answered):
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings", hostile=True
            )

    def _drain_answered(self) -> None:
        """The client has seen that it is asked to go: what it starts now is not taken."""
        if self._drain_deadline is None:
            return
        self._drain_deadline = None
        self._streams_max = 0
        self._taken_max = self._last_stream
        self._write_goaway(self._last_stream, ErrorCode.NO_ERROR, "")
        self._stream_closed()

    def _stream_closed(self) -> None:
        if self._draining and self._drain_deadline is None and not self.open_streams:
            self.pending.append(Drained())
            self._drop_all()

    def _drop_all(self) -> None:
        self._fresh.clear()
        super()._drop_all()

    def _deadlines(self) -> Iterator[float]:
        yield from super()._deadlines()
        if self._drain_deadline is not None:
            yield self._drain_deadline

    def _check_times(self, now: float) -> None:
        super()._check_times(now)
        if self._drain_deadline is not None and now >= self._drain_deadline:
            self._drain_answered()
