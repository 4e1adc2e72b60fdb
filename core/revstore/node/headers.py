"""Response headers as ready-made bytes (etcdserverpb.ResponseHeader)."""

from __future__ import annotations

from revstore.proto.varint import varint

TAG = b"\x0a"
CACHE_MAX = 4096


class Headers:
    """The tagged ``header`` field of responses, put together from constant pieces."""

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._ids = b""
        if cluster_id:
            self._ids += b"\x08" + varint(cluster_id)
        if member_id:
            self._ids += b"\x10" + varint(member_id)
        self._term = b""
        self._without = TAG + varint(len(self._ids)) + self._ids
        self._cache: dict[int, bytes] = {}

    def set_term(self, term: int) -> None:
        """Headers carry this term from here on."""
        self._term = b"\x20" + varint(term) if term else b""
        inner = self._ids + self._term
        self._without = TAG + varint(len(inner)) + inner
        self._cache.clear()

    def with_revision(self, revision: int) -> bytes:
        """A header with a revision; the newest few are kept."""
        found = self._cache.get(revision)
        if found is None:
            inner = b"".join((self._ids, b"\x18", varint(revision), self._term))
            if len(self._cache) > CACHE_MAX:
                self._cache.clear()
            found = self._cache[revision] = TAG + varint(len(inner)) + inner
        return found

    def without_revision(self) -> bytes:
        """A header without one, for cluster calls."""
        return self._without
