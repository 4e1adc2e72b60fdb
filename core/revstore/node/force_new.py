"""Disaster recovery: one member of a lost cluster becomes the only one of it.

As etcd's ``--force-new-cluster``: the log gets entries that remove all others. Unlike
etcd the whole log stays, also its end of which this member does not know whether it was
committed: it may have been, and acknowledged; what was not is a request whose outcome
its client does not know.

Rules of this file:

1. The membership is that at the end of the log, not that of the backend, which may be
   behind.
2. The entries are durable before consensus starts, so a crash repeats nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from revstore import logs
from revstore.apply.cluster import (
    Cluster,
    decode_conf_change,
    encode_conf_change,
    member_context,
)
from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeType,
)
from revstore.interfaces.wal import Wal
from revstore.mvcc.store import Store
from revstore.proto import membership_pb2
from revstore.types import ConfState, Entry, EntryType, HardState

LOG = logs.get(__name__)

READ_BYTES = 4 << 20


def force_new_cluster(
    wal: Wal, store: Store, own_id: int, peer_urls: Sequence[str]
) -> HardState:
    """Write the entries that leave this member alone; returns the hard state.

    Raises:
        StorageError: the log cannot be read or written.
    """
    state = wal.recovery().hard_state
    commit = wal.last_index()
    voters, others, joint = _members_at(wal, store, commit)
    changes: list[ConfChange] = []
    if joint:
        changes.append(ConfChange(()))
    if own_id not in voters:
        member = membership_pb2.Member(
            ID=own_id,
            raft_attributes=membership_pb2.RaftAttributes(peer_urls=sorted(peer_urls)),
        )
        add = ConfChangeSingle(ConfChangeType.ADD_NODE, own_id)
        changes.append(ConfChange((add,), context=member_context(member)))
    changes += [
        ConfChange((ConfChangeSingle(ConfChangeType.REMOVE_NODE, other),))
        for other in sorted((voters | others) - {own_id})
    ]
    added: list[Entry] = []
    for index, change in enumerate(changes, start=commit + 1):
        kind, data = encode_conf_change(change)
        added.append(Entry(state.term, index, data, kind))
    LOG.warn(
        "forcing a new cluster of this member alone",
        removed=len((voters | others) - {own_id}),
        entries_of_unknown_outcome=commit - max(state.commit, store.applied_index),
    )
    alone = HardState(state.term, state.vote, commit + len(added))
    wal.append(alone, added)
    wal.sync()
    return alone


def _members_at(wal: Wal, store: Store, commit: int) -> tuple[set[int], set[int], bool]:
    """(voters, other members, in a joint phase) at the end of the log (rule 1)."""
    conf = Cluster(store).conf_state() or ConfState()
    voters = set(conf.voters) | set(conf.voters_outgoing)
    others = set(conf.learners) | set(conf.learners_next)
    joint = bool(conf.voters_outgoing)
    index = max(store.applied_index + 1, wal.first_index())
    while index <= commit:
        batch = wal.read(index, commit + 1, READ_BYTES)
        for entry in batch:
            if entry.type is not EntryType.NORMAL:
                joint = _follow(entry, voters, others)
        index = batch[-1].index + 1
    return voters, others, joint


def _follow(entry: Entry, voters: set[int], others: set[int]) -> bool:
    change = decode_conf_change(entry)
    for step in change.changes:
        if step.type is ConfChangeType.REMOVE_NODE:
            voters.discard(step.node_id)
            others.discard(step.node_id)
        elif step.type is ConfChangeType.ADD_NODE:
            others.discard(step.node_id)
            voters.add(step.node_id)
        elif step.type is ConfChangeType.ADD_LEARNER_NODE:
            voters.discard(step.node_id)
            others.add(step.node_id)
    return len(change.changes) > 1
