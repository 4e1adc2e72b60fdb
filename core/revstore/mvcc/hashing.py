"""HashKV, byte for byte as etcd computes it.

The checksum is CRC-32C over ``key`` (the name of etcd's bucket) and then, in the order
of the log, row key and row of every change with

- revision <= R (the revision asked for), and
- revision > C (the compact revision), or the newest change of its key up to R and not a
  deletion. A deletion at C itself never counts.

Rules of this file:

1. Memory is bounded. Which rows up to C were replaced later is kept in a bit field by
   hash of key and main revision; a set bit is verified in the index.
2. etcd leaves out the "newest change" rule when no key is alive at R: then everything
   that compaction left counts. So do we (``_bound``).
3. A job reads pages of the log between which anything may happen; rows that it needs
   are protected by a pin at C.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import google_crc32c
import msgspec

from revstore.mvcc.layers import Layers
from revstore.mvcc.log import FIRST_CHANGE, Position, read_page, replaced_by
from revstore.mvcc.system import system_scan
from revstore.mvcc.tables import LEASE_KEY, SYSTEM_KEYSPACES, log_key
from revstore.types import Event

_BITS = 1 << 24
_BUCKET = b"key"


class HashResult(msgspec.Struct, frozen=True):
    """The answer of HashKV."""

    hash: int
    compact_revision: int
    hash_revision: int


class HashJob:
    """One HashKV in steps."""

    def __init__(
        self,
        layers: Layers,
        compact_revision: int,
        revision: int,
        settled: int,
        release: Callable[[], None],
        *,
        compacting: bool = False,
    ) -> None:
        self._layers = layers
        self._compact = compact_revision
        self._revision = revision
        self._release: Callable[[], None] | None = release
        self._compacting = compacting
        self._crc = google_crc32c.extend(0, _BUCKET)
        self._position: Position | None = (0, 0)
        self._bound = revision
        self._replaced = bytearray()
        self._marking: Position | None = None
        self._result: HashResult | None = None
        if compact_revision > 0:
            self._replaced = bytearray(_BITS >> 3)
            # What compaction has not deleted yet counts as replaced, too.
            first = min(settled, compact_revision) + 1
            self._marking = (max(first, FIRST_CHANGE), 0)

    @classmethod
    def ready(cls, layers: Layers, result: HashResult) -> HashJob:
        """A job that is done."""
        job = cls(layers, 0, 0, 0, lambda: None)
        job._result = result
        return job

    @property
    def result(self) -> HashResult:
        """The answer, once ``step`` has returned True."""
        assert self._result is not None
        return self._result

    def step(self, rows: int) -> bool:
        """Look at up to ``rows`` changes; True when the result is there.

        Raises:
            StorageError: the engine failed.
        """
        if self._result is not None:
            return True
        if self._marking is not None:
            self._marking = self._mark(self._marking, rows)
            if self._marking is None:
                self._bound = self._revision if self._any_kept() else self._compact
            return False
        if self._position is not None:
            self._position = self._feed(self._position, rows)
        if self._position is not None:
            return False
        self._result = HashResult(self._crc, self._compact, self._revision)
        self.close()
        return True

    def close(self) -> None:
        """Give up the protection of old rows, and the memory. Raises: nothing."""
        self._replaced = bytearray()
        if self._release is not None:
            self._release()
            self._release = None

    def _mark(self, start: Position, rows: int) -> Position | None:
        page = read_page(self._layers, start, self._revision, rows)
        replaced = self._replaced
        compact = self._compact
        preds = replaced_by(self._layers, page)
        for event, pred in zip(page.events, preds, strict=True):
            if 0 < pred <= compact:
                bit = _bit(event.key, pred)
                replaced[bit >> 3] |= 1 << (bit & 7)
        return page.resume

    def _any_kept(self) -> bool:
        """Whether etcd's set of kept revisions has anything in it."""
        # Revisions below base are history; from base on the layers need no index.
        rows, _ = self._layers.page(b"", None, self._revision, limit=1)
        if rows:
            return True
        if not self._compacting:
            return False
        # While compacting, etcd also keeps deletions at the compacted revision.
        page = read_page(self._layers, (self._revision, 0), self._revision, 1000)
        return any(event.deleted for event in page.events)

    def _feed(self, start: Position, rows: int) -> Position | None:
        page = read_page(self._layers, start, self._revision, rows)
        compact = self._compact
        parts: list[bytes] = []
        for event in page.events:
            if event.revision <= compact and not self._keeps(event):
                continue
            parts.append(log_key(event.revision, event.sub, event.deleted))
            parts.append(event.kv)
        self._crc = google_crc32c.extend(self._crc, b"".join(parts))
        return page.resume

    def _keeps(self, event: Event) -> bool:
        if event.deleted:
            return False
        bit = _bit(event.key, event.revision)
        if not self._replaced[bit >> 3] >> (bit & 7) & 1:
            return True
        return not self._layers.changed_between(event.key, event.revision, self._bound)


def _bit(key: bytes, main: int) -> int:
    return (crc32(key) + main * 0x9E3779B1) & (_BITS - 1)


def hash_all(layers: Layers, head: int) -> int:
    """A checksum over the whole log and the small keyspaces."""
    crc = 0
    position: Position | None = (0, 0)
    while position is not None:
        page = read_page(layers, position, head, 1000)
        parts: list[bytes] = []
        for event in page.events:
            parts.append(log_key(event.revision, event.sub, event.deleted))
            parts.append(event.kv)
        crc = google_crc32c.extend(crc, b"".join(parts))
        position = page.resume
    for keyspace in (*SYSTEM_KEYSPACES, LEASE_KEY):
        parts = [keyspace.encode()]
        for key, value in system_scan(layers, keyspace, b"", None):
            parts += (key, value)
        crc = google_crc32c.extend(crc, b"".join(parts))
    return int(crc)
