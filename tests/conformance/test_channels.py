"""The contract of a channel over every transport that has one."""

from __future__ import annotations

import asyncio

import pytest

from revstore.plugin.manager import PluginManager
from revstore_conformance.channel import CHECKS, Check, name_of


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=name_of)
@pytest.mark.parametrize(
    ("transport", "scheme"), [("grpcio", "http"), ("grpc", "http"), ("tcp", "tcp")]
)
def test_contract(check: Check, transport: str, scheme: str) -> None:
    """Each clause holds."""
    plugins = PluginManager()
    asyncio.run(check(lambda: plugins.make_transport(transport), scheme))
