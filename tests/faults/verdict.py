"""What must hold when the faults are over; see ``Load`` for what is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from revstore.errors import ApiError
from revstore.interfaces.channel import Channel
from revstore.proto import rpc_pb2
from revstore_conformance.sim.linearizability import check, partitions
from tests.faults.load import (
    PREFIX,
    PREFIX_END,
    TIMEOUT_S,
    WATCH,
    Change,
    Load,
    change_of,
)

HASH = "/etcdserverpb.Maintenance/HashKV"
RANGE = "/etcdserverpb.KV/Range"
PATIENCE_S = 60.0


async def judge(load: Load) -> None:
    """Check everything. Raises: AssertionError with what does not hold."""
    await load.stop()
    replay = f"(seed {load.seed}, {dict(load.figures)}, failures {dict(load.failures)})"
    assert not load.dishonest, f"dishonest errors: {load.dishonest[:5]} {replay}"
    revision = await _revision(load)
    journal = await _history(load, revision)
    _acknowledged(load, journal)
    for group in partitions(load.operations):
        verdict = check(group)
        assert verdict.linearizable, f"{verdict.text}\n{replay}"
    await _watchers(load, journal, revision)
    await load.close()
    await _hashes(load, revision)


async def _revision(load: Load) -> int:
    """The revision of the store, now that nobody writes."""
    request = rpc_pb2.RangeRequest(key=b"k")
    async with asyncio.timeout(PATIENCE_S):
        while True:
            channel = load.open(load.urls[0])
            try:
                answer = await channel.unary(
                    RANGE, request.SerializeToString(), timeout_s=TIMEOUT_S
                )
                return rpc_pb2.RangeResponse.FromString(answer).header.revision
            except ApiError:
                await asyncio.sleep(0.1)
            finally:
                await channel.close()


async def _history(load: Load, revision: int) -> list[Change]:
    """All changes, from a fresh watch at one member."""
    channel = load.open(load.urls[-1])
    changes: list[Change] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            stream = await channel.bidi_stream(WATCH)
            create = rpc_pb2.WatchCreateRequest(
                key=PREFIX, range_end=PREFIX_END, start_revision=1
            )
            request = rpc_pb2.WatchRequest(create_request=create)
            await stream.send(request.SerializeToString())
            last = await _last_change(channel)
            while not changes or changes[-1].revision < last:
                message = await stream.receive()
                assert message is not None
                response = rpc_pb2.WatchResponse.FromString(message)
                changes += [change_of(event) for event in response.events]
            await stream.cancel()
    finally:
        await channel.close()
    assert changes[-1].revision <= revision
    return changes


async def _last_change(channel: Channel) -> int:
    """Revision of the newest put below the prefix; deletes may be newer."""
    request = rpc_pb2.RangeRequest(
        key=PREFIX,
        range_end=PREFIX_END,
        sort_order=rpc_pb2.RangeRequest.DESCEND,
        sort_target=rpc_pb2.RangeRequest.MOD,
        limit=1,
    )
    answer = await channel.unary(RANGE, request.SerializeToString(), timeout_s=10.0)
    found = rpc_pb2.RangeResponse.FromString(answer).kvs
    return found[0].mod_revision if found else 0


def _acknowledged(load: Load, journal: Sequence[Change]) -> None:
    """What was acknowledged happened, at its revision."""
    happened = {(change.revision, change.key): change.value for change in journal}
    newest = journal[-1].revision
    for operation in load.operations:
        if not operation.known or not operation.writes():
            continue
        done = operation.then if operation.succeeded else operation.otherwise
        for action in done:
            if action.kind == "put" and operation.revision <= newest:
                place = (operation.revision, action.key)
                found = happened.get(place)
                assert found == action.value, f"lost: {operation.text()}"


async def _watchers(load: Load, journal: Sequence[Change], revision: int) -> None:
    """Every watcher has seen everything, in order, once."""
    last = journal[-1].revision
    async with asyncio.timeout(PATIENCE_S):
        while any(watcher.seen_to < last for watcher in load.watchers):
            await load.look()
    for watcher in load.watchers:
        seen = [change for change in watcher.changes if change.revision <= last]
        assert seen == list(journal), (
            f"a watcher saw another history (seed {load.seed})"
        )


async def _hashes(load: Load, revision: int) -> None:
    """HashKV is equal on all members at the last revision."""
    found = {}
    request = rpc_pb2.HashKVRequest(revision=revision).SerializeToString()
    async with asyncio.timeout(PATIENCE_S):
        for url in load.urls:
            while url not in found:
                channel = load.open(url)
                try:
                    answer = await channel.unary(HASH, request, timeout_s=TIMEOUT_S)
                    found[url] = rpc_pb2.HashKVResponse.FromString(answer).hash
                except ApiError:
                    # The member has not applied that revision yet.
                    await asyncio.sleep(0.1)
                finally:
                    await channel.close()
    assert len(set(found.values())) == 1, f"the members differ: {found}"
