"""Runs of the simulator that fit into the suite; ``revstore sim`` does the long ones."""

from __future__ import annotations

import msgspec
import pytest

from revstore_conformance.sim.profile import (
    CALM,
    FRAMED,
    HARSH,
    SOLO,
    STANDARD,
    Profile,
)
from revstore_conformance.sim.run import Outcome, Run

SHORT = msgspec.structs.replace(
    STANDARD, fault_phase_s=20.0, operations_min=300, fault_phase_max_s=30.0
)


def kept(seed: int, profile: Profile) -> Outcome:
    """A run that violates nothing; else it fails with the command that shows it again."""
    outcome = Run(seed, profile).run()
    replay = f"replay: revstore sim --seed {seed} --profile {profile.name} --trace"
    assert outcome.ok, f"{outcome.checker}: {outcome.text}\n{replay}"
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_no_seed_of_the_standard_profile_violates_anything(seed: int) -> None:
    """Members keep all promises under faults, and are well again afterwards."""
    outcome = kept(seed, SHORT)
    assert outcome.figures["checked: operations"] > 100
    assert outcome.figures["elections won"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_seed_of_the_harsh_profile_violates_anything(seed: int) -> None:
    """The same with more faults at once."""
    profile = msgspec.structs.replace(HARSH, fault_phase_s=20.0, operations_min=100)
    kept(seed, profile)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_seed_of_the_framed_profile_violates_anything(seed: int) -> None:
    """Every link is a connection in the bytes of a transport: tcp's, or gRPC's."""
    profile = msgspec.structs.replace(FRAMED, fault_phase_s=20.0, operations_min=200)
    outcome = kept(seed, profile)
    assert outcome.figures["links with framing grpc"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_one_member_without_raft_keeps_its_promises(seed: int) -> None:
    """``solo`` is the degenerate case: crashes, freezes and disks are left."""
    profile = msgspec.structs.replace(SOLO, fault_phase_s=15.0, operations_min=200)
    kept(seed, profile)


@pytest.mark.slow
def test_one_member_on_raft_behaves_as_one_on_solo() -> None:
    """Without faults both give a client the same answers, operation by operation."""
    histories = []
    for consensus in ("solo", "raft"):
        profile = msgspec.structs.replace(
            CALM,
            sizes=(1,),
            consensus=consensus,
            kv_clients=1,
            lease_clients=0,
            watch_clients=0,
            fault_phase_s=10.0,
            operations_min=0,
        )
        run = Run(5, profile)
        outcome = run.run()
        assert outcome.ok, outcome.text
        histories.append(
            [
                (one.then, one.compares, one.succeeded, one.seen)
                for one in run.clients[0].history
            ]
        )
    common = min(map(len, histories))
    assert common > 20
    assert histories[0][:common] == histories[1][:common]


@pytest.mark.slow
def test_without_faults_every_operation_is_answered() -> None:
    """The calm profile injects nothing, so nothing is lost or unknown."""
    profile = msgspec.structs.replace(CALM, fault_phase_s=8.0, operations_min=100)
    outcome = Run(1, profile).run()
    assert outcome.ok, outcome.text
    assert not [name for name in outcome.figures if name.startswith("fault:")]
    assert outcome.figures.get("operations of unknown outcome", 0) == 0
