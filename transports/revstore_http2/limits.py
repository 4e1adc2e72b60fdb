"""Bounds of a connection. Whatever the other side can make grow has one here."""

from __future__ import annotations

import msgspec

from revstore.errors import ConfigError
from revstore_http2.codes import (
    FRAME_BYTES_LEAST,
    FRAME_BYTES_MOST,
    WINDOW_MAX,
    WINDOW_START,
)


class Limits(msgspec.Struct, frozen=True):
    """Bounds and times of one connection; the defaults are those of a client port."""

    message_bytes_max: int = 1_572_864 + 524_288
    """Largest message taken, also after decompression."""
    streams_max: int = 100_000
    """Streams that may be open at once; more are refused."""
    tell_streams_max: bool = False
    """Whether ``streams_max`` is said in SETTINGS (many clients queue at it then)."""

    stream_window_bytes: int = 256 * 1024
    """What a stream may send ahead before its credit is renewed."""
    connection_window_bytes: int = 16 * 1024 * 1024
    """The same for all streams together; it is renewed as bytes arrive, so that no
    stream takes it from another."""
    unfinished_bytes_max: int = 64 * 1024 * 1024
    """Credit that all unfinished messages together get beyond their stream's window;
    a message for which there is none waits for another to be finished."""
    held_messages_max: int = 1024
    """Messages that may wait in a stream that is on hold."""

    frame_bytes_max: int = FRAME_BYTES_LEAST
    """Largest frame taken (SETTINGS_MAX_FRAME_SIZE)."""
    header_table_bytes: int = 4096
    header_list_bytes_max: int = 64 * 1024
    header_block_bytes_max: int = 64 * 1024
    """A block that is longer ends the connection."""
    continuations_max: int = 64
    """Frames that one block may be cut into."""
    plain_http: bool = False
    """Whether requests that are not gRPC are given to the shell, or answered 415."""
    body_bytes_max: int = 1024 * 1024
    """Largest body of a request that is not gRPC."""

    stream_high_bytes: int = 1024 * 1024
    stream_low_bytes: int = 512 * 1024
    """See ``Writable``."""
    output_bytes_max: int = 1024 * 1024
    """DATA in the output before the shell takes it."""
    queued_bytes_max: int = 256 * 1024 * 1024
    """What may wait to be sent in all streams; a stream that would add to more is
    reset, unless nothing else waits."""
    controls_queued_max: int = 10_000
    """Answers to control frames that may wait for the socket."""

    resets_burst: int = 10_000
    resets_per_s: int = 1_000
    """Streams that the client may reset; each finished call allows another."""
    controls_burst: int = 10_000
    controls_per_s: int = 2_000
    """PING, PRIORITY, unknown and empty frames."""
    settings_burst: int = 100
    settings_per_s: int = 10
    """SETTINGS cost more: each may touch all streams."""
    faults_burst: int = 100
    faults_per_s: int = 10
    """Stream errors before the connection is given up."""

    tick_interval_s: float = 15.0
    """How often ``tick`` is asked for at least; what arises between two ticks is seen so
    much too late at most."""
    preface_timeout_s: float = 10.0
    """From the start to the whole preface."""
    frame_timeout_s: float = 30.0
    """From the first byte of a frame or header block to its last."""
    settings_timeout_s: float = 20.0
    """Until the other side has acknowledged the settings."""

    stall_timeout_s: float = 120.0
    """How long a finished answer waits for credit of which none comes."""

    ping_min_interval_s: float = 5.0
    """A client that pings more often, three times, is sent away (too_many_pings)."""
    ping_idle_interval_s: float = 7200.0
    """The same while no call is open."""
    ping_permit_idle: bool = False
    """Whether ``ping_min_interval_s`` counts while no call is open, too."""
    keepalive_interval_s: float = 7200.0
    """After so long without input a ping is sent; 0 for never."""
    keepalive_timeout_s: float = 20.0
    """Without any input for so long after that ping, the connection is over."""
    keepalive_idle: bool = True
    """Whether pings are sent while no call is open."""
    drain_timeout_s: float = 5.0
    """How long ``drain`` waits for the other side to see that it is asked to go."""

    def __post_init__(self) -> None:
        """Check what the fields owe one another.

        Raises:
            ConfigError: one does not fit; the message names it.
        """
        _check("stream_window_bytes", self.stream_window_bytes, 1, WINDOW_MAX)
        _check(
            "connection_window_bytes",
            self.connection_window_bytes,
            WINDOW_START,
            WINDOW_MAX,
        )
        _check(
            "frame_bytes_max", self.frame_bytes_max, FRAME_BYTES_LEAST, FRAME_BYTES_MOST
        )
        _check("streams_max", self.streams_max, 1, WINDOW_MAX)
        _check("message_bytes_max", self.message_bytes_max, 1, 2**32 - 1)
        _check(
            "unfinished_bytes_max",
            self.unfinished_bytes_max,
            # One message must always fit, or it could never be finished.
            self.message_bytes_max + FRAME_BYTES_LEAST,
            2**40,
        )
        _check("stream_low_bytes", self.stream_low_bytes, 1, self.stream_high_bytes)


def _check(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(
            f"{name} of an HTTP/2 connection is {value}; "
            f"set it to between {least} and {most}"
        )
