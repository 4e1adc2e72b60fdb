"""What a reader of a watch holds in memory."""

from __future__ import annotations

from pathlib import Path

import revstore
from revstore.embedded.watch import QUEUE_BYTES_MAX, QUEUE_MAX, ResponseQueue


def test_a_queue_is_full_by_number_or_by_bytes() -> None:
    """The bounds hold one by one, and taking makes room."""
    many = ResponseQueue()
    for _ in range(QUEUE_MAX):
        assert not many.full
        many.push(b"")
    assert many.full
    large = ResponseQueue()
    large.push(bytes(QUEUE_BYTES_MAX))
    assert large.full
    assert large.pop() == bytes(QUEUE_BYTES_MAX)
    assert not large.full
    assert len(large) == 0


def test_a_reader_of_long_history_never_holds_much_of_it(tmp_path: Path) -> None:
    """The whole history of a store arrives in order through a bounded queue.

    The queue was bounded in responses only, of up to a megabyte each: watching a store
    of 2 GB from its first revision took more than a gigabyte of memory.
    """
    value = bytes(100_000)
    count = 150
    with revstore.open(tmp_path / "store", backend="memory") as store:
        for number in range(count):
            store.put(b"%d" % number, value)
        with store.watch(start_revision=1) as watcher:
            queue = watcher._sink.responses
            for number in range(count):
                event = watcher.next_event(timeout_s=60)
                assert event is not None
                assert event.key == b"%d" % number
                assert queue._size < QUEUE_BYTES_MAX + (2 << 20)
