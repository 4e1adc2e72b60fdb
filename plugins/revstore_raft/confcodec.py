"""Membership changes as the bytes of log entries (raftpb).

Rules of this file:

1. One step with the automatic transition is written in the older form
   (``raftpb.ConfChange``), everything else as ``raftpb.ConfChangeV2``: so etcd reads
   what etcd would have written.
2. No bytes at all mean an empty V2 change, "leave the joint phase".
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from revstore.errors import CorruptionError
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
)
from revstore.proto import raft_pb2
from revstore.types import EntryType


def encode_change(change: ConfChange) -> tuple[EntryType, bytes]:
    """Entry type and data of a change (rule 1)."""
    if len(change.changes) == 1 and change.transition == ConfChangeTransition.AUTO:
        return EntryType.CONF_CHANGE, encode_v1(change.changes[0], change.context)
    return EntryType.CONF_CHANGE_V2, encode_v2(change)


def encode_v1(step: ConfChangeSingle, context: bytes = b"") -> bytes:
    """``raftpb.ConfChange`` of one step."""
    return raft_pb2.ConfChange(
        id=0,
        type=raft_pb2.ConfChangeType.Name(step.type),
        node_id=step.node_id,
        context=context or None,
    ).SerializeToString()


def encode_v2(change: ConfChange) -> bytes:
    """``raftpb.ConfChangeV2``."""
    return raft_pb2.ConfChangeV2(
        transition=raft_pb2.ConfChangeTransition.Name(change.transition),
        changes=[
            raft_pb2.ConfChangeSingle(
                type=raft_pb2.ConfChangeType.Name(step.type), node_id=step.node_id
            )
            for step in change.changes
        ],
        context=change.context or None,
    ).SerializeToString()


def decode_change(kind: EntryType, data: bytes) -> ConfChange:
    """The change of an entry.

    Raises:
        CorruptionError: the data is no such message, or has unknown steps.
    """
    try:
        if kind is EntryType.CONF_CHANGE:
            one = raft_pb2.ConfChange.FromString(data)
            step = ConfChangeSingle(ConfChangeType(one.type), one.node_id)
            return ConfChange((step,), context=one.context)
        many = raft_pb2.ConfChangeV2.FromString(data)
        steps = [
            ConfChangeSingle(ConfChangeType(step.type), step.node_id)
            for step in many.changes
        ]
        transition = ConfChangeTransition(many.transition)
        return ConfChange(tuple(steps), transition, many.context)
    except (DecodeError, ValueError) as exc:
        raise CorruptionError(f"a membership change cannot be read: {exc}") from exc
