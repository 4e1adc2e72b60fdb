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

HERE_MAX_S = 0.002
HERE_PAUSE = 20
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
        self.here = False
        """Whether the shell lets the log sync on the loop (rule 2); set likewise."""
        self._appended = 0
        self._durable = 0
        self._error: StorageError | None = None
        self._not_here_until = 0.0
        self._here_thread = 0
        """The thread that appends here: it goes on by itself, nobody need wake it."""

    @property
    def idle(self) -> bool:
        """Whether all that was appended is durable."""
        return self._appended == self._durable

    def durable(self) -> int:
        """The sequence number up to which everything is durable.

        Raises:
            StorageError: the log could not make something durable.
        """
        if self._error is not None:
            raise self._error
        return self._durable

    def add(self, persist: Persist, *, alone: bool) -> None:
        """Append a batch; ``alone`` says that no member and no request waits behind it.

        Raises:
            StorageError: see ``Wal.append``.
        """
        for entry in persist.entries:
            self.bytes += len(entry.data)
        here = alone and self.here and self.idle and len(persist.entries) == 1
        self._appended = persist.sequence
        on_durable = self._on_durable(persist.sequence)
        if here and self._shell.clock.now() >= self._not_here_until:
            self._add_here(persist, on_durable)
        else:
            self._wal.append(persist.hard_state, persist.entries, on_durable)

    def _add_here(
        self, persist: Persist, on_durable: Callable[[StorageError | None], None]
    ) -> None:
        clock = self._shell.clock
        began = clock.now()
        self._here_thread = get_ident()
        try:
            self._wal.append_here(persist.hard_state, persist.entries, on_durable)
        finally:
            self._here_thread = 0
        now = clock.now()
        if now - began > HERE_MAX_S:
            self._not_here_until = now + HERE_PAUSE * (now - began)

    def _on_durable(self, sequence: int) -> Callable[[StorageError | None], None]:
        def on_durable(error: StorageError | None) -> None:
            if error is not None:
                self._error = error
            else:
                self._durable = sequence
            if get_ident() != self._here_thread:
                self._shell.wake()

        return on_durable
