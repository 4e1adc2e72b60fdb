"""Requests of all kinds, from a seed.

Each writer has keys of its own, ``b"<writer>/..."``, so that a change tells who made it;
each value is unique. ``a`` and ``b`` of a writer are changed together and always sum to
zero.
"""

from __future__ import annotations

from random import Random

import msgspec

from revstore.api.replica import Tag
from revstore.proto import rpc_pb2

TTL_S = 100_000
LEASE_BASE = 1_000_000


class Op(msgspec.Struct, frozen=True, array_like=True):
    """A request as it goes into the log."""

    tag: int
    payload: bytes
    plain_puts: bool = False
    """Whether it is a transaction of different puts and nothing else."""


def writer_of(key: bytes) -> int:
    """Whose key it is."""
    return int(key.partition(b"/")[0])


class Load:
    """The requests of one writer; leases are named by writer and run."""

    def __init__(self, random: Random, writer: int, run: int) -> None:
        self._random = random
        self._writer = writer
        self.run = run
        self._number = 0
        self._leases: list[int] = []

    def next(self, compactable: int, compacted: int) -> Op:
        """The next request; it may compact up to ``compactable``, 0 for "may not"."""
        self._number += 1
        draw = self._random.random()
        if draw < 0.35:
            return _op(Tag.PUT, self._put(self._key()))
        if draw < 0.60:
            return self._transfer()
        if draw < 0.68:
            return self._plain_puts()
        if draw < 0.78:
            return _op(Tag.DELETE_RANGE, self._delete())
        if draw < 0.82 and compactable > max(compacted, 0):
            revision = self._random.randint(max(compacted, 0) + 1, compactable)
            return _op(Tag.COMPACTION, rpc_pb2.CompactionRequest(revision=revision))
        return self._about_leases()

    def _about_leases(self) -> Op:
        random = self._random
        if not self._leases or random.random() < 0.3:
            lease = LEASE_BASE * (self.run * 10 + self._writer + 1) + self._number
            self._leases.append(lease)
            grant = rpc_pb2.LeaseGrantRequest(ID=lease, TTL=TTL_S + self._number)
            return _op(Tag.LEASE_GRANT, grant)
        if random.random() < 0.3:
            lease = self._leases.pop(random.randrange(len(self._leases)))
            return _op(Tag.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease))
        put = self._put(self._key())
        put.lease = random.choice(self._leases)
        return _op(Tag.PUT, put)

    def _key(self) -> bytes:
        return b"%d/k%d" % (self._writer, self._random.randrange(12))

    def _value(self) -> bytes:
        random = self._random
        size = random.choice((0, 10, 100, 300, 300, 3000))
        if random.random() < 0.02:
            size = 20_000
        return b"%d.%d." % (self.run, self._number) + random.randbytes(size)

    def _put(self, key: bytes) -> rpc_pb2.PutRequest:
        return rpc_pb2.PutRequest(key=key, value=self._value())

    def _delete(self) -> rpc_pb2.DeleteRangeRequest:
        if self._random.random() < 0.6:
            return rpc_pb2.DeleteRangeRequest(key=self._key())
        low, high = sorted((self._key(), self._key()))
        return rpc_pb2.DeleteRangeRequest(key=low, range_end=high + b"\0")

    def _transfer(self) -> Op:
        """Change ``a`` and ``b`` by opposite amounts, and more beside it."""
        random = self._random
        amount = random.randint(-99, 99)
        name = b"%d/" % self._writer
        request = rpc_pb2.TxnRequest()
        compare = request.compare.add(key=name + b"k0")
        compare.target = rpc_pb2.Compare.VERSION
        compare.result = random.choice((rpc_pb2.Compare.EQUAL, rpc_pb2.Compare.GREATER))
        compare.version = random.randint(0, 2)
        for branch, sign in ((request.success, 1), (request.failure, -1)):
            tail = b" %d.%d" % (self.run, self._number)
            for key, value in ((b"a", sign * amount), (b"b", -sign * amount)):
                put = branch.add().request_put
                put.key, put.value = name + key, b"%d" % value + tail
            more = branch.add()
            if random.random() < 0.3:
                more.request_delete_range.CopyFrom(self._delete())
            elif random.random() < 0.5:
                more.request_put.CopyFrom(self._put(self._key()))
            else:
                more.request_range.key = name + b"k1"
        return _op(Tag.TXN, request)

    def _plain_puts(self) -> Op:
        random = self._random
        request = rpc_pb2.TxnRequest()
        for number in random.sample(range(40), random.randint(1, 25)):
            key = b"%d/m%02d" % (self._writer, number)
            request.success.add().request_put.CopyFrom(self._put(key))
        return Op(Tag.TXN, request.SerializeToString(), plain_puts=True)


def _op(tag: Tag, request: object) -> Op:
    return Op(tag, request.SerializeToString())  # type: ignore[attr-defined]  # any message has it


def check_sums(pairs: dict[bytes, bytes]) -> None:
    """``a`` and ``b`` of every writer sum to zero, and come from one transaction.

    Raises: AssertionError.
    """
    for key, value in pairs.items():
        name, _, rest = key.partition(b"/")
        if rest == b"a":
            first, second = value.split(), pairs[name + b"/b"].split()
            assert int(first[0]) + int(second[0]) == 0, (key, first, second)
            assert first[1] == second[1], (key, first, second)
