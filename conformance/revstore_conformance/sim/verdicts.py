"""Checkers that look at a whole run when it is over."""

from __future__ import annotations

from collections.abc import Sequence

from revstore_conformance.sim.cluster import SimCluster
from revstore_conformance.sim.journal import Journal
from revstore_conformance.sim.leasing import LeaseClient, check_lease, vanished
from revstore_conformance.sim.linearizability import Operation, check, partitions
from revstore_conformance.sim.world import World

HASHES = "equal hashes"
ACKNOWLEDGED = "acknowledged data is there"
REVISIONS = "revision monotony"
LINEARIZABILITY = "linearizability"


def hashes(cluster: SimCluster, keyspaces: Sequence[str]) -> None:
    """HashKV, and the small keyspaces, are the same on all members. Raises: Violation."""
    world = cluster.world
    members = [node for node in cluster.members() or [] if node.up]
    first = members[0]
    wanted = first.replica.store.hash_kv()
    for node in members[1:]:
        world.figures["checked: hashes compared"] += 1
        store = node.replica.store
        found = store.hash_kv()
        if found != wanted:
            text = f"{first.name} has {wanted}, {node.name} has {found}"
            raise world.violated(HASHES, text)
        for keyspace in keyspaces:
            one = first.replica.store.system_scan(keyspace)
            other = store.system_scan(keyspace)
            if one != other:
                text = f"{first.name} and {node.name} differ in {keyspace}"
                raise world.violated(HASHES, f"{text}: {one} and {other}")


def acknowledged(
    world: World, cluster: SimCluster, operations: Sequence[Operation]
) -> None:
    """Every acknowledged write happened at its revision, and each member has what all
    changes together leave. Raises: Violation."""
    journal = cluster.checkers.journal
    for operation in operations:
        if not operation.known or not operation.writes():
            continue
        done = operation.then if operation.succeeded else operation.otherwise
        for action in done:
            if action.kind != "put":
                continue
            world.figures["checked: acknowledged writes"] += 1
            change = journal.at(action.key, operation.revision)
            if (
                change is None
                or change.revision != operation.revision
                or change.value() != action.value
            ):
                text = f"was acknowledged and did not happen:\n  {operation.text()}"
                raise world.violated(ACKNOWLEDGED, text)
    for node in cluster.members() or []:
        if not node.up:
            continue
        store = node.replica.store
        for key, changes in journal.by_key.items():
            row = store.get(key)
            last = changes[-1]
            if row != (None if last.deleted else last.row):
                text = f"{node.name} has {row!r} for {key!r} at the end"
                raise world.violated(ACKNOWLEDGED, f"{text}, not {last.row!r}")


def revisions(world: World, journal: Journal, operations: Sequence[Operation]) -> None:
    """Who begins after another has returned gets no older revision, a write a newer
    one; and a read shows exactly its revision. Raises: Violation."""
    known = [one for one in operations if one.known]
    ended = sorted(known, key=lambda one: one.end)
    newest: Operation | None = None
    place = 0
    for operation in sorted(known, key=lambda one: one.begin):
        while place < len(ended) and ended[place].end < operation.begin:
            if newest is None or ended[place].revision > newest.revision:
                newest = ended[place]
            place += 1
        if newest is None:
            continue
        world.figures["checked: revisions in order"] += 1
        if operation.revision < newest.revision:
            text = f"goes back behind what had returned before:\n  {newest.text()}"
            raise world.violated(REVISIONS, f"{text}\n  {operation.text()}")
    for operation in known:
        if any(action.kind != "get" for action in operation.then):
            continue
        for action, value in zip(operation.then, operation.seen, strict=True):
            change = journal.at(action.key, operation.revision)
            if (None if change is None else change.value()) != value:
                text = (
                    f"shows what was not there at its revision:\n  {operation.text()}"
                )
                raise world.violated(REVISIONS, text)


def linearizability(world: World, operations: Sequence[Operation]) -> None:
    """The history has an order that explains it. Raises: Violation."""
    for group in partitions(operations):
        world.figures["checked: operations"] += len(group)
        verdict = check(group)
        if not verdict.decided:
            world.figures["groups of keys left undecided"] += 1
        if not verdict.linearizable:
            raise world.violated(LINEARIZABILITY, verdict.text)


def leases(world: World, journal: Journal, clients: Sequence[LeaseClient]) -> None:
    """See ``leasing``. Raises: Violation."""
    for client in clients:
        for lease in client.leases:
            check_lease(world, journal, lease)


def living_leases(cluster: SimCluster, clients: Sequence[LeaseClient]) -> list[int]:
    """Leases whose keys are still there."""
    journal = cluster.checkers.journal
    return [
        lease.lease_id
        for client in clients
        for lease in client.leases
        if any(
            key in journal.by_key and vanished(journal, key) is None
            for key in lease.keys
        )
    ]
