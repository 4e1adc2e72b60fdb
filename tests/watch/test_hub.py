"""What a client of the watch hub sees, response by response."""

from __future__ import annotations

from functools import partial

import pytest

from revstore.proto import rpc_pb2
from revstore.watch.hub import WatchOptions
from revstore.watch.stream import WatchStream
from tests.watch.support import FakeHistory, MakeMember, Member, Sink, create, story

NOPUT = rpc_pb2.WatchCreateRequest.NOPUT
NODELETE = rpc_pb2.WatchCreateRequest.NODELETE
ALL = b"\0"


# Creating and cancelling.


def test_created_comes_first_with_the_head_in_its_header(member: Member) -> None:
    """A new watcher is answered at once, before any event, at the current revision."""
    member.put(b"a")
    stream, sink = member.open()
    assert stream.create(create(b"a")) == 0
    member.put(b"a")
    assert [rev for rev, _ in sink.got] == [2, 3]
    assert story(sink.take()) == ["created", "a@3"]


def test_ids_are_counted_from_zero_and_taken_ones_skipped(member: Member) -> None:
    """Without a wish a watcher gets the smallest number not yet used on its stream."""
    stream, sink = member.open()
    assert stream.create(create(b"a")) == 0
    assert stream.create(create(b"a", watch_id=1)) == 1
    assert stream.create(create(b"a")) == 2
    stream.cancel(0)
    assert stream.create(create(b"a")) == 3
    assert story(sink.take())[-2:] == ["canceled", "#3 created"]


def test_negative_ids_are_kept(member: Member) -> None:
    """A client may choose any id but 0, also a negative one (etcd 14239's sister)."""
    stream, sink = member.open()
    assert stream.create(create(b"a", watch_id=-7)) == -7
    member.put(b"a")
    assert story(sink.take()) == ["#-7 created", "#-7 a@2"]


def test_a_duplicate_id_is_refused(member: Member) -> None:
    """An id in use gives created and canceled with id -1; the first watcher goes on."""
    stream, sink = member.open()
    stream.create(create(b"a", watch_id=5))
    assert stream.create(create(b"a", watch_id=5)) is None
    member.put(b"a")
    assert story(sink.take()) == [
        "#5 created",
        "#-1 created canceled (mvcc: duplicate watch ID provided on the WatchStream)",
        "#5 a@2",
    ]


@pytest.mark.parametrize("end", [b"a", b"z"])
def test_an_empty_range_is_refused(member: Member, end: bytes) -> None:
    """A range end at or below the key gives created and canceled with id -1."""
    stream, sink = member.open()
    assert stream.create(create(b"z", end)) is None
    assert story(sink.take()) == ["#-1 created canceled (mvcc: watcher range is empty)"]
    assert not member.hub.active


def test_a_negative_start_is_refused(member: Member) -> None:
    """etcd 20707: a negative start revision is answered as compacted, with id -1.

    etcd 3.4.23 makes the watcher (created, id 0) and then cancels it with
    compact_revision; current patches of 3.4 to 3.7 refuse it like this.
    """
    stream, sink = member.open()
    assert stream.create(create(b"a", start=-1)) is None
    ((header, _),) = sink.got
    assert header == 1
    assert story(sink.take()) == [
        "#-1 created canceled (etcdserver: mvcc: required revision has been compacted)"
    ]


def test_a_compacted_start_is_created_then_canceled(member: Member) -> None:
    """A start below the compact revision ends with it, a header without a revision and
    no reason."""
    for _ in range(5):
        member.put(b"a")
    member.history.compact(4)
    stream, sink = member.open()
    stream.create(create(b"a", start=3))
    member.run()
    assert [rev for rev, _ in sink.got] == [6, 0]
    assert story(sink.take()) == ["created", "canceled compacted@4"]
    assert not member.hub.active


def test_the_compact_revision_itself_can_be_watched(member: Member) -> None:
    """etcd 18089, 19179: a DELETE at the compact revision is delivered to a watcher
    that starts there; etcd up to 3.5.15 had dropped the tombstone."""
    member.put(b"a")
    member.put(b"b")
    member.delete(b"a")
    member.put(b"c")
    member.history.compact(4)
    stream, sink = member.open()
    stream.create(create(ALL, ALL, start=4))
    member.run()
    assert story(sink.take()) == ["created", "-a@4 c@5"]


def test_cancel_is_answered_once(member: Member) -> None:
    """A known id is answered with canceled and the head; an unknown one with silence."""
    stream, sink = member.open()
    stream.create(create(b"a"))
    member.put(b"b")
    stream.cancel(0)
    stream.cancel(0)
    stream.cancel(9)
    member.put(b"a")
    assert [rev for rev, _ in sink.got] == [1, 2]
    assert story(sink.take()) == ["created", "canceled"]


def test_an_empty_key_means_the_key_zero(member: Member) -> None:
    """Without a key the single key of one zero byte is watched, as in etcd."""
    stream, sink = member.open()
    stream.create(create(b""))
    member.write((b"a", b""), (b"\0", b""))
    assert story(sink.take()) == ["created", "\0@2"]


# Events.


def test_one_response_per_batch_in_order(member: Member) -> None:
    """Events come by revision, then by their order in the transaction."""
    stream, sink = member.open()
    stream.create(create(b"a", b"c"))
    member.history.write([(b"b", b"1"), (b"x", b"1"), (b"a", b"1")])
    member.history.write([(b"b", None)])
    member.tell()
    assert story(sink.take()) == ["created", "b@2 a@2 -b@3"]


def test_all_keys_from_a_key_on(member: Member) -> None:
    """A range end of one zero byte has no upper bound."""
    stream, sink = member.open()
    stream.create(create(b"b", ALL))
    member.write((b"a", b""), (b"b", b""), (b"\xff\xff", b""))
    (_, response) = sink.take()
    assert [event.kv.key for event in response.events] == [b"b", b"\xff\xff"]


def test_a_delete_has_key_and_revision_only(member: Member) -> None:
    """The pair of a DELETE event carries nothing but key and mod_revision."""
    stream, sink = member.open()
    stream.create(create(b"a"))
    member.put(b"a", b"value")
    member.delete(b"a")
    pair = sink.take()[-1].events[0].kv
    assert (pair.key, pair.mod_revision) == (b"a", 3)
    assert [field.name for field, _ in pair.ListFields()] == ["key", "mod_revision"]


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(
    ("filters", "seen"),
    [
        ([NOPUT], ["-a@3"]),
        ([NODELETE], ["a@2 a@4"]),
        ([NOPUT, NODELETE], []),
        ([99], ["a@2 -a@3 a@4"]),
    ],
)
def test_filters(
    member: Member, live: bool, filters: list[int], seen: list[str]
) -> None:
    """NOPUT and NODELETE drop events, and what becomes empty is not sent."""
    stream, sink = member.open()
    if live:
        stream.create(create(b"a", filters=filters))
    for value in (b"1", None, b"2"):
        member.history.write([(b"a", value)])
    member.tell()
    if not live:
        stream.create(create(b"a", start=1, filters=filters))
        member.run()
    assert story(sink.take()) == ["created", *seen]


@pytest.mark.parametrize("live", [True, False])
def test_previous_pairs(member: Member, live: bool) -> None:
    """prev_kv is the pair before the change; a creation has none."""
    stream, sink = member.open()
    if live:
        stream.create(create(b"a", prev_kv=True))
        stream.create(create(b"a"))
    for value in (b"1", b"2", None, b"3"):
        member.history.write([(b"a", value)])
    member.tell()
    if not live:
        stream.create(create(b"a", start=1, prev_kv=True))
        stream.create(create(b"a", start=1))
        member.run()
    with_previous, without = (one for one in sink.take() if one.events)
    values = [
        event.prev_kv.value if event.HasField("prev_kv") else None
        for event in with_previous.events
    ]
    assert values == [None, b"1", b"2", None]
    assert with_previous.events[2].prev_kv.mod_revision == 3
    assert not any(event.HasField("prev_kv") for event in without.events)


def test_previous_pairs_end_at_the_compaction(member: Member) -> None:
    """prev_kv is left out when the revision that had it is compacted."""
    for value in (b"1", b"2", b"3"):
        member.put(b"a", value)
    member.history.compact(3)
    stream, sink = member.open()
    stream.create(create(b"a", start=3, prev_kv=True))
    member.run()
    events = sink.take()[-1].events
    assert [event.HasField("prev_kv") for event in events] == [False, True]
    assert events[1].prev_kv.value == b"2"


# Where a watcher starts.


def test_history_then_live(member: Member) -> None:
    """A start in the past gets history first; header and last event may differ."""
    for number in range(4):
        member.put(b"a", b"%d" % number)
    member.put(b"other")
    stream, sink = member.open()
    stream.create(create(b"a", start=3))
    member.run()
    member.put(b"a")
    assert [
        (rev, one)
        for rev, one in zip(
            (rev for rev, _ in sink.got), story(sink.take()), strict=True
        )
    ] == [(6, "created"), (6, "a@3 a@4 a@5"), (7, "a@7")]


def test_a_start_in_the_future_is_silent_until_then(member: Member) -> None:
    """etcd 20286: a watcher on a future revision must not get older events."""
    stream, sink = member.open()
    stream.create(create(b"a", start=5))
    for _ in range(2):
        member.put(b"a")
    member.history.write([(b"a", b"")])
    member.history.write([(b"a", b"")])
    member.tell()
    member.run()
    member.put(b"a")
    assert story(sink.take()) == ["created", "a@5", "a@6"]


def test_the_next_revision_is_live_at_once(member: Member) -> None:
    """A start right behind the head waits for nothing (get, then watch)."""
    member.put(b"a")
    stream, sink = member.open()
    stream.create(create(b"a", start=3))
    stream.progress()
    member.put(b"a")
    assert story(sink.take()) == ["created", "#-1", "a@3"]


def test_a_cancelled_future_watcher_stays_silent(member: Member) -> None:
    """Cancelling reaches watchers whose start has not come."""
    stream, sink = member.open()
    for _ in range(200):
        stream.cancel(stream.create(create(b"a", start=9)) or 0)
    assert not member.hub.active
    stream.create(create(b"a", start=3))
    for _ in range(9):
        member.put(b"a")
    member.run()
    assert story(sink.take())[-8:] == [f"#200 a@{rev}" for rev in range(3, 11)]


def test_events_that_wait_to_be_told_are_not_doubled(member: Member) -> None:
    """A watcher made between a write and its delivery gets what it asked for, once."""
    other, _ = member.open()
    other.create(create(b"z"))
    member.history.write([(b"a", b"")])
    member.history.write([(b"a", b"")])
    stream, sink = member.open()
    stream.create(create(b"a"))
    stream.create(create(b"a", start=3))
    member.history.write([(b"a", b"")])
    member.tell()
    member.run()
    seen = story(sink.take())
    assert seen[:2] == ["created", "#1 created"]
    assert sorted(seen[2:]) == ["#1 a@3 a@4", "a@4"]


def test_events_told_twice_are_delivered_once(member: Member) -> None:
    """The hub knows how far it was told and ignores what it had before."""
    stream, sink = member.open()
    stream.create(create(b"a"))
    member.history.write([(b"a", b"")])
    events = member.history.drain_events()
    member.hub.notify(events)
    member.hub.notify(events)
    member.history.write([(b"a", b"")])
    member.hub.notify(events + member.history.drain_events())
    assert story(sink.take()) == ["created", "a@2", "a@3"]


def test_a_hub_without_watchers_does_nothing(member: Member) -> None:
    """Events that nobody watched do not come back to the first watcher."""
    assert not member.hub.active
    member.put(b"a")
    member.history.write([(b"a", b"")])
    stream, sink = member.open()
    stream.create(create(b"a"))
    assert member.hub.active
    member.tell()
    member.put(b"a")
    assert story(sink.take()) == ["created", "a@4"]


# Slow streams.


def test_a_slow_stream_keeps_its_place_not_its_events(member: Member) -> None:
    """Events for a stream without room are read from history once there is room, and
    others are not delayed."""
    slow, slow_sink = member.open(room=2)
    quick, quick_sink = member.open()
    slow.create(create(b"a"))
    quick.create(create(b"a"))
    for _ in range(10):
        member.put(b"a")
    member.run()
    assert story(quick_sink.take())[-1] == "a@11"
    assert len(slow_sink.got) == 2
    assert story(slow_sink.take()) == ["created", "a@2"]
    woken = member.woken
    slow.on_writable()
    assert member.woken == woken + 1
    member.run()
    assert story(slow_sink.take()) == ["a@3 a@4 a@5 a@6 a@7 a@8 a@9 a@10 a@11"]
    slow.on_writable()
    member.put(b"a")
    assert story(slow_sink.take()) == ["a@12"]


def test_a_slow_watcher_that_meets_a_compaction_is_told(member: Member) -> None:
    """etcd 17529: slow watchers lost events when a compaction came in between; here
    one is canceled with compact_revision, after what it already got, and one that can
    still be served goes on."""
    stream, sink = member.open(room=3)
    stream.create(create(b"a"))
    stream.create(create(b"b"))
    member.put(b"a")
    for _ in range(4):
        member.put(b"a")
    member.put(b"b")
    member.history.compact(6)
    assert story(sink.take()) == ["created", "#1 created", "a@2"]
    stream.on_writable()
    member.run()
    member.put(b"b")
    assert story(sink.take()) == ["canceled compacted@6", "#1 b@7", "#1 b@8"]
    assert sink.got[3][0] == 0


def test_catching_up_is_cut_into_bounded_steps(make_member: MakeMember) -> None:
    """etcd 22264: catching up one watcher that was far behind stalled everything else;
    here a step reads no more than its share, and nobody waits for another's history."""
    member = make_member(WatchOptions(chunk_revisions=10))
    for _ in range(100):
        member.put(b"a")
    stream, sink = member.open()
    stream.create(create(b"a", start=2))
    stream.create(create(b"a", start=95))
    assert member.hub.step()
    assert member.hub.step()
    assert story(sink.take())[-1].startswith("#1 a@95")
    assert member.run() == 9
    seen = [
        event.kv.mod_revision
        for _, one in sink.got
        if one.watch_id == 0
        for event in one.events
    ]
    assert seen == list(range(2, 102))


def test_watchers_share_the_reading_of_history(make_member: MakeMember) -> None:
    """Watchers that need the same history cause one read, however many they are."""
    member = make_member(WatchOptions(chunk_watchers=16))
    for _ in range(20):
        member.put(b"a")
    stream, sink = member.open()
    for _ in range(50):
        stream.create(create(b"a", start=5))
    stream.create(create(b"a", start=6))
    sink.take()
    assert member.run() == 5
    if isinstance(member.history, FakeHistory):
        assert member.history.reads == 1
    seen = story(sink.take())
    assert len(seen) == 51
    assert sum(one.startswith("#50 a@6 a@7") for one in seen) == 1


def test_a_jump_of_the_store_is_read_from_history(member: Member) -> None:
    """etcd 15271: after a snapshot was installed a watcher neither goes back nor skips
    anything; the same heals events that the hub was never told."""
    stream, sink = member.open()
    stream.create(create(b"a"))
    member.put(b"a")
    member.history.write([(b"a", b"")])
    member.history.drain_events()
    member.put(b"a")
    member.run()
    member.hub.resync(member.history)
    member.put(b"a")
    member.run()
    assert story(sink.take()) == ["created", "a@2", "a@3 a@4", "a@5"]


def test_a_jump_over_a_compaction_cancels(member: Member) -> None:
    """After a jump, a watcher whose history is gone hears so."""
    stream, sink = member.open()
    stream.create(create(b"a"))
    stream.create(create(b"a", start=20))
    for _ in range(9):
        member.history.write([(b"a", b"")])
    member.history.drain_events()
    member.history.compact(8)
    member.hub.resync()
    member.run()
    for _ in range(10):
        member.put(b"a")
    assert story(sink.take()) == [
        "created",
        "#1 created",
        "canceled compacted@8",
        "#1 a@20",
    ]


def test_closing_ends_everything(member: Member) -> None:
    """A closed stream gets nothing more, whatever place its watchers had."""
    for _ in range(3):
        member.put(b"a")
    stream, sink = member.open(room=6)
    for start in (0, 2, 99):
        stream.create(create(b"a", start=start))
    other, other_sink = member.open()
    other.create(create(b"a"))
    stream.progress()
    stream.close()
    stream.close()
    member.put(b"a")
    member.run()
    stream.progress()
    stream.on_writable()
    assert stream.create(create(b"a")) is None
    assert len(sink.got) == 3
    assert story(other_sink.take()) == ["created", "a@5"]
    other.close()
    assert not member.hub.active
    assert member.hub.watcher_count == 0


def _send_and_close(
    sink: Sink, stream: WatchStream, revision: int, body: bytes
) -> None:
    sink.send(revision, body)
    stream.close()


def test_a_sink_may_close_its_stream_while_it_is_served(member: Member) -> None:
    """A client that goes away during a delivery does not disturb the others."""
    member.put(b"a")
    for start in (0, 2):
        first, first_sink = member.open()
        last, last_sink = member.open()
        for stream in (first, last):
            stream.create(create(b"a", start=start))
            stream.create(create(b"a", start=start, prev_kv=True))

        closing = partial(_send_and_close, first_sink, first)
        for watcher in first.watchers.values():
            watcher.send = closing
        member.put(b"a")
        member.run()
        assert len(first_sink.got) == 3
        assert len(last_sink.got) == 4
        last.close()
    assert member.hub.watcher_count == 0


# Sizes.


def test_a_large_batch_is_cut_between_revisions(make_member: MakeMember) -> None:
    """Responses are cut at borders of revisions; one revision stays whole."""
    member = make_member(WatchOptions(piece_bytes=1000))
    stream, sink = member.open(room=2)
    stream.create(create(b"a", b"z"))
    for _ in range(3):
        member.history.write([(b"a", b"x" * 700), (b"b", b"y" * 700)])
    member.tell()
    seen = story(sink.take())
    assert seen == ["created", "a@2 b@2"]
    stream.on_writable()
    member.run()
    assert story(sink.take()) == ["a@3 b@3", "a@4 b@4"]


@pytest.mark.parametrize("live", [True, False])
def test_fragments(make_member: MakeMember, live: bool) -> None:
    """With fragment a large response is cut between events; all pieces but the last
    say so. Without it a revision is never cut."""
    member = make_member(WatchOptions(fragment_bytes=1500))
    stream, sink = member.open()
    start = 0 if live else 2
    if live:
        stream.create(create(b"a", b"z", fragment=True))
        stream.create(create(b"a", b"z"))
    member.write(*((b"%c" % (97 + number), b"x" * 600) for number in range(5)))
    member.write((b"k", b"x" * 2000))
    if not live:
        stream.create(create(b"a", b"z", start=2, fragment=True))
        stream.create(create(b"a", b"z", start=2))
        member.run()
    seen = story(sink.take())[2:]
    whole = [one for one in seen if one.startswith("#1")]
    parts = [one for one in seen if not one.startswith("#1")]
    if live:
        assert whole == ["#1 a@2 b@2 c@2 d@2 e@2", "#1 k@3"]
        assert parts == ["a@2 b@2 ...", "c@2 d@2 ...", "e@2", "k@3"]
    else:
        assert whole == ["#1 a@2 b@2 c@2 d@2 e@2 k@3"]
        assert parts == ["a@2 b@2 ...", "c@2 d@2 ...", "e@2 ...", "k@3"]
    assert start in (0, 2)
