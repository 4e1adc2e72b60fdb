"""Reading a range in pages, against the range read at once."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revstore.client.paging import PAGE_BYTES, ROWS_FIRST, Pages
from revstore.proto import kv_pb2, rpc_pb2

DESCEND = rpc_pb2.RangeRequest.DESCEND


class FakeRange:
    """A sorted key space that answers ranges like a member."""

    def __init__(self, keys: list[bytes], revision: int = 5) -> None:
        self.keys = sorted(set(keys))
        self.revision = revision
        self.requests: list[rpc_pb2.RangeRequest] = []

    def answer(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        """The answer; the store moves on with each."""
        self.requests.append(request)
        self.revision += 1
        low = bisect_left(self.keys, request.key)
        if request.range_end == b"\x00":
            high = len(self.keys)
        elif request.range_end:
            high = max(low, bisect_left(self.keys, request.range_end))
        else:
            high = low + (self.keys[low : low + 1] == [request.key])
        found = self.keys[low:high]
        if request.sort_order == DESCEND:
            found.reverse()
        shown = found[: request.limit] if request.limit else found
        response = rpc_pb2.RangeResponse(
            kvs=[kv_pb2.KeyValue(key=key) for key in shown],
            more=len(shown) < len(found),
            count=len(found),
        )
        response.header.revision = self.revision
        return response


def read(space: FakeRange, pages: Pages, size: int = 0) -> list[bytes]:
    """All keys of the pages."""
    found: list[bytes] = []
    while pages.request is not None:
        answer = space.answer(pages.request)
        found += [pair.key for pair in answer.kvs]
        pages.take(answer, size)
    return found


@settings(max_examples=100)
@given(
    keys=st.lists(st.binary(min_size=1, max_size=3), max_size=200),
    reverse=st.booleans(),
    limit=st.integers(0, 210),
    low=st.binary(min_size=1, max_size=2),
    high=st.one_of(st.just(b"\x00"), st.just(b""), st.binary(min_size=1, max_size=2)),
)
def test_pages_are_the_range(
    keys: list[bytes], reverse: bool, limit: int, low: bytes, high: bytes
) -> None:
    """All pages together are what one request would have answered."""
    space = FakeRange(keys)
    whole = rpc_pb2.RangeRequest(key=low, range_end=high, limit=limit)
    if reverse:
        whole.sort_order = DESCEND
    expected = [pair.key for pair in space.answer(whole).kvs]
    assert read(space, Pages((low, high), limit=limit, reverse=reverse)) == expected


def test_the_first_answer_pins_the_revision() -> None:
    """Later pages are of the same revision although the store has moved on."""
    space = FakeRange([b"%04d" % number for number in range(1000)], revision=41)
    read(space, Pages((b"\x00", b"\x00")))
    revisions = [request.revision for request in space.requests]
    assert len(revisions) > 2
    assert revisions[0] == 0
    assert set(revisions[1:]) == {42}


@pytest.mark.parametrize(
    ("size", "second"), [(10, 2 * ROWS_FIRST), (3 * PAGE_BYTES, ROWS_FIRST // 2)]
)
def test_pages_fit_their_bytes(size: int, second: int) -> None:
    """Small answers make the next page longer, big ones shorter."""
    space = FakeRange([b"%04d" % number for number in range(500)])
    read(space, Pages((b"\x00", b"\x00")), size)
    assert [request.limit for request in space.requests][:2] == [ROWS_FIRST, second]
