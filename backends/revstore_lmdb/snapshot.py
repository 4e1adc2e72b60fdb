"""A snapshot of the LMDB backend: one read transaction.

Rules of this file:
1. ``get`` is the hottest call of the system: one frame, no check that the engine makes
   anyway. What can go wrong raises inside the engine and is explained afterwards.
2. A transaction can be replaced by another of the same point in time while the map
   grows; a read that fails because of that is tried again on the new one.
3. Only ``bytes`` leave (B-08): no transaction is opened with ``buffers=True``.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING

import lmdb

from revstore.errors import StorageError, UsageError
from revstore.interfaces.backend import Pair, Snapshot
from revstore_lmdb import layers
from revstore_lmdb.layers import DIRECT_BYTES_MAX, Keyspace

if TYPE_CHECKING:
    from revstore_lmdb.backend import LmdbBackend

BLOCK_ROWS_FIRST = 16
"""A scan reads so many rows at first and doubles: short ranges read little too much."""
BLOCK_BYTES_MAX = 4 * 1024 * 1024
"""About how many bytes of large values one block of a scan may hold."""

_key_of = itemgetter(0)


class LmdbSnapshot(Snapshot):
    """One read transaction, and the databases to use with it."""

    def __init__(
        self,
        backend: LmdbBackend,
        txn: lmdb.Transaction[bytes],
        spaces: dict[str, Keyspace],
    ) -> None:
        self._backend = backend
        self._layered: dict[str, bool] = {}
        self.closed_reason = ""
        """Why the snapshot cannot be used; empty while it can."""
        self.on_release: Callable[[], None] | None = None
        """Called after the transaction is gone; removes a copy of the data."""
        self.bind(txn, spaces)

    def bind(self, txn: lmdb.Transaction[bytes], spaces: dict[str, Keyspace]) -> None:
        """Use another transaction of the same point in time (rule 2)."""
        self.txn = txn
        self._get: Callable[..., bytes | None] = txn.get
        self._spaces = spaces
        self._rows = {name: space.rows for name, space in spaces.items()}

    def get(self, keyspace: str, key: bytes) -> bytes | None:
        """See ``Snapshot.get``."""
        try:
            if len(key) <= DIRECT_BYTES_MAX:
                return self._get(key, None, self._rows[keyspace])
        except (lmdb.Error, KeyError):
            pass
        return self._get_anyhow(keyspace, key)

    def _get_anyhow(self, keyspace: str, key: bytes) -> bytes | None:
        """Long keys, the empty key, a transaction replaced meanwhile, and errors."""
        while True:
            txn, space = self.txn, self._space(keyspace)
            try:
                if 0 < len(key) <= DIRECT_BYTES_MAX:
                    return txn.get(key, None, space.rows)
                return layers.get(txn, space, key)
            except lmdb.Error as exc:
                self._explain(txn, exc)

    def get_many(self, keyspace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Snapshot.get_many``."""
        if not keys or max(map(len, keys)) <= DIRECT_BYTES_MAX:
            get = self._get
            try:
                rows = self._rows[keyspace]
                return [get(key, None, rows) for key in keys]
            except (lmdb.Error, KeyError):
                pass
        return [self._get_anyhow(keyspace, key) for key in keys]

    def scan(
        self,
        keyspace: str,
        lo: bytes,
        hi: bytes | None,
        *,
        reverse: bool = False,
        limit: int = 0,
        chunk: int = 1000,
    ) -> Iterator[list[Pair]]:
        """See ``Snapshot.scan``."""
        self._space(keyspace)
        if hi is not None and lo >= hi:
            return iter(())
        if reverse:
            return self._scan_reverse(keyspace, lo, hi, limit, chunk)
        return self._scan_forward(keyspace, lo, hi, limit, chunk)

    def count(self, keyspace: str, lo: bytes, hi: bytes | None) -> int:
        """See ``Snapshot.count``; reads no values."""
        while True:
            txn, space = self.txn, self._space(keyspace)
            if hi is not None and lo >= hi:
                return 0
            try:
                return layers.count(txn, space, lo, hi)
            except lmdb.Error as exc:
                self._explain(txn, exc)

    def _scan_forward(
        self, keyspace: str, lo: bytes, hi: bytes | None, limit: int, chunk: int
    ) -> Iterator[list[Pair]]:
        left = limit or sys.maxsize
        size = min(chunk, BLOCK_ROWS_FIRST)
        rows: Iterator[Pair] | None = None
        txn = self.txn
        while left:
            if self.closed_reason:
                raise StorageError(self.closed_reason)
            try:
                if rows is None:
                    txn = self.txn
                    rows = self._rows_from(txn, keyspace, lo)
                block = list(islice(rows, min(size, left)))
            except lmdb.Error as exc:
                self._explain(txn, exc)
                rows = None
                continue
            if hi is not None and block and block[-1][0] >= hi:
                block = block[: bisect_left(block, hi, key=_key_of)]
                left = len(block)
            if not block:
                return
            left -= len(block)
            lo = block[-1][0] + b"\0"
            size = _next_size(block, size, chunk)
            yield block

    def _scan_reverse(
        self, keyspace: str, lo: bytes, hi: bytes | None, limit: int, chunk: int
    ) -> Iterator[list[Pair]]:
        left = limit or sys.maxsize
        size = min(chunk, BLOCK_ROWS_FIRST)
        rows: Iterator[Pair] | None = None
        txn = self.txn
        while left:
            if self.closed_reason:
                raise StorageError(self.closed_reason)
            try:
                if rows is None:
                    txn = self.txn
                    rows = self._rows_below(txn, keyspace, lo, hi)
                block = list(islice(rows, min(size, left)))
            except lmdb.Error as exc:
                self._explain(txn, exc)
                rows = None
                continue
            if block and block[-1][0] < lo:
                block = [pair for pair in block if pair[0] >= lo]
                left = len(block)
            if not block:
                return
            left -= len(block)
            hi = block[-1][0]
            size = _next_size(block, size, chunk)
            yield block
            if not hi:
                return

    def _rows_from(
        self, txn: lmdb.Transaction[bytes], keyspace: str, lo: bytes
    ) -> Iterator[Pair]:
        space = self._space(keyspace)
        if self._is_layered(txn, keyspace, space):
            rows = layers.walk(txn, space, lo, reverse=False)
        else:
            rows = layers.seek_forward(txn.cursor(space.rows), b"", lo)
        if not lo:
            value = layers.get(txn, space, b"")
            if value is not None:
                return chain([(b"", value)], rows)
        return rows

    def _rows_below(
        self,
        txn: lmdb.Transaction[bytes],
        keyspace: str,
        lo: bytes,
        hi: bytes | None,
    ) -> Iterator[Pair]:
        space = self._space(keyspace)
        if self._is_layered(txn, keyspace, space):
            rows = layers.walk(txn, space, hi, reverse=True)
        else:
            rows = layers.seek_reverse(txn.cursor(space.rows), b"", hi)
        if not lo:
            value = layers.get(txn, space, b"")
            if value is not None:
                return chain(rows, [(b"", value)])
        return rows

    def _is_layered(
        self, txn: lmdb.Transaction[bytes], keyspace: str, space: Keyspace
    ) -> bool:
        known = self._layered.get(keyspace)
        if known is None:
            known = self._layered[keyspace] = layers.has_layers(txn, space)
        return known

    def _space(self, keyspace: str) -> Keyspace:
        if self.closed_reason:
            raise StorageError(self.closed_reason)
        space = self._spaces.get(keyspace)
        if space is None:
            raise UsageError(
                f"keyspace {keyspace!r} was not named when the backend was opened"
            )
        return space

    def _explain(self, txn: lmdb.Transaction[bytes], exc: lmdb.Error) -> None:
        """Return if the read can be tried again on another transaction (rule 2)."""
        if not self.closed_reason:
            self._backend.wait_for_growth()
            if self.txn is not txn:
                return
        raise StorageError(self.closed_reason or f"lmdb: {exc}") from exc

    def close(self) -> None:
        """See ``Snapshot.close``."""
        if not self.closed_reason:
            self._backend.release(self, "the snapshot is closed")

    def end(self, reason: str) -> None:
        """Release the transaction; later calls say why."""
        if self.closed_reason:
            return
        self.closed_reason = reason
        self.txn.abort()
        if self.on_release is not None:
            self.on_release()
            self.on_release = None

    def disown(self, reason: str) -> None:
        """Refuse use in a forked child and leave the parent's reader slot alone."""
        self.closed_reason = self.closed_reason or reason
        self.on_release = None
        self._get = _refuse


def _refuse(*args: object) -> bytes | None:
    """Stands for the engine's ``get`` in a forked child."""
    raise lmdb.Error("used after a fork")


def _next_size(block: list[Pair], size: int, chunk: int) -> int:
    """How many rows to read next: twice as many, fewer where values are large."""
    fitting = BLOCK_BYTES_MAX // (len(block[-1][0]) + len(block[-1][1]) + 1)
    return max(1, min(chunk, size * 2, fitting))
