"""An immutable sorted table of which each change makes a cheap new version.

A table is a list of chunks; a chunk is a sorted list of keys with the list of their
values. A version shares every chunk that a change did not touch, so a batch costs
the chunks that it touches plus one pass over the list of chunks, and a reader that
holds a version is never disturbed.

Rules of this file:
1. A chunk, once in a table, is never changed.
2. No chunk is empty or longer than ``CHUNK_KEYS_MAX``.
3. ``firsts[i]`` is the first key of ``chunks[i]``, and they ascend.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain
from operator import lt

from revstore.interfaces.backend import KeyspaceBatch, Pair

CHUNK_KEYS_MAX = 512
CHUNK_KEYS_NEW = 256
"""Size of the pieces that an overgrown chunk is cut into."""
MERGE_KEYS_FEW = 32
"""Up to so many changes a chunk takes them one by one; more are merged as a whole."""

Chunk = tuple[list[bytes], list[bytes]]


class Table:
    """One version of a keyspace."""

    __slots__ = ("chunks", "firsts")

    def __init__(self, chunks: list[Chunk], firsts: list[bytes] | None = None) -> None:
        self.chunks = chunks
        self.firsts = [keys[0] for keys, _ in chunks] if firsts is None else firsts

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        at = bisect_right(self.firsts, key) - 1
        if at < 0:
            return None
        keys, values = self.chunks[at]
        slot = bisect_left(keys, key)
        if slot < len(keys) and keys[slot] == key:
            return values[slot]
        return None

    def runs(self, lo: bytes, hi: bytes | None, reverse: bool) -> Iterator[list[Pair]]:
        """The pairs with lo <= key < hi, a list for each chunk that has any."""
        if hi is not None and lo >= hi:
            return
        start = max(bisect_right(self.firsts, lo) - 1, 0)
        end = len(self.chunks) if hi is None else bisect_left(self.firsts, hi)
        order = range(end - 1, start - 1, -1) if reverse else range(start, end)
        for at in order:
            keys, values = self.chunks[at]
            left = bisect_left(keys, lo)
            right = len(keys) if hi is None else bisect_left(keys, hi)
            run = list(zip(keys[left:right], values[left:right], strict=True))
            if reverse:
                run.reverse()
            if run:
                yield run

    def count(self, lo: bytes, hi: bytes | None) -> int:
        """The number of keys with lo <= key < hi."""
        if hi is not None and lo >= hi:
            return 0
        start = max(bisect_right(self.firsts, lo) - 1, 0)
        end = len(self.chunks) if hi is None else bisect_left(self.firsts, hi)
        inside = self.chunks[start:end]
        if not inside:
            return 0
        total = sum(len(keys) for keys, _ in inside) - bisect_left(inside[0][0], lo)
        last = inside[-1][0]
        return total if hi is None else total - len(last) + bisect_left(last, hi)

    def changed(self, changes: KeyspaceBatch) -> Table:
        """The version after a batch: range deletes, then deletes, then puts."""
        chunks = self.chunks
        for lo, hi in changes.delete_ranges:
            chunks = _without_range(chunks, lo, hi)
        table = self if chunks is self.chunks else Table(chunks)
        news: dict[bytes, bytes | None] = dict.fromkeys(changes.deletes)
        news.update(changes.puts)
        return table._merged(news) if news else table

    def _merged(self, news: dict[bytes, bytes | None]) -> Table:
        keys = sorted(news)
        old = self.chunks
        if not old:
            return Table(_cut([(key, news[key]) for key in keys]))
        chunks: list[Chunk] = []
        firsts: list[bytes] = []
        copied = 0
        left = 0
        while left < len(keys):
            at = max(bisect_right(self.firsts, keys[left]) - 1, 0)
            right = len(keys)
            if at + 1 < len(old):
                right = bisect_left(keys, self.firsts[at + 1], left)
            pieces = _merge(old[at], keys[left:right], news)
            chunks += old[copied:at]
            firsts += self.firsts[copied:at]
            chunks += pieces
            firsts += [piece[0][0] for piece in pieces]
            copied = at + 1
            left = right
        return Table(chunks + old[copied:], firsts + self.firsts[copied:])

    def faults(self) -> list[str]:
        """The rules of this file that do not hold; empty if sound."""
        found = []
        every = list(chain.from_iterable(keys for keys, _ in self.chunks))
        if not all(map(lt, every, every[1:])):
            found.append("keys do not ascend")
        for at, (keys, values) in enumerate(self.chunks):
            if not 0 < len(keys) <= CHUNK_KEYS_MAX or len(keys) != len(values):
                found.append(f"chunk {at} has {len(keys)} keys, {len(values)} values")
            elif keys[0] != self.firsts[at]:
                found.append(f"chunk {at} is not listed under its first key")
        return found


def _without_range(chunks: list[Chunk], lo: bytes, hi: bytes | None) -> list[Chunk]:
    if hi is not None and lo >= hi:
        return chunks
    firsts = [keys[0] for keys, _ in chunks]
    start = max(bisect_right(firsts, lo) - 1, 0)
    end = len(chunks) if hi is None else bisect_left(firsts, hi)
    kept: list[Chunk] = []
    for keys, values in chunks[start:end]:
        left = bisect_left(keys, lo)
        right = len(keys) if hi is None else bisect_left(keys, hi)
        if left or right < len(keys):
            chunk = (keys[:left] + keys[right:], values[:left] + values[right:])
            kept.append(chunk)
    return chunks[:start] + kept + chunks[end:]


def _merge(
    chunk: Chunk, changed: list[bytes], news: dict[bytes, bytes | None]
) -> list[Chunk]:
    """A chunk with the news of the keys that belong to it, cut where it overgrew."""
    keys, values = list(chunk[0]), list(chunk[1])
    if len(changed) > MERGE_KEYS_FEW:
        merged: dict[bytes, bytes | None] = dict(zip(keys, values, strict=True))
        for key in changed:
            merged[key] = news[key]
        return _cut(sorted(merged.items()))
    for key in changed:
        value = news[key]
        slot = bisect_left(keys, key)
        present = slot < len(keys) and keys[slot] == key
        if value is None:
            if present:
                del keys[slot], values[slot]
        elif present:
            values[slot] = value
        else:
            keys.insert(slot, key)
            values.insert(slot, value)
    if len(keys) <= CHUNK_KEYS_MAX:
        return [(keys, values)] if keys else []
    half = len(keys) // 2
    return [(keys[:half], values[:half]), (keys[half:], values[half:])]


def _cut(pairs: list[tuple[bytes, bytes | None]]) -> list[Chunk]:
    """Chunks of sorted pairs; a value of None stands for a deleted key."""
    live = [(key, value) for key, value in pairs if value is not None]
    size = CHUNK_KEYS_MAX if len(live) <= CHUNK_KEYS_MAX else CHUNK_KEYS_NEW
    return [
        (
            [key for key, _ in live[at : at + size]],
            [value for _, value in live[at : at + size]],
        )
        for at in range(0, len(live), size)
    ]
