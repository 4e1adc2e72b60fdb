"""Reading a big range in pages of one revision.

Rules of this file:

1. A value machine: it says which request is next, and takes the answers.
2. The first answer pins the revision of all others.
3. Pages grow and shrink with the bytes of the answers, so that neither many small pairs
   cost many calls nor a few big ones make one huge answer.
"""

from __future__ import annotations

from revstore.proto import rpc_pb2

ROWS_FIRST = 64
ROWS_MAX = 10_000
PAGE_BYTES = 1 << 20


class Pages:
    """The pages of one range; ``request`` is None at the end."""

    def __init__(
        self,
        span: tuple[bytes, bytes],
        *,
        revision: int = 0,
        limit: int = 0,
        keys_only: bool = False,
        reverse: bool = False,
        serializable: bool = False,
    ) -> None:
        self._key, self._end = span
        self._revision = max(revision, 0)
        self._left = limit if limit > 0 else None
        self._keys_only = keys_only
        self._reverse = reverse
        self._serializable = serializable
        self._rows = ROWS_FIRST
        self.request: rpc_pb2.RangeRequest | None = self._make()

    def take(self, answer: rpc_pb2.RangeResponse, size: int) -> None:
        """An answer of ``size`` bytes came to ``request``."""
        count = len(answer.kvs)
        if not self._revision:
            self._revision = answer.header.revision
        if self._left is not None:
            self._left -= count
        if not answer.more or not count or self._left == 0:
            self.request = None
            return
        last = bytes(answer.kvs[-1].key)
        if self._reverse:
            self._end = last
        else:
            self._key = last + b"\x00"
        if size > 2 * PAGE_BYTES:
            self._rows = max(self._rows // 2, 1)
        elif size < PAGE_BYTES:
            self._rows = min(self._rows * 2, ROWS_MAX)
        self.request = self._make()

    def _make(self) -> rpc_pb2.RangeRequest:
        rows = self._rows if self._left is None else min(self._rows, self._left)
        request = rpc_pb2.RangeRequest(
            key=self._key,
            range_end=self._end,
            limit=rows,
            revision=self._revision,
            keys_only=self._keys_only,
            serializable=self._serializable,
        )
        if self._reverse:
            request.sort_order = rpc_pb2.RangeRequest.DESCEND
        return request
