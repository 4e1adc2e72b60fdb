"""Everything a machine hands out, as the text of the transcripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from revstore.interfaces.consensus import (
    ConfChangeSingle,
    ConfChangeType,
    Message,
    MessageType,
    Role,
    Snapshot,
)
from revstore.types import ConfState, Entry, EntryType, HardState
from revstore_raft.confcodec import decode_change
from revstore_raft.progress import Progress, ProgressState
from revstore_raft.rawnode import RawReady
from revstore_raft.state import LOCAL_APPEND, LOCAL_APPLY
from revstore_raft.tracker import Membership

ROLES = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}
_STATES = {
    ProgressState.PROBE: "StateProbe",
    ProgressState.REPLICATE: "StateReplicate",
    ProgressState.SNAPSHOT: "StateSnapshot",
}
_ENTRY_TYPES = {
    EntryType.NORMAL: "EntryNormal",
    EntryType.CONF_CHANGE: "EntryConfChange",
    EntryType.CONF_CHANGE_V2: "EntryConfChangeV2",
}
_STEPS = {
    ConfChangeType.ADD_NODE: "v",
    ConfChangeType.ADD_LEARNER_NODE: "l",
    ConfChangeType.REMOVE_NODE: "r",
    ConfChangeType.UPDATE_NODE: "u",
}
_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def quoted(data: bytes) -> str:
    """Bytes as Go's ``%q`` writes them."""
    out: list[str] = []
    for char in data.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char.isprintable():
            out.append(char)
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return f'"{"".join(out)}"'


def message_type_name(kind: MessageType) -> str:
    """The name in raftpb, e.g. ``MsgAppResp``."""
    return "Msg" + "".join(part.capitalize() for part in kind.name.split("_"))


MESSAGE_TYPES = {message_type_name(kind): kind for kind in MessageType}


def steps_text(steps: Iterable[ConfChangeSingle]) -> str:
    """Steps of a membership change, e.g. ``v1 l2``."""
    return " ".join(f"{_STEPS[step.type]}{step.node_id}" for step in steps)


def entry_text(entry: Entry) -> str:
    """One entry."""
    if entry.type is EntryType.NORMAL:
        text = quoted(entry.data)
    else:
        text = steps_text(decode_change(entry.type, entry.data).changes)
    kind = _ENTRY_TYPES[entry.type]
    return f"{entry.term}/{entry.index} {kind} {text}".rstrip()


def entries_text(entries: Iterable[Entry]) -> str:
    """Entries, one a line."""
    return "".join(f"{entry_text(entry)}\n" for entry in entries)


def _ids(members: Sequence[int]) -> str:
    return "[" + " ".join(map(str, members)) + "]"


def conf_state_text(state: ConfState) -> str:
    """A membership as snapshots have it."""
    return (
        f"Voters:{_ids(state.voters)} VotersOutgoing:{_ids(state.voters_outgoing)} "
        f"Learners:{_ids(state.learners)} LearnersNext:{_ids(state.learners_next)} "
        f"AutoLeave:{str(state.auto_leave).lower()}"
    )


def snapshot_text(snapshot: Snapshot) -> str:
    """Where a snapshot stands."""
    meta = snapshot.meta
    conf_state = conf_state_text(meta.conf_state)
    return f"Index:{meta.index} Term:{meta.term} ConfState:{conf_state}"


def hard_state_text(state: HardState) -> str:
    """A hard state."""
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def _target(member: int) -> str:
    if member == LOCAL_APPEND:
        return "AppendThread"
    if member == LOCAL_APPLY:
        return "ApplyThread"
    return f"{member:x}" if member else "None"


def message_text(message: Message, indent: str = "") -> str:
    """One message, without a newline at its end."""
    kind = message_type_name(message.type)
    out = [
        f"{indent}{_target(message.sender)}->{_target(message.to)} {kind} "
        f"Term:{message.term} Log:{message.log_term}/{message.index}"
    ]
    if message.reject:
        out.append(f" Rejected (Hint: {message.reject_hint})")
    if message.commit:
        out.append(f" Commit:{message.commit}")
    if message.vote:
        out.append(f" Vote:{message.vote}")
    if len(message.entries) == 1:
        out.append(f" Entries:[{entry_text(message.entries[0])}]")
    elif message.entries:
        rows = "".join(f"\n{indent}  {entry_text(e)}" for e in message.entries)
        out.append(f" Entries:[{rows}\n{indent}]")
    if message.snapshot is not None and message.snapshot.meta.index:
        out.append(f"\n{indent}  Snapshot: {snapshot_text(message.snapshot)}")
    if message.responses:
        inner = [message_text(answer, indent + "  ") for answer in message.responses]
        rows = "".join(f"\n{row}" for row in inner)
        out.append(f" Responses:[{rows}\n{indent}]")
    return "".join(out)


def ready_text(ready: RawReady) -> str:
    """A Ready; one without work has no newline at its end."""
    out: list[str] = []
    if ready.soft_state is not None:
        soft = ready.soft_state
        out.append(f"Lead:{soft.leader} State:{ROLES[soft.role]}\n")
    if ready.hard_state is not None:
        out.append(f"HardState {hard_state_text(ready.hard_state)}\n")
    if ready.read_states:
        states = [f"{{{s.index} {_ids(list(s.context))}}}" for s in ready.read_states]
        out.append(f"ReadStates [{' '.join(states)}]\n")
    if ready.entries:
        out.append(f"Entries:\n{entries_text(ready.entries)}")
    if ready.snapshot is not None:
        out.append(f"Snapshot {snapshot_text(ready.snapshot)}\n")
    if ready.committed:
        out.append(f"CommittedEntries:\n{entries_text(ready.committed)}")
    if ready.messages:
        rows = "".join(f"{message_text(message)}\n" for message in ready.messages)
        out.append(f"Messages:\n{rows}")
    if not out:
        return "<empty Ready>"
    return f"Ready MustSync={str(ready.must_sync).lower()}:\n{''.join(out)}"


def progress_text(row: Progress) -> str:
    """What a leader knows of one member."""
    out = [f"{_STATES[row.state]} match={row.match} next={row.next}"]
    if row.learner:
        out.append("learner")
    if row.paused():
        out.append("paused")
    if row.pending_snapshot:
        out.append(f"pendingSnap={row.pending_snapshot}")
    if not row.recent_active:
        out.append("inactive")
    if row.inflights.count():
        full = "[full]" if row.inflights.full() else ""
        out.append(f"inflight={row.inflights.count()}{full}")
    return " ".join(out)


def progress_map_text(rows: Iterable[tuple[int, Progress]]) -> str:
    """What a leader knows of all members, one a line."""
    return "".join(f"{member}: {progress_text(row)}\n" for member, row in rows)


def _set(members: Iterable[int]) -> str:
    return "(" + " ".join(map(str, sorted(members))) + ")"


def membership_text(membership: Membership) -> str:
    """A membership as the tracker has it."""
    out = f"voters={_set(membership.incoming)}"
    if membership.outgoing:
        out += f"&&{_set(membership.outgoing)}"
    if membership.learners:
        out += f" learners={_set(membership.learners)}"
    if membership.learners_next:
        out += f" learners_next={_set(membership.learners_next)}"
    return out + " autoleave" if membership.auto_leave else out
