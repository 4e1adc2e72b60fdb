"""The promises of a watch, checked over random histories.

Each seed makes random transactions, compactions, jumps of the store, streams that come,
stall and go, and watchers of every kind; what every watcher got is then compared with
the whole history of the store.
"""

from __future__ import annotations

from random import Random

import pytest

from revstore.proto import rpc_pb2
from revstore.proto.kv_pb2 import KeyValue
from revstore.types import Event
from revstore.watch.hub import WatchOptions
from revstore.watch.stream import WatchStream
from tests.watch.support import FakeHistory, Member, RealHistory, Sink, create

KEYS = [b"a", b"aa", b"ab", b"b", b"ba", b"c"]
ENDS = [b"", b"", b"\0", b"ab", b"b", b"c", b"zz"]
NOPUT = rpc_pb2.WatchCreateRequest.NOPUT
NODELETE = rpc_pb2.WatchCreateRequest.NODELETE


class Expected:
    """A watcher as its client knows it."""

    def __init__(self, request: rpc_pb2.WatchCreateRequest, start: int) -> None:
        self.request = request
        self.start = start
        self.got: list[tuple[int, int, bytes]] = []
        self.values: list[bytes | None] = []
        self.promised = 0
        """Everything up to here has been delivered, says a report of progress."""
        self.compacted = 0
        self.in_series = False
        """In the middle of a series of fragments."""
        self.ended = False

    def wants(self, event: Event) -> bool:
        request = self.request
        end = request.range_end
        if end == b"\0":
            inside = event.key >= request.key
        elif end:
            inside = request.key <= event.key < end
        else:
            inside = event.key == request.key
        dropped = NODELETE if event.deleted else NOPUT
        return (
            inside and event.revision >= self.start and dropped not in request.filters
        )


class Client:
    """One stream, its watchers, and the checks of each response."""

    def __init__(self, member: Member, room: int | None) -> None:
        self.member = member
        self.stream: WatchStream
        self.sink: Sink
        self.stream, self.sink = member.open(room)
        self.watchers: dict[int, Expected] = {}
        self.asked_for: dict[int, Expected] = {}
        """Created, but the client has not read that yet."""
        self.ended: list[Expected] = []
        self.asked = False

    def create(self, request: rpc_pb2.WatchCreateRequest) -> None:
        start = request.start_revision or self.member.history.revision + 1
        before = len(self.sink.got)
        self.stream.create(request)
        created = self.sink.got[before][1]
        assert created.created
        assert not created.canceled
        self.asked_for[created.watch_id] = Expected(request, start)

    def read(self) -> None:
        """Take all responses, check each, and let the server go on."""
        taken = self.sink.take_with_headers()
        for header, response in taken:
            self.check(header, response)
        if taken:
            self.stream.on_writable()

    def check(self, header: int, response: rpc_pb2.WatchResponse) -> None:
        if response.created:
            watch_id = response.watch_id
            self.watchers[watch_id] = self.asked_for.pop(watch_id)
            return
        if response.watch_id == -1:
            assert not response.events
            self.asked = False
            for watcher in self.watchers.values():
                watcher.promised = max(watcher.promised, header)
            self.check_promises(self.watchers)
            return
        watcher = self.watchers[response.watch_id]
        if response.canceled:
            watcher.ended = True
            watcher.compacted = response.compact_revision
            assert bool(response.compact_revision) == (header == 0)
            self.ended.append(self.watchers.pop(response.watch_id))
            return
        if not response.events:
            watcher.promised = max(watcher.promised, header)
            self.check_promises([response.watch_id])
            return
        first = response.events[0].kv.mod_revision
        last = response.events[-1].kv.mod_revision
        assert header >= last
        if watcher.got and not watcher.in_series:
            assert first > watcher.got[-1][0], "a revision was separated"
        watcher.in_series = response.fragment
        assert not response.fragment or watcher.request.fragment
        for event in response.events:
            revision = event.kv.mod_revision
            assert revision > watcher.promised, "progress ran ahead"
            watcher.got.append((revision, event.type, event.kv.key))
            previous = event.prev_kv.value if event.HasField("prev_kv") else None
            watcher.values.append(previous)

    def check_promises(self, ids: object) -> None:
        """What progress promised must be there already."""
        assert isinstance(ids, dict | list)
        for watch_id in ids:
            watcher = self.watchers[watch_id]
            self.compare(watcher, upto=watcher.promised)

    def compare(self, watcher: Expected, upto: int) -> None:
        """The watcher has exactly the events that it wants, up to a revision."""
        wanted = [
            (event.revision, int(event.deleted), event.key)
            for event in self.member.history.log
            if event.revision <= upto and watcher.wants(event)
        ]
        got = [one for one in watcher.got if one[0] <= upto]
        assert got == wanted

    def compare_previous(self, watcher: Expected) -> None:
        """Previous pairs are right, and left out only if their revision is compacted."""
        history = self.member.history
        before: dict[tuple[int, bytes], bytes | None] = {}
        newest: dict[bytes, bytes | None] = {}
        for event in history.log:
            before[event.revision, event.key] = newest.get(event.key)
            row = None if event.deleted else KeyValue.FromString(event.kv).value
            newest[event.key] = row
        for (revision, _, key), value in zip(watcher.got, watcher.values, strict=True):
            wanted = before[revision, key] if watcher.request.prev_kv else None
            if value is None and revision - 1 < history.compact_revision:
                continue
            assert value == wanted

    def finish(self) -> None:
        """Read to the end; compare everything."""
        head = self.member.history.revision
        while self.sink.taken < len(self.sink.got) or self.stream.blocked:
            self.read()
            self.member.run()
        if all(watcher.start <= head + 1 for watcher in self.watchers.values()):
            assert not self.asked, "progress was never answered"
        for watcher in self.watchers.values():
            assert not watcher.in_series
            self.compare(watcher, head)
            self.compare_previous(watcher)
        for watcher in self.ended:
            got_upto = watcher.got[-1][0] if watcher.got else 0
            self.compare(watcher, got_upto)
            self.compare_previous(watcher)
            if watcher.compacted:
                # Right only if it could still have wanted what may be gone.
                assert watcher.start < watcher.compacted
                assert got_upto < watcher.compacted
                assert watcher.promised + 1 < watcher.compacted


class Run:
    """One random history."""

    def __init__(self, history: FakeHistory | RealHistory, seed: int) -> None:
        self.random = random = Random(seed)
        options = WatchOptions(
            chunk_revisions=random.choice((1, 5, 40)),
            chunk_watchers=random.choice((1, 3, 100)),
            chunk_bytes=random.choice((1, 400, 1 << 20)),
            piece_bytes=random.choice((1, 300, 1 << 20)),
            fragment_bytes=random.choice((60, 400, 1 << 20)),
            notify_interval_s=10.0,
        )
        self.member = Member(history, options, seed)
        self.clients: list[Client] = []
        self.untold = False

    def write(self) -> None:
        keys = self.random.sample(KEYS, self.random.randint(1, 4))
        chance = self.random.random()
        self.member.history.write(
            [
                (key, None if self.random.random() < chance else self.value())
                for key in keys
            ]
        )
        if self.random.random() < 0.7:
            self.member.tell()

    def value(self) -> bytes:
        size = self.random.choice((0, 10, 100))
        return b"%d" % self.member.history.revision + b"v" * size

    def open(self) -> None:
        room = self.random.choice((None, 1, 2, 5))
        self.clients.append(Client(self.member, room))
        self.create()

    def create(self) -> None:
        if not self.clients:
            return
        history, random = self.member.history, self.random
        key, end = random.choice(KEYS), random.choice(ENDS)
        if end not in (b"", b"\0") and end <= key:
            return
        lowest = max(history.compact_revision, 1)
        start = random.choice((0, 0, random.randint(lowest, history.revision + 5)))
        filters = random.choice(([], [], [NOPUT], [NODELETE]))
        random.choice(self.clients).create(
            create(
                key,
                end,
                start,
                prev_kv=random.random() < 0.5,
                fragment=random.random() < 0.5,
                progress_notify=random.random() < 0.5,
                filters=filters,
            )
        )

    def cancel(self) -> None:
        if self.clients:
            client = self.random.choice(self.clients)
            if client.watchers:
                client.stream.cancel(self.random.choice(list(client.watchers)))

    def close(self) -> None:
        if self.clients and self.random.random() < 0.3:
            client = self.clients.pop(self.random.randrange(len(self.clients)))
            client.stream.close()
            before = len(client.sink.got)
            self.write()
            self.member.tell()
            self.member.hub.step()
            assert len(client.sink.got) == before

    def progress(self) -> None:
        if self.clients:
            client = self.random.choice(self.clients)
            client.asked = True
            client.stream.progress()

    def compact(self) -> None:
        history = self.member.history
        if self.random.random() < 0.3 and history.revision > history.compact_revision:
            # Compaction is an entry like any other, applied after what came before.
            self.member.tell()
            lowest = max(history.compact_revision + 1, 1)
            history.compact(self.random.randint(lowest, history.revision))

    def jump(self) -> None:
        """Events that the hub is not told, as when a snapshot is installed."""
        if self.random.random() < 0.2:
            for _ in range(self.random.randint(0, 5)):
                self.member.history.write([(self.random.choice(KEYS), b"j")])
            self.member.history.drain_events()
            if self.random.random() < 0.5:
                self.member.hub.resync(self.member.history)

    def tick(self) -> None:
        self.member.clock.time += self.random.choice((1.0, 11.0))
        self.member.hub.tick()

    def read(self) -> None:
        if self.clients:
            self.random.choice(self.clients).read()

    def step(self) -> None:
        self.member.hub.step()

    def go(self, steps: int) -> None:
        actions = [
            *[self.write] * 8,
            *[self.step] * 6,
            *[self.read] * 6,
            self.open,
            *[self.create] * 3,
            self.cancel,
            self.close,
            *[self.progress] * 2,
            self.compact,
            self.jump,
            self.tick,
        ]
        for _ in range(steps):
            self.random.choice(actions)()
        self.member.history.write([(b"a", b"last")])
        self.member.tell()
        self.member.run()
        for client in self.clients:
            client.finish()
            client.stream.close()
        assert not self.member.hub.active


@pytest.mark.parametrize("seed", range(60))
def test_watch_contract(history: FakeHistory | RealHistory, seed: int) -> None:
    """Ordered, unique, complete, atomic per revision, and sound progress, whatever
    happens; a watcher is canceled only when history that it needs was compacted."""
    try:
        Run(history, seed).go(250)
    except AssertionError as exc:
        kind = "fake" if isinstance(history, FakeHistory) else "store"
        exc.add_note(
            "replay: .venv/bin/pytest -n 0 tests/watch/test_contract.py"
            f" -k '{kind} and {seed}'"
        )
        raise
