"""What a watch hands out, wherever the store is, and how it ends."""

from __future__ import annotations

from revstore.embedded.values import EventType, WatchEvent, make_pair
from revstore.errors import RevstoreError
from revstore.proto import kv_pb2, rpc_pb2


class WatchCanceled(RevstoreError):  # noqa: N818 - etcd's own word
    """The watch ended: its start was compacted, or it was refused.

    ``compact_revision`` is not 0 if the events wanted are compacted; start again at
    that revision or later.
    """

    def __init__(self, reason: str, compact_revision: int = 0) -> None:
        super().__init__(reason)
        self.compact_revision = compact_revision


def cancel_reason(response: rpc_pb2.WatchResponse) -> str:
    """Why a watch was canceled, in words."""
    if response.cancel_reason:
        return response.cancel_reason
    if response.compact_revision:
        return (
            "the events wanted were compacted; start at revision "
            f"{response.compact_revision} or later"
        )
    return "the watch was canceled"


def decode_event(event: kv_pb2.Event) -> WatchEvent:
    """An event of the API as a value."""
    prev = make_pair(event.prev_kv) if event.HasField("prev_kv") else None
    kind = EventType.DELETE if event.type == kv_pb2.Event.DELETE else EventType.PUT
    return WatchEvent(kind, make_pair(event.kv), prev)
