"""Watches that resume: one by one, and against a model of a server that breaks streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random

import pytest

from revstore.client.watching import (
    Created,
    Deliver,
    Effect,
    Ended,
    Send,
    TokenRefused,
    WatchSession,
)
from revstore.proto import kv_pb2, rpc_pb2

COMPACTED = "mvcc: required revision has been compacted"


def create(start: int = 0, key: bytes = b"k") -> rpc_pb2.WatchCreateRequest:
    """A watch of one key."""
    return rpc_pb2.WatchCreateRequest(key=key, start_revision=start)


def response(
    *,
    revision: int,
    watch_id: int = 0,
    events: Sequence[int] = (),
    created: bool = False,
    canceled: bool = False,
    fragment: bool = False,
    compact: int = 0,
    reason: str = "",
) -> bytes:
    """A response; ``events`` are revisions."""
    message = rpc_pb2.WatchResponse(
        watch_id=watch_id,
        created=created,
        canceled=canceled,
        fragment=fragment,
        compact_revision=compact,
        cancel_reason=reason,
        events=[
            kv_pb2.Event(kv=kv_pb2.KeyValue(key=b"k", mod_revision=revision))
            for revision in events
        ],
    )
    message.header.revision = revision
    return message.SerializeToString()


def sent(effects: Sequence[Effect]) -> list[rpc_pb2.WatchRequest]:
    """The requests among the effects."""
    return [
        rpc_pb2.WatchRequest.FromString(effect.message)
        for effect in effects
        if isinstance(effect, Send)
    ]


def starts(effects: Sequence[Effect]) -> list[int]:
    """The start revisions of the creations among the effects."""
    return [request.create_request.start_revision for request in sent(effects)]


def opened(start: int = 0, *, revision: int = 10) -> tuple[WatchSession, int]:
    """A session with one watch that stands."""
    session = WatchSession()
    number, effects = session.add(create(start))
    assert effects == []
    assert starts(session.opened()) == [start]
    effects = session.received(response(revision=revision, created=True))
    assert effects == [Created(number)]
    return session, number


def revisions(effects: Sequence[Effect]) -> list[int]:
    """The revisions of all events handed out."""
    return [
        event.revision
        for effect in effects
        if isinstance(effect, Deliver)
        for event in effect.events
    ]


def test_from_now_begins_where_the_first_stream_says() -> None:
    """A watch that was created at revision 10 and broke goes on from 11, so that a put
    while there was no stream is seen."""
    session, number = opened()
    session.lost()
    assert starts(session.opened()) == [11]
    assert session.next_revision(number) == 11


def test_from_now_is_still_from_now_if_nobody_created_it() -> None:
    """A stream that broke before it answered has promised nothing."""
    session = WatchSession()
    session.add(create())
    assert starts(session.opened()) == [0]
    session.lost()
    assert starts(session.opened()) == [0]


def test_it_goes_on_behind_the_last_event() -> None:
    """Not behind the revision in the header, which may be ahead of events to come."""
    session, _ = opened(5)
    assert revisions(session.received(response(revision=90, events=[5, 6, 6]))) == [
        5,
        6,
        6,
    ]
    session.lost()
    assert starts(session.opened()) == [7]


def test_nothing_is_handed_out_twice() -> None:
    """A server that begins too early is not believed."""
    session, _ = opened(5)
    session.received(response(revision=6, events=[5, 6]))
    session.lost()
    session.opened()
    session.received(response(revision=9, created=True))
    assert revisions(session.received(response(revision=9, events=[6, 7]))) == [7]


def test_progress_moves_the_resumption() -> None:
    """What was reported as past needs no reading again; progress never moves back."""
    session, number = opened(5)
    assert session.received(response(revision=20)) == [Deliver(number, 20, ())]
    session.received(response(revision=15))
    session.lost()
    assert starts(session.opened()) == [21]


def test_progress_of_the_stream_is_for_all_that_stand() -> None:
    """One that is asked for but not created yet is not meant."""
    session, first = opened(5)
    second, _ = session.add(create(5))
    effects = session.received(response(revision=30, watch_id=-1))
    assert effects == [Deliver(first, 30, ())]
    assert session.next_revision(second) == 5


def test_progress_does_not_wake_what_is_in_the_future() -> None:
    """A watch from revision 100 still begins there after progress at 20."""
    session, _ = opened(100)
    session.received(response(revision=20))
    session.lost()
    assert starts(session.opened()) == [100]


def test_parts_come_together() -> None:
    """The parts of a split response are one batch; a break drops them all."""
    session, number = opened(5)
    assert session.received(response(revision=9, events=[5, 6], fragment=True)) == []
    effects = session.received(response(revision=9, events=[6, 7]))
    assert revisions(effects) == [5, 6, 6, 7]
    session.received(response(revision=9, events=[8], fragment=True))
    session.lost()
    assert session.next_revision(number) == 8
    assert starts(session.opened()) == [8]


def test_compacted_ends_the_watch() -> None:
    """With the revision to begin at; the stream and the other watches stay."""
    session, number = opened(5)
    gone = session.received(response(revision=0, canceled=True, compact=8))
    assert [type(effect) for effect in gone] == [Ended]
    assert isinstance(gone[0], Ended)
    assert (gone[0].number, gone[0].compact_revision) == (number, 8)
    assert "8" in gone[0].reason
    assert len(session) == 0


def test_a_refused_creation_is_the_oldest_one() -> None:
    """Refusals carry no id: they answer in the order of asking."""
    session = WatchSession()
    session.opened()
    first, _ = session.add(create(1))
    second, _ = session.add(create(2))
    refusal = response(
        revision=3, watch_id=-1, created=True, canceled=True, reason="denied"
    )
    assert session.received(refusal) == [Ended(first, "denied", 0)]
    assert session.received(response(revision=3, created=True)) == [Created(second)]


def test_a_removed_watch_is_cancelled_at_the_server() -> None:
    """At once if it stands, else as soon as the server names its id; what still comes
    for it is dropped."""
    session, number = opened(5)
    requests = sent(session.remove(number))
    assert [one.cancel_request.watch_id for one in requests] == [0]
    assert session.received(response(revision=9, events=[6])) == []
    early, _ = session.add(create(5))
    assert session.remove(early) == []
    late = session.received(response(revision=9, watch_id=4, created=True))
    assert [one.cancel_request.watch_id for one in sent(late)] == [4]
    assert len(session) == 0


def test_a_watch_whose_reader_is_behind_rests() -> None:
    """It is cancelled at the server, and goes on where it was; not over a new stream
    before that."""
    session, number = opened(5)
    session.received(response(revision=9, events=[5]))
    assert len(sent(session.park(number))) == 1
    assert session.received(response(revision=9, events=[6])) == []
    session.lost()
    assert session.opened() == []
    assert starts(session.unpark(number)) == [6]


def test_a_refused_token_is_a_matter_of_the_stream() -> None:
    """It is renewed if there is a password, and the watch goes on; else it ends."""
    text = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    refusal = response(
        revision=3, watch_id=-1, created=True, canceled=True, reason=text
    )
    session = WatchSession(renewable=True)
    session.opened()
    session.add(create(4))
    assert session.received(refusal) == [TokenRefused(text)]
    session.lost()
    assert starts(session.opened()) == [4]
    plain = WatchSession()
    plain.opened()
    number, _ = plain.add(create(4))
    assert plain.received(refusal) == [Ended(number, text, 0)]


def test_ids_of_an_earlier_stream_mean_nothing() -> None:
    """An event under an old id is dropped, and a watch that ends takes none with it
    that has its old id by now."""
    session = WatchSession()
    session.opened()
    first, _ = session.add(create(5))
    second, _ = session.add(create(5))
    session.received(response(revision=9, watch_id=7, created=True))
    session.received(response(revision=9, watch_id=0, created=True))
    session.lost()
    session.opened()
    assert session.received(response(revision=9, watch_id=7, events=[5])) == []
    session.received(response(revision=9, watch_id=0, created=True))
    refusal = response(
        revision=9, watch_id=-1, created=True, canceled=True, reason="denied"
    )
    assert session.received(refusal) == [Ended(second, "denied", 0)]
    assert revisions(session.received(response(revision=9, events=[7]))) == [7]
    assert session.next_revision(first) == 8


class ModelServer:
    """A server's end of a stream: history in whole revisions, in batches of any size."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.history: list[tuple[int, bytes]] = []
        self.revision = 1
        self.inbox: deque[bytes] = deque()
        self.watchers: dict[int, tuple[bytes, int]] = {}
        self.next_id = 0

    def write(self) -> None:
        """A transaction with one to three changes."""
        self.revision += 1
        for _ in range(self.random.randint(1, 3)):
            self.history.append((self.revision, self.random.choice([b"a", b"b"])))

    def break_stream(self) -> None:
        """Everything about the stream is gone."""
        self.inbox.clear()
        self.watchers.clear()
        self.next_id = 0

    def step(self) -> bytes | None:
        """One thing a server might send now."""
        if self.inbox:
            return self._request(rpc_pb2.WatchRequest.FromString(self.inbox.popleft()))
        if not self.watchers:
            return None
        watch_id = self.random.choice(sorted(self.watchers))
        key, start = self.watchers[watch_id]
        behind = sorted({rev for rev, _ in self.history if rev >= start})
        if not behind:
            self.watchers[watch_id] = (key, max(start, self.revision + 1))
            return self._response(watch_id, [])
        last = self.random.choice(behind)
        events = [(rev, name) for rev, name in self.history if start <= rev <= last]
        self.watchers[watch_id] = (key, last + 1)
        return self._split(watch_id, [rev for rev, name in events if name == key])

    def _split(self, watch_id: int, events: list[int]) -> bytes | None:
        if not events:
            return None
        cut = self.random.randint(0, len(events) - 1)
        self.rest = events[cut:]
        if cut == 0:
            return self._response(watch_id, events)
        self.inbox.appendleft(b"")
        self.rest_of = watch_id
        return self._response(watch_id, events[:cut], fragment=True)

    def _request(self, request: rpc_pb2.WatchRequest) -> bytes | None:
        kind = request.WhichOneof("request_union")
        if kind is None:
            return self._response(self.rest_of, self.rest)
        if kind == "cancel_request":
            self.watchers.pop(request.cancel_request.watch_id, None)
            return None
        wanted = request.create_request
        watch_id, self.next_id = self.next_id, self.next_id + 1
        start = wanted.start_revision or self.revision + 1
        self.watchers[watch_id] = (wanted.key, start)
        return response(revision=self.revision, watch_id=watch_id, created=True)

    def _response(
        self, watch_id: int, events: list[int], fragment: bool = False
    ) -> bytes:
        return response(
            revision=self.revision, watch_id=watch_id, events=events, fragment=fragment
        )


class Scenario:
    """A session, its server, and what each reader got."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.server = ModelServer(self.random)
        self.session = WatchSession()
        self.connected = False
        self.got: dict[int, list[int]] = {}
        self.keys: dict[int, bytes] = {}
        self.first: dict[int, int] = {}

    def apply(self, effects: Sequence[Effect]) -> None:
        """Carry the effects."""
        for effect in effects:
            if isinstance(effect, Send):
                self.server.inbox.append(effect.message)
            elif isinstance(effect, Created):
                start = self.session.next_revision(effect.number)
                self.first.setdefault(effect.number, start)
            elif isinstance(effect, Deliver):
                self.got[effect.number] += [one.revision for one in effect.events]

    def deliver(self) -> None:
        """One message of the server."""
        message = self.server.step() if self.connected else None
        if message is not None:
            self.apply(self.session.received(message))

    def act(self) -> None:
        """Something happens."""
        deed = self.random.choices(
            ["write", "deliver", "break", "open", "add", "park", "unpark"],
            [4, 12, 1, 3, 1, 1, 2],
        )[0]
        number = self.random.choice(sorted(self.got)) if self.got else 0
        if deed == "write":
            self.server.write()
        elif deed == "deliver":
            self.deliver()
        elif deed == "break":
            self.lose()
        elif deed == "open" and not self.connected:
            self.connected = True
            self.apply(self.session.opened())
        elif deed == "add" and len(self.got) < 4:
            key = self.random.choice([b"a", b"b"])
            start = self.random.choice([0, 1, self.server.revision])
            number, effects = self.session.add(create(start, key))
            self.got[number], self.keys[number] = [], key
            self.apply(effects)
        elif deed == "park" and number:
            self.apply(self.session.park(number))
        elif deed == "unpark" and number:
            self.apply(self.session.unpark(number))

    def lose(self) -> None:
        """The stream breaks."""
        self.connected = False
        self.server.break_stream()
        self.session.lost()

    def settle(self) -> None:
        """No more faults: everything that waits is handed out."""
        self.lose()
        self.connected = True
        self.apply(self.session.opened())
        for number in self.got:
            self.apply(self.session.unpark(number))
        idle = 0
        while idle < 200:
            message = self.server.step()
            effects = [] if message is None else self.session.received(message)
            idle = 0 if revisions(effects) or sent(effects) else idle + 1
            self.apply(effects)


@pytest.mark.parametrize("seed", range(60))
def test_no_loss_no_repetition_over_any_breaks(seed: int) -> None:
    """Each reader gets each event of its key from its beginning on, once and in order."""
    scenario = Scenario(seed)
    for _ in range(300):
        scenario.act()
    scenario.settle()
    assert scenario.got, f"seed {seed}"
    for number, got in scenario.got.items():
        key, first = scenario.keys[number], scenario.first[number]
        expected = [
            revision
            for revision, name in scenario.server.history
            if name == key and revision >= first
        ]
        assert got == expected, (
            f"seed {seed}, watch {number} from {first}; replay: "
            f"pytest tests/client/test_watching.py -k 'any_breaks and {seed}'"
        )
