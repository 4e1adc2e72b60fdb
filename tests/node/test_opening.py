"""What holds from the moment on that a member says it serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from revstore.node.aio import AsyncNode
from revstore.node.settings import MemberSettings, PluginChoice


@pytest.mark.parametrize("consensus", ["solo", "raft"])
def test_an_open_member_is_in_its_own_list(tmp_path: Path, consensus: str) -> None:
    """Name and client URLs are in the member list before anybody can ask for it.

    A client that asked at once got a member without client URLs.
    """
    settings = MemberSettings(
        data_dir=tmp_path / "data",
        name="m",
        consensus=PluginChoice(consensus),
        client_urls=("http://10.0.0.1:2379",),
    )

    async def scenario() -> None:
        for _ in range(2):
            node = await AsyncNode.open(settings)
            listed = node.replica.members()
            await node.close()
            assert [one.name for one in listed] == ["m"]
            assert [list(one.clientURLs) for one in listed] == [
                ["http://10.0.0.1:2379"]
            ]

    asyncio.run(asyncio.wait_for(scenario(), 60))
