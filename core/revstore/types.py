"""The vocabulary shared by all parts: terms, indexes, entries, events, results.

Rules of this file:

1. Values only: no behaviour beyond construction, no I/O, no clock.
2. Shapes and numbers of log entries follow raftpb (etcd), so that a log written
   here can be read by etcd's tools and the reverse.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NewType

import msgspec

Term = NewType("Term", int)
"""Raft term, 0 before the first election."""

Index = NewType("Index", int)
"""Position in the log, 1 for the first entry; 0 means "before the log"."""

MemberId = NewType("MemberId", int)
"""Unsigned 64-bit id of a member; 0 means "none"."""

ClusterId = NewType("ClusterId", int)
"""Unsigned 64-bit id of a cluster."""

Revision = NewType("Revision", int)
"""Main revision of the store; a fresh store is at 1."""

LeaseId = NewType("LeaseId", int)
"""Signed 64-bit id of a lease; 0 means "no lease"."""


class EntryType(IntEnum):
    """What a log entry carries (raftpb.EntryType)."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One log entry (raftpb.Entry)."""

    term: int
    index: int
    data: bytes = b""
    type: EntryType = EntryType.NORMAL


class HardState(msgspec.Struct, frozen=True, gc=False):
    """What a member must remember across a restart (raftpb.HardState).

    Invariant: ``term`` and ``commit`` never decrease; ``vote`` changes only
    from 0 within one term.
    """

    term: int = 0
    vote: int = 0
    commit: int = 0


class ConfState(msgspec.Struct, frozen=True):
    """The membership that consensus uses (raftpb.ConfState), ids ascending."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


class SnapshotMeta(msgspec.Struct, frozen=True):
    """Where in the log a snapshot stands, and the membership there."""

    index: int = 0
    term: int = 0
    conf_state: ConfState = ConfState()


class Event(msgspec.Struct, frozen=True, gc=False):
    """One change of one key, as the log of events keeps it.

    ``kv`` is a serialized ``mvccpb.KeyValue``: the full new pair for a put; for a
    delete the stored tombstone, which has the key only (section 2.1 of etcd's data
    model). ``prev`` is the serialized pair before the change, None if there was none
    or if whoever made the event did not look it up.
    """

    revision: int
    sub: int
    key: bytes
    kv: bytes
    deleted: bool
    prev: bytes | None = None


class ApplyResult(msgspec.Struct, frozen=True, gc=False):
    """What applying one request produced.

    ``body`` is the serialized response message without its ``header`` field;
    protobuf lets a writer put the header's bytes in front of it. ``revision`` goes
    into that header; 0 means "the store's current revision".
    """

    revision: int
    body: bytes = b""
