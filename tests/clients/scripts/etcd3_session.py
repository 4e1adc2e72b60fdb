"""A session with the Python client etcd3 0.12."""

from __future__ import annotations

import importlib
import io
import queue
import sys
from typing import Any

from tests.clients.scripts.facts import Facts

etcd3: Any = importlib.import_module("etcd3")
grpc: Any = importlib.import_module("grpc")
WAIT_S = 20


def keys_and_values(client: Any, facts: Facts) -> None:
    """Puts, gets, ranges, deletes."""
    for name in ("a", "b", "c"):
        facts(f"put {name}", client.put(f"kv/{name}", f"value {name}").header.revision)
    facts("prev", client.put("kv/a", "new", prev_kv=True).prev_kv.value)
    value, meta = client.get("kv/a")
    facts("get", [value, meta.create_revision, meta.mod_revision, meta.version])
    facts("get header", meta.response_header.revision)
    facts("get serializable", client.get("kv/b", serializable=True)[0])
    facts("get none", client.get("kv/none")[0])
    listed = client.get_prefix("kv/", sort_order="descend", sort_target="value")
    facts("prefix", [[meta.key, value] for value, meta in listed])
    listed = client.get_prefix("kv/", keys_only=True)
    facts("keys only", [[meta.key, value] for value, meta in listed])
    listed = client.get_range("kv/a", "kv/c", sort_order="ascend", sort_target="mod")
    facts("range", [[meta.key, value] for value, meta in listed])
    facts("all", client.get_all_response().count)
    facts("put if not exists", client.put_if_not_exists("kv/a", "x"))
    facts("put if not exists, new", client.put_if_not_exists("kv/d", "x"))
    facts("replace", client.replace("kv/d", "x", "y"))
    facts("replace, other", client.replace("kv/d", "x", "z"))
    facts("delete", client.delete("kv/d"))
    facts("delete none", client.delete("kv/d"))
    deleted = client.delete("kv/c", prev_kv=True, return_response=True)
    facts("delete prev", [deleted.deleted, deleted.prev_kvs[0].value])
    facts("delete prefix", client.delete_prefix("kv/").deleted)
    try:
        client.put("", "x")
    except grpc.RpcError as error:
        facts.raises("empty key", error)


def transactions(client: Any, facts: Facts) -> None:
    """Compares of all kinds, nested transactions."""
    txn = client.transactions
    client.put("t/a", "1")
    succeeded, responses = client.transaction(
        compare=[
            txn.value("t/a") == "1",
            txn.version("t/a") > 0,
            txn.create("t/none") == 0,
            txn.mod("t/a") != 1,
        ],
        success=[
            txn.put("t/b", "2"),
            txn.get("t/a"),
            txn.delete("t/a"),
            txn.txn([txn.value("t/a") == "1"], [txn.put("t/c", "3")], []),
        ],
        failure=[txn.put("t/b", "0")],
    )
    facts("txn", [succeeded, responses[1][0][0], len(responses)])
    failed, _ = client.transaction(
        compare=[txn.value("t/a") < "1"], success=[], failure=[txn.put("t/d", "4")]
    )
    facts("txn failed", failed)
    left = client.get_prefix("t/")
    facts("after", [[meta.key, meta.mod_revision, value] for value, meta in left])


def leases(client: Any, facts: Facts) -> None:
    """Grants, keys, renewals, revocation, locks."""
    lease = client.lease(600, lease_id=777)
    facts("lease", [lease.id, lease.ttl, lease.granted_ttl])
    facts("remaining", 590 < lease.remaining_ttl <= 600)
    client.put("l/a", "1", lease=lease)
    client.put("l/b", "1", lease=777)
    facts("lease keys", sorted(lease.keys))
    facts("refresh", [answer.TTL for answer in lease.refresh()])
    facts("lease of key", client.get("l/a")[1].lease_id)
    lease.revoke()
    facts("revoked", [client.get("l/a")[0], client.get("l/b")[0]])
    facts("gone", client.get_lease_info(777).TTL)
    try:
        client.put("l/c", "1", lease=777)
    except grpc.RpcError as error:
        facts.raises("unknown lease", error)
    client.lease(600, lease_id=778)
    try:
        client.lease(600, lease_id=778)
    except etcd3.exceptions.PreconditionFailedError as error:
        facts.raises("lease exists", error)
    with client.lock("door", ttl=60) as lock:
        facts("locked", lock.is_acquired())
        # Its waiting for a lock is broken with every tenacity that runs on 3.11.
        facts("lock refresh", [answer.TTL for answer in lock.refresh()])
    facts("unlocked", lock.is_acquired())


def watches(client: Any, facts: Facts) -> None:
    """History, live events, callbacks, cancel, compaction.

    Not filters: etcd3 breaks on them before it asks a server.
    """
    first = client.put("w/a", "1").header.revision
    client.put("w/b", "2")
    client.delete("w/a")
    events, cancel = client.watch_prefix("w/", start_revision=first, prev_kv=True)
    found = [next(events) for _ in range(3)]
    facts(
        "history",
        [
            [type(e).__name__, e.key, e.value, e.mod_revision, e.prev_value]
            for e in found
        ],
    )
    client.put("w/c", "3")
    facts("live", next(events).value)
    cancel()
    answers: queue.Queue[Any] = queue.Queue()
    watch_id = client.add_watch_callback("w/cb", answers.put, start_revision=first)
    client.put("w/cb", "called")
    answer = answers.get(timeout=WAIT_S)
    facts("callback", [[e.key, e.value] for e in answer.events])
    client.cancel_watch(watch_id)
    once = client.watch_once("w/cb", timeout=WAIT_S, start_revision=first)
    facts("once", once.value)
    client.compact(first + 2)
    events, cancel = client.watch("w/b", start_revision=first)
    try:
        next(events)
    except etcd3.exceptions.RevisionCompactedError as error:
        facts("compacted", error.compacted_revision - first)
    cancel()
    try:
        client.compact(first)
    except grpc.RpcError as error:
        facts.raises("compact again", error)
    client.compact(first + 3, physical=True)


def maintenance(client: Any, facts: Facts) -> None:
    """Status, members, alarms, snapshot."""
    status = client.status()
    members = list(client.members)
    facts("leader is the member", [status.leader.id == one.id for one in members])
    facts("raft term", status.raft_term > 0)
    facts("member", [[one.name, len(one.client_urls)] for one in members])
    facts("active", list(members[0].active_alarms))
    client.defragment()
    facts("hash", client.hash() > 0)
    facts("no alarm", list(client.list_alarms()))
    raised = client.create_alarm(member_id=members[0].id)
    facts("alarm", [one.alarm_type for one in raised])
    try:
        client.put("m/full", "x")
    except grpc.RpcError as error:
        facts.raises("no space", error)
    facts("alarms", [one.alarm_type for one in client.list_alarms()])
    facts("disarm", [one.alarm_type for one in client.disarm_alarm(members[0].id)])
    client.put("m/full", "x")
    with io.BytesIO() as target:
        client.snapshot(target)
        facts("snapshot", len(target.getvalue()) % 512)
    try:
        client.remove_member(12345)
    except grpc.RpcError as error:
        facts.raises("unknown member", error)


def main() -> None:
    """Everything, one after the other."""
    facts = Facts()
    with etcd3.client(sys.argv[1], int(sys.argv[2]), timeout=WAIT_S) as client:
        keys_and_values(client, facts)
        transactions(client, facts)
        leases(client, facts)
        watches(client, facts)
        maintenance(client, facts)
    facts.write()


main()
