"""Reads that see everything committed before them, without a log entry.

Rules of this file:

1. A leader knows the commit index of the cluster only once an entry of its own term is
   committed (thesis, section 6.4); until then reads are postponed.
2. Safe reads: the commit index is noted, then a quorum must answer a round of
   heartbeats that began afterwards; so there was no newer leader when the read began.
3. Lease reads: a quorum answered a round of heartbeats that began less than an election
   timeout ago, and each that answers has promised, for an election timeout from then,
   to vote for nobody. So there is no newer leader yet. A margin is left for clocks of
   different speed. Without a valid lease, rule 2 is used.
4. The promise is kept in terms of ticks alone, whatever happens to leader and term in
   between; only a request that a leader itself asked for is excepted, and a leader that
   asked has no lease for the rest of its term (``transfer.py``).
5. Followers send reads on to the leader; the answer is an index. A learner may.
6. A member that restarts does not know its promises and keeps silent for an election
   timeout; rules 3 to 6 hold with ``lease_reads`` only.

Deviation from etcd: there a lease-based read trusts that check-quorum has deposed a
leader in time, which it does up to two election timeouts late.
"""

from __future__ import annotations

from revstore.interfaces.consensus import Message, MessageType, ReadState
from revstore_raft import replication
from revstore_raft.limits import REMOTE_READS_MAX
from revstore_raft.state import NONE, Raft


def handle_request(raft: Raft, message: Message) -> None:
    """A leader is asked for a read, by itself or by a follower."""
    if len(message.entries) != 1 or raft.reads.size() >= REMOTE_READS_MAX:
        return
    if committed_in_term(raft):
        _serve(raft, message)
    else:
        raft.reads.postponed.append(message)


def release_postponed(raft: Raft) -> None:
    """Serve what waited for the first commit of the term."""
    queue = raft.reads
    if queue.postponed and committed_in_term(raft):
        released, queue.postponed = queue.postponed, []
        for message in released:
            _serve(raft, message)


def index_now(raft: Raft) -> int | None:
    """The index of a read that needs no round of heartbeats, if there is one."""
    if raft.leader != raft.id or not committed_in_term(raft):
        return None
    if raft.tracker.alone(raft.id) or has_lease(raft):
        return raft.log.committed
    return None


def handle_confirmation(raft: Raft, message: Message) -> None:
    """A follower answered a heartbeat; reads may be confirmed by it."""
    queue = raft.reads
    if not queue.acknowledge(message.sender, message.context):
        return
    while queue.waiting:
        round = queue.waiting[0].round
        if not raft.tracker.quorum_among([raft.id, *queue.answered(round)]):
            return
        for read in queue.take(round):
            _answer(raft, read.request, read.index)


def handle_answer(raft: Raft, message: Message) -> None:
    """A leader confirmed a read of this follower."""
    if len(message.entries) == 1:
        context = message.entries[0].data
        raft.read_states.append(ReadState(message.index, context))


def committed_in_term(raft: Raft) -> bool:
    """Rule 1."""
    return raft.log.term(raft.log.committed) == raft.term


def has_lease(raft: Raft) -> bool:
    """Rule 3."""
    if not raft.config.lease_reads or raft.lease_broken:
        return False
    election_ticks = raft.config.election_ticks
    valid_ticks = election_ticks - 1 - max(1, election_ticks // 5)
    if valid_ticks < 1:
        return False
    heard = raft.reads.heard_since(raft.ticks - valid_ticks + 1)
    return raft.tracker.quorum_among([raft.id, *heard])


def keeps_silent(raft: Raft) -> bool:
    """Whether a promise forbids this member to vote (rules 3 and 6)."""
    return raft.config.lease_reads and raft.ticks < raft.silent_until


def promise_silence(raft: Raft) -> None:
    """A leader was heard, or this member cannot remember whether it was."""
    raft.silent_until = raft.ticks + raft.config.election_ticks


def _serve(raft: Raft, message: Message) -> None:
    index = raft.log.committed
    if raft.tracker.alone(raft.id) or has_lease(raft):
        _answer(raft, message, index)
        return
    raft.reads.add(index, message)
    replication.broadcast_heartbeat(raft)


def _answer(raft: Raft, request: Message, index: int) -> None:
    if request.sender in (NONE, raft.id):
        raft.read_states.append(ReadState(index, request.entries[0].data))
    else:
        raft.send(
            MessageType.READ_INDEX_RESP,
            request.sender,
            index=index,
            entries=request.entries,
        )
