"""What each kind of frame does, but HEADERS (RFC 9113, section 6).

Rules of this file:

1. A handler checks its frame wholly before it changes anything.
2. A fault that could leave the two sides of different minds about the connection is
   one of the connection; any other ends its stream alone.
3. Frames for streams that were reset here are passed over: the other side could not
   know (5.1).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from revstore_http2 import frames
from revstore_http2.codes import (
    FRAME_BYTES_LEAST,
    FRAME_BYTES_MOST,
    STREAM_ID_MAX,
    WINDOW_MAX,
    ErrorCode,
    Flag,
    Setting,
)
from revstore_http2.events import Cancelled, GoingAway, PingAnswered
from revstore_http2.faults import ConnectionFault, StreamFault
from revstore_http2.guards import Bucket
from revstore_http2.intake import Intake
from revstore_http2.limits import Limits
from revstore_http2.stream import Stream

KEEPALIVE_PING = b"\0keepaly"
DRAIN_PING = b"\0drained"
"""Payloads of the machine's own pings; a shell may not use them."""

Handler = Callable[[int, int, bytes], None]


class Control(Intake):
    """The frames of a connection."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self._last_stream = 0
        """The highest number of a stream that the other side has opened."""
        self._taken_max = STREAM_ID_MAX
        """Streams with higher numbers are not looked at any more."""
        self._opened = 0
        """How many streams were opened, by either side."""
        self._finished_before = 0
        self._resets_seen = 0
        self._resets = Bucket(limits.resets_burst, limits.resets_per_s, now)
        self._controls = Bucket(limits.controls_burst, limits.controls_per_s, now)
        self._settings = Bucket(limits.settings_burst, limits.settings_per_s, now)
        self._settings_deadline: float | None = now + limits.settings_timeout_s
        """Until when our settings must be acknowledged; None when they are."""
        self._handlers: tuple[Handler, ...] = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )

    @property
    def open_streams(self) -> int:
        """Calls that are not over. Raises: nothing."""
        return len(self._streams)

    # What roles and the connection decide.

    @abstractmethod
    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        """HEADERS, outside of a header block."""

    @abstractmethod
    def _idle(self, stream_id: int) -> bool:
        """Whether a stream was never opened (5.1)."""

    def _setting_changed(self, key: int, value: int) -> None:
        """A parameter that only one role cares about."""

    def _check_ping(self) -> None:
        """Judge how often the other side pings."""

    def _drain_answered(self) -> None:
        """The ping of ``drain`` came back."""

    def _going_away(self, last_stream_id: int, code: int, reason: str) -> None:
        """The other side takes no new streams."""

    def _reset_there(self, stream: Stream | None, stream_id: int, code: int) -> None:
        """The other side broke a stream off; it is forgotten after this."""
        if stream is None or stream.given:
            reason = "the client has reset the stream"
            self.pending.append(Cancelled(stream_id, code, reason))

    # Frames of streams.

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._received += size
        end = bool(flags & Flag.END_STREAM)
        if not size and not end:
            self._count_control()
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended_there:
            self._late_frame(stream_id, "DATA")
            return
        if flags & Flag.PADDED:
            payload = unpadded(payload)
        if size > stream.credit:
            raise StreamFault(
                stream_id,
                ErrorCode.FLOW_CONTROL_ERROR,
                "more DATA than the stream had credit for (6.9.1)",
            )
        stream.credit -= size
        self._take_data(stream, payload, end)

    def _late_frame(self, stream_id: int, what: str) -> None:
        """A frame that needs an open stream came on another."""
        if self._idle(stream_id):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, f"{what} on a stream that is not open (5.1)"
            )
        if not self._passed_over(stream_id):
            raise StreamFault(
                stream_id,
                ErrorCode.STREAM_CLOSED,
                f"{what} on a stream that has ended (5.1)",
            )

    def _passed_over(self, stream_id: int) -> bool:
        """Whether frames of a stream that is over are ignored (rule 3)."""
        return stream_id in self._reset_here or stream_id > self._taken_max

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._count_control()
        if not stream_id:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream (6.3)"
            )
        if len(payload) != 5:
            raise StreamFault(
                stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes (6.3)"
            )

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes (6.4)"
            )
        if self._idle(stream_id):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream (6.4)"
            )
        self._count_reset()
        if stream_id in self._streams:
            stream = self._streams[stream_id]
            code = int.from_bytes(payload, "big")
            self._reset_there(stream, stream_id, code)
            self._forget(stream_id)

    def _count_reset(self) -> None:
        """Each finished call pays for one reset; beyond that there is a bound."""
        self._resets_seen += 1
        finished = self._opened - self.open_streams - self._resets_seen
        if finished > self._finished_before:
            self._resets.give(finished - self._finished_before)
            self._finished_before = finished
        if not self._resets.take(self._now):
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "too many streams were reset", hostile=True
            )

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(
            ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not taken (6.6, 8.4)"
        )

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(
            ErrorCode.PROTOCOL_ERROR, "CONTINUATION continues nothing (6.10)"
        )

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes (6.9)"
            )
        count = int.from_bytes(payload, "big") & WINDOW_MAX
        if not stream_id:
            self._grow_connection(count)
            return
        if self._idle(stream_id):
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream (5.1)"
            )
        if stream_id not in self._streams:
            return
        if not count:
            raise StreamFault(
                stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing (6.9)"
            )
        stream = self._find(stream_id)
        assert stream is not None
        if stream.send_window + count > WINDOW_MAX:
            raise StreamFault(
                stream_id,
                ErrorCode.FLOW_CONTROL_ERROR,
                "the stream's window is larger than 2^31-1 (6.9.1)",
            )
        self._grow_window(stream, count)

    # Frames of the connection.

    def _grow_connection(self, count: int) -> None:
        if not count:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing (6.9)"
            )
        if self._send_window + count > WINDOW_MAX:
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR,
                "the connection's window is larger than 2^31-1 (6.9.1)",
            )
        self._send_window += count
        if self._ready:
            self._pump()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(
                ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream (6.5)"
            )
        if flags & Flag.ACK:
            if payload:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement has content (6.5)"
                )
            self._count_control()
            self._settings_deadline = None
            return
        if len(payload) % 6:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, "SETTINGS is no multiple of 6 bytes (6.5)"
            )
        if not self._settings.take(self._now):
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "too many SETTINGS", hostile=True
            )
        # The last value of each counts; applying each in turn would multiply the work.
        found: dict[int, int] = {}
        for key, value in frames.read_settings(payload):
            _check_setting(key, value)
            found[key] = value
        # DATA that uses new room must not come before the word that it is known: grpc's
        # C core counts by the old settings until it is acknowledged.
        self._answer_control(frames.SETTINGS_ACK)
        # And new room last: what it lets go must keep to all the others.
        window = found.pop(Setting.INITIAL_WINDOW_SIZE, None)
        for key, value in found.items():
            if key == Setting.MAX_FRAME_SIZE:
                self._peer_frame_max = value
            else:
                self._setting_changed(key, value)
        if window is not None:
            self._move_windows(window)
        self._set_quick()
        self._pump()

    def _move_windows(self, value: int) -> None:
        """The other side has another window for each stream (6.9.2)."""
        change = value - self._peer_window
        streams = [stream for stream in self._streams.values() if stream is not None]
        if change > 0 and any(s.send_window + change > WINDOW_MAX for s in streams):
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR,
                "a setting makes a window larger than 2^31-1 (6.9.2)",
            )
        self._peer_window = value
        for stream in streams:
            self._grow_window(stream, change)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream (6.7)")
        if len(payload) != 8:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes (6.7)"
            )
        self._count_control()
        if not flags & Flag.ACK:
            self._check_ping()
            self._answer_control(frames.ping(payload, ack=True))
        elif payload == DRAIN_PING:
            self._drain_answered()
        elif payload != KEEPALIVE_PING:
            self.pending.append(PingAnswered(payload))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream (6.8)")
        if len(payload) < 8:
            raise ConnectionFault(
                ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is shorter than 8 bytes (6.8)"
            )
        self._count_control()
        last = int.from_bytes(payload[:4], "big") & WINDOW_MAX
        code = int.from_bytes(payload[4:8], "big")
        reason = payload[8:264].decode("utf-8", "replace")
        self.pending.append(GoingAway(last, code, reason))
        self._going_away(last, code, reason)

    def _count_control(self) -> None:
        """One more frame that costs its sender nothing."""
        if not self._controls.take(self._now):
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM, "too many frames of no use", hostile=True
            )

    def _answer_control(self, frame: bytes) -> None:
        self._controls_queued += 1
        if self._controls_queued > self.limits.controls_queued_max:
            raise ConnectionFault(
                ErrorCode.ENHANCE_YOUR_CALM,
                "answers to PING and SETTINGS are not read",
                hostile=True,
            )
        self._out.append(frame)


def unpadded(payload: bytes) -> bytes:
    """The content of a padded frame.

    Raises:
        ConnectionFault: there is more padding than frame.
    """
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(
            ErrorCode.PROTOCOL_ERROR, "more padding than content (6.1, 6.2)"
        )
    return payload[1 : len(payload) - payload[0]]


def _check_setting(key: int, value: int) -> None:
    if key == Setting.INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
        raise ConnectionFault(
            ErrorCode.FLOW_CONTROL_ERROR, "a window larger than 2^31-1 (6.5.2)"
        )
    if (
        key == Setting.MAX_FRAME_SIZE
        and not FRAME_BYTES_LEAST <= value <= FRAME_BYTES_MOST
    ) or (key == Setting.ENABLE_PUSH and value > 1):
        raise ConnectionFault(
            ErrorCode.PROTOCOL_ERROR, f"setting {key} may not be {value} (6.5.2)"
        )
