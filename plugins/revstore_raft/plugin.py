"""Registers the consensus plugin "raft"."""

from __future__ import annotations

from collections.abc import Callable

from revstore.hookspecs import ConsensusPlugin, hookimpl
from revstore.interfaces.consensus import Consensus, ConsensusStart
from revstore_raft.config import RaftOptions
from revstore_raft.machine import CAPABILITIES, RaftConsensus


def make(start: ConsensusStart, options: RaftOptions) -> Consensus:
    """Make the machine. Raises: ConfigError, InvariantViolation."""
    return RaftConsensus(start, options)


@hookimpl
def revstore_register_consensus(register: Callable[[ConsensusPlugin], None]) -> None:
    """Register "raft"."""
    register(
        ConsensusPlugin(
            name="raft",
            summary="Raft with learners, joint consensus, pre-vote and confirmed reads.",
            capabilities=CAPABILITIES,
            factory=make,
            options=RaftOptions,
        )
    )
