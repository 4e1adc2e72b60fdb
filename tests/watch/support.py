"""A hub over a store, with streams whose room is set by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import cast

from revstore.api import errors
from revstore.mvcc.store import Store
from revstore.mvcc.tables import KEYSPACES
from revstore.proto import rpc_pb2
from revstore.proto.kv_pb2 import KeyValue
from revstore.types import Event
from revstore.watch.hub import History, WatchHub, WatchOptions
from revstore.watch.stream import WatchStream
from revstore_memory.backend import MemoryBackend

Op = tuple[bytes, bytes | None]
"""Key and new value; None deletes."""


class ManualClock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time


class FakeHistory:
    """Everything that ever happened, in a list."""

    def __init__(self) -> None:
        self.revision = 1
        self.compact_revision = -1
        self.log: list[Event] = []
        self._live: dict[bytes, KeyValue] = {}
        self._drained = 0
        self.reads = 0

    def write(self, ops: Sequence[Op]) -> None:
        """One transaction."""
        changes: list[Event] = []
        revision = self.revision + 1
        for key, value in ops:
            old = self._live.pop(key, None)
            prev = old.SerializeToString() if old else None
            if value is not None:
                new = KeyValue(key=key, value=value, mod_revision=revision)
                new.create_revision = old.create_revision if old else revision
                new.version = old.version + 1 if old else 1
                self._live[key] = new
                row = new.SerializeToString()
            elif old:
                row = KeyValue(key=key).SerializeToString()
            else:
                continue
            sub = len(changes)
            changes.append(Event(revision, sub, key, row, value is None, prev))
        if changes:
            self.revision = revision
            self.log += changes

    def drain_events(self) -> list[Event]:
        drained = self.log[self._drained :]
        self._drained = len(self.log)
        return drained

    def compact(self, revision: int) -> None:
        self.compact_revision = revision

    def get(self, key: bytes, revision: int = 0) -> bytes | None:
        if revision < self.compact_revision:
            raise errors.COMPACTED.fresh()
        for event in reversed(self.log):
            if event.key == key and event.revision <= revision:
                return None if event.deleted else event.kv
        return None

    def events(
        self, first_revision: int, limit_revisions: int, limit_bytes: int
    ) -> tuple[list[Event], int]:
        assert first_revision >= self.compact_revision
        self.reads += 1
        end = min(first_revision + limit_revisions, self.revision + 1)
        size = 0
        found: list[Event] = []
        for event in self.log:
            if first_revision <= event.revision < end:
                if size >= limit_bytes and event.revision != found[-1].revision:
                    return found, event.revision
                size += len(event.kv)
                # History does not know what was replaced.
                found.append(
                    Event(event.revision, event.sub, event.key, event.kv, event.deleted)
                )
        return found, end


class RealHistory(Store):
    """The real store with the fake's way of writing."""

    def __init__(self) -> None:
        super().__init__(MemoryBackend(KEYSPACES))
        self.log: list[Event] = []

    def write(self, ops: Sequence[Op]) -> None:
        txn = self.begin()
        for key, value in ops:
            if value is None:
                txn.delete_range(key)
            else:
                txn.put(key, value, 0)
        txn.commit()
        if len(self.log) % 3 == 0:
            self.flush()

    def drain_events(self) -> list[Event]:
        drained = super().drain_events()
        self.log += drained
        return drained

    def compact(self, revision: int) -> None:
        super().compact(revision)
        while self.compaction_pending():
            self.flush()
            self.compaction_step()


class Sink:
    """Keeps what a stream got; has room for ``room`` responses, None: any number."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.got: list[tuple[int, rpc_pb2.WatchResponse]] = []
        self.taken = 0
        self.bytes_sent: list[bytes] = []

    def send(self, header_revision: int, body: bytes) -> None:
        self.bytes_sent.append(body)
        self.got.append((header_revision, rpc_pb2.WatchResponse.FromString(body)))

    def writable(self) -> bool:
        return self.room is None or len(self.got) - self.taken < self.room

    def take(self) -> list[rpc_pb2.WatchResponse]:
        """The responses since the last call."""
        return [response for _, response in self.take_with_headers()]

    def take_with_headers(self) -> list[tuple[int, rpc_pb2.WatchResponse]]:
        """The same, with the revisions of their headers."""
        taken = self.got[self.taken :]
        self.taken = len(self.got)
        return taken


class Member:
    """A store, its hub and what a shell does with them."""

    def __init__(
        self,
        history: FakeHistory | RealHistory,
        options: WatchOptions | None = None,
        seed: int = 1,
    ) -> None:
        self.history = history
        self.clock = ManualClock()
        store: History = history
        self.hub = WatchHub(store, self.clock, options, random=Random(seed))
        self.woken = 0
        self.hub.on_work = self._wake

    def _wake(self) -> None:
        self.woken += 1

    def write(self, *ops: Op) -> None:
        """A transaction, applied and told to the hub."""
        self.history.write(ops)
        self.tell()

    def put(self, key: bytes, value: bytes = b"") -> None:
        self.write((key, value))

    def delete(self, key: bytes) -> None:
        self.write((key, None))

    def tell(self) -> None:
        """Give the hub all that was written since the last time."""
        self.hub.notify(self.history.drain_events())

    def run(self) -> int:
        """Let the hub catch up; returns the number of steps."""
        steps = 1
        while self.hub.step():
            steps += 1
            assert steps < 10_000, "the hub never comes to an end"
        return steps

    def open(self, room: int | None = None) -> tuple[WatchStream, Sink]:
        sink = Sink(room)
        return self.hub.open_stream(sink), sink


MakeMember = Callable[..., Member]


def create(
    key: bytes,
    end: bytes = b"",
    start: int = 0,
    *,
    watch_id: int = 0,
    prev_kv: bool = False,
    fragment: bool = False,
    progress_notify: bool = False,
    filters: Sequence[int] = (),
) -> rpc_pb2.WatchCreateRequest:
    """A create request."""
    return rpc_pb2.WatchCreateRequest(
        key=key,
        range_end=end,
        start_revision=start,
        watch_id=watch_id,
        prev_kv=prev_kv,
        fragment=fragment,
        progress_notify=progress_notify,
        filters=cast("list[rpc_pb2.WatchCreateRequest.FilterType]", list(filters)),
    )


def story(responses: Sequence[rpc_pb2.WatchResponse]) -> list[str]:
    """Responses in a few words: ``created``, ``canceled``, ``k@5``, ``-k@6``."""
    words = []
    for response in responses:
        parts = []
        if response.watch_id:
            parts.append(f"#{response.watch_id}")
        if response.created:
            parts.append("created")
        if response.canceled:
            parts.append("canceled")
        if response.compact_revision:
            parts.append(f"compacted@{response.compact_revision}")
        if response.cancel_reason:
            parts.append(f"({response.cancel_reason})")
        for event in response.events:
            sign = "-" if event.type == event.DELETE else ""
            parts.append(f"{sign}{event.kv.key.decode()}@{event.kv.mod_revision}")
        if response.fragment:
            parts.append("...")
        words.append(" ".join(parts) or "progress")
    return words
