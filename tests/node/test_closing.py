"""A member that is stopped comes to an end, whatever the others do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from revstore.api.replica import Tag
from revstore.errors import ApiError
from revstore.node.aio import AsyncNode
from revstore.node.peering import PeerSettings
from revstore.node.settings import MemberSettings, PluginChoice
from revstore.peer.memory import MemoryNetwork
from revstore.proto import rpc_pb2
from revstore.types import ApplyResult

URLS = {name: (f"memory://{name}",) for name in ("one", "two", "three")}
PATIENCE_S = 30.0


async def member(network: MemoryNetwork, path: Path, name: str) -> AsyncNode:
    """One of the cluster."""
    settings = MemberSettings(
        data_dir=path / name,
        name=name,
        backend=PluginChoice("memory"),
        consensus=PluginChoice("raft"),
        peer_urls=URLS[name],
        initial_cluster=URLS,
        heartbeat_s=0.02,
        election_timeout_s=0.1,
    )
    peers = PeerSettings(network.transport(), settings.peer_urls)
    return await AsyncNode.open(settings, random=Random(name), peers=peers)


def begin_put(node: AsyncNode) -> list[ApplyResult | ApiError]:
    """Propose a write; the answer comes into the list."""
    answers: list[ApplyResult | ApiError] = []
    request = rpc_pb2.PutRequest(key=b"a", value=b"1")
    node.replica.propose(Tag.PUT, request.SerializeToString(), request, answers.append)
    node._pump_now()
    return answers


def test_a_leader_without_a_majority_stops_while_a_write_waits(tmp_path: Path) -> None:
    """It waited for the answer with its clock stopped: for ever."""

    async def run() -> None:
        network = MemoryNetwork()
        nodes = await asyncio.gather(*(member(network, tmp_path, one) for one in URLS))
        leader = next(one for one in nodes if one.replica.is_leader)
        for other in nodes:
            if other is not leader:
                await other.close()
        answers = begin_put(leader)
        assert leader.replica.busy()
        async with asyncio.timeout(PATIENCE_S):
            await leader.close()
        assert isinstance(answers[0], ApiError)

    asyncio.run(run())


def test_a_follower_stops_though_a_leader_took_its_write_along(tmp_path: Path) -> None:
    """Nobody ever answers what was passed on to a leader that was killed then."""

    async def run() -> None:
        network = MemoryNetwork()
        nodes = await asyncio.gather(*(member(network, tmp_path, one) for one in URLS))
        follower = next(one for one in nodes if not one.replica.is_leader)
        follower.replica.send = lambda messages: None
        answers = begin_put(follower)
        async with asyncio.timeout(PATIENCE_S):
            await follower.close()
        assert isinstance(answers[0], ApiError)
        for other in nodes:
            await other.close()

    asyncio.run(run())


def test_a_write_that_others_have_to_hear_of_is_answered_before_the_end(
    tmp_path: Path,
) -> None:
    """Raft has to say again what was lost, and needs its clock for that."""

    async def run() -> None:
        network = MemoryNetwork()
        nodes = await asyncio.gather(*(member(network, tmp_path, one) for one in URLS))
        leader = next(one for one in nodes if one.replica.is_leader)
        send, leader.replica.send = leader.replica.send, lambda messages: None
        answers = begin_put(leader)
        leader.replica.send = send
        async with asyncio.timeout(PATIENCE_S):
            await leader.close()
        assert not isinstance(answers[0], ApiError)
        for other in nodes:
            await other.close()

    asyncio.run(run())
