"""Response bytes, checked with the generated messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from revstore.proto import kv_pb2, rpc_pb2
from revstore.types import Event
from revstore.watch import encode
from tests.watch.support import FakeHistory

IDS = st.integers(-(2**63), 2**63 - 1)


@given(IDS, st.integers(1, 2**62), st.text(max_size=200))
def test_control_fields(watch_id: int, revision: int, reason: str) -> None:
    """Every field that is put together by hand reads back as what it was made of, and
    is what protobuf itself would write."""
    body = b"".join(
        (
            encode.id_field(watch_id),
            encode.CREATED,
            encode.CANCELED,
            encode.compact_revision_field(revision),
            encode.reason_field(reason) if reason else b"",
            encode.FRAGMENT,
        )
    )
    message = rpc_pb2.WatchResponse(
        watch_id=watch_id,
        created=True,
        canceled=True,
        compact_revision=revision,
        cancel_reason=reason,
        fragment=True,
    )
    assert body == message.SerializeToString()


PAIRS = st.builds(
    kv_pb2.KeyValue,
    key=st.binary(min_size=1, max_size=300),
    value=st.binary(max_size=300),
    create_revision=st.integers(1, 2**40),
    mod_revision=st.integers(1, 2**40),
    version=st.integers(1, 300),
    lease=st.integers(-5, 5),
)


@given(PAIRS, st.none() | PAIRS, st.booleans())
def test_events(
    pair: kv_pb2.KeyValue, previous: kv_pb2.KeyValue | None, deleted: bool
) -> None:
    """An event is encoded as protobuf itself would."""
    if deleted:
        revision = pair.mod_revision
        row = kv_pb2.KeyValue(key=pair.key).SerializeToString()
        pair = kv_pb2.KeyValue(key=pair.key, mod_revision=revision)
    else:
        row = pair.SerializeToString()
    event = Event(pair.mod_revision, 0, pair.key, row, deleted)
    message = kv_pb2.Event(
        type=kv_pb2.Event.DELETE if deleted else kv_pb2.Event.PUT,
        kv=pair,
        prev_kv=previous,
    )
    data = encode.event_field(
        event, None if previous is None else previous.SerializeToString()
    )
    assert data == rpc_pb2.WatchResponse(events=[message]).SerializeToString()


@given(
    st.lists(st.lists(st.integers(0, 400), min_size=1, max_size=5), max_size=8),
    st.booleans(),
    st.integers(1, 1500),
    st.integers(1, 1500),
)
def test_pieces_and_fragments(
    revisions: list[list[int]], fragment: bool, piece_bytes: int, fragment_bytes: int
) -> None:
    """Cutting loses and doubles nothing, never separates a revision but into fragments,
    and keeps fragments below their bound unless one event is larger."""
    history = FakeHistory()
    for sizes in revisions:
        history.write([(b"k%d" % n, b"x" * size) for n, size in enumerate(sizes)])
    events = history.drain_events()
    batch = encode.Batch(events, history)
    pieces = batch.pieces(
        range(len(events)),
        previous=False,
        fragment=fragment,
        piece_bytes=piece_bytes,
        fragment_bytes=fragment_bytes,
    )
    whole = b"".join(batch.plain(position) for position in range(len(events)))
    assert b"".join(piece.body for piece in pieces) == whole
    seen: set[int] = set()
    for piece in pieces:
        message = rpc_pb2.WatchResponse.FromString(piece.body)
        own = [event.kv.mod_revision for event in message.events]
        assert piece.first == own[0]
        assert seen.isdisjoint(own)
        seen.update(own)
        if not fragment:
            assert not piece.fragments
        if not piece.fragments:
            small = len(piece.body) < fragment_bytes
            assert small or not fragment or len(own) == 1
            continue
        assert b"".join(piece.fragments) == piece.body
        for part in piece.fragments:
            count = len(rpc_pb2.WatchResponse.FromString(part).events)
            assert len(part) < fragment_bytes or count == 1


def test_a_compacted_previous_pair_is_left_out() -> None:
    """At the compacted revision there is no previous pair, even if it is still known."""
    old = kv_pb2.KeyValue(key=b"a", create_revision=2, mod_revision=2, version=1)
    new = kv_pb2.KeyValue(key=b"a", create_revision=2, mod_revision=3, version=2)
    newer = kv_pb2.KeyValue(key=b"a", create_revision=2, mod_revision=4, version=3)
    rows = [one.SerializeToString() for one in (old, new, newer)]
    events = [
        Event(3, 0, b"a", rows[1], False, rows[0]),
        Event(4, 0, b"a", rows[2], False, None),
    ]
    batch = encode.Batch(events, FakeHistory(), floor=3)
    assert batch.with_previous(0) == batch.plain(0)
    assert batch.with_previous(1) == encode.event_field(events[1], rows[1])
