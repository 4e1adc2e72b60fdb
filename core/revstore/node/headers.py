"""Response headers as ready-made bytes (etcdserverpb.ResponseHeader)."""

from __future__ import annotations

from revstore.proto.varint import varint

TAG = b"\x0a"


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
        self._newest = -1
        self._with = b""
        """The header of the revision asked for last, which is ``_newest``."""

    def set_term(self, term: int) -> None:
        """Headers carry this term from here on."""
        self._term = b"\x20" + varint(term) if term else b""
        inner = self._ids + self._term
        self._without = TAG + varint(len(inner)) + inner
        self._newest = -1

    def with_revision(self, revision: int) -> bytes:
        """A header with a revision; reads between two writes share one."""
        if revision != self._newest:
            self._newest = revision
            tail = b"\x18" + varint(revision) + self._term
            size = len(self._ids) + len(tail)
            self._with = TAG + varint(size) + self._ids + tail
        return self._with

    def without_revision(self) -> bytes:
        """A header without one, for cluster calls."""
        return self._without
