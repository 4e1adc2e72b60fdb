"""Making a member from what a restart finds.

Rules of this file:

1. Everything applied is committed: the commit index on disk may lag behind, since it
   alone is written without a sync.
2. The log must reach everything committed and everything applied. If it does not,
   disks forgot what was promised, and the member must not take part.
3. The term is at least that of the last entry. It can be behind where a snapshot was
   noted and the hard state beside it was lost; then no vote of that term was given, for
   a vote is durable before it is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from revstore.errors import InvariantViolation
from revstore.interfaces.consensus import LogReader, Snapshot
from revstore.types import ConfState, HardState
from revstore_raft import changes, reads, roles
from revstore_raft.config import RaftConfig
from revstore_raft.log import RaftLog
from revstore_raft.state import NONE, Raft


def make_raft(
    config: RaftConfig,
    storage: LogReader,
    hard_state: HardState,
    conf_state: ConfState,
    applied: int,
    random: Random,
    snapshot_source: Callable[[], Snapshot | None],
) -> Raft:
    """A follower of nobody, in the term it was in.

    Raises:
        InvariantViolation: rule 2.
        InvalidChangeError: the membership is none that changes can lead to.
    """
    log = RaftLog(storage, config.committed_bytes_max)
    first = log.committed + 1
    if applied and applied < first - 1:
        raise InvariantViolation(
            f"applied is {applied}, but the log begins at {first}: entries are missing"
        )
    for name, index in (("commit", hard_state.commit), ("applied", applied)):
        if index > log.last_index:
            raise InvariantViolation(
                f"{name} index {index} is beyond the last entry, {log.last_index}: "
                "the log was truncated, corrupted or lost"
            )
    raft = Raft(config, log, random, snapshot_source)
    changes.restore(raft, conf_state)
    raft.term = hard_state.term
    raft.vote = hard_state.vote
    if 0 < raft.term < log.last_term():
        raft.term, raft.vote = log.last_term(), NONE
    log.commit_to(max(hard_state.commit, applied))
    if applied:
        log.applied_to(applied, 0)
    roles.become_follower(raft, raft.term, NONE)
    if raft.term:
        reads.promise_silence(raft)
    return raft
