"""A snapshot of the LMDB backend: one read transaction.

Rules of this file:
1. ``get`` is the hottest call of the system: one frame, no check that the engine makes
   anyway. What can go wrong raises inside the engine and is explained afterwards.
2. While the map grows, the transaction is replaced by another of the same point in
   time, and LMDB must not be inside the old one then. So every read is between setting
   ``busy`` and clearing it, and looks at ``_get`` or ``_frozen`` only after setting it:
   once a snapshot is frozen and seen not busy, no read touches its transaction.
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
        self.busy = False
        """Whether a read is inside the engine (rule 2)."""
        self.bind(txn, spaces)

    def bind(self, txn: lmdb.Transaction[bytes], spaces: dict[str, Keyspace]) -> None:
        """Use another transaction of the same point in time (rule 2)."""
        self.txn = txn
        self._spaces = spaces
        self._rows = {name: space.rows for name, space in spaces.items()}
        self._frozen = False
        self._get: Callable[..., bytes | None] = txn.get

    def freeze(self) -> None:
        """Let no further read begin; the caller waits until ``busy`` is False."""
        self._frozen = True
        self._get = _refuse

    def _begin_read(self) -> None:
        """Become busy, after a growth that is under way."""
        while True:
            self.busy = True
            if not self._frozen:
                return
            self.busy = False
            if self.closed_reason:
                raise StorageError(self.closed_reason)
            self._backend.wait_for_growth()

    def get(self, keyspace: str, key: bytes) -> bytes | None:
        """See ``Snapshot.get``."""
        self.busy = True
        try:
            if len(key) <= DIRECT_BYTES_MAX:
                return self._get(key, None, self._rows[keyspace])
        except (lmdb.Error, KeyError):
            pass
        finally:
            self.busy = False
        return self._get_anyhow(keyspace, key)

    def _get_anyhow(self, keyspace: str, key: bytes) -> bytes | None:
        """Long keys, the empty key, a growth under way, and errors."""
        self._space(keyspace)
        self._begin_read()
        try:
            space = self._spaces[keyspace]
            if 0 < len(key) <= DIRECT_BYTES_MAX:
                return self.txn.get(key, None, space.rows)
            return layers.get(self.txn, space, key)
        except lmdb.Error as exc:
            raise StorageError(f"lmdb: {exc}") from exc
        finally:
            self.busy = False

    def get_many(self, keyspace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Snapshot.get_many``."""
        if not keys or max(map(len, keys)) <= DIRECT_BYTES_MAX:
            self.busy = True
            try:
                get, rows = self._get, self._rows[keyspace]
                return [get(key, None, rows) for key in keys]
            except (lmdb.Error, KeyError):
                pass
            finally:
                self.busy = False
        self._space(keyspace)
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
        self._space(keyspace)
        if hi is not None and lo >= hi:
            return 0
        self._begin_read()
        try:
            return layers.count(self.txn, self._spaces[keyspace], lo, hi)
        except lmdb.Error as exc:
            raise StorageError(f"lmdb: {exc}") from exc
        finally:
            self.busy = False

    def _scan_forward(
        self, keyspace: str, lo: bytes, hi: bytes | None, limit: int, chunk: int
    ) -> Iterator[list[Pair]]:
        left = limit or sys.maxsize
        size = min(chunk, BLOCK_ROWS_FIRST)
        rows: Iterator[Pair] = iter(())
        txn: lmdb.Transaction[bytes] | None = None
        while left:
            self._begin_read()
            try:
                if txn is not self.txn:
                    txn = self.txn
                    rows = self._rows_from(txn, keyspace, lo)
                block = list(islice(rows, min(size, left)))
            except lmdb.Error as exc:
                raise StorageError(f"lmdb: {exc}") from exc
            finally:
                self.busy = False
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
        rows: Iterator[Pair] = iter(())
        txn: lmdb.Transaction[bytes] | None = None
        while left:
            self._begin_read()
            try:
                if txn is not self.txn:
                    txn = self.txn
                    rows = self._rows_below(txn, keyspace, lo, hi)
                block = list(islice(rows, min(size, left)))
            except lmdb.Error as exc:
                raise StorageError(f"lmdb: {exc}") from exc
            finally:
                self.busy = False
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
            rows = layers.seek_forward(txn.cursor(space.rows), lo)
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
            rows = layers.seek_reverse(txn.cursor(space.rows), hi)
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

    def close(self) -> None:
        """See ``Snapshot.close``."""
        if not self.closed_reason:
            self._backend.release(self, "the snapshot is closed")

    def end(self, reason: str) -> None:
        """Release the transaction; later calls say why."""
        if self.closed_reason:
            return
        self.closed_reason = reason
        self.freeze()
        self.txn.abort()
        if self.on_release is not None:
            self.on_release()
            self.on_release = None

    def disown(self, reason: str) -> None:
        """Refuse use in a forked child and leave the parent's reader slot alone."""
        self.closed_reason = self.closed_reason or reason
        self.on_release = None
        self.freeze()


def _refuse(*args: object) -> bytes | None:
    """Stands for the engine's ``get`` in a frozen snapshot."""
    raise lmdb.Error("frozen")


def _next_size(block: list[Pair], size: int, chunk: int) -> int:
    """How many rows to read next: twice as many, fewer where values are large."""
    fitting = BLOCK_BYTES_MAX // (len(block[-1][0]) + len(block[-1][1]) + 1)
    return max(1, min(chunk, size * 2, fitting))
