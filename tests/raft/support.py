"""A single member of Raft and what its tests do to it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from revstore.interfaces.consensus import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    Message,
    MessageType,
    Role,
    Snapshot,
)
from revstore.types import ConfState, Entry, HardState
from revstore_conformance.scenarios.storage import StubStorage
from revstore_raft import step
from revstore_raft.config import RaftConfig
from revstore_raft.start import make_raft
from revstore_raft.state import Raft

T = MessageType
ELECTION_TICKS = 10


def make(
    *terms: int,
    id: int = 1,
    voters: Sequence[int] = (1, 2, 3),
    learners: Sequence[int] = (),
    term: int = 0,
    vote: int = 0,
    commit: int = 0,
    snapshot: Snapshot | None = None,
    **settings: bool | int,
) -> Raft:
    """A member whose log has entries of these terms, all durable."""
    storage = StubStorage()
    storage.append([Entry(t, index) for index, t in enumerate(terms, 1)])
    config = RaftConfig(
        id=id,
        election_ticks=ELECTION_TICKS,
        heartbeat_ticks=1,
        **settings,  # type: ignore[arg-type] # named by each test
    )
    return make_raft(
        config,
        storage,
        HardState(term, vote, commit),
        ConfState(tuple(voters), tuple(learners)),
        0,
        Random(1),
        lambda: snapshot,
    )


def sent(raft: Raft) -> list[Message]:
    """Everything that is in the outboxes, which are emptied."""
    out = raft.messages + raft.after_append
    raft.messages, raft.after_append = [], []
    return out


def of(messages: Sequence[Message], kind: MessageType) -> list[Message]:
    """Messages of one kind."""
    return [message for message in messages if message.type is kind]


def campaign(raft: Raft) -> None:
    """Start an election."""
    step.step(raft, Message(T.HUP))


def answer(raft: Raft, kind: MessageType, sender: int, **fields: int | bool) -> None:
    """Another member's answer in this term."""
    fields.setdefault("term", raft.term)
    step.step(raft, Message(kind, to=raft.id, sender=sender, **fields))  # type: ignore[arg-type] # named by each test


def lead(raft: Raft) -> Raft:
    """Make a member leader, with its own entries durable and no message left."""
    campaign(raft)
    for message in of(sent(raft), T.VOTE_RESP):
        step.step(raft, message)
    for voter in raft.tracker.membership.voters():
        if voter != raft.id and raft.role is Role.CANDIDATE:
            answer(raft, T.VOTE_RESP, voter)
    assert raft.role is Role.LEADER
    persist(raft)
    sent(raft)
    return raft


def persist(raft: Raft) -> None:
    """Write what is to be written, and hear the member's own answers."""
    entries = raft.log.unstable.next_entries()
    raft.log.unstable.accept()
    storage = raft.log.storage
    assert isinstance(storage, StubStorage)
    storage.append(entries)
    if entries:
        raft.log.stable_to(entries[-1].term, entries[-1].index)
    own = [m for m in raft.after_append if m.to == raft.id]
    raft.after_append = [m for m in raft.after_append if m.to != raft.id]
    for message in own:
        step.step(raft, message)


def propose(raft: Raft, *data: bytes) -> None:
    """Propose entries."""
    entries = tuple(Entry(0, 0, item) for item in data)
    step.step(raft, Message(T.PROP, sender=raft.id, entries=entries))


def append(
    raft: Raft, term: int, previous: tuple[int, int], *terms: int, commit: int = 0
) -> Message:
    """An append from member 2; returns the answer."""
    log_term, index = previous
    entries = tuple(Entry(t, index + 1 + n) for n, t in enumerate(terms))
    message = Message(
        T.APP,
        to=raft.id,
        sender=2,
        term=term,
        log_term=log_term,
        index=index,
        entries=entries,
        commit=commit,
    )
    step.step(raft, message)
    return of(sent(raft), T.APP_RESP)[-1]


def terms_of(raft: Raft) -> list[int | None]:
    """Terms of all entries."""
    return [raft.log.term(index) for index in range(1, raft.log.last_index + 1)]


def change_of(*steps: tuple[ConfChangeType, int], explicit: bool = False) -> ConfChange:
    """A membership change."""
    transition = (
        ConfChangeTransition.JOINT_EXPLICIT if explicit else ConfChangeTransition.AUTO
    )
    return ConfChange(tuple(ConfChangeSingle(*one) for one in steps), transition)
