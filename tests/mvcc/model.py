"""etcd's store told as simply as possible: every version of every key in a list.

The truth that the real store is compared with. Nothing here is fast, bounded or clever;
whoever doubts a rule should be able to read it off.
"""

from __future__ import annotations

from revstore.api import errors
from revstore.proto import rpc_pb2
from revstore.proto.kv_pb2 import KeyValue

Row = tuple[int, int, bool, KeyValue]
"""Main, sub, deleted, and the pair (a deletion has the key only)."""

CRC_TABLE = []
for _number in range(256):
    _crc = _number
    for _ in range(8):
        _crc = (_crc >> 1) ^ 0x82F63B78 if _crc & 1 else _crc >> 1
    CRC_TABLE.append(_crc)


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC-32C, bit by bit in all but name."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def in_range(key: bytes, lo: bytes, end: bytes) -> bool:
    """etcd's pair of key and range_end."""
    if not end:
        return key == lo
    return key >= lo and (end == b"\x00" or key < end)


class Model:
    """The store's whole history."""

    def __init__(self) -> None:
        self.revision = 1
        self.compact_revision = -1
        self.compactions: list[tuple[int, int]] = []
        self.rows: list[Row] = []
        self.leases: set[int] = set()
        self.changed = 0
        """Changes of the running transaction."""

    # State

    def state(self, revision: int) -> dict[bytes, KeyValue]:
        """The live pairs at a revision, by key in order."""
        found: dict[bytes, KeyValue] = {}
        for main, _, deleted, kv in self.rows:
            if main <= revision:
                if deleted:
                    found.pop(kv.key, None)
                else:
                    found[kv.key] = kv
        return dict(sorted(found.items()))

    def now(self) -> dict[bytes, KeyValue]:
        """The live pairs, the running transaction's changes included."""
        return self.state(self.revision + 1)

    def events(self, first: int) -> list[Row]:
        """The changes from a revision on."""
        return [row for row in self.rows if row[0] >= first]

    # Operations of a transaction

    def range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        head = self.revision + bool(self.changed)
        if request.revision > self.revision:
            raise errors.FUTURE_REV.fresh()
        if 0 < request.revision < self.compact_revision:
            raise errors.COMPACTED.fresh()
        pairs = self.now() if request.revision <= 0 else self.state(request.revision)
        found = [
            kv
            for key, kv in pairs.items()
            if in_range(key, request.key, request.range_end)
        ]
        answer = rpc_pb2.RangeResponse(count=len(found))
        answer.header.revision = head
        if request.count_only:
            return answer
        filters = (
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
        limit = max(request.limit, 0)
        if limit and request.sort_order == 0 and not any(filters):
            found = found[: limit + 1]
        min_mod, max_mod, min_create, max_create = filters
        found = [
            kv
            for kv in found
            if not (min_mod and kv.mod_revision < min_mod)
            and not (max_mod and kv.mod_revision > max_mod)
            and not (min_create and kv.create_revision < min_create)
            and not (max_create and kv.create_revision > max_create)
        ]
        name = ["key", "version", "create_revision", "mod_revision", "value"]
        field = name[request.sort_target]
        found.sort(key=lambda kv: getattr(kv, field), reverse=request.sort_order == 2)
        if limit and len(found) > limit:
            found = found[:limit]
            answer.more = True
        for kv in found:
            answer.kvs.add().CopyFrom(kv)
            if request.keys_only:
                answer.kvs[-1].value = b""
        return answer

    def check_put(self, request: rpc_pb2.PutRequest, in_txn: bool = False) -> None:
        keeps_part = request.ignore_value or request.ignore_lease
        no_key = keeps_part and request.key not in self.now()
        no_lease = request.lease and request.lease not in self.leases
        if no_key and (in_txn or not no_lease):
            raise errors.KEY_NOT_FOUND.fresh()
        if no_lease:
            raise errors.LEASE_NOT_FOUND.fresh()

    def put(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        main = self.revision + 1
        old = self.now().get(request.key)
        kv = KeyValue(key=request.key, mod_revision=main, value=request.value)
        kv.create_revision = old.create_revision if old else main
        kv.version = old.version + 1 if old else 1
        kv.lease = request.lease
        if old and request.ignore_value:
            kv.value = old.value
        if old and request.ignore_lease:
            kv.lease = old.lease
        self.rows.append((main, self.changed, False, kv))
        self.changed += 1
        answer = rpc_pb2.PutResponse()
        answer.header.revision = main
        if old and request.prev_kv:
            answer.prev_kv.CopyFrom(old)
        return answer

    def delete(
        self, request: rpc_pb2.DeleteRangeRequest
    ) -> rpc_pb2.DeleteRangeResponse:
        answer = rpc_pb2.DeleteRangeResponse()
        for key, kv in self.now().items():
            if in_range(key, request.key, request.range_end):
                row = (self.revision + 1, self.changed, True, KeyValue(key=key))
                self.rows.append(row)
                self.changed += 1
                answer.deleted += 1
                if request.prev_kv:
                    answer.prev_kvs.add().CopyFrom(kv)
        answer.header.revision = self.revision + bool(self.changed)
        return answer

    def commit(self) -> int:
        self.revision += bool(self.changed)
        self.changed = 0
        return self.revision

    # Transactions

    def txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        path = self.branches(request)
        plan = self.operations(request, list(path))
        for op in plan:
            if op.HasField("request_put"):
                self.check_put(op.request_put, in_txn=True)
        for op in plan:
            revision = op.request_range.revision
            if op.HasField("request_range") and revision != 0:
                if revision > self.revision:
                    raise errors.FUTURE_REV.fresh()
                if revision < self.compact_revision:
                    raise errors.COMPACTED.fresh()
        return self.run(request, path)

    def branches(self, request: rpc_pb2.TxnRequest) -> list[bool]:
        taken = [all(self.holds(compare) for compare in request.compare)]
        for op in request.success if taken[0] else request.failure:
            if op.HasField("request_txn"):
                taken += self.branches(op.request_txn)
        return taken

    def operations(
        self, request: rpc_pb2.TxnRequest, path: list[bool]
    ) -> list[rpc_pb2.RequestOp]:
        plan = []
        for op in request.success if path.pop(0) else request.failure:
            if op.HasField("request_txn"):
                plan += self.operations(op.request_txn, path)
            else:
                plan.append(op)
        return plan

    def run(self, request: rpc_pb2.TxnRequest, path: list[bool]) -> rpc_pb2.TxnResponse:
        answer = rpc_pb2.TxnResponse(succeeded=path.pop(0))
        answer.header.SetInParent()
        for op in request.success if answer.succeeded else request.failure:
            response = answer.responses.add()
            if op.HasField("request_range"):
                response.response_range.CopyFrom(self.range(op.request_range))
            elif op.HasField("request_put"):
                response.response_put.CopyFrom(self.put(op.request_put))
            elif op.HasField("request_delete_range"):
                deleted = self.delete(op.request_delete_range)
                response.response_delete_range.CopyFrom(deleted)
            else:
                response.response_txn.CopyFrom(self.run(op.request_txn, path))
        return answer

    def holds(self, compare: rpc_pb2.Compare) -> bool:
        found = [
            kv
            for key, kv in self.state(self.revision).items()
            if in_range(key, compare.key, compare.range_end)
        ]
        if not found:
            return compare.target != 3 and self.holds_for(compare, KeyValue())
        return all(self.holds_for(compare, kv) for kv in found)

    def holds_for(self, compare: rpc_pb2.Compare, kv: KeyValue) -> bool:
        names = ["version", "create_revision", "mod_revision", "value", "lease"]
        name = names[compare.target]
        left, right = getattr(kv, name), getattr(compare, name)
        verdicts = [left == right, left > right, left < right, left != right]
        return bool(verdicts[compare.result])

    # Compaction and hashes

    def compact(self, revision: int) -> None:
        if revision <= self.compact_revision:
            raise errors.COMPACTED.fresh()
        if revision > self.revision:
            raise errors.FUTURE_REV.fresh()
        self.compactions.append((self.compact_revision, revision))
        self.compact_revision = revision

    def hash_kv(
        self, revision: int, compact_revision: int, compacting: bool = False
    ) -> int:
        """HashKV at a revision for a store compacted at another.

        ``compacting``: as the compaction at ``revision`` computes it, which keeps the
        deletions at that revision.
        """
        newest: dict[bytes, Row] = {}
        retained: dict[bytes, Row] = {}
        for row in self.rows:
            if row[0] <= revision:
                newest[row[3].key] = row
            if row[0] <= compact_revision:
                retained[row[3].key] = row
        keep = {
            row[:2]
            for row in newest.values()
            if not row[2] or (compacting and row[0] == revision)
        }
        left = {row[:2] for row in retained.values() if not row[2]}
        crc = crc32c(b"key")
        for main, sub, deleted, kv in self.rows:
            if main > revision:
                continue
            if main <= compact_revision:
                if (main, sub) not in left:
                    continue
                if keep and (main, sub) not in keep:
                    continue
            key = main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big")
            crc = crc32c(key + (b"t" if deleted else b""), crc)
            crc = crc32c(kv.SerializeToString(), crc)
        return crc

    def rows_after_compaction(self, revision: int) -> list[Row]:
        """What a physical compaction at a revision leaves."""
        newest: dict[bytes, Row] = {}
        for row in self.rows:
            if row[0] <= revision:
                newest[row[3].key] = row
        return [
            row
            for row in self.rows
            if row[0] > revision
            or (row is newest[row[3].key] and (not row[2] or row[0] == revision))
        ]
