"""Watchers that read history: whom to serve next, and one chunk at a time.

Rules of this file:

1. Work per step is bounded: one chunk of history, a bounded number of watchers.
2. Positions in history take turns, so a watcher that is far behind delays nobody; those
   whose next revision lies in the chunk of another read along.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

from revstore.errors import InvariantViolation
from revstore.watch.encode import Batch
from revstore.watch.watcher import DELETES, PUTS, Spec, Watcher


class Waiting:
    """Watchers by the next revision that they need, oldest turn first."""

    def __init__(self) -> None:
        self._by_revision: OrderedDict[int, dict[Watcher, None]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._by_revision)

    def __len__(self) -> int:
        return sum(map(len, self._by_revision.values()))

    def add(self, watcher: Watcher) -> None:
        """A watcher waits at the end of the turns. Raises: nothing."""
        self._by_revision.setdefault(watcher.next_revision, {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """A watcher waits no more. Raises: KeyError: it did not."""
        group = self._by_revision[watcher.next_revision]
        del group[watcher]
        if not group:
            del self._by_revision[watcher.next_revision]

    def first(self) -> int:
        """The revision whose turn it is. Raises: StopIteration: nobody waits."""
        return next(iter(self._by_revision))

    def turn(self, first: int, last: int, count_max: int) -> list[Watcher]:
        """Watchers whose next revision is in [first, last]; those at ``first`` first.

        They keep waiting, ``first`` at the end of the turns. Raises: KeyError: nobody
        waits at ``first``.
        """
        by_revision = self._by_revision
        by_revision.move_to_end(first)
        chosen = list(islice(by_revision[first], count_max))
        if last > first and len(chosen) < count_max:
            for revision in sorted(one for one in by_revision if first < one <= last):
                chosen += islice(by_revision[revision], count_max - len(chosen))
        return chosen


class Chunk:
    """Some revisions of history, and who wants which events of them.

    Holds all events with a revision in [first, next_revision).
    """

    __slots__ = ("_by_key", "_keys", "batch", "first", "next_revision")

    def __init__(self, first: int, next_revision: int, batch: Batch) -> None:
        if next_revision <= first:
            raise InvariantViolation(
                f"history stands still: asked for revision {first},"
                f" got up to {next_revision}"
            )
        self.first = first
        self.next_revision = next_revision
        self.batch = batch
        self._by_key: dict[bytes, list[int]] = {}
        for position, event in enumerate(batch.events):
            self._by_key.setdefault(event.key, []).append(position)
        self._keys = sorted(self._by_key)

    def positions(self, spec: Spec, next_revision: int) -> Sequence[int]:
        """The events that a watcher wants, ascending. Raises: nothing."""
        key, end = spec.key, spec.end
        found: Sequence[int]
        if end == b"":
            found = self._by_key.get(key, ())
        else:
            low = bisect_left(self._keys, key)
            high = len(self._keys) if end is None else bisect_left(self._keys, end)
            if high - low == len(self._keys):
                found = range(len(self.batch.events))
            else:
                found = sorted(
                    position
                    for one in self._keys[low:high]
                    for position in self._by_key[one]
                )
        if spec.kinds != PUTS | DELETES:
            deletes = spec.kinds == DELETES
            events = self.batch.events
            found = (
                [at for at in found if events[at].deleted == deletes]
                if spec.kinds
                else ()
            )
        if next_revision > self.first:
            start = bisect_left(self.batch.revisions, next_revision)
            found = found[bisect_left(found, start) :]
        return found
