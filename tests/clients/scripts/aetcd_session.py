"""A session with the Python client aetcd 1.0."""

from __future__ import annotations

import asyncio
import importlib
import io
import sys
from typing import Any

from tests.clients.scripts.facts import Facts, pair

aetcd: Any = importlib.import_module("aetcd")
WAIT_S = 20


async def keys_and_values(client: Any, facts: Facts) -> None:
    """Puts, gets, ranges, deletes."""
    for name in (b"a", b"b", b"c"):
        put = await client.put(b"kv/" + name, b"value " + name)
        facts(f"put {name!r}", put.header.revision)
    facts("prev", pair((await client.put(b"kv/a", b"new", prev_kv=True)).prev_kv))
    facts("get", pair(await client.get(b"kv/a")))
    facts("get serializable", pair(await client.get(b"kv/b", serializable=True)))
    facts("get none", await client.get(b"kv/none"))
    found = await client.get_prefix(
        b"kv/", sort_order="descend", sort_target="version", keys_only=True
    )
    facts("prefix", [found.count, found.more, [pair(one) for one in found]])
    found = await client.get_range(b"kv/a", b"kv/c")
    facts("range", [pair(one) for one in found])
    facts("all", (await client.get_all()).count)
    facts("replace", await client.replace(b"kv/a", b"new", b"newer"))
    facts("replace, other", await client.replace(b"kv/a", b"new", b"x"))
    deleted = await client.delete(b"kv/b", prev_kv=True)
    facts("delete", [deleted.deleted, pair(deleted.prev_kv)])
    facts("delete none", await client.delete(b"kv/b"))
    deleted = await client.delete_range(b"kv/a", b"kv/b")
    facts("delete range", deleted.deleted)
    facts("delete prefix", (await client.delete_prefix(b"kv/")).deleted)
    try:
        await client.put(b"", b"x")
    except aetcd.ClientError as error:
        facts("empty key", [type(error).__name__, str(error)])


async def transactions(client: Any, facts: Facts) -> None:
    """Compares, and operations of all kinds."""
    txn = client.transactions
    await client.put(b"t/a", b"1")
    succeeded, responses = await client.transaction(
        compare=[
            txn.value(b"t/a") == b"1",
            txn.version(b"t/a") > 0,
            txn.create(b"t/none") == 0,
        ],
        success=[txn.put(b"t/b", b"2"), txn.get(b"t/a"), txn.delete(b"t/a")],
        failure=[txn.put(b"t/b", b"0")],
    )
    facts("txn", [succeeded, responses[1][0][0], len(responses)])
    failed, _ = await client.transaction(
        compare=[txn.value(b"t/a") < b"1"], success=[], failure=[txn.put(b"t/d", b"4")]
    )
    facts("txn failed", failed)
    facts("after", [pair(one) for one in await client.get_prefix(b"t/")])


async def leases(client: Any, facts: Facts) -> None:
    """Grants, keys, renewals, revocation, locks."""
    lease = await client.lease(600, lease_id=777)
    facts("lease", [lease.id, lease.ttl, await lease.granted_ttl()])
    facts("remaining", 590 < await lease.remaining_ttl() <= 600)
    await client.put(b"l/a", b"1", lease=lease)
    await client.put(b"l/b", b"1", lease=777)
    facts("lease keys", sorted(await lease.keys()))
    facts("refresh", (await lease.refresh()).TTL)
    await lease.revoke()
    facts("revoked", [await client.get(b"l/a"), await client.get(b"l/b")])
    facts("gone", (await client.get_lease_info(777)).TTL)
    try:
        await client.put(b"l/c", b"1", lease=777)
    except aetcd.ClientError as error:
        facts("unknown lease", [type(error).__name__, str(error)])
    async with client.lock(b"door", ttl=60) as lock:
        facts("locked", await lock.is_acquired())
        other = client.lock(b"door", ttl=60)
        facts("other", await other.acquire(timeout=0))
        facts("lock refresh", (await lock.refresh()).TTL)
    facts("unlocked", await lock.is_acquired())
    holder = client.lock(b"gate", ttl=60)
    await holder.acquire()
    waiting = asyncio.create_task(client.lock(b"gate", ttl=60).acquire(timeout=WAIT_S))
    await holder.release()
    facts("handed over", await waiting)


async def watches(client: Any, facts: Facts) -> None:
    """History, live events, filters, own ids, cancel, compaction."""
    first = (await client.put(b"w/a", b"1")).header.revision
    await client.put(b"w/b", b"2")
    await client.delete(b"w/a")
    watch = await client.watch_prefix(b"w/", start_revision=first, prev_kv=True)
    events = aiter(watch)
    found = [await anext(events) for _ in range(3)]
    facts("history", [[str(e.kind), *pair(e.kv)] for e in found])
    await client.put(b"w/c", b"3")
    facts("live", pair((await anext(events)).kv))
    await watch.cancel()
    watch = await client.watch(
        b"w/a", start_revision=first, kind=aetcd.rtypes.EventKind.DELETE
    )
    facts("filtered", str((await anext(aiter(watch))).kind))
    await watch.cancel()
    once = await client.watch_once(b"w/b", timeout=WAIT_S, start_revision=first)
    facts("once", pair(once.kv))
    await client.compact(first + 2, physical=True)
    watch = await client.watch(b"w/b", start_revision=first)
    try:
        await anext(aiter(watch))
    except aetcd.RevisionCompactedError as error:
        facts("compacted", error.compacted_revision - first)
    try:
        await client.compact(first)
    except aetcd.ClientError as error:
        facts("compact again", [type(error).__name__, str(error)])


async def maintenance(client: Any, facts: Facts) -> None:
    """Status, members, alarms, snapshot."""
    status = await client.status()
    members = [one async for one in client.members()]
    facts("leader is the member", [status.leader.id == one.id for one in members])
    facts("raft term", status.raft_term > 0)
    facts("member", [[one.name, len(one.client_urls)] for one in members])
    await client.defragment()
    facts("hash", await client.hash() > 0)
    facts("no alarm", [one.alarm_type async for one in client.list_alarms()])
    raised = await client.create_alarm(members[0].id)
    facts("alarm", [one.alarm_type for one in raised])
    try:
        await client.put(b"m/full", b"x")
    except aetcd.ClientError as error:
        facts("no space", [type(error).__name__, str(error)])
    await client.disarm_alarm(members[0].id)
    await client.put(b"m/full", b"x")
    with io.BytesIO() as target:
        await client.snapshot(target)
        facts("snapshot", len(target.getvalue()) % 512)
    try:
        await client.remove_member(12345)
    except aetcd.ClientError as error:
        facts("unknown member", [type(error).__name__, str(error)])


async def main() -> None:
    """Everything, one after the other."""
    facts = Facts()
    host, port = sys.argv[1], int(sys.argv[2])
    async with aetcd.Client(host=host, port=port, timeout=WAIT_S) as client:
        await keys_and_values(client, facts)
        await transactions(client, facts)
        await leases(client, facts)
        await watches(client, facts)
        await maintenance(client, facts)
    facts.write()


asyncio.run(main())
