"""A seeded generator of requests, valid ones and odd ones.

Few keys, so that things collide; keys with 00 and ff, and keys longer than an LMDB page
takes. Requests that crash etcd 3.4.23 (unknown sort targets) or change its state where
revstore refuses carry a mark in ``differences`` and are not sent to it.
"""

from __future__ import annotations

from random import Random
from typing import Any

from revstore.proto import rpc_pb2 as rpc
from tests.differential.ops import (
    TXN_OPS_MAX,
    ChosenLease,
    CloseWatches,
    CompareHistory,
    KeepAlive,
    NegativeWatch,
    Op,
    RangeStream,
    Restart,
    Unary,
    Watch,
)

PLAIN_KEYS = [bytes([letter]) for letter in b"abcdefgh"]
ODD_KEYS = [
    b"\x00",
    b"\x00\x00",
    b"a\x00",
    b"a\x00\xff",
    b"a\xff",
    b"a\xff\xff",
    b"aa",
    b"b\x01",
    b"\xff",
    b"\xff\x00",
    b"\xff\xff",
    b"long" * 150,
    b"long" * 150 + b"\x00",
    b"longer" * 500,
]
KEYS = PLAIN_KEYS + ODD_KEYS
LEASES = (1, 2, 7, -3, 2**62)
UNKNOWN_LEASE = 999
VALUES = (b"", b"x", b"y", b"z", b"\x00\xff", b"v" * 40, b"w" * 700)
STREAMS = 3
WATCH_IDS = (501, 502, -7, 2**40)
"""Ids that clients choose; the servers' own numbers do not come that far."""

DEPTH_MAX = 3


def prefix_end(key: bytes) -> bytes:
    """The end of the range of all keys that begin with ``key``."""
    cut = key.rstrip(b"\xff")
    return cut[:-1] + bytes([cut[-1] + 1]) if cut else b"\x00"


class Generator:
    """Random operations; ``revision`` and ``compacted`` follow the servers."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.revision = 1
        self.compacted = 0

    def key(self) -> bytes:
        """A key, rarely the empty one."""
        draw = self.random.random()
        if draw < 0.01:
            return b""
        return self.random.choice(PLAIN_KEYS if draw < 0.7 else ODD_KEYS)

    def span(self) -> tuple[bytes, bytes]:
        """Key and range_end in every form there is."""
        key = self.key()
        form = self.random.randrange(12)
        if form < 4:
            return key, b""
        if form < 6:
            return key, prefix_end(key)
        if form == 6:
            return key, b"\x00"
        if form == 7:
            return b"\x00", b"\x00"
        if form == 8:
            return key, key + b"\x00"
        if form == 9:
            return key, key
        return key, self.key()

    def asked_revision(self) -> int:
        """Mostly the current one; else any, also compacted, future and negative."""
        draw = self.random.random()
        if draw < 0.55:
            return 0
        if draw < 0.60:
            return self.random.choice([-1, -(2**63), self.compacted - 1])
        if draw < 0.64:
            return self.revision + self.random.choice([1, 2, 2**40])
        if draw < 0.70:
            return self.compacted
        return self.random.randint(max(self.compacted, 1), self.revision)

    def bound(self) -> int:
        """A bound of a revision filter, mostly unset."""
        if self.random.random() < 0.85:
            return 0
        return self.random.randint(-1, self.revision + 1)

    def range(self, *, valid_sort: bool = True) -> rpc.RangeRequest:
        """A range with any of the fields set."""
        random = self.random
        key, end = self.span()
        request = rpc.RangeRequest(
            key=key,
            range_end=end,
            revision=self.asked_revision(),
            serializable=random.random() < 0.3,
            keys_only=random.random() < 0.15,
            count_only=random.random() < 0.1,
            min_mod_revision=self.bound(),
            max_mod_revision=self.bound(),
            min_create_revision=self.bound(),
            max_create_revision=self.bound(),
        )
        if random.random() < 0.4:
            request.limit = random.choice([1, 1, 2, 3, 5, 100, -1, 2**62])
        if random.random() < 0.5:
            request.sort_target = random.randrange(5)  # type: ignore[assignment]  # any number is sent
            request.sort_order = random.randrange(3)  # type: ignore[assignment]  # any number is sent
        if not valid_sort:
            which = random.choice(["sort_order", "sort_target"])
            setattr(
                request,
                which,
                random.choice([3, 5, 9, -1]) if which == "sort_order" else 9,
            )
        return request

    def put(self) -> rpc.PutRequest:
        """A put with any of the flags."""
        random = self.random
        request = rpc.PutRequest(
            key=self.key(),
            value=random.choice(VALUES),
            prev_kv=random.random() < 0.3,
        )
        if random.random() < 0.3:
            request.lease = random.choice([*LEASES, *LEASES, UNKNOWN_LEASE])
        if random.random() < 0.12:
            request.ignore_value = True
            if random.random() < 0.8:
                request.value = b""
        if random.random() < 0.12:
            request.ignore_lease = True
            if random.random() < 0.8:
                request.lease = 0
        return request

    def delete(self) -> rpc.DeleteRangeRequest:
        """A delete of one key or a range."""
        key, end = self.span() if self.random.random() < 0.5 else (self.key(), b"")
        return rpc.DeleteRangeRequest(
            key=key, range_end=end, prev_kv=self.random.random() < 0.4
        )

    def compare(self) -> rpc.Compare:
        """A compare of any target, result and value, also wrong ones."""
        random = self.random
        compare = rpc.Compare(key=self.key())
        if random.random() < 0.25:
            compare.key, compare.range_end = self.span()
        target = random.choice([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 9])
        compare.target = target  # type: ignore[assignment]  # any number is sent
        compare.result = random.choice([0, 1, 2, 3, 0, 1, 2, 3, 7])  # type: ignore[assignment]  # any number is sent
        union = target if random.random() < 0.93 else random.randrange(5)
        if random.random() < 0.05:
            return compare
        if union == 0:
            compare.version = random.randrange(4)
        elif union == 1:
            compare.create_revision = random.choice([0, self.asked_revision()])
        elif union == 2:
            compare.mod_revision = random.choice([0, self.asked_revision()])
        elif union == 3:
            compare.value = random.choice(VALUES)
        elif union == 4:
            compare.lease = random.choice([0, *LEASES])
        return compare

    def txn(self, depth: int = 0) -> rpc.TxnRequest:
        """A transaction, nested up to three deep."""
        random = self.random
        request = rpc.TxnRequest()
        for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
            request.compare.append(self.compare())
        for branch in (request.success, request.failure):
            wanted = random.choice([0, 1, 1, 2, 2, 3, 4])
            if random.random() < 0.02:
                wanted = TXN_OPS_MAX - random.randrange(-1, 3)
            fresh = random.sample(KEYS, len(KEYS))
            for _ in range(wanted):
                branch.append(self.txn_op(depth, fresh))
        return request

    def txn_op(self, depth: int, fresh: list[bytes]) -> rpc.RequestOp:
        """One operation of a branch; most puts take a key of their own."""
        random = self.random
        draw = random.random()
        if draw < 0.005:
            return rpc.RequestOp()
        if draw < 0.45:
            put = self.put()
            if put.key and fresh and random.random() < 0.9:
                put.key = fresh.pop()
            if put.lease == UNKNOWN_LEASE and random.random() < 0.7:
                put.lease = 0
            return rpc.RequestOp(request_put=put)
        if draw < 0.58:
            delete = self.delete()
            if delete.key and fresh and random.random() < 0.7:
                delete.key, delete.range_end = fresh.pop(), b""
            return rpc.RequestOp(request_delete_range=delete)
        if draw < 0.88 or depth == DEPTH_MAX:
            request = self.range()
            if random.random() < 0.7:
                request.revision = 0
            return rpc.RequestOp(request_range=request)
        return rpc.RequestOp(request_txn=self.txn(depth + 1))

    def txn_with_bad_sort(self) -> rpc.TxnRequest:
        """A transaction with nothing wrong but one sort option."""
        get = rpc.RangeRequest(key=b"a", sort_order=7)  # type: ignore[arg-type]  # unknown on purpose
        success = [
            rpc.RequestOp(request_put=rpc.PutRequest(key=b"b", value=b"never")),
            rpc.RequestOp(request_range=get),
        ]
        if self.random.random() < 0.5:
            inner = rpc.TxnRequest(success=success)
            success = [rpc.RequestOp(request_txn=inner)]
        return rpc.TxnRequest(success=success)

    def nested_put(self) -> rpc.TxnRequest:
        """A transaction that puts in a nested one only."""
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=b"b", value=b"never"))
        inner = rpc.RequestOp(request_txn=rpc.TxnRequest(success=[put]))
        return rpc.TxnRequest(success=[inner])

    def twice_in_one_revision(self) -> rpc.TxnRequest:
        """A put and a delete of one key that etcd's interval check overlooks."""
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=b"c", value=b"never"))
        if self.random.random() < 0.5:
            span = rpc.DeleteRangeRequest(key=b"b", range_end=b"\x00")
            return rpc.TxnRequest(
                success=[rpc.RequestOp(request_delete_range=span), put]
            )
        span = rpc.DeleteRangeRequest(key=b"b", range_end=b"d")
        delete = rpc.RequestOp(request_delete_range=span)
        return rpc.TxnRequest(
            success=[
                rpc.RequestOp(request_txn=rpc.TxnRequest(success=[put])),
                rpc.RequestOp(request_txn=rpc.TxnRequest(success=[delete])),
            ]
        )

    def compaction(self) -> rpc.CompactionRequest:
        """A compaction, mostly of older history, sometimes of all or of nonsense."""
        random = self.random
        draw = random.random()
        if draw < 0.55:
            low = max(self.compacted, 0)
            revision = random.randint(low, max(low, self.revision - 5))
        elif draw < 0.75:
            revision = self.revision
        else:
            revision = random.choice(
                [-1, 0, self.compacted, self.revision + 1, self.compacted - 3]
            )
        return rpc.CompactionRequest(revision=revision, physical=random.random() < 0.5)

    def lease_op(self) -> Op:
        """Anything about leases; lifetimes are long, so that nothing expires."""
        random = self.random
        lease = random.choice([*LEASES, *LEASES, UNKNOWN_LEASE])
        draw = random.randrange(10)
        if draw < 4:
            ttl = random.choice([5000, 70_000, 10**6, 9_000_000_000])
            if random.random() < 0.1:
                ttl = 9_000_000_001
            identity = random.choice(LEASES)
            return Unary("LeaseGrant", rpc.LeaseGrantRequest(ID=identity, TTL=ttl))
        if draw < 6:
            return Unary("LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease))
        if draw < 8:
            keys = random.random() < 0.7
            request = rpc.LeaseTimeToLiveRequest(ID=lease, keys=keys)
            return Unary("LeaseTimeToLive", request)
        if draw == 8:
            some = (*LEASES, UNKNOWN_LEASE)
            return KeepAlive(tuple(random.choices(some, k=random.randint(1, 3))))
        if random.random() < 0.2:
            return ChosenLease(random.choice([0, -5, 1, 600]))
        return Unary("LeaseLeases", rpc.LeaseLeasesRequest())

    def watch_create(self) -> rpc.WatchRequest:
        """A watch with any of the fields set."""
        random = self.random
        key, end = self.span()
        draw = random.random()
        start = 0
        if draw < 0.45:
            start = random.randint(max(self.compacted, 1), self.revision)
        elif draw < 0.55:
            start = max(self.compacted, 0)
        elif draw < 0.60:
            start = max(self.compacted - 2, 0)
        elif draw < 0.70:
            start = self.revision + random.randint(1, 30)
        filters: list[Any] = []
        if random.random() < 0.3:
            filters = random.choice([[0], [1], [0, 1], [1, 1]])
        return rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=key,
                range_end=end,
                start_revision=start,
                progress_notify=random.random() < 0.1,
                filters=filters,
                prev_kv=random.random() < 0.5,
                watch_id=random.choice([0, 0, 0, 0, *WATCH_IDS]),
                fragment=random.random() < 0.3,
            )
        )

    def watch_op(self) -> Op:
        """Anything on a watch stream."""
        random = self.random
        stream = random.randrange(STREAMS)
        draw = random.random()
        if draw < 0.5:
            return Watch(stream, self.watch_create())
        if draw < 0.65:
            identity = random.choice([0, 1, 2, *WATCH_IDS])
            cancel = rpc.WatchCancelRequest(watch_id=identity)
            return Watch(stream, rpc.WatchRequest(cancel_request=cancel))
        if draw < 0.9:
            progress = rpc.WatchProgressRequest()
            return Watch(stream, rpc.WatchRequest(progress_request=progress))
        if draw < 0.95:
            return CloseWatches(stream)
        request = self.watch_create()
        request.create_request.start_revision = random.choice([-1, -5])
        request.create_request.watch_id = 0
        return NegativeWatch(request)

    def alarm_ops(self) -> list[Op]:
        """An alarm comes, forbids what needs room, and goes."""

        def alarm(action: int) -> Op:
            request = rpc.AlarmRequest(action=action, memberID=1, alarm=1)  # type: ignore[arg-type]  # numbers as sent
            return Unary("Alarm", request)

        get = Unary("Alarm", rpc.AlarmRequest())
        between: list[Op] = [
            Unary("Put", self.put()),
            Unary("DeleteRange", self.delete()),
            Unary("Txn", self.txn(depth=DEPTH_MAX)),
            Unary("Txn", self.nested_put()),
            Unary("LeaseGrant", rpc.LeaseGrantRequest(ID=7, TTL=5000)),
        ]
        return [alarm(1), get, alarm(1), *between, alarm(2), alarm(2), get]

    def compacted_deletion(self) -> list[Op]:
        """A deletion, a compaction at it, and a watch from there."""
        put = rpc.PutRequest(key=b"h", value=b"short-lived")
        deletion = self.revision + 2
        compact = rpc.CompactionRequest(revision=deletion, physical=True)
        create = rpc.WatchCreateRequest(key=b"h", start_revision=deletion, prev_kv=True)
        late = rpc.WatchCreateRequest(
            key=b"h", start_revision=deletion - 1, watch_id=WATCH_IDS[0]
        )
        again = rpc.WatchCreateRequest(key=b"g", watch_id=WATCH_IDS[0])
        return [
            Unary("Put", put),
            Unary("DeleteRange", rpc.DeleteRangeRequest(key=b"h")),
            Unary("Compact", compact),
            Watch(0, rpc.WatchRequest(create_request=create)),
            Watch(1, rpc.WatchRequest(create_request=late)),
            Watch(1, rpc.WatchRequest(create_request=again)),
        ]

    def too_large(self) -> Op:
        """A put beyond the limit of a request."""
        value = bytes(1_600_000)
        return Unary("Put", rpc.PutRequest(key=b"a", value=value))

    def next(self) -> list[Op]:
        """The next operation, or a few that belong together."""
        random = self.random
        draw = random.random() * 100
        if draw < 25:
            return [Unary("Put", self.put())]
        if draw < 32:
            return [Unary("DeleteRange", self.delete())]
        if draw < 49:
            return [Unary("Txn", self.txn())]
        if draw < 81:
            return [Unary("Range", self.range())]
        if draw < 89:
            return [self.lease_op()]
        if draw < 94:
            return [self.watch_op()]
        if draw < 95.2:
            return [Unary("Compact", self.compaction())]
        if draw < 97.7:
            revision = self.asked_revision()
            return [Unary("HashKV", rpc.HashKVRequest(revision=revision))]
        return self.rare()

    def rare(self) -> list[Op]:
        """What differs from etcd 3.4.23 on purpose, and what is slow."""
        random = self.random
        draw = random.randrange(13)
        if draw == 12:
            return self.compacted_deletion()
        if draw < 3:
            request = self.range()
            if random.random() < 0.7:
                request.ClearField("sort_order")
                request.ClearField("sort_target")
                for name in ("min_mod", "max_mod", "min_create", "max_create"):
                    request.ClearField(f"{name}_revision")
            return [RangeStream(request)]
        if draw < 5:
            return [Unary("Range", self.range(valid_sort=False))]
        if draw == 5:
            return [Unary("Txn", self.txn_with_bad_sort())]
        if draw == 6:
            return [Unary("Txn", self.twice_in_one_revision())]
        if draw == 7:
            return [self.too_large()]
        if draw < 10:
            head = self.revision
            everything = rpc.CompactionRequest(revision=head, physical=True)
            ask = rpc.HashKVRequest(revision=head)
            return [Unary("Compact", everything), Unary("HashKV", ask)]
        return self.alarm_ops()

    def each_difference(self) -> list[Op]:
        """Operations that together show every difference there is."""
        future = rpc.WatchCreateRequest(key=b"a", start_revision=self.revision + 40)
        plain = rpc.RangeRequest(key=b"a", range_end=b"c", limit=3)
        ordered = rpc.RangeRequest(key=b"a", sort_order=rpc.RangeRequest.DESCEND)
        ask = rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())
        negative = rpc.WatchCreateRequest(key=b"a", start_revision=-1)
        return [
            CloseWatches(2),
            Watch(2, rpc.WatchRequest(create_request=future)),
            Unary("Put", rpc.PutRequest(key=b"a")),
            Watch(2, ask),
            RangeStream(plain),
            RangeStream(ordered),
            Unary("HashKV", rpc.HashKVRequest(revision=-1)),
            NegativeWatch(rpc.WatchRequest(create_request=negative)),
            Unary("Range", self.range(valid_sort=False)),
            Unary("Txn", self.txn_with_bad_sort()),
            Unary("Txn", self.twice_in_one_revision()),
            *self.alarm_ops(),
        ]

    def restart(self, *, kill: bool) -> list[Op]:
        """Hashes of all history, an end of either kind, and the hashes again."""
        put = Unary("Put", rpc.PutRequest(key=b"a", value=b"before the end"))
        return [CompareHistory(), put, Restart(kill), CompareHistory()]
