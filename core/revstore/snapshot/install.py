"""Putting a snapshot in the place of all that a backend holds.

Rules of this file:

1. Every step is one bounded batch; nothing else is written to the backend meanwhile.
2. META goes first and comes last: a backend in which an installation was broken off
   has no state row, and the row of the snapshot means that everything is there. This
   holds after a crash too, since batches survive in order (B-07).
3. The last batch is durable when the installation is over.
4. An installation that was broken off is made again from its beginning, whatever is
   there. So the snapshot has to wait, durably, until ``done``.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import BinaryIO

from revstore.errors import CorruptionError
from revstore.interfaces.backend import Backend, Durability, WriteBatch
from revstore.mvcc.state import STATE_KEY, decode_state
from revstore.mvcc.tables import KEYSPACES, META
from revstore.snapshot.format import SnapshotHeader
from revstore.snapshot.reader import SnapshotReader, check_whole

BATCH_BYTES = 4 << 20
"""About how much one batch puts into the backend."""


class Installation:
    """One installation, step by step. Close it, also when it failed."""

    def __init__(self, backend: Backend, file: BinaryIO) -> None:
        """Check the whole snapshot; nothing is changed yet. Takes the file over.

        Raises:
            ConfigError: pyarrow is not installed.
            CorruptionError: the snapshot is damaged.
            FormatError: a newer revstore wrote it.
            StorageError: it cannot be read.
        """
        self._file = file
        self._backend = backend
        level = backend.capabilities.durability_max
        self._ordered = min(Durability.ORDERED, level)
        self._sync = min(Durability.SYNC, level)
        try:
            self._expected = check_whole(file)
            self._reader = SnapshotReader(file)
        except BaseException:
            file.close()
            raise
        self._steps = self._run()

    @property
    def header(self) -> SnapshotHeader:
        """What is installed."""
        return self._reader.header

    def step(self) -> bool:
        """Write one batch; True when that was the last one.

        Raises:
            CorruptionError: the file changed under the installation.
            StorageError: the engine failed.
        """
        return next(self._steps, True)

    def close(self) -> None:
        """Let go of the file. Raises: nothing."""
        self._steps.close()
        self._reader.close()
        self._file.close()

    def _run(self) -> Generator[bool, None, None]:
        """Yields False after each batch but the last."""
        backend = self._backend
        for keyspace in (META, *(name for name in KEYSPACES if name != META)):
            batch = WriteBatch()
            batch.delete_range(keyspace, b"", None)
            backend.write(batch, self._ordered)
            yield False
        last = WriteBatch()
        batch, size = WriteBatch(), 0
        for keyspace, pairs in self._reader.batches():
            if keyspace == META:
                last.keyspace(META).puts.extend(pairs)
                continue
            changes = batch.keyspace(keyspace)
            changes.puts.extend(pairs)
            changes.ascending = True
            size += self._reader.batch_bytes
            if size >= BATCH_BYTES:
                backend.write(batch, self._ordered)
                batch, size = WriteBatch(), 0
                yield False
        self._check_rows(last)
        if batch.keyspaces:
            backend.write(batch, self._ordered)
            yield False
        backend.write(last, self._sync)

    def _check_rows(self, last: WriteBatch) -> None:
        found = self._reader.rows
        if found != self._expected:
            raise CorruptionError(
                f"the snapshot has {found} rows instead of {self._expected}"
            )
        rows = dict(last.keyspace(META).puts)
        state = decode_state(rows.get(STATE_KEY, b""))
        if state.applied_index != self.header.index:
            raise CorruptionError(
                f"the snapshot says that it stands at entry {self.header.index}, its "
                f"rows say {state.applied_index}"
            )
