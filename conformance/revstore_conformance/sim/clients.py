"""Clients of the key-value API: they put, get, delete, compare and remember.

Rules of this file:

1. A client has one operation under way at a time. When its time is up, or the
   connection ends after the member took it, its outcome is unknown for ever.
2. An operation that was refused before anything could come of it is forgotten: if it
   has an effect all the same, somebody sees a value that nobody wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from revstore.api import errors
from revstore.errors import ApiError
from revstore.proto import rpc_pb2
from revstore_conformance.sim.linearizability import (
    UNKNOWN_TIME,
    Action,
    Operation,
    Value,
)
from revstore_conformance.sim.node import Node

if TYPE_CHECKING:
    from revstore_conformance.sim.cluster import SimCluster

KV = "/etcdserverpb.KV/"

REFUSED = frozenset(
    error.message
    for error in (errors.NO_LEADER, errors.PROPOSAL_DROPPED, errors.NOT_CAPABLE)
) | {"rpc not supported for learner", "etcdserver: rpc not supported for learner"}
"""Errors that say that nothing was done."""

Answered = Callable[[bytes | ApiError | None, bool], None]
"""Gets the answer, an error, or None; and whether the member may have begun."""


def call(
    cluster: SimCluster,
    node: Node,
    path: str,
    message: bytes,
    timeout_s: float,
    answered: Answered,
) -> None:
    """Make a call; ``answered`` runs once, at the latest when the time is up."""
    world, network = cluster.world, cluster.network
    open_call = [True]

    def end(outcome: bytes | ApiError | None, taken: bool) -> None:
        if open_call[0]:
            open_call[0] = False
            answered(outcome, taken)

    world.loop.after(timeout_s, lambda: end(None, True))
    if network.client_loses():
        return

    def arrive() -> None:
        node.call(
            path,
            message,
            lambda outcome: end(outcome, True),
            lambda taken: end(None, taken),
        )

    world.loop.after(network.client_delay(), arrive)


class KvClient:
    """One client."""

    def __init__(self, cluster: SimCluster, number: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.name = f"c{number}"
        self.random = cluster.world.random(f"client {number}")
        self.history: list[Operation] = []
        self.node: Node | None = None
        self.stopped = False
        self.idle = True
        self.last_seen: dict[bytes, Value] = {}
        self._value = 0

    def start(self) -> None:
        """Begin, after a moment."""
        self.world.loop.after(self.random.random() * 0.5, self._next)

    def _think(self) -> None:
        self.idle = True
        pause = self.random.expovariate(1 / self.world.profile.think_s)
        self.world.loop.after(pause, self._next)

    def _next(self) -> None:
        if self.stopped:
            return
        self.idle = False
        node = self.node
        if node is None or not node.up or self.random.random() < 0.02:
            node = self.node = self.cluster.some_node(self.random)
        if node is None:
            self._think()
            return
        method, request, operation = self._choose()
        self._run(node, method, request, operation, lambda done: self._think())

    def write(self, done: Callable[[bool], None]) -> None:
        """One put at any member; ``done`` hears whether it was acknowledged."""
        node = self.cluster.some_node(self.random)
        if node is None:
            self.world.loop.after(0.1, lambda: done(False))
            return
        method, request, operation = self._put(b"k/final/" + self.name.encode())
        self._run(node, method, request, operation, done)

    # ----- running one

    def _run(
        self,
        node: Node,
        method: str,
        request: bytes,
        operation: Operation,
        done: Callable[[bool], None],
    ) -> None:
        world = self.world

        def answered(outcome: bytes | ApiError | None, taken: bool) -> None:
            finished: Operation | None
            if isinstance(outcome, bytes):
                finished = self._finish(operation, method, outcome, node)
                world.figures["operations answered"] += 1
            else:
                if outcome is not None and outcome.message in REFUSED:
                    taken = False
                finished = operation if taken else None
                if taken and operation.writes():
                    world.figures["operations of unknown outcome"] += 1
                elif taken:
                    world.figures["reads without an answer"] += 1
                    finished = None
                else:
                    world.figures["operations refused"] += 1
                self.node = None
            if finished is not None:
                self.history.append(finished)
                if world.tracing:
                    world.note(self.name, f"{finished.text()} via {node.name}")
            elif world.tracing:
                world.note(self.name, f"refused or unread: {outcome!r} via {node.name}")
            done(isinstance(outcome, bytes))

        timeout = world.profile.client_timeout_s
        call(self.cluster, node, KV + method, request, timeout, answered)

    def _finish(
        self, operation: Operation, method: str, answer: bytes, node: Node
    ) -> Operation:
        """The operation with its answer."""
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
            self.world.loop.now,
            operation.compares,
            operation.then,
            operation.otherwise,
            succeeded,
            tuple(seen),
            header.revision,
            node.name,
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
        now = self.world.loop.now
        return Operation(self.name, now, UNKNOWN_TIME, compares, then, otherwise)

    def _choose(self) -> tuple[str, bytes, Operation]:
        random, profile = self.random, self.world.profile
        group = random.randrange(profile.groups)
        keys = [b"k/%d/%d" % (group, n) for n in range(profile.group_keys)]
        key = random.choice(keys)
        draw = random.random()
        if draw < 0.30:
            return self._put(key)
        if draw < 0.55:
            return self._get(key, b"", (key,))
        if draw < 0.63:
            return self._get(b"k/%d/" % group, b"k/%d0" % group, tuple(keys))
        if draw < 0.71:
            return self._delete(key)
        if draw < 0.92:
            return self._compare_and_swap(key)
        return self._transaction(keys)

    def _put(self, key: bytes) -> tuple[str, bytes, Operation]:
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
        one, two, *others = self.random.sample(keys, len(keys))
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
