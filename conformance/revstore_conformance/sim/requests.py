"""Random requests of the key-value API, and what their answers say of the store.

The same requests go to simulated members and to real ones; only clock, randomness and
the way of a call differ, and none of them is here.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from revstore.proto import rpc_pb2
from revstore_conformance.sim.linearizability import (
    UNKNOWN_TIME,
    Action,
    Operation,
    Value,
)


class Requests:
    """What one client asks; it compares with what it saw last."""

    def __init__(
        self,
        name: str,
        random: Random,
        groups: int,
        group_keys: int,
        now: Callable[[], float],
    ) -> None:
        """Keys are in ``groups``; a transaction joins only the keys of one."""
        self.name = name
        self.last_seen: dict[bytes, Value] = {}
        self._random = random
        self._groups = groups
        self._group_keys = group_keys
        self._now = now
        self._value = 0

    def finish(
        self, operation: Operation, method: str, answer: bytes, member: str
    ) -> Operation:
        """The operation with its answer, which came from ``member``."""
        succeeded, seen = True, []
        if method == "Put":
            header = rpc_pb2.PutResponse.FromString(answer).header
        elif method == "Range":
            ranged = rpc_pb2.RangeResponse.FromString(answer)
            header = ranged.header
            found = {kv.key: kv.value for kv in ranged.kvs}
            seen = [found.get(action.key) for action in operation.then]
        elif method == "DeleteRange":
            deleted = rpc_pb2.DeleteRangeResponse.FromString(answer)
            header = deleted.header
            seen = [deleted.prev_kvs[0].value if deleted.prev_kvs else None]
        else:
            txn = rpc_pb2.TxnResponse.FromString(answer)
            header, succeeded = txn.header, txn.succeeded
            seen = [
                one.response_range.kvs[0].value if one.response_range.kvs else None
                for one in txn.responses
                if one.WhichOneof("response") == "response_range"
            ]
        finished = Operation(
            operation.client,
            operation.begin,
            self._now(),
            operation.compares,
            operation.then,
            operation.otherwise,
            succeeded,
            tuple(seen),
            header.revision,
            member,
        )
        self._remember(finished)
        return finished

    def _remember(self, operation: Operation) -> None:
        seen = iter(operation.seen)
        done = operation.then if operation.succeeded else operation.otherwise
        for action in done:
            if action.kind == "put":
                self.last_seen[action.key] = action.value
            else:
                met = next(seen)
                self.last_seen[action.key] = met if action.kind == "get" else None

    # ----- choosing one

    def _new_value(self) -> bytes:
        self._value += 1
        return f"{self.name}.{self._value}".encode()

    def _operation(
        self,
        then: tuple[Action, ...],
        compares: tuple[tuple[bytes, Value], ...] = (),
        otherwise: tuple[Action, ...] = (),
    ) -> Operation:
        now = self._now()
        return Operation(self.name, now, UNKNOWN_TIME, compares, then, otherwise)

    def choose(self) -> tuple[str, bytes, Operation]:
        """The next request: its method, its bytes, and what it means to do."""
        random = self._random
        group = random.randrange(self._groups)
        keys = [b"k/%d/%d" % (group, n) for n in range(self._group_keys)]
        key = random.choice(keys)
        draw = random.random()
        if draw < 0.30:
            return self.put(key)
        if draw < 0.55:
            return self._get(key, b"", (key,))
        if draw < 0.63:
            return self._get(b"k/%d/" % group, b"k/%d0" % group, tuple(keys))
        if draw < 0.71:
            return self._delete(key)
        if draw < 0.92:
            return self._compare_and_swap(key)
        return self._transaction(keys)

    def put(self, key: bytes) -> tuple[str, bytes, Operation]:
        """A put of a value that nobody else writes."""
        value = self._new_value()
        request = rpc_pb2.PutRequest(key=key, value=value)
        operation = self._operation((Action("put", key, value),))
        return "Put", request.SerializeToString(), operation

    def _get(
        self, key: bytes, end: bytes, keys: tuple[bytes, ...]
    ) -> tuple[str, bytes, Operation]:
        request = rpc_pb2.RangeRequest(key=key, range_end=end)
        operation = self._operation(tuple(Action("get", one) for one in keys))
        return "Range", request.SerializeToString(), operation

    def _delete(self, key: bytes) -> tuple[str, bytes, Operation]:
        request = rpc_pb2.DeleteRangeRequest(key=key, prev_kv=True)
        operation = self._operation((Action("delete", key),))
        return "DeleteRange", request.SerializeToString(), operation

    def _compare_and_swap(self, key: bytes) -> tuple[str, bytes, Operation]:
        expected = self.last_seen.get(key)
        value = self._new_value()
        request = rpc_pb2.TxnRequest(compare=[_compare(key, expected)])
        request.success.add().request_put.CopyFrom(
            rpc_pb2.PutRequest(key=key, value=value)
        )
        request.failure.add().request_range.CopyFrom(rpc_pb2.RangeRequest(key=key))
        operation = self._operation(
            (Action("put", key, value),), ((key, expected),), (Action("get", key),)
        )
        return "Txn", request.SerializeToString(), operation

    def _transaction(self, keys: list[bytes]) -> tuple[str, bytes, Operation]:
        """Compare one key, write two, read the third."""
        one, two, *others = self._random.sample(keys, len(keys))
        expected = self.last_seen.get(one)
        values = [self._new_value(), self._new_value()]
        request = rpc_pb2.TxnRequest(compare=[_compare(one, expected)])
        then = []
        for key, value in zip((one, two), values, strict=True):
            put = rpc_pb2.PutRequest(key=key, value=value)
            request.success.add().request_put.CopyFrom(put)
            then.append(Action("put", key, value))
        otherwise = []
        for key in others:
            get = rpc_pb2.RangeRequest(key=key)
            request.success.add().request_range.CopyFrom(get)
            then.append(Action("get", key))
        for key in (one, two):
            get = rpc_pb2.RangeRequest(key=key)
            request.failure.add().request_range.CopyFrom(get)
            otherwise.append(Action("get", key))
        operation = self._operation(tuple(then), ((one, expected),), tuple(otherwise))
        return "Txn", request.SerializeToString(), operation


def _compare(key: bytes, expected: Value) -> rpc_pb2.Compare:
    """The key has this value; None: there is no such key."""
    if expected is None:
        return rpc_pb2.Compare(
            key=key,
            target=rpc_pb2.Compare.VERSION,
            result=rpc_pb2.Compare.EQUAL,
            version=0,
        )
    return rpc_pb2.Compare(
        key=key,
        target=rpc_pb2.Compare.VALUE,
        result=rpc_pb2.Compare.EQUAL,
        value=expected,
    )
