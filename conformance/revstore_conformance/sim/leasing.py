"""Clients with leases, and what must hold of a lease.

A lease lives at least its time to live, counted from the moment its owner sent the last
renewal that was answered well (or the grant); clocks may run too fast by the profile's
skew, and no more than that is forgiven. All keys of a lease vanish in one revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from revstore.api.inprocess import DirectStream
from revstore.errors import ApiError
from revstore.proto import rpc_pb2
from revstore_conformance.sim.clients import KV, call
from revstore_conformance.sim.journal import Journal
from revstore_conformance.sim.world import World

if TYPE_CHECKING:
    from revstore_conformance.sim.cluster import SimCluster

LEASE = "/etcdserverpb.Lease/"
LEASE_SAFETY = "lease safety"
KEYS = 2
RENEWALS_MAX = 6


class Lease(msgspec.Struct):
    """One lease of one client."""

    owner: str
    lease_id: int
    ttl: int
    renewed: float
    """When the newest request that was answered well was sent."""
    keys: list[bytes] = []
    renewals: int = 0


class LeaseClient:
    """Grants itself a lease, attaches keys, renews it for a while, lets it go."""

    def __init__(self, cluster: SimCluster, number: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.name = f"l{number}"
        self.random = cluster.world.random(f"lease client {number}")
        self.leases: list[Lease] = []
        self.stopped = False
        self._number = number
        self._round = 0

    def start(self) -> None:
        """Begin, after a moment."""
        self.world.loop.after(self.random.random() * 2, self._grant)

    def _later(self, delay_s: float) -> None:
        if not self.stopped:
            self.world.loop.after(delay_s, self._grant)

    def _grant(self) -> None:
        node = self.cluster.some_node(self.random)
        if self.stopped or node is None:
            self._later(0.3)
            return
        self._round += 1
        lease_id = self._number * 1_000_000 + self._round
        ttl = self.random.randint(2, 4)
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease_id)
        sent = self.world.loop.now

        def answered(outcome: bytes | ApiError | None, taken: bool) -> None:
            if isinstance(outcome, bytes):
                granted = rpc_pb2.LeaseGrantResponse.FromString(outcome)
                lease = Lease(self.name, lease_id, granted.TTL, sent)
                self.leases.append(lease)
                self.world.figures["leases granted"] += 1
                self._attach(lease)
            else:
                self._later(0.2)

        timeout = self.world.profile.client_timeout_s
        message = request.SerializeToString()
        call(self.cluster, node, LEASE + "LeaseGrant", message, timeout, answered)

    def _attach(self, lease: Lease) -> None:
        """Attach a key, then the next, then begin to renew."""
        if len(lease.keys) == KEYS:
            self._wait(lease)
            return
        node = self.cluster.some_node(self.random)
        key = b"l/%d/%d" % (lease.lease_id, len(lease.keys))
        lease.keys.append(key)
        if node is None:
            self._wait(lease)
            return
        request = rpc_pb2.PutRequest(key=key, value=b"x", lease=lease.lease_id)

        def answered(outcome: bytes | ApiError | None, taken: bool) -> None:
            self._attach(lease)

        timeout = self.world.profile.client_timeout_s
        message = request.SerializeToString()
        call(self.cluster, node, KV + "Put", message, timeout, answered)

    def _wait(self, lease: Lease) -> None:
        if lease.renewals >= RENEWALS_MAX or self.random.random() < 0.1:
            # Let go: it expires by itself, and another one is asked for.
            self._later(self.random.random())
            return
        pause = lease.ttl * (0.2 + 0.4 * self.random.random())
        self.world.loop.after(pause, lambda: self._renew(lease, 0))

    def _renew(self, lease: Lease, attempts: int) -> None:
        """One renewal, at any member; the leader is asked if that fails."""
        lease.renewals += attempts == 0
        if attempts > 6:
            self._wait(lease)
            return
        node = self.cluster.some_node(self.random)
        if attempts % 2:
            node = self.cluster.leader() or node
        if node is None or not node.up or not node.serving:
            self.world.loop.after(0.1, lambda: self._renew(lease, attempts + 1))
            return
        sent = self.world.loop.now
        over = [False]

        def end(ttl: int | None) -> None:
            if over[0]:
                return
            over[0] = True
            if ttl is None:
                self.world.loop.after(0.05, lambda: self._renew(lease, attempts + 1))
            elif ttl > 0:
                lease.renewed = max(lease.renewed, sent)
                self.world.figures["leases renewed"] += 1
                self._wait(lease)
            else:
                self.world.figures["leases found expired"] += 1
                self._later(0.1)

        def opened(stream: DirectStream, generation: int) -> None:
            def event() -> None:
                message = stream.take()
                if message is not None:
                    got = rpc_pb2.LeaseKeepAliveResponse.FromString(message)
                    delay = self.cluster.network.client_delay()
                    self.world.loop.after(delay, lambda: end(got.TTL))
                    stream.on_event = None
                    stream.cancel()
                elif stream.over:
                    self.world.loop.after(0.0, lambda: end(None))

            stream.on_event = event
            request = rpc_pb2.LeaseKeepAliveRequest(ID=lease.lease_id)
            stream.push(request.SerializeToString())
            if stream.over and stream.on_event is not None:
                event()

        path = LEASE + "LeaseKeepAlive"
        self.world.loop.after(
            self.cluster.network.client_delay(),
            lambda: node.open_stream(path, opened, 8),
        )
        self.world.loop.after(0.8, lambda: end(None))


def vanished(journal: Journal, key: bytes) -> tuple[int, float] | None:
    """Revision and time at which a key with a lease was deleted; None: not yet."""
    for change in journal.by_key.get(key, []):
        if change.deleted:
            return change.revision, change.time
    return None


def check_lease(world: World, journal: Journal, lease: Lease) -> None:
    """See the head of the file. Raises: Violation."""
    ends = []
    for key in lease.keys:
        if key not in journal.by_key:
            continue  # It was never attached.
        end = vanished(journal, key)
        ends.append(-1 if end is None else end[0])
        if end is None:
            continue
        shortest = lease.ttl / (1 + world.profile.clock_skew)
        if end[1] < lease.renewed + shortest - 1e-9:
            text = (
                f"lease {lease.lease_id} of {lease.owner} (ttl {lease.ttl}), renewed "
                f"at {lease.renewed:.4f}, lost {key.decode()} at {end[1]:.4f}"
            )
            raise world.violated(LEASE_SAFETY, text)
    world.figures["checked: leases"] += 1
    if len(set(ends)) > 1:
        text = f"the keys of lease {lease.lease_id} vanished at revisions {ends}"
        raise world.violated(LEASE_SAFETY, text)
