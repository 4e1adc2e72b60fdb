"""pyarrow carries snapshots between members; one member alone does without it."""

from __future__ import annotations

import asyncio
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from revstore.api import errors
from revstore.api.replica import MemberChange, MemberChangeKind
from revstore.errors import ApiError, ConfigError
from revstore.node.aio import AsyncNode
from revstore.node.peering import PeerSettings
from revstore.node.settings import MemberSettings, PluginChoice
from revstore.peer.memory import MemoryNetwork
from revstore.snapshot import format as snapshot_format


def settings(tmp_path: Path, **more: object) -> MemberSettings:
    """A member on raft."""
    return MemberSettings(
        data_dir=tmp_path / "data",
        backend=PluginChoice("memory"),
        consensus=PluginChoice("raft"),
        heartbeat_s=0.01,
        election_timeout_s=0.1,
        **more,  # type: ignore[arg-type]  # passed through
    )


@pytest.fixture(autouse=True)
def no_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if pyarrow were not installed."""

    def find(name: str) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(snapshot_format, "find_spec", find)


async def grow(tmp_path: Path) -> ApiError | None:
    """What a member alone answers to MemberAdd."""
    peers = PeerSettings(MemoryNetwork().transport(), ("memory://a",))
    node = await AsyncNode.open(settings(tmp_path), peers=peers)
    try:
        told: list[ApiError | None] = []
        change = MemberChange(kind=MemberChangeKind.ADD, peer_urls=("memory://b",))
        node.replica.change_members(change, told.append)
        return told[0]
    finally:
        await node.close()


def test_one_member_starts_and_refuses_a_second(tmp_path: Path) -> None:
    """The refusal says what to install."""
    refusal = asyncio.run(grow(tmp_path))
    assert refusal is not None
    assert refusal.code == errors.Code.FAILED_PRECONDITION
    assert "pip install" in refusal.message


def test_a_member_of_several_does_not_start(tmp_path: Path) -> None:
    """It could neither send nor take a snapshot."""
    peers = PeerSettings(MemoryNetwork().transport(), ("memory://a",))
    cluster = {"default": ("memory://a",), "b": ("memory://b",)}
    with pytest.raises(ConfigError, match="pip install"):
        asyncio.run(
            AsyncNode.open(
                settings(tmp_path, initial_cluster=cluster, peer_urls=("memory://a",)),
                peers=peers,
            )
        )
