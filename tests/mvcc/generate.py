"""Random requests that share few keys, so that they meet."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from revstore.apply.validate import check_txn_request
from revstore.errors import ApiError
from revstore.proto import rpc_pb2

KEYS = [
    b"a",
    b"a\x00",
    b"a\x00\x00",
    b"a\x00\x01",
    b"a\x00\xff",
    b"a\x01",
    b"ab",
    b"b",
    b"b\xff",
    b"c",
    b"\x00",
    b"\xff",
    b"\xff\xff",
    b"long/" + b"k" * 140,
]
VALUES = [b"", b"1", b"two", b"v" * 130, b"\x00\xff" * 9]
ORDERS = ["NONE", "NONE", "ASCEND", "DESCEND"]
TARGETS = ["KEY", "KEY", "VERSION", "CREATE", "MOD", "VALUE"]
RESULTS = ["EQUAL", "GREATER", "LESS", "NOT_EQUAL"]
COMPARED = ["VERSION", "CREATE", "MOD", "VALUE", "LEASE"]
LEASES = [0, 0, 0, 7, -3]


class Generator:
    """Requests from a seed."""

    def __init__(self, random: Random, keys: Sequence[bytes] = KEYS) -> None:
        self.random = random
        self.keys = keys

    def key(self) -> bytes:
        return self.random.choice(self.keys)

    def end(self) -> bytes:
        random = self.random
        return random.choice([b"", b"", b"\x00", self.key(), self.key() + b"\x00"])

    def put(self) -> rpc_pb2.PutRequest:
        random = self.random
        request = rpc_pb2.PutRequest(
            key=self.key(), lease=random.choice(LEASES), prev_kv=random.random() < 0.3
        )
        if random.random() < 0.15:
            request.ignore_value = True
        else:
            request.value = random.choice(VALUES)
        if random.random() < 0.15:
            request.lease = 0
            request.ignore_lease = True
        return request

    def delete(self) -> rpc_pb2.DeleteRangeRequest:
        random = self.random
        end = b"" if random.random() < 0.6 else self.end()
        return rpc_pb2.DeleteRangeRequest(
            key=self.key(), range_end=end, prev_kv=random.random() < 0.5
        )

    def range(self, revision: int = 0) -> rpc_pb2.RangeRequest:
        random = self.random
        request = rpc_pb2.RangeRequest(
            key=self.key(),
            range_end=self.end(),
            limit=random.choice([0, 0, 1, 2, 3, -1]),
            revision=revision,
            sort_order=random.choice(ORDERS),
            sort_target=random.choice(TARGETS),
            keys_only=random.random() < 0.2,
            count_only=random.random() < 0.1,
        )
        if random.random() < 0.5:
            request.key, request.range_end = b"\x00", b"\x00"
        if random.random() < 0.2:
            field = random.choice(["min_mod", "max_mod", "min_create", "max_create"])
            setattr(request, field + "_revision", random.randint(-1, 40))
        return request

    def compare(self) -> rpc_pb2.Compare:
        random = self.random
        compare = rpc_pb2.Compare(
            key=self.key(),
            range_end=self.end() if random.random() < 0.3 else b"",
            result=random.choice(RESULTS),
            target=random.choice(COMPARED),
        )
        union = random.choice(
            ["version", "create_revision", "mod_revision", "value", "lease", ""]
        )
        if union == "value":
            compare.value = random.choice(VALUES)
        elif union:
            setattr(compare, union, random.choice([0, 1, 2, 7]))
        return compare

    def op(self, head: int, depth: int) -> rpc_pb2.RequestOp:
        random = self.random
        kind = random.randrange(10)
        if kind < 5:
            return rpc_pb2.RequestOp(request_put=self.put())
        if kind < 7:
            return rpc_pb2.RequestOp(request_delete_range=self.delete())
        if kind < 9 or depth == 0:
            revision = random.choice([0, 0, 0, 0, -1, head, head - 1, head + 1])
            return rpc_pb2.RequestOp(request_range=self.range(revision))
        return rpc_pb2.RequestOp(request_txn=self._txn(head, depth - 1))

    def _txn(self, head: int, depth: int) -> rpc_pb2.TxnRequest:
        random = self.random
        return rpc_pb2.TxnRequest(
            compare=[self.compare() for _ in range(random.choice([0, 0, 1, 2]))],
            success=[self.op(head, depth) for _ in range(random.randrange(5))],
            failure=[self.op(head, depth) for _ in range(random.randrange(3))],
        )

    def any_txn(self, head: int) -> rpc_pb2.TxnRequest:
        """A transaction that may be invalid."""
        return self._txn(head, 2)

    def txn(self, head: int) -> rpc_pb2.TxnRequest:
        """A transaction that passes validation."""
        while True:
            request = self._txn(head, 2)
            try:
                check_txn_request(request, 128)
            except ApiError:
                continue
            return request

    def puts(self) -> rpc_pb2.TxnRequest:
        """A transaction of plain puts."""
        keys = self.random.sample(KEYS, self.random.randint(1, 6))
        return rpc_pb2.TxnRequest(
            success=[
                rpc_pb2.RequestOp(
                    request_put=rpc_pb2.PutRequest(
                        key=key, value=self.random.choice(VALUES)
                    )
                )
                for key in keys
            ]
        )
