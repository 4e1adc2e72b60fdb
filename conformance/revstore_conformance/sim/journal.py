"""What really happened to every key: the events of all members, which must agree."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from revstore.proto import kv_pb2
from revstore.types import Event
from revstore_conformance.sim.world import World

REPLICATED_STATE = "replicated history"


class Change(msgspec.Struct, frozen=True, gc=False):
    """One change of one key."""

    revision: int
    sub: int
    key: bytes
    row: bytes
    deleted: bool
    time: float
    """When the first member applied it."""

    def value(self) -> bytes | None:
        """The key's value from here on; None: it is gone."""
        return None if self.deleted else kv_pb2.KeyValue.FromString(self.row).value

    def lease(self) -> int:
        """The lease that the key has from here on."""
        return 0 if self.deleted else kv_pb2.KeyValue.FromString(self.row).lease


class Journal:
    """All changes by revision, and by key."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.changes: dict[int, list[Change]] = {}
        self.by_key: dict[bytes, list[Change]] = {}
        self.head = 1
        """The newest revision that any member had."""
        self.checked = 0

    def events(self, member: str, events: Sequence[Event]) -> None:
        """A member applied changes; whole revisions."""
        place, count = 0, len(events)
        while place < count:
            revision = events[place].revision
            end = place
            while end < count and events[end].revision == revision:
                end += 1
            self._revision(member, revision, events[place:end])
            place = end

    def _revision(self, member: str, revision: int, events: Sequence[Event]) -> None:
        self.checked += len(events)
        known = self.changes.get(revision)
        if known is None:
            now = self._world.loop.now
            made = [
                Change(revision, one.sub, one.key, one.kv, one.deleted, now)
                for one in events
            ]
            self.changes[revision] = made
            self.head = max(self.head, revision)
            for change in made:
                self.by_key.setdefault(change.key, []).append(change)
            return
        same = len(known) == len(events) and all(
            one.key == two.key and one.row == two.kv and one.deleted == two.deleted
            for one, two in zip(known, events, strict=False)
        )
        if not same:
            text = f"{member} has other changes at revision {revision} than another"
            raise self._world.violated(REPLICATED_STATE, text)

    def at(self, key: bytes, revision: int) -> Change | None:
        """The newest change of a key up to a revision."""
        changes = self.by_key.get(key, [])
        place = bisect_right(changes, revision, key=lambda one: one.revision)
        return changes[place - 1] if place else None

    def between(self, lo: int, hi: int, key: bytes, end: bytes) -> list[Change]:
        """Changes of keys in [key, end) with lo <= revision <= hi, in order."""
        return [
            change
            for revision in range(lo, hi + 1)
            for change in self.changes.get(revision, ())
            if key <= change.key < end
        ]
