"""What a replica has given to its log, and what of that is durable.

Rules of this file:

1. Everything runs on the loop but the log's callback, which only notes a number and
   wakes the loop.
2. A batch is synced on the loop itself only where nobody misses the loop meanwhile: one
   request waits, no other member does, and the disk was fast the last time. It saves
   two changes of threads, most of what a single put takes.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident

from revstore.errors import StorageError
from revstore.interfaces.consensus import Persist
from revstore.interfaces.wal import Wal
from revstore.node.shell import Shell

LOOP_SYNC_MAX_S = 0.002
LOOP_SYNC_PAUSE = 20
"""After a sync on the loop that took longer than that there is none for so many times
what it took."""


class Appends:
    """The log's side of one replica."""

    def __init__(self, wal: Wal, shell: Shell) -> None:
        self._wal = wal
        self._shell = shell
        self.bytes = 0
        """Bytes of entries appended since the log was opened."""
        self.wakes = False
        """Whether the log wakes the shell when it has synced; set by the shell."""
        self.may_sync_on_loop = False
        """Whether the log may ever sync on the loop (rule 2); set by whoever serves."""
        self.news = False
        """Whether ``durable`` has more to say than when it was asked last."""
        self.synced_on_loop = False
        """Whether the last batch was."""
        self._appended = 0
        self._durable = 0
        self._error: StorageError | None = None
        self._off_loop_until = 0.0
        self._syncing_thread = 0
        """The loop's thread while it syncs: it goes on by itself, nobody need wake it."""

    @property
    def idle(self) -> bool:
        """Whether all that was appended is durable."""
        return self._appended == self._durable

    def durable(self) -> int:
        """The sequence number up to which everything is durable.

        Raises:
            StorageError: the log could not make something durable.
        """
        # The flag first: what becomes durable from here on is news again.
        self.news = False
        if self._error is not None:
            raise self._error
        return self._durable

    def add(self, persist: Persist, *, nobody_else_waits: bool) -> None:
        """Append a batch.

        ``nobody_else_waits``: there is no other member, and no request in the queue.

        Raises:
            StorageError: see ``Wal.append``.
        """
        for entry in persist.entries:
            self.bytes += len(entry.data)
        on_loop = (
            nobody_else_waits
            and self.may_sync_on_loop
            and self.idle
            and len(persist.entries) == 1
            and self._shell.clock.now() >= self._off_loop_until
        )
        self.synced_on_loop = on_loop
        self._appended = persist.sequence
        on_durable = self._on_durable(persist.sequence)
        if on_loop:
            self._sync_on_loop(persist, on_durable)
        else:
            self._wal.append(persist.hard_state, persist.entries, on_durable)

    def _sync_on_loop(
        self, persist: Persist, on_durable: Callable[[StorageError | None], None]
    ) -> None:
        clock = self._shell.clock
        began = clock.now()
        self._syncing_thread = get_ident()
        try:
            self._wal.append_here(persist.hard_state, persist.entries, on_durable)
        finally:
            self._syncing_thread = 0
        now = clock.now()
        if now - began > LOOP_SYNC_MAX_S:
            self._off_loop_until = now + LOOP_SYNC_PAUSE * (now - began)

    def _on_durable(self, sequence: int) -> Callable[[StorageError | None], None]:
        def on_durable(error: StorageError | None) -> None:
            if error is not None:
                self._error = error
            else:
                self._durable = sequence
            self.news = True
            if get_ident() != self._syncing_thread:
                self._shell.wake()

        return on_durable
