"""What both sides of an HTTP/2 connection have in common, as a machine without I/O.

Bytes go in through ``receive``, events come out of it; commands put bytes into the
output, which the shell takes with ``output``. Time is passed in, as seconds of any
monotonic clock. ``revstore_http2.server`` and ``.client`` add what the roles differ in.

Use, in a shell::

    def data_received(data):
        for event in connection.receive(data, clock()):
            ...                                  # commands
        while pieces := connection.output():
            transport.writelines(pieces)         # may call connection.pause()
        if connection.over:
            transport.close()

At ``next_tick()``, by a timer, ``tick`` is called and its events are handled likewise.

Rules of this file:

1. ``receive`` and ``tick`` never raise for what the other side does: a fault of a stream
   resets it, a fault of the connection queues GOAWAY and gives ``ConnectionFailed``.
   After that all input is ignored and all commands do nothing.
2. Commands for streams that are over do nothing: the shell need not know that the
   client has just gone.
3. Nothing is put into the output that flow control does not allow, and no DATA while
   the socket takes none (``pause`` and ``resume``); it waits in its own stream then.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from math import inf

from revstore.errors import UsageError
from revstore_http2 import frames
from revstore_http2.codes import (
    FRAME_BYTES_LEAST,
    FRAME_HEADER_BYTES,
    WINDOW_START,
    ErrorCode,
    Flag,
    FrameType,
    Setting,
    name_of,
)
from revstore_http2.control import DRAIN_PING, KEEPALIVE_PING, Control, unpadded
from revstore_http2.events import (
    Cancelled,
    ConnectionFailed,
    Event,
    HalfClosed,
    MessageReceived,
    StreamRefused,
)
from revstore_http2.faults import ConnectionFault, StreamFault
from revstore_http2.guards import Bucket
from revstore_http2.hpack import (
    Decoder,
    HeaderListTooLargeError,
    Headers,
    HpackError,
)
from revstore_http2.limits import Limits
from revstore_http2.stream import Stream

DEBUG_BYTES_MAX = 256


class Connection(Control):
    """One side of a connection; see ``ServerConnection`` and ``ClientConnection``."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self._decoder = Decoder(limits.header_table_bytes, limits.header_list_bytes_max)
        self._faults = Bucket(limits.faults_burst, limits.faults_per_s, now)
        self._rest: list[bytes] = []
        """What arrived of a frame that is not whole, in pieces."""
        self._rest_size = 0
        self._rest_need = 0
        """Input is not looked at again before so much of the frame is there."""
        self._begun = False
        """Whether the other side's first SETTINGS was seen."""
        self._block: list[bytes] = []
        """The parts of an unfinished header block."""
        self._block_size = 0
        self._block_stream = 0
        """Its stream; 0 if there is none."""
        self._block_flags = 0
        self._partial_since: float | None = None
        """Since when a frame is unfinished."""
        self._block_since = 0.0
        self._begin_deadline = now + limits.preface_timeout_s
        self._ticked = now
        self._ping_sent: float | None = None
        """When a keepalive ping was sent that nothing has followed yet."""

    # Input.

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take what arrived, in pieces of any size. Raises: nothing."""
        if self.over or not data:
            return self.take_pending()
        self._now = now
        self._ping_sent = None
        rest = self._rest
        if rest:
            rest.append(data)
            self._rest_size += len(data)
            if self._rest_size < self._rest_need:
                return self.take_pending()
            data = b"".join(rest)
            rest.clear()
        try:
            position = self._take(data)
            if self._received >= self.limits.connection_window_bytes >> 1:
                self._renew_connection()
        except ConnectionFault as fault:
            self._fail(fault)
            return self.take_pending()
        except HpackError as error:
            reason = f"{error} (4.3)"
            self._fail(ConnectionFault(ErrorCode.COMPRESSION_ERROR, reason))
            return self.take_pending()
        left = len(data) - position
        if not left:
            self._partial_since = None
        elif not self.over:
            if position or self._partial_since is None:
                self._partial_since = now
            rest.append(data[position:] if position else data)
            self._rest_size = left
            self._rest_need = self._needed(rest[0])
        return self.take_pending()

    def lost(self, reason: str = "connection lost") -> list[Event]:
        """The socket is gone: every open call ends. Raises: nothing."""
        if not self.over:
            self._finish_all(ErrorCode.CANCEL, reason)
        return self.take_pending()

    def release(self, stream_id: int) -> list[Event]:
        """End ``hold``: what arrived meanwhile, and then what comes. Raises: nothing."""
        stream = self._streams.get(stream_id)
        if stream is not None and stream.on_hold:
            stream.on_hold = False
            held = stream.held
            while held:
                self.pending.append(MessageReceived(stream_id, held.popleft()))
            if stream.ended_there:
                self.pending.append(HalfClosed(stream_id))
            elif not stream.need:
                self._renew(stream)
        return self.take_pending()

    # The connection.

    def ping(self, payload: bytes = b"revstore") -> None:
        """Ask for a sign of life; ``PingAnswered`` follows.

        Raises:
            UsageError: the payload is not 8 bytes long, or one of the machine's own.
        """
        if len(payload) != 8 or payload in (KEEPALIVE_PING, DRAIN_PING):
            raise UsageError("the payload of a ping is 8 bytes, not beginning with 0")
        if not self.over:
            self._out.append(frames.ping(payload, ack=False))

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Say goodbye; open calls are dropped without events. Raises: nothing."""
        if not self.over:
            self._write_goaway(self._last_stream, code, reason)
            self._drop_all()

    def tick(self, now: float) -> list[Event]:
        """Let time pass: keepalive and timeouts. Raises: nothing."""
        if not self.over:
            self._ticked = now
            try:
                self._check_times(now)
            except ConnectionFault as fault:
                self._fail(fault)
        return self.take_pending()

    def next_tick(self) -> float:
        """When ``tick`` is due, in the time of ``now``; infinity for never.

        It is to be asked after each ``tick``, after ``drain`` and at the beginning; what
        comes up in between waits for at most ``tick_interval_s``. Raises: nothing.
        """
        return inf if self.over else min(self._deadlines())

    # What roles decide.

    def _begin(self, data: bytes, position: int) -> int:
        """Take what comes before the first frame; -1 if it is not whole."""
        return position

    @abstractmethod
    def _take_frames(self, data: bytes, position: int) -> int:
        """Take whole frames until there is none, or one begins a header block that
        goes on; returns the position behind them."""

    @abstractmethod
    def _take_headers(self, stream_id: int, headers: Headers | None, end: bool) -> None:
        """A whole header block; None if its fields were too many."""

    def _stream_lost(self, stream: Stream | None, stream_id: int, reason: str) -> None:
        """A stream ends because the connection does."""
        if stream is None or stream.given:
            self.pending.append(Cancelled(stream_id, ErrorCode.CANCEL, reason))

    def _stream_faulted(self, stream: Stream | None, fault: StreamFault) -> None:
        """A stream was reset for what the other side did."""
        if stream is None or stream.given:
            self.pending.append(Cancelled(fault.stream_id, fault.code, fault.reason))

    # Frames.

    def _take(self, data: bytes) -> int:
        position = 0
        if not self._begun:
            position = self._begin(data, 0)
            if position < 0 or len(data) - position < FRAME_HEADER_BYTES:
                return max(position, 0)
            if data[position + 3] != FrameType.SETTINGS or data[position + 4] & 1:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS (3.4)"
                )
            self._begun = True
        while not self.over:
            if self._block_stream:
                position = self._take_block(data, position)
                if self._block_stream:
                    break
            position = self._take_frames(data, position)
            if not self._block_stream:
                break
        return position

    def _take_frame(
        self, kind: int, flags: int, stream_id: int, payload: bytes
    ) -> None:
        """Any whole frame, outside of a header block."""
        try:
            if kind < len(self._handlers):
                self._handlers[kind](flags, stream_id, payload)
            else:
                self._count_control()
        except StreamFault as fault:
            self._stream_fault(fault)

    def _needed(self, data: bytes) -> int:
        """How much input must be there before the first frame can be whole."""
        if not self._begun:
            return 0
        if len(data) < FRAME_HEADER_BYTES:
            return FRAME_HEADER_BYTES
        return FRAME_HEADER_BYTES + int.from_bytes(data[:3], "big")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if flags & Flag.PADDED:
            payload = unpadded(payload)
        if flags & Flag.PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short (6.2)"
                )
            payload = payload[5:]
        if not stream_id:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "HEADERS on no stream (6.2)"
            )
        if flags & Flag.END_HEADERS:
            self._whole_block(stream_id, flags, payload)
            return
        self._block = [payload]
        self._block_size = len(payload)
        self._block_stream = stream_id
        self._block_flags = flags
        self._block_since = self._now

    def _take_block(self, data: bytes, position: int) -> int:
        """Only CONTINUATION may come here, until the block is whole (6.10)."""
        size = len(data)
        while size - position >= FRAME_HEADER_BYTES:
            length = int.from_bytes(data[position : position + 3], "big")
            stream_id = int.from_bytes(data[position + 5 : position + 9], "big")
            if (
                data[position + 3] != FrameType.CONTINUATION
                or stream_id & 0x7FFFFFFF != self._block_stream
            ):
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR,
                    "another frame inside of a header block (6.2, 6.10)",
                )
            self._check_length(length)
            start, end = position + FRAME_HEADER_BYTES, position + 9 + length
            if end > size:
                break
            self._block.append(data[start:end])
            self._block_size += length
            if (
                self._block_size > self.limits.header_block_bytes_max
                or len(self._block) > self.limits.continuations_max
            ):
                raise ConnectionFault(
                    ErrorCode.ENHANCE_YOUR_CALM, "a header block is too long", True
                )
            flags = data[position + 4]
            position = end
            if flags & Flag.END_HEADERS:
                block, self._block = b"".join(self._block), []
                stream_id, self._block_stream = self._block_stream, 0
                try:
                    self._whole_block(stream_id, self._block_flags, block)
                except StreamFault as fault:
                    self._stream_fault(fault)
                break
        return position

    def _whole_block(self, stream_id: int, flags: int, block: bytes) -> None:
        headers = self._decode(block)
        self._take_headers(stream_id, headers, bool(flags & Flag.END_STREAM))

    def _decode(self, block: bytes) -> Headers | None:
        try:
            return self._decoder.decode(block)
        except HeaderListTooLargeError:
            return None

    def _check_length(self, length: int) -> None:
        if length > self.limits.frame_bytes_max:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR,
                f"a frame of {length} bytes; at most {self.limits.frame_bytes_max} "
                "are taken (4.2)",
            )

    # Ends.

    def _stream_fault(self, fault: StreamFault) -> None:
        """Reset one stream for what the other side did."""
        self.pending.append(StreamRefused(fault.stream_id, fault.code, fault.reason))
        self._write_reset(fault.stream_id, fault.code)
        if fault.stream_id in self._streams:
            self._stream_faulted(self._streams[fault.stream_id], fault)
            self._forget(fault.stream_id)
        # Both of these may be honest: what was on the way could not know.
        honest = fault.code in (ErrorCode.REFUSED_STREAM, ErrorCode.STREAM_CLOSED)
        bucket = self._resets if honest else self._faults
        if not bucket.take(self._now):
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "too many faults of streams", hostile=True
            )

    def _fail(self, fault: ConnectionFault) -> None:
        reason = fault.reason
        self._write_goaway(self._last_stream, fault.code, reason)
        self._finish_all(fault.code, reason)
        self.pending.append(ConnectionFailed(fault.code, reason, fault.hostile))

    def _finish_all(self, code: int, reason: str) -> None:
        text = f"{reason} ({name_of(code)})" if code else reason
        for stream_id, stream in self._streams.items():
            self._stream_lost(stream, stream_id, text)
        self._drop_all()

    def _drop_all(self) -> None:
        """Nothing more comes or goes."""
        self.over = True
        self._quick_max = 0
        self._streams.clear()
        self._ready.clear()
        self._wanting.clear()
        self._rest.clear()
        self._block.clear()
        self._finishing.clear()
        self.queued_bytes = 0

    def _write_goaway(self, last_stream_id: int, code: int, reason: str) -> None:
        debug = reason.encode("utf-8", "replace")[:DEBUG_BYTES_MAX]
        self._out.append(frames.goaway(last_stream_id, code, debug))

    # Time.

    def _deadlines(self) -> Iterator[float]:
        limits = self.limits
        yield self._ticked + limits.tick_interval_s
        if not self._begun:
            yield self._begin_deadline
        if self._partial_since is not None:
            yield self._partial_since + limits.frame_timeout_s
        if self._block_stream:
            yield self._block_since + limits.frame_timeout_s
        if self._settings_deadline is not None:
            yield self._settings_deadline
        if self._finishing:
            since = next(iter(self._finishing.values()))
            if since >= 0:
                yield since + limits.stall_timeout_s
        if self._ping_sent is not None:
            yield self._ping_sent + limits.keepalive_timeout_s
        elif limits.keepalive_interval_s:
            yield self._now + limits.keepalive_interval_s

    def _check_times(self, now: float) -> None:
        limits = self.limits
        if not self._begun and now >= self._begin_deadline:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "no preface in time (3.4)", hostile=True
            )
        since = self._block_since if self._block_stream else self._partial_since
        if since is not None and now >= since + limits.frame_timeout_s:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "a frame was not finished in time", True
            )
        if self._settings_deadline is not None and now >= self._settings_deadline:
            raise ConnectionFault(
                ErrorCode.SETTINGS_TIMEOUT, "SETTINGS was not acknowledged (6.5.3)"
            )
        self._end_stalled(now)
        if self._ping_sent is not None:
            if now >= self._ping_sent + limits.keepalive_timeout_s:
                raise ConnectionFault(
                    ErrorCode.NO_ERROR, "no answer to a keepalive ping"
                )
        elif (
            limits.keepalive_interval_s
            and self._begun
            and now >= self._now + limits.keepalive_interval_s
        ):
            if self.open_streams or limits.keepalive_idle:
                self._ping_sent = now
                self._out.append(frames.ping(KEEPALIVE_PING, ack=False))
            else:
                self._now = now

    def _end_stalled(self, now: float) -> None:
        """Drop answers that are finished here and not taken there."""
        finishing = self._finishing
        for stream_id in reversed(finishing):
            if finishing[stream_id] >= 0:
                break
            finishing[stream_id] = now
        oldest = now - self.limits.stall_timeout_s
        while finishing:
            stream_id, since = next(iter(finishing.items()))
            if since > oldest:
                return
            stream = self._streams[stream_id]
            assert stream is not None
            reason = "a finished answer was not taken in time"
            self._refuse(stream, ErrorCode.CANCEL, reason)

    def _first_output(self, settings: list[tuple[int, int]]) -> None:
        """What each side says at the beginning."""
        limits = self.limits
        if limits.header_table_bytes != 4096:
            settings.append((Setting.HEADER_TABLE_SIZE, limits.header_table_bytes))
        if limits.stream_window_bytes != WINDOW_START:
            settings.append((Setting.INITIAL_WINDOW_SIZE, limits.stream_window_bytes))
        if limits.frame_bytes_max != FRAME_BYTES_LEAST:
            settings.append((Setting.MAX_FRAME_SIZE, limits.frame_bytes_max))
        settings.append((Setting.MAX_HEADER_LIST_SIZE, limits.header_list_bytes_max))
        self._out.append(frames.settings(settings))
        more = limits.connection_window_bytes - WINDOW_START
        if more:
            self._out.append(frames.window_update(0, more))
