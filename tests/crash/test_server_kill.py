"""SIGKILL of ``revstore serve`` while clients write over real connections."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

from revstore.proto import rpc_pb2
from tests.support.process import wait_for
from tests.support.server import ServerProcess, start_server

KILLS = 4
WRITERS = 4
TIMEOUT_S = 60.0
HONEST = {grpc.StatusCode.UNAVAILABLE}
"""What a client may be told of a server that died: the outcome is unknown."""


class Client:
    """Calls on one channel."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: str, request: Any, answer: Callable[..., Any]) -> Any:
        """One call. Raises: grpc.RpcError."""
        unary: Any = self._channel.unary_unary(f"/etcdserverpb.{method}")
        data = unary(
            request.SerializeToString(), timeout=TIMEOUT_S, wait_for_ready=False
        )
        return answer(data)

    def write(self, writer: int, number: int) -> int:
        """Put a number under two keys at once; the revision."""
        request = rpc_pb2.TxnRequest()
        for name in ("one", "two"):
            put = request.success.add().request_put
            put.key, put.value = b"%d/%s" % (writer, name.encode()), b"%d" % number
        answer = self.call("KV/Txn", request, rpc_pb2.TxnResponse.FromString)
        return int(answer.header.revision)

    def read(self, writer: int) -> tuple[list[int], int]:
        """What is under a writer's two keys, and the revision."""
        request = rpc_pb2.RangeRequest(key=b"%d/" % writer, range_end=b"%d0" % writer)
        answer = self.call("KV/Range", request, rpc_pb2.RangeResponse.FromString)
        return [int(kv.value) for kv in answer.kvs], int(answer.header.revision)

    def hash_at(self, revision: int) -> int:
        """HashKV at a revision."""
        request = rpc_pb2.HashKVRequest(revision=revision)
        answer = self.call(
            "Maintenance/HashKV", request, rpc_pb2.HashKVResponse.FromString
        )
        assert answer.hash_revision == revision
        return int(answer.hash)


class Writer:
    """Counts upwards until the server is gone."""

    def __init__(self, address: str, writer: int, start: int) -> None:
        self.writer = writer
        self.asked = self.acknowledged = start
        self.revision = 0
        self.error: Exception | None = None
        self._address = address
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with Client(self._address) as client:
            try:
                while True:
                    self.asked += 1
                    self.revision = client.write(self.writer, self.asked)
                    self.acknowledged = self.asked
            except Exception as error:
                self.error = error

    def join(self) -> None:
        """Wait for the end, which must be an honest one. Raises: AssertionError."""
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        assert isinstance(self.error, grpc.RpcError), self.error
        assert self.error.code() in HONEST, self.error


def kill_under_load(
    server: ServerProcess, counts: list[int], acknowledgements: int
) -> tuple[int, dict[int, int]]:
    """Kill the server after so many writes; the last revision told, and hashes."""
    writers = [
        Writer(server.address, number, counts[number]) for number in range(WRITERS)
    ]

    def enough() -> bool:
        done = sum(one.acknowledged - counts[one.writer] for one in writers)
        return done >= acknowledgements

    wait_for(enough, f"{acknowledgements} writes")
    with Client(server.address) as client:
        told = {one.revision for one in writers} - {0}
        hashes = {revision: client.hash_at(revision) for revision in told}
    server.kill()
    for one in writers:
        one.join()
    server.start()
    with Client(server.address) as client:
        for one in writers:
            found, _ = client.read(one.writer)
            assert found in ([one.acknowledged] * 2, [one.asked] * 2), (
                f"writer {one.writer}: {found}, acknowledged {one.acknowledged}"
            )
            counts[one.writer] = found[0]
    return max(one.revision for one in writers), hashes


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["lmdb", "rocksdb"])
def test_a_killed_server_has_what_it_acknowledged(tmp_path: Path, backend: str) -> None:
    """Clients are told UNAVAILABLE; afterwards each finds its last write, whole."""
    random = Random(11)
    counts = [0] * WRITERS
    hashes: dict[int, int] = {}
    with start_server(
        backend, tmp_path / "data", settings=["segment.segment_bytes=40000"]
    ) as server:
        for _ in range(KILLS):
            told, more = kill_under_load(server, counts, random.randint(5, 150))
            hashes |= more
            with Client(server.address) as client:
                _, revision = client.read(0)
                assert revision >= told, "the revision went back"
                again = {at: client.hash_at(at) for at in hashes}
                assert again == hashes
        assert server.stop() == 0
    assert sum(counts) + 1 == revision
