"""Every shipped consensus plugin keeps the consensus contract."""

from __future__ import annotations

from importlib import import_module

import pytest

from revstore.hookspecs import ConsensusPlugin
from revstore_conformance.consensus import CHECKS, Check, name_of, run


def plugin_of(module: str) -> ConsensusPlugin:
    """The plugin that a module registers."""
    found: list[ConsensusPlugin] = []
    import_module(module).revstore_register_consensus(found.append)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("module", ["revstore_raft.plugin", "revstore_solo.plugin"])
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
def test_contract(module: str, check: Check) -> None:
    """Every clause of the contract holds, or needs more members than there can be."""
    run(check, plugin_of(module))
