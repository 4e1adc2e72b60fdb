"""A snapshot of the RocksDB backend: an engine snapshot and a pinned iterator.

Rules of this file:
1. Point reads go through the engine's snapshot, scans through one iterator made at the
   same moment; both see the same sequence number (see ``engine`` for why).
2. Scans of one snapshot share that iterator. The one that used it last finds it where
   it left it; another seeks first. A scan keeps no reference to the iterator between
   two lists, so closing the snapshot always frees the engine.
3. While nothing was written since the snapshot, its data is the newest data, and many
   keys are read from there in one call; the engine's snapshot has no such call.
4. Where the iterator ends, its status is asked: it also ends at damage. It is never
   moved on from there: the engine would crash.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from revstore.errors import StorageError, UsageError
from revstore.interfaces.backend import Pair, Snapshot
from revstore_rocksdb.engine import is_absent, make_immortal, storage_error

if TYPE_CHECKING:
    from revstore_rocksdb.backend import RocksdbBackend

MANY_KEYS_MIN = 4
"""From so many keys on the engine's call for many is worth its overhead."""
BLOCK_BYTES_MAX = 4 * 1024 * 1024
"""A list of a scan is cut when its values exceed this."""
STRIDE = 16
"""So many values are read before the next key is looked at."""


class _Scan:
    """Where a scan stands, so that it can seek there again."""

    __slots__ = ("at", "left", "stop")

    def __init__(self, at: bytes, stop: bytes, left: int) -> None:
        self.at = at
        """Forward: the first row not yet given out. Reverse: the row after it."""
        self.stop = stop
        """Forward: the first row beyond the range. Reverse: its first row."""
        self.left = left


class RocksdbSnapshot(Snapshot):
    """One point in time of the database."""

    def __init__(
        self,
        backend: RocksdbBackend,
        reader: Any,
        cursor: Any,
        prefixes: dict[str, bytes],
        writes: int,
    ) -> None:
        self._backend = backend
        self._reader = reader
        self._cursor = cursor
        self._prefixes = prefixes
        self._writes = writes
        """How many batches the engine had taken at this point in time."""
        self._cursor_user: _Scan | None = None
        self.closed_reason = ""

    def get(self, keyspace: str, key: bytes) -> bytes | None:
        """See ``Snapshot.get``."""
        try:
            return self._reader[self._prefixes[keyspace] + key]  # type: ignore[no-any-return] # rocksdict has no types
        except Exception as exc:
            if is_absent(exc):
                return None
            raise self._explained(keyspace, exc) from exc

    def get_many(self, keyspace: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``Snapshot.get_many``."""
        prefix = self._prefix(keyspace)
        if len(keys) >= MANY_KEYS_MIN:
            found = self._backend.get_newest(
                [prefix + key for key in keys], self._writes
            )
            if found is not None:
                return found
        get = self.get
        return [get(keyspace, key) for key in keys]

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
        prefix = self._prefix(keyspace)
        if hi is not None and lo >= hi:
            return iter(())
        first = prefix + lo
        beyond = bytes((prefix[0] + 1,)) if hi is None else prefix + hi
        left = limit or sys.maxsize
        if reverse:
            return self._scan(_Scan(beyond, first, left), chunk, reverse=True)
        return self._scan(_Scan(first, beyond, left), chunk, reverse=False)

    def scan_values(
        self,
        keyspace: str,
        lo: bytes,
        hi: bytes | None,
        *,
        limit: int = 0,
        chunk: int = 1000,
    ) -> Iterator[tuple[bytes, list[bytes]]]:
        """See ``Snapshot.scan_values``."""
        prefix = self._prefix(keyspace)
        if hi is not None and lo >= hi:
            return iter(())
        beyond = bytes((prefix[0] + 1,)) if hi is None else prefix + hi
        return self._scan_values(
            _Scan(prefix + lo, beyond, limit or sys.maxsize), chunk
        )

    def _scan_values(
        self, scan: _Scan, chunk: int
    ) -> Iterator[tuple[bytes, list[bytes]]]:
        # Many a range ends within the first list, where a stride would go too far.
        read = self._read_values
        while scan.left:
            if self.closed_reason:
                raise StorageError(self.closed_reason)
            try:
                last, block = read(scan, min(chunk, scan.left))
            except Exception as exc:
                raise self._explained("", exc) from exc
            if not block:
                return
            scan.left -= len(block)
            yield last[1:], block
            read = self._read_strides

    def _read_strides(self, scan: _Scan, rows_max: int) -> tuple[bytes, list[bytes]]:
        """As ``_read_values``, but with a look at few of the keys.

        A row is in the range if one behind it is.
        """
        cursor = self._cursor_at(scan)
        key, value, step = cursor.key, cursor.value, cursor.next
        stop = scan.stop
        at = scan.at
        block: list[bytes] = []
        room = BLOCK_BYTES_MAX
        while room >= 0 and len(block) + STRIDE < rows_max:
            sure = len(block)
            for _ in range(STRIDE):
                held = value()
                if held is None or room < 0:
                    break
                block.append(held)
                step()
                room -= len(held)
            row = key()
            if row is None or row >= stop:
                del block[sure:]
                cursor.seek(at)
                break
            at = row
        # There is one more row at least, and its key is wanted.
        last, rest = self._read_values(scan, rows_max - len(block) if room >= 0 else 1)
        block += rest
        return last, block

    def _read_values(self, scan: _Scan, rows_max: int) -> tuple[bytes, list[bytes]]:
        cursor = self._cursor_at(scan)
        key, value, step = cursor.key, cursor.value, cursor.next
        stop = scan.stop
        last = b""
        block: list[bytes] = []
        room = BLOCK_BYTES_MAX
        for _ in range(rows_max):
            row = key()
            if row is None or row >= stop:
                if row is None:
                    cursor.status()
                scan.at = stop
                self._cursor_user = None
                return last, block
            last = row
            held = value()
            block.append(held)
            step()
            room -= len(held)
            if room < 0:
                break
        scan.at = last + b"\0"
        return last, block

    def _cursor_at(self, scan: _Scan) -> Any:
        """The iterator, on the first row that a forward scan has not given out."""
        cursor = self._cursor
        if self._cursor_user is not scan:
            cursor.seek(scan.at)
            self._cursor_user = scan
        return cursor

    def _scan(self, scan: _Scan, chunk: int, *, reverse: bool) -> Iterator[list[Pair]]:
        read = self._read_reverse if reverse else self._read_forward
        while scan.left:
            if self.closed_reason:
                raise StorageError(self.closed_reason)
            try:
                block = read(scan, min(chunk, scan.left))
            except Exception as exc:
                raise self._explained("", exc) from exc
            if not block:
                return
            scan.left -= len(block)
            yield block

    def _read_forward(self, scan: _Scan, rows_max: int) -> list[Pair]:
        cursor = self._cursor_at(scan)
        key, value, step = cursor.key, cursor.value, cursor.next
        stop = scan.stop
        block: list[Pair] = []
        room = BLOCK_BYTES_MAX
        row = key()
        while row is not None and row < stop:
            held = value()
            block.append((row[1:], held))
            step()
            room -= len(held)
            if len(block) == rows_max or room < 0:
                scan.at = row + b"\0"
                return block
            row = key()
        if row is None:
            cursor.status()
        scan.at = stop
        self._cursor_user = None
        return block

    def _read_reverse(self, scan: _Scan, rows_max: int) -> list[Pair]:
        cursor = self._cursor
        if scan.at == scan.stop:
            return []
        if self._cursor_user is not scan:
            cursor.seek_for_prev(scan.at)
            if cursor.key() == scan.at:
                cursor.prev()
            self._cursor_user = scan
        key, value, step = cursor.key, cursor.value, cursor.prev
        stop = scan.stop
        block: list[Pair] = []
        room = BLOCK_BYTES_MAX
        row = key()
        while row is not None and row >= stop:
            held = value()
            block.append((row[1:], held))
            step()
            room -= len(held)
            if len(block) == rows_max or room < 0:
                scan.at = row
                return block
            row = key()
        if row is None:
            cursor.status()
        scan.at = stop
        self._cursor_user = None
        return block

    def _prefix(self, keyspace: str) -> bytes:
        if self.closed_reason:
            raise StorageError(self.closed_reason)
        prefix = self._prefixes.get(keyspace)
        if prefix is None:
            raise UsageError(
                f"keyspace {keyspace!r} was not named when the backend was opened"
            )
        return prefix

    def _explained(self, keyspace: str, exc: Exception) -> Exception:
        if self.closed_reason:
            return StorageError(self.closed_reason)
        if isinstance(exc, KeyError) and exc.args == (keyspace,):
            return UsageError(
                f"keyspace {keyspace!r} was not named when the backend was opened"
            )
        if isinstance(exc, TypeError | KeyError):
            return exc
        return storage_error("rocksdb", exc)

    def close(self) -> None:
        """See ``Snapshot.close``."""
        if not self.closed_reason:
            self._backend.release(self)
            self.end("the snapshot is closed")

    def end(self, reason: str) -> None:
        """Free the engine's objects; later calls say why."""
        if not self.closed_reason:
            self.closed_reason = reason
            self._reader = self._cursor = None

    def disown(self, reason: str) -> None:
        """Refuse use in a forked child without destroying engine objects there."""
        make_immortal(self._reader)
        make_immortal(self._cursor)
        self.end(reason)
