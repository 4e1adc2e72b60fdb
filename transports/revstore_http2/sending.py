"""The sending half of a connection: credit, turns and the output.

Rules of this file:

1. DATA leaves only within the credit of the connection and of its stream, and only as
   much per ``output`` as ``output_bytes_max``; the rest waits in its stream. A shell
   whose socket is full stops taking output, and so nothing piles up here.
2. Streams that wait take turns of one frame: a stream without credit is not in the turn
   at all, so it never holds up another.
3. What a stream still has to say after its queue (``ending``) is written only when its
   turn comes, for header blocks must be written in the order in which they are sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque

from revstore_http2 import frames
from revstore_http2.codes import (
    FRAME_BYTES_LEAST,
    MESSAGE_PREFIX_BYTES,
    WINDOW_START,
    ErrorCode,
)
from revstore_http2.events import Cancelled, Event, StreamRefused, Writable
from revstore_http2.frames import pack_header, pack_message_header
from revstore_http2.limits import Limits
from revstore_http2.stream import EMPTY, Stream

RESETS_REMEMBERED = 1024
"""Streams that were reset here, whose late frames are passed over in silence."""


class Sending(ABC):
    """What waits to be sent, and what may be."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.over = False
        """Whether the connection is at its end: send the output, then close."""
        self.queued_bytes = 0
        """What waits in all streams for credit or for the socket."""
        self.pending: list[Event] = []
        """Events that commands have caused; the next ``receive`` or ``tick`` gives them,
        and a shell may take them before that with ``take_pending``."""
        self._out: list[bytes] = []
        self._out_left = limits.output_bytes_max
        """DATA that may still go into the output before it is taken."""
        self._paused = False
        self._streams: dict[int, Stream | None] = {}
        """All streams that are not over; None is a call that was taken whole, of which
        nothing was sent yet."""
        self._ready: deque[Stream] = deque()
        self._send_window = WINDOW_START
        self._peer_window = WINDOW_START
        """What a new stream may send."""
        self._peer_frame_max = FRAME_BYTES_LEAST
        self._quick_max = FRAME_BYTES_LEAST
        """Largest DATA frame that may leave on a new stream without a state: the least
        of the two above, and 0 while nothing may leave."""
        self._sent_mark = True
        """Whether headers or data were sent since this was last asked for."""
        self._controls_queued = 0
        """Answers to control frames in the output."""
        self._reset_here: dict[int, None] = {}
        self._finishing: OrderedDict[int, float] = OrderedDict()
        """Streams that are over but for what waits in them, and since when nothing of
        that has left; the longest first. Commands know no time: what they put here is
        -1 until the next tick."""
        self._now = now
        """When the newest input came."""

    # What the shell does.

    def output(self) -> list[bytes]:
        """Take what is to be sent, in order; take until it is empty.

        The pieces are for one write each or all in one. Raises: nothing.
        """
        out = self._out
        if not out:
            if not self._ready or self._paused:
                return out
            self._out_left = self.limits.output_bytes_max
            self._pump()
            out = self._out
        self._out = []
        self._out_left = self.limits.output_bytes_max
        self._controls_queued = 0
        return out

    def take_pending(self) -> list[Event]:
        """Events of commands, once. Raises: nothing."""
        found, self.pending = self.pending, []
        return found

    def pause(self) -> None:
        """The socket takes no more for now. Raises: nothing."""
        self._paused = True
        self._quick_max = 0

    def resume(self) -> list[Event]:
        """The socket takes bytes again; look at ``output``. Raises: nothing."""
        self._paused = False
        self._set_quick()
        self._pump()
        return self.take_pending()

    def send(self, stream_id: int, message: bytes) -> int:
        """Send one message, when credit allows.

        Returns how many bytes wait in the stream now, -1 if it is over. If that is at
        least ``stream_high_bytes``, ``Writable`` follows. Raises: nothing.
        """
        stream = self._find(stream_id)
        if stream is None or stream.ending is not None:
            return -1
        if not stream.head_sent:
            self._send_head(stream)
        size = len(message) + MESSAGE_PREFIX_BYTES
        if (
            not stream.queue
            and size <= self._out_left
            and size <= stream.send_window
            and size <= self._send_window
            and size <= self._peer_frame_max
            and not self._paused
        ):
            stream.send_window -= size
            self._send_window -= size
            self._out_left -= size
            self._sent_mark = True
            self._out += (
                pack_message_header(size << 8, 0, stream_id, 0, len(message)),
                message,
            )
            return 0
        prefix = len(message).to_bytes(MESSAGE_PREFIX_BYTES, "big")
        self._enqueue(stream, (prefix, message) if message else (prefix,), size)
        return stream.queued if stream_id in self._streams else -1

    def waiting(self, stream_id: int) -> int:
        """How many bytes wait in a stream. Raises: nothing."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.queued

    def reset(self, stream_id: int, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Break a call off at once; what waits in it is dropped. Raises: nothing."""
        if stream_id in self._streams:
            self._write_reset(stream_id, code)
            self._forget(stream_id)
            self._unsay(stream_id)

    # What roles decide.

    @abstractmethod
    def _send_head(self, stream: Stream) -> None:
        """Write what comes before the first message."""

    @abstractmethod
    def _send_end(self, stream: Stream) -> None:
        """Write the end of this direction; the queue is empty."""

    @abstractmethod
    def _stream_closed(self) -> None:
        """A stream was forgotten."""

    # The inside.

    def _find(self, stream_id: int) -> Stream | None:
        """The state of a stream, None if it is over."""
        stream = self._streams.get(stream_id)
        if stream is None and stream_id in self._streams:
            stream = self._materialize(stream_id)
        return stream

    def _materialize(self, stream_id: int) -> Stream:
        """Give a call that was taken whole a state, for its answer must wait."""
        stream = Stream(stream_id, self._peer_window, 0)
        stream.ended_there = True
        stream.given = True
        self._streams[stream_id] = stream
        return stream

    def _enqueue(self, stream: Stream, pieces: tuple[bytes, ...], size: int) -> None:
        waiting = self.queued_bytes
        # A single answer may wait whatever its size, or it could never be given.
        if waiting and waiting + size > self.limits.queued_bytes_max:
            reason = f"more than {self.limits.queued_bytes_max} bytes wait to be read"
            self._refuse(stream, ErrorCode.ENHANCE_YOUR_CALM, reason)
            return
        if stream.queue is EMPTY:
            stream.queue = deque()
        stream.queue.extend(pieces)
        stream.queued += size
        self.queued_bytes += size
        if stream.queued >= self.limits.stream_high_bytes:
            stream.congested = True
        self._make_ready(stream)

    def _refuse(self, stream: Stream, code: ErrorCode, reason: str) -> None:
        """End a stream for what its other side did."""
        stream_id = stream.stream_id
        given = stream.given and stream.ending is None
        self._write_reset(stream_id, code)
        self._forget(stream_id)
        self.pending.append(StreamRefused(stream_id, code, reason))
        if given:
            self.pending.append(Cancelled(stream_id, code, reason))

    def _make_ready(self, stream: Stream) -> None:
        if not stream.ready and stream.send_window > 0:
            stream.ready = True
            self._ready.append(stream)
            if not self._paused:
                self._pump()

    def _end(self, stream: Stream, ending: object) -> None:
        """End this direction behind what waits."""
        stream.ending = ending
        stream.given = False
        self._unsay(stream.stream_id)
        if stream.queue:
            self._finishing[stream.stream_id] = -1.0
        else:
            self._send_end(stream)

    def _unsay(self, stream_id: int) -> None:
        """The shell has ended a stream: it is not told any more of room in it."""
        if self.pending:
            self.pending[:] = [
                event
                for event in self.pending
                if not (isinstance(event, Writable) and event.stream_id == stream_id)
            ]

    def _pump(self) -> None:
        """Send as much of what waits as may be sent."""
        ready = self._ready
        while ready and self._send_window > 0 and self._out_left > 0:
            if self._paused:
                return
            stream = ready.popleft()
            if stream.queue and stream.send_window > 0:
                self._send_frame(stream)
                if stream.queue and stream.send_window > 0:
                    ready.append(stream)
                    continue
            stream.ready = False
            if not stream.queue and stream.ending is not None and not stream.ended_here:
                self._send_end(stream)

    def _send_frame(self, stream: Stream) -> None:
        """One DATA frame of a stream that has credit."""
        allowed = min(self._peer_frame_max, self._send_window, stream.send_window)
        queue = stream.queue
        pieces: list[bytes] = []
        size = 0
        while queue and size < allowed:
            piece, start = queue[0], stream.sent
            left = len(piece) - start
            room = allowed - size
            if left <= room:
                pieces.append(piece[start:] if start else piece)
                size += left
                queue.popleft()
                stream.sent = 0
            else:
                pieces.append(piece[start : start + room])
                size += room
                stream.sent = start + room
        if not queue:
            stream.queue = EMPTY
        self._out.append(pack_header(size << 8, 0, stream.stream_id))
        self._out += pieces
        self._send_window -= size
        self._out_left -= size
        self._sent_mark = True
        stream.send_window -= size
        stream.queued -= size
        self.queued_bytes -= size
        if stream.stream_id in self._finishing:
            self._finishing[stream.stream_id] = -1.0
            self._finishing.move_to_end(stream.stream_id)
        if stream.congested and stream.queued < self.limits.stream_low_bytes:
            stream.congested = False
            if stream.given:
                self.pending.append(Writable(stream.stream_id))

    def _forget(self, stream_id: int) -> None:
        """A stream is over; nothing of it is kept."""
        stream = self._streams.pop(stream_id)
        if stream is not None:
            self._finishing.pop(stream_id, None)
            self.queued_bytes -= stream.queued
            stream.queue = EMPTY
            stream.queued = 0
            stream.given = False
            stream.ended_here = True
        self._stream_closed()

    def _write_reset(self, stream_id: int, code: ErrorCode) -> None:
        self._out.append(frames.rst_stream(stream_id, code))
        remembered = self._reset_here
        remembered[stream_id] = None
        if len(remembered) > RESETS_REMEMBERED:
            del remembered[next(iter(remembered))]

    def _set_quick(self) -> None:
        if not self._paused and not self.over:
            self._quick_max = min(self._peer_window, self._peer_frame_max)

    def _grow_window(self, stream: Stream, count: int) -> None:
        """Credit for one stream."""
        stream.send_window += count
        if stream.queue:
            self._make_ready(stream)
