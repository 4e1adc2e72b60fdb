"""What both sides of an HTTP/2 connection have in common, as a machine without I/O.

Bytes go in through ``receive``, events come out of it; commands put bytes into the
output, which the shell takes with ``output``. Time is passed in, as seconds of any
monotonic clock. ``revstore_http2.server`` and ``.client`` add what the roles differ in.

Use, in a shell::

    def data_received(data):
        for event in connection.receive(data, clock()):
            ...                                  # commands
        transport.writelines(connection.output())
        # once in a while, at the latest at connection.next_tick():
        events = connection.tick(clock())

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

from collections.abc import Sequence

from revstore_http2.codes import ErrorCode
from revstore_http2.events import Event
from revstore_http2.limits import Limits


class Connection:
    """One side of a connection; see ``ServerConnection`` and ``ClientConnection``."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.over = False
        """Whether the connection has failed or was closed; send the output, close."""
        self.queued_bytes = 0
        """What waits in all streams for credit or for the socket."""

    # Input and output.

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Take what arrived, in pieces of any size. Raises: nothing."""
        raise NotImplementedError

    def lost(self, reason: str = "connection lost") -> list[Event]:
        """The socket is gone: every open call ends. Raises: nothing."""
        raise NotImplementedError

    def output(self) -> list[bytes]:
        """Take what is to be sent, in order; empty if there is nothing.

        Raises: nothing.
        """
        raise NotImplementedError

    def pause(self) -> None:
        """The socket takes no more for now. Raises: nothing."""
        raise NotImplementedError

    def resume(self) -> list[Event]:
        """The socket takes bytes again; look at ``output``. Raises: nothing."""
        raise NotImplementedError

    def tick(self, now: float) -> list[Event]:
        """Let time pass: keepalive and timeouts. Raises: nothing."""
        raise NotImplementedError

    def next_tick(self) -> float:
        """When ``tick`` is due, in the time of ``now``; infinity for never.

        It moves with every ``receive``; a shell that looks when its timer fires, and
        sets it again to what is said then, is exact enough. Raises: nothing.
        """
        raise NotImplementedError

    # Streams.

    @property
    def open_streams(self) -> int:
        """Calls that are not over. Raises: nothing."""
        raise NotImplementedError

    def send(self, stream_id: int, message: bytes) -> int:
        """Send one message, when credit allows.

        Returns how many bytes wait in the stream now. If that is at least
        ``stream_high_bytes``, ``Writable`` follows. Raises: nothing.
        """
        raise NotImplementedError

    def waiting(self, stream_id: int) -> int:
        """How many bytes wait in a stream. Raises: nothing."""
        raise NotImplementedError

    def reset(self, stream_id: int, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Break a call off at once; what waits in it is dropped. Raises: nothing."""
        raise NotImplementedError

    def hold(self, stream_id: int) -> None:
        """Give no messages of a stream, and stop its sender soon. Raises: nothing."""
        raise NotImplementedError

    def release(self, stream_id: int) -> list[Event]:
        """End ``hold``: what arrived meanwhile, and then what comes. Raises: nothing."""
        raise NotImplementedError

    # The connection.

    def ping(self, payload: bytes = b"revstore") -> None:
        """Ask for a sign of life; ``PingAnswered`` follows.

        Raises:
            UsageError: the payload is not 8 bytes long.
        """
        raise NotImplementedError

    def close(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Say goodbye; open calls are dropped without events. Raises: nothing."""
        raise NotImplementedError


Pieces = Sequence[bytes]
