"""Registers the consensus plugin "solo"."""

from __future__ import annotations

from collections.abc import Callable

from revstore.hookspecs import ConsensusPlugin, NoOptions, hookimpl
from revstore.interfaces.consensus import Consensus, ConsensusStart
from revstore_solo.machine import CAPABILITIES, SoloConsensus


def make(start: ConsensusStart, options: NoOptions) -> Consensus:
    """Make the machine. Raises: UsageError if there is more than one member."""
    return SoloConsensus(start)


@hookimpl
def revstore_register_consensus(register: Callable[[ConsensusPlugin], None]) -> None:
    """Register "solo"."""
    register(
        ConsensusPlugin(
            name="solo",
            summary="One member without replication, behind the contract of Raft.",
            capabilities=CAPABILITIES,
            factory=make,
        )
    )
