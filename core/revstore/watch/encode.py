"""Bytes of watch responses, without their header field.

Rules of this file:

1. An event is encoded at most once per batch and variant (plain, with the previous
   pair), whoever receives it; watchers share the bytes.
2. Events of one revision are never separated, except into fragments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from revstore.api import errors
from revstore.errors import ApiError
from revstore.proto.kv_pb2 import KeyValue
from revstore.proto.varint import varint
from revstore.types import Event

NO_WATCH_ID = -1
"""Watch id of answers that belong to no watcher."""

CREATED = b"\x18\x01"
CANCELED = b"\x20\x01"
FRAGMENT = b"\x38\x01"


def id_field(watch_id: int) -> bytes:
    """The field ``watch_id``; nothing for 0."""
    return b"\x10" + varint(watch_id) if watch_id else b""


def compact_revision_field(revision: int) -> bytes:
    """The field ``compact_revision``."""
    return b"\x28" + varint(revision)


def reason_field(reason: str) -> bytes:
    """The field ``cancel_reason``."""
    text = reason.encode()
    return b"\x32" + varint(len(text)) + text


def event_field(event: Event, previous: bytes | None) -> bytes:
    """One element of the field ``events``: tag, length and mvccpb.Event."""
    pair = event.kv
    if event.deleted:
        pair += b"\x18" + varint(event.revision)
        head = b"\x08\x01\x12" + varint(len(pair))
    else:
        head = b"\x12" + varint(len(pair))
    if previous is None:
        return b"".join((b"\x5a", varint(len(head) + len(pair)), head, pair))
    tail = b"\x1a" + varint(len(previous))
    size = len(head) + len(pair) + len(tail) + len(previous)
    return b"".join((b"\x5a", varint(size), head, pair, tail, previous))


class PairReader(Protocol):
    """Where previous pairs come from."""

    def get(self, key: bytes, revision: int = 0) -> bytes | None:
        """The pair as of a revision. Raises: ApiError COMPACTED."""
        ...


class Piece(NamedTuple):
    """One response: whole revisions, none of which is in another piece."""

    first: int
    """The first revision in it."""
    body: bytes
    """The events."""
    fragments: tuple[bytes, ...] = ()
    """The same events cut into fragments; empty when one message holds them."""


class Batch:
    """Consecutive events and their bytes, encoded when first asked for.

    ``revisions`` are those of the events, ascending. Events up to ``floor``, the
    compacted revision, come without their previous pairs, wherever those still lie.
    """

    __slots__ = (
        "_before",
        "_plain",
        "_previous",
        "_store",
        "events",
        "floor",
        "revisions",
    )

    def __init__(
        self, events: Sequence[Event], store: PairReader, floor: int = 0
    ) -> None:
        self.events = events
        self.floor = floor
        self.revisions = [event.revision for event in events]
        self._store = store
        self._plain: list[bytes | None] = [None] * len(events)
        self._previous: list[bytes | None] = []
        self._before: list[int] = []

    def plain(self, position: int) -> bytes:
        """An event without its previous pair. Raises: nothing."""
        data = self._plain[position]
        if data is None:
            data = event_field(self.events[position], None)
            self._plain[position] = data
        return data

    def with_previous(self, position: int) -> bytes:
        """An event with its previous pair.

        There is none for a creation, nor when its revision has been compacted.
        Raises: StorageError.
        """
        if not self._previous:
            self._previous = [None] * len(self.events)
            self._before = _changes_before(self.events)
        data = self._previous[position]
        if data is None:
            event = self.events[position]
            previous = event.prev
            if event.revision <= self.floor:
                previous = None
            elif previous is None:
                previous = self._look_up(event, self._before[position])
            if previous is None:
                data = self.plain(position)
            else:
                data = event_field(event, previous)
            self._previous[position] = data
        return data

    def _look_up(self, event: Event, before: int) -> bytes | None:
        """The pair that an event replaced, if the event does not bring it."""
        if before >= 0:
            earlier = self.events[before]
            return None if earlier.deleted else earlier.kv
        if not event.deleted:
            created = KeyValue.FromString(event.kv).create_revision
            if created == event.revision:
                return None
        try:
            return self._store.get(event.key, event.revision - 1)
        except ApiError as exc:
            if exc != errors.COMPACTED:
                raise
            return None

    def pieces(
        self,
        positions: Sequence[int],
        *,
        previous: bool,
        fragment: bool,
        piece_bytes: int,
        fragment_bytes: int,
    ) -> list[Piece]:
        """The responses that carry these events.

        A piece ends at the first border of revisions after ``piece_bytes``; with
        ``fragment``, one of at least ``fragment_bytes`` is cut further.
        Raises: StorageError.
        """
        encode = self.with_previous if previous else self.plain
        fields = [encode(position) for position in positions]
        revisions = self.revisions
        body = b"".join(fields)
        if len(body) < (min(piece_bytes, fragment_bytes) if fragment else piece_bytes):
            return [Piece(revisions[positions[0]], body)] if fields else []
        pieces = []
        start, size = 0, 0
        for number, field in enumerate(fields):
            revision = revisions[positions[number]]
            if size >= piece_bytes and revision != revisions[positions[number - 1]]:
                pieces.append((revisions[positions[start]], fields[start:number], size))
                start, size = number, 0
            size += len(field)
        pieces.append((revisions[positions[start]], fields[start:], size))
        return [
            Piece(
                first,
                b"".join(part),
                _fragments(part, fragment_bytes)
                if fragment and total >= fragment_bytes and len(part) > 1
                else (),
            )
            for first, part, total in pieces
        ]


def _changes_before(events: Sequence[Event]) -> list[int]:
    """For each event the position of the last earlier one of its key, or -1."""
    newest: dict[bytes, int] = {}
    before = []
    for position, event in enumerate(events):
        before.append(newest.get(event.key, -1))
        newest[event.key] = position
    return before


def _fragments(fields: Sequence[bytes], fragment_bytes: int) -> tuple[bytes, ...]:
    """Messages below ``fragment_bytes``, unless a single event is larger."""
    fragments = []
    start, size = 0, 0
    for number, field in enumerate(fields):
        if number > start and size + len(field) >= fragment_bytes:
            fragments.append(b"".join(fields[start:number]))
            start, size = number, 0
        size += len(field)
    fragments.append(b"".join(fields[start:]))
    return tuple(fragments)
