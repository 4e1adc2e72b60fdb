"""Watching from within the process: an iterator over changes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from revstore.embedded.events import WatchCanceled, cancel_reason, decode_event
from revstore.embedded.readers import EventReader
from revstore.embedded.shell import EmbeddedShell
from revstore.embedded.values import WatchEvent
from revstore.proto import rpc_pb2
from revstore.watch.stream import WatchStream

QUEUE_MAX = 1_000
"""Responses that may wait for a slow reader; the rest is read from history later."""
QUEUE_BYTES_MAX = 4 << 20
"""The same in bytes: a response of history alone can have a megabyte."""


class ResponseQueue:
    """Responses on their way to a reader, bounded in number and bytes."""

    __slots__ = ("_bodies", "_size")

    def __init__(self) -> None:
        self._bodies: deque[bytes] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._bodies)

    @property
    def full(self) -> bool:
        """Whether no more should be put in; what is put in all the same is kept."""
        return len(self._bodies) >= QUEUE_MAX or self._size >= QUEUE_BYTES_MAX

    def push(self, body: bytes) -> None:
        """Put one in at the end."""
        self._bodies.append(body)
        self._size += len(body)

    def pop(self) -> bytes:
        """Take the oldest one. Raises: IndexError: there is none."""
        body = self._bodies.popleft()
        self._size -= len(body)
        return body


class QueueSink:
    """Where the hub puts responses; the reader takes them from the other side."""

    def __init__(self, notify: Callable[[], None]) -> None:
        self.responses = ResponseQueue()
        self._notify = notify

    def send(self, header_revision: int, body: bytes) -> None:
        """Called by the hub under the shell's lock."""
        self.responses.push(body)
        self._notify()

    def writable(self) -> bool:
        """Whether the hub may go on."""
        return not self.responses.full


class Watcher(EventReader):
    """Changes in order, each once, without gaps; iterate, or call ``next_event``.

    It is a context manager; a watcher that is not closed goes on using memory.
    """

    def __init__(
        self, shell: EmbeddedShell, request: rpc_pb2.WatchCreateRequest
    ) -> None:
        self._shell = shell
        self._sink = QueueSink(shell.notify_progress)
        self._pending: deque[WatchEvent] = deque()
        self._closed = False
        self._error: WatchCanceled | None = None
        self.revision = 0
        """Every change up to here has been handed out, or does not concern the watch."""
        with shell.lock:
            self._stream: WatchStream = shell.replica.hub.open_stream(self._sink)
            self._stream.create(request)

    def next_event(self, timeout_s: float | None = None) -> WatchEvent | None:
        """The next change; None if none came in time or the watch was closed.

        Raises:
            WatchCanceled: the watch cannot go on; see there.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._pending:
            if self._error is not None:
                raise WatchCanceled(str(self._error), self._error.compact_revision)
            if self._closed or not self._fill(deadline):
                return None
        event = self._pending.popleft()
        self.revision = max(self.revision, event.revision)
        return event

    def _fill(self, deadline: float | None) -> bool:
        """Wait for a response and decode it; False if time ran out."""
        shell, responses = self._shell, self._sink.responses
        with shell.lock:
            while not responses:
                if self._closed or shell.closing:
                    return False
                wait = None if deadline is None else deadline - time.monotonic()
                if wait is not None and wait <= 0:
                    return False
                shell.wait_for_progress(1.0 if wait is None else min(wait, 1.0))
            was_full = responses.full
            body = responses.pop()
            if was_full and not responses.full:
                self._stream.on_writable()
        self._decode(body)
        return True

    def _decode(self, body: bytes) -> None:
        response = rpc_pb2.WatchResponse.FromString(body)
        self._pending.extend(decode_event(event) for event in response.events)
        if response.canceled:
            self._error = WatchCanceled(
                cancel_reason(response), response.compact_revision
            )

    def close(self) -> None:
        """End the watch; a reader that waits gets None. Twice is allowed."""
        with self._shell.lock:
            if not self._closed:
                self._closed = True
                if not self._shell.closing:
                    self._stream.close()
                self._shell.notify_progress()
