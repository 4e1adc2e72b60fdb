"""Reports of progress: on request, and periodically for idle watchers."""

from __future__ import annotations

from revstore.watch.hub import WatchOptions
from tests.watch.support import MakeMember, Member, create, story

NOTIFY = WatchOptions(notify_interval_s=100.0, notify_jitter=0.1)


# On request.


def test_without_watchers_progress_is_answered_at_once(member: Member) -> None:
    """A stream without watchers misses nothing."""
    stream, sink = member.open()
    member.put(b"a")
    stream.progress()
    assert sink.got[0][0] == 2
    assert story(sink.take()) == ["#-1"]


def test_progress_waits_for_history(member: Member) -> None:
    """etcd 15220: progress ran ahead of events not yet delivered; here it is held until
    all watchers of the stream have everything up to the revision it names."""
    for _ in range(3):
        member.put(b"a")
    stream, sink = member.open()
    stream.create(create(b"a", start=2))
    stream.create(create(b"b"))
    stream.progress()
    stream.progress()
    assert story(sink.take()) == ["created", "#1 created"]
    member.run()
    assert story(sink.take()) == ["a@2 a@3 a@4", "#-1"]
    assert sink.got[-1][0] == 4


def test_progress_is_answered_without_events(member: Member) -> None:
    """etcd 17507, 17557: progress was never answered for a watcher without events of
    its own; history that has none counts too."""
    for _ in range(3):
        member.put(b"a")
    stream, sink = member.open()
    stream.create(create(b"z", start=2))
    stream.progress()
    member.run()
    assert story(sink.take()) == ["created", "#-1"]


def test_progress_waits_for_room(member: Member) -> None:
    """A slow stream hears of progress after the events that it still has to get."""
    stream, sink = member.open(room=2)
    stream.create(create(b"a"))
    for _ in range(3):
        member.put(b"a")
    stream.progress()
    member.run()
    assert story(sink.take()) == ["created", "a@2"]
    stream.on_writable()
    member.run()
    assert story(sink.take()) == ["a@3 a@4", "#-1"]
    assert sink.got[-1][0] == 4


def test_progress_waits_for_a_full_stream(member: Member) -> None:
    """A report is not put into a stream without room, though nothing is missing."""
    stream, sink = member.open(room=1)
    stream.create(create(b"a"))
    stream.progress()
    member.run()
    assert story(sink.take()) == ["created"]
    woken = member.woken
    stream.on_writable()
    assert member.woken > woken
    member.run()
    assert story(sink.take()) == ["#-1"]


def test_progress_waits_for_events_not_yet_told(member: Member) -> None:
    """Between a write and its delivery nothing is promised about it."""
    stream, sink = member.open()
    stream.create(create(b"a"))
    member.history.write([(b"a", b"")])
    stream.progress()
    member.tell()
    assert story(sink.take()) == ["created", "a@2", "#-1"]


def test_progress_waits_for_a_future_start(member: Member) -> None:
    """A watcher that starts in the future would be set back by a report from before."""
    stream, sink = member.open()
    stream.create(create(b"a", start=4))
    stream.progress()
    member.put(b"b")
    assert story(sink.take()) == ["created"]
    member.put(b"b")
    assert story(sink.take()) == ["#-1"]
    assert sink.got[-1][0] == 3


def test_cancelling_the_last_late_watcher_frees_progress(member: Member) -> None:
    """Progress that waited for a watcher does not wait for ever."""
    member.put(b"a")
    stream, sink = member.open()
    stream.create(create(b"a", start=99))
    stream.progress()
    woken = member.woken
    stream.cancel(0)
    assert member.woken > woken
    member.run()
    assert story(sink.take()) == ["created", "canceled", "#-1"]


def test_a_closed_stream_is_forgotten(member: Member) -> None:
    """A held report of a closed stream is dropped."""
    member.put(b"a")
    stream, sink = member.open()
    stream.create(create(b"a", start=2))
    stream.progress()
    stream.close()
    member.run()
    assert len(sink.got) == 1


# Periodically.


def test_idle_watchers_are_told_their_progress(make_member: MakeMember) -> None:
    """A watcher with progress_notify hears the head once per interval, under its own
    id, and only if nothing else was sent."""
    member = make_member(NOTIFY)
    assert member.hub.next_deadline() is None
    stream, sink = member.open()
    stream.create(create(b"a", progress_notify=True, watch_id=3))
    stream.create(create(b"a", watch_id=4))
    first = member.hub.next_deadline()
    assert first is not None
    assert 1100.0 <= first <= 1110.0
    member.put(b"b")
    member.clock.time = first - 0.001
    member.hub.tick()
    assert len(sink.take()) == 2
    member.clock.time = first
    member.hub.tick()
    assert [(rev, story([one])) for rev, one in sink.take_with_headers()] == [
        (2, ["#3"])
    ]
    member.put(b"a")
    second = member.hub.next_deadline()
    assert second is not None
    assert abs(second - first - (first - 1000.0)) < 1e-9
    member.clock.time = second
    member.hub.tick()
    assert story(sink.take()) == ["#3 a@3", "#4 a@3"]
    member.clock.time += first - 1000.0
    member.hub.tick()
    assert story(sink.take()) == ["#3"]


def test_jitter_differs_between_streams(make_member: MakeMember) -> None:
    """Streams opened at the same time are not all told at the same time."""
    member = make_member(NOTIFY)
    periods = {member.open()[0].notify_period for _ in range(20)}
    assert len(periods) == 20
    assert all(100.0 <= period <= 110.0 for period in periods)


def test_no_periodic_progress_while_behind(make_member: MakeMember) -> None:
    """A watcher that reads history, has no room or starts later is not told."""
    member = make_member(NOTIFY)
    for _ in range(3):
        member.put(b"a")
    behind, behind_sink = member.open()
    behind.create(create(b"a", start=2, progress_notify=True))
    blocked, blocked_sink = member.open(room=1)
    blocked.create(create(b"a", progress_notify=True))
    future, future_sink = member.open()
    future.create(create(b"a", start=99, progress_notify=True))
    late, late_sink = member.open()
    late.create(create(b"b", progress_notify=True))
    member.history.write([(b"c", b"")])
    member.clock.time += 111
    member.hub.tick()
    for sink in (behind_sink, blocked_sink, future_sink, late_sink):
        assert len(sink.got) == 1
    member.tell()
    member.run()
    for _ in range(2):
        member.clock.time += 111
        member.hub.tick()
    assert story(behind_sink.take())[-1] == "progress"
    assert story(late_sink.take())[-1] == "progress"
    assert len(future_sink.got) == len(blocked_sink.got) == 1


def test_closed_streams_leave_no_deadline_behind(make_member: MakeMember) -> None:
    """Streams that come and go do not fill the queue of deadlines."""
    member = make_member(NOTIFY)
    for _ in range(1000):
        stream, _ = member.open()
        stream.create(create(b"a", progress_notify=True))
        stream.close()
    assert len(member.hub._notify_due) < 100
    member.clock.time += 111
    member.hub.tick()
    assert member.hub.next_deadline() is None
