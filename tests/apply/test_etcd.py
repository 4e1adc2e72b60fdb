"""The same random requests to a real etcd and to the store: the answers are equal.

Known differences are left out of what is asked: sort numbers that etcd 3.4 does not
know (it traps), deletes to the end of the key space or in a sibling transaction beside
a put (etcd lets a key change twice in one revision), and HashKV at the compact revision
(refused by 3.4).
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from tests.mvcc.generate import KEYS, Generator

from revstore.apply import kv, txn, validate
from revstore.errors import ApiError
from revstore.mvcc.store import Store
from revstore.mvcc.tables import KEYSPACES, LEASE, lease_key_prefix
from revstore.proto import rpc_pb2
from revstore_memory.backend import MemoryBackend

ETCD = shutil.which("etcd")

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.skipif(ETCD is None, reason="needs etcd (Debian: etcd-server)"),
]

Call = Callable[[str, Any], Any]

METHODS: dict[str, tuple[str, Any]] = {
    "Range": ("KV", rpc_pb2.RangeResponse),
    "Put": ("KV", rpc_pb2.PutResponse),
    "DeleteRange": ("KV", rpc_pb2.DeleteRangeResponse),
    "Txn": ("KV", rpc_pb2.TxnResponse),
    "Compact": ("KV", rpc_pb2.CompactionResponse),
    "HashKV": ("Maintenance", rpc_pb2.HashKVResponse),
    "LeaseGrant": ("Lease", rpc_pb2.LeaseGrantResponse),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Call]:
    """A fresh etcd of one member; calls return the response or the ApiError."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    command = [str(ETCD), "--data-dir", str(tmp_path / "etcd"), "--name", "m"]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"m={peer}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    channel = grpc.insecure_channel(client.removeprefix("http://"))
    calls: dict[str, Any] = {
        name: channel.unary_unary(
            f"/etcdserverpb.{service}/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response.FromString,
        )
        for name, (service, response) in METHODS.items()
    }

    def call(name: str, request: Any) -> Any:
        try:
            return calls[name](request, timeout=20, wait_for_ready=True)
        except grpc.RpcError as exc:
            return ApiError(exc.code().value[0], exc.details() or "")

    try:
        yield call
    finally:
        channel.close()
        process.kill()
        process.wait()


class Twin:
    """The store, asked as the server would ask it."""

    def __init__(self) -> None:
        self.store = Store(MemoryBackend(KEYSPACES))

    def call(self, name: str, request: Any) -> Any:
        try:
            return getattr(self, name)(request)
        except ApiError as exc:
            return exc

    def _answer(self, response: Any, result: Any) -> Any:
        answer = response.FromString(result.body)
        answer.header.revision = result.revision or self.store.revision
        return answer

    def Range(self, request: Any) -> Any:  # noqa: N802 - the method's name
        validate.check_range_request(request)
        result = kv.apply_range(self.store, request)
        return self._answer(rpc_pb2.RangeResponse, result)

    def Put(self, request: Any) -> Any:  # noqa: N802 - the method's name
        validate.check_put_request(request)
        return self._answer(rpc_pb2.PutResponse, kv.apply_put(self.store, request))

    def DeleteRange(self, request: Any) -> Any:  # noqa: N802 - the method's name
        validate.check_delete_request(request)
        result = kv.apply_delete_range(self.store, request)
        return self._answer(rpc_pb2.DeleteRangeResponse, result)

    def Txn(self, request: Any) -> Any:  # noqa: N802 - the method's name
        validate.check_txn_request(request, 128)
        return self._answer(rpc_pb2.TxnResponse, txn.apply_txn(self.store, request))

    def Compact(self, request: Any) -> Any:  # noqa: N802 - the method's name
        result = kv.apply_compaction(self.store, request)
        while self.store.compaction_pending():
            if not self.store.compaction_step():
                self.store.flush()
        return self._answer(rpc_pb2.CompactionResponse, result)

    def HashKV(self, request: Any) -> Any:  # noqa: N802 - the method's name
        result = self.store.hash_kv(request.revision)
        answer = rpc_pb2.HashKVResponse(
            hash=result.hash, compact_revision=result.compact_revision
        )
        answer.header.revision = self.store.revision
        return answer

    def LeaseGrant(self, request: Any) -> Any:  # noqa: N802 - the method's name
        self.store.system_put(LEASE, lease_key_prefix(request.ID), b"granted")
        answer = rpc_pb2.LeaseGrantResponse(ID=request.ID, TTL=request.TTL)
        answer.header.revision = self.store.revision
        return answer


def strip(answer: Any) -> Any:
    """An answer without what only a member knows."""
    if not isinstance(answer, ApiError):
        revision = answer.header.revision
        answer.header.Clear()
        answer.header.revision = revision
    return answer


def deletes_to_the_end(request: rpc_pb2.TxnRequest) -> bool:
    """Whether a known difference could show."""
    nested = 0
    for op in (*request.success, *request.failure):
        if op.request_delete_range.range_end == b"\x00":
            return True
        if op.HasField("request_txn"):
            nested += 1
            if deletes_to_the_end(op.request_txn):
                return True
    return nested > 1


def random_call(make: Generator, random: Random, revision: int) -> tuple[str, Any]:
    choice = random.randrange(100)
    if choice < 30:
        return "Put", make.put()
    if choice < 40:
        return "DeleteRange", make.delete()
    if choice < 60:
        while True:
            request = make.any_txn(revision)
            if not deletes_to_the_end(request):
                return "Txn", request
    if choice < 95:
        asked = random.choice([0, 0, -1, random.randint(1, revision + 1)])
        return "Range", make.range(asked)
    if choice < 97:
        wanted = random.randint(revision // 2, max(revision - 1, 0))
        return "Compact", rpc_pb2.CompactionRequest(revision=wanted, physical=True)
    return "HashKV", rpc_pb2.HashKVRequest(revision=revision)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_store_answers_as_etcd_does(etcd: Call, seed: int) -> None:
    """Random KV requests, valid or not, get etcd's answers, errors included."""
    random = Random(seed)
    # Up to 12 keys Go's sort is stable; beyond, etcd leaves the order of ties open.
    make = Generator(random, KEYS[:12])
    twin = Twin()
    for lease in (7, -3):
        request = rpc_pb2.LeaseGrantRequest(ID=lease, TTL=3600)
        strip(etcd("LeaseGrant", request))
        twin.call("LeaseGrant", request)
    for number in range(400):
        name, request = random_call(make, random, twin.store.revision)
        expected = strip(etcd(name, request))
        got = strip(twin.call(name, request))
        assert got == expected, (seed, number, name, request)
        if random.random() < 0.1:
            twin.store.flush(sync=False)
    assert twin.store.revision > 100
